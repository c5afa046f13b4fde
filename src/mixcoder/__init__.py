"""Mixture models read as generative autoencoders: encode, decode, fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Importing torch and scikit-learn takes a second; a name is imported when it is first used.
_HOMES = {
    "BayesianGaussianMixture": "mixcoder.estimators",
    "EmbeddedMixture": "mixcoder.estimators",
    "FactorAnalyzerMixture": "mixcoder.estimators",
    "GaussianMixture": "mixcoder.estimators",
    "KMeans": "mixcoder.estimators",
    "Mixture": "mixcoder.estimators",
    "MixtureAutoencoder": "mixcoder.autoencoder",
    "ModelAverage": "mixcoder.estimators",
    "PPCAMixture": "mixcoder.estimators",
    "ParametricEmbedding": "mixcoder.estimators",
    "SubspaceMixture": "mixcoder.estimators",
    "engine": "mixcoder.engines",
    "fit_patches": "mixcoder.estimators",
    "load": "mixcoder.estimators",
    "load_patch_prior": "mixcoder.estimators",
    "open_blocks": "mixcoder.sources",
    "select": "mixcoder.estimators",
    "stability": "mixcoder.estimators",
}
_MODULES = (
    "checks",
    "components",
    "encoders",
    "errors",
    "estimators",
    "objectives",
    "plot",
    "selection",
    "sensing",
)

__all__ = [
    "BayesianGaussianMixture",
    "EmbeddedMixture",
    "FactorAnalyzerMixture",
    "GaussianMixture",
    "KMeans",
    "Mixture",
    "MixtureAutoencoder",
    "ModelAverage",
    "PPCAMixture",
    "ParametricEmbedding",
    "SubspaceMixture",
    "__version__",
    "components",
    "encoders",
    "engine",
    "errors",
    "estimators",
    "fit_patches",
    "load",
    "load_patch_prior",
    "objectives",
    "open_blocks",
    "plot",
    "select",
    "selection",
    "sensing",
    "stability",
]

if TYPE_CHECKING:
    from mixcoder import components, encoders, errors, estimators, objectives, plot, selection, sensing
    from mixcoder.autoencoder import MixtureAutoencoder
    from mixcoder.engines import engine
    from mixcoder.estimators import (
        BayesianGaussianMixture,
        EmbeddedMixture,
        FactorAnalyzerMixture,
        GaussianMixture,
        KMeans,
        Mixture,
        ModelAverage,
        ParametricEmbedding,
        PPCAMixture,
        SubspaceMixture,
        fit_patches,
        load,
        load_patch_prior,
        select,
        stability,
    )
    from mixcoder.sources import open_blocks


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"mixcoder.{name}")
    raise AttributeError(f"module 'mixcoder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
