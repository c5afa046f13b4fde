"""Fitted mixtures and codebooks from and to other libraries: parameters go across, nothing is fitted again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mixcoder.estimators._validation import numbers_of

if TYPE_CHECKING:
    from mixcoder.estimators.gaussian_mixture import GaussianMixture

# What scikit-learn calls the covariance types; it has no tied ones without correlations.
_THEIR_TYPE = {
    "full": "full",
    "tied": "tied",
    "diag": "diag",
    "spherical": "spherical",
    "tied_diag": "diag",
    "tied_spherical": "spherical",
}


def to_sklearn(model: GaussianMixture) -> Any:
    """Return scikit-learn's mixture with the parameters of a fitted one of ours."""
    from sklearn.mixture import GaussianMixture as Theirs

    weights, means, covariances, factors = (
        _numpy(values)
        for values in (model.weights_, model.means_, model.covariances_, model.precisions_cholesky_)
    )
    k, d = means.shape
    kind = _THEIR_TYPE[model.covariance_type]
    if model.covariance_type == "tied_diag":
        covariances, factors = (np.tile(values, (k, 1)) for values in (covariances, factors))
    elif model.covariance_type == "tied_spherical":
        covariances, factors = (np.full(k, values) for values in (covariances, factors))
    theirs: Any = Theirs(k, covariance_type=kind, tol=model.tol, max_iter=max(1, model.max_iter))
    theirs.set_params(random_state=model.random_state, n_init=model.n_init)
    if model.reg_covar is not None:
        theirs.set_params(reg_covar=model.reg_covar)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, covariances
    theirs.precisions_cholesky_ = factors
    theirs.precisions_ = factors @ np.swapaxes(factors, -1, -2) if kind in ("full", "tied") else factors**2
    theirs.converged_, theirs.n_iter_ = model.converged_, model.n_iter_
    theirs.lower_bound_, theirs.lower_bounds_ = model.lower_bound_, list(model.lower_bounds_)
    theirs.n_features_in_ = d
    if hasattr(model, "feature_names_in_"):
        theirs.feature_names_in_ = model.feature_names_in_
    return theirs


def from_sklearn(cls: type[Any], theirs: Any) -> Any:
    """Return our mixture with the parameters of a fitted one of scikit-learn."""
    from sklearn.mixture import GaussianMixture as Theirs
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(theirs, Theirs):
        raise TypeError(
            f"from_sklearn takes a fitted sklearn.mixture.GaussianMixture, got {type(theirs).__name__}. A Bayesian "
            "mixture's density is no mixture of Gaussians; from_parameters takes its weights_, means_, covariances_."
        )
    check_is_fitted(theirs)
    ours = cls.from_parameters(theirs.weights_, theirs.means_, theirs.covariances_, theirs.covariance_type)
    ours.set_params(
        tol=theirs.tol,
        reg_covar=theirs.reg_covar,
        max_iter=theirs.max_iter,
        n_init=theirs.n_init,
        random_state=theirs.random_state,
        warm_start=theirs.warm_start,
    )
    ours.stop_reason_ = "the parameters are those of scikit-learn's mixture"
    ours.converged_, ours.n_iter_ = bool(theirs.converged_), int(theirs.n_iter_)
    ours.lower_bound_ = float(theirs.lower_bound_)
    if hasattr(theirs, "feature_names_in_"):
        ours.feature_names_in_ = theirs.feature_names_in_
    return ours


def to_torch(model: GaussianMixture) -> Any:
    """Return the density as a distribution of torch, in float64."""
    from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

    weights, means, covariances = (
        _tensor(values) for values in (model.weights_, model.means_, model.covariances_)
    )
    k, d = means.shape
    kind = model.covariance_type
    if kind in ("full", "tied"):
        factors = torch.linalg.cholesky(covariances)
        parts: Any = MultivariateNormal(means, scale_tril=factors.expand(k, d, d))
    else:
        stds = covariances.sqrt()
        stds = stds[:, None] if kind == "spherical" else stds
        parts = Independent(Normal(means, stds.expand(k, d)), 1)
    return MixtureSameFamily(Categorical(probs=weights), parts)


def from_torch(cls: type[Any], distribution: Any) -> Any:
    """Return our mixture with the parameters of a distribution of torch."""
    from torch.distributions import (
        Independent,
        LowRankMultivariateNormal,
        MixtureSameFamily,
        MultivariateNormal,
        Normal,
    )

    expected = (
        "from_torch takes a MixtureSameFamily of MultivariateNormal, LowRankMultivariateNormal or "
        "Independent(Normal, 1) components without further batch dimensions"
    )
    if not isinstance(distribution, MixtureSameFamily):
        raise TypeError(f"{expected}, got {type(distribution).__name__}.")
    parts: Any = distribution.component_distribution
    weights = distribution.mixture_distribution.probs
    if weights.ndim != 1 or len(parts.event_shape) != 1:
        raise ValueError(f"{expected}, got weights of shape {tuple(weights.shape)}.")
    if isinstance(parts, MultivariateNormal | LowRankMultivariateNormal):
        kind, spreads = "full", parts.covariance_matrix
    elif isinstance(parts, Independent) and isinstance(parts.base_dist, Normal):
        kind, spreads = "diag", parts.base_dist.variance
    else:
        raise TypeError(f"{expected}, got components {parts}.")
    return cls.from_parameters(weights.double(), parts.mean.double(), spreads.double(), kind)


def codebook_of(source: Any) -> Tensor:
    """Return the entries of a codebook: an array, or what a FAISS Kmeans or flat index holds, shape (k, d).

    float32 stays float32; anything else becomes float64.
    """
    if hasattr(source, "centroids"):
        if source.centroids is None:
            raise ValueError("This Kmeans of FAISS holds no centroids: call its train first.")
        source = source.centroids
    elif hasattr(source, "reconstruct_n"):
        source = source.reconstruct_n(0, source.ntotal)
    values = numbers_of(source, "codebook")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"A codebook has shape (n_clusters, n_features), got {tuple(values.shape)}.")
    narrow = str(getattr(source, "dtype", "")).removeprefix("torch.") == "float32"
    return values.to(torch.float32 if narrow else torch.float64).cpu().contiguous()


def _tensor(values: Any) -> Tensor:
    # A copy: what is handed over is the caller's own.
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float64, copy=True)
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _numpy(values: Any) -> np.ndarray:
    return _tensor(values).numpy()


__all__ = ["codebook_of", "from_sklearn", "from_torch", "to_sklearn", "to_torch"]
