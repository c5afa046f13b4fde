"""A mixture of image patches, ready for restoration, from images that come with the packages at hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.errors import DataError
from mixcoder.estimators._persistence import load
from mixcoder.estimators.gaussian_mixture import GaussianMixture
from mixcoder.estimators.k_means import KMeans
from mixcoder.estimators.linear_mixtures import PPCAMixture

# Of :func:`fit_patches`, where the mixture that comes along has others than the defaults.
PATCH_PRIOR: dict[str, Any] = {"n_components": 100, "n_latent": 48, "max_iter": 20}

_PRIOR = Path(__file__).with_name("patches.mixcoder")

# Photographs inside scikit-image's wheel; none is one of those that restoration is usually measured on.
_PHOTOGRAPHS = ("astronaut", "chelsea", "rocket")


def fit_patches(
    images: Sequence[Any] | None = None,
    n_components: int = 100,
    *,
    n_latent: int | None = None,
    patch_size: int = 8,
    n_patches: int = 100_000,
    max_iter: int = 12,
    random_state: int = 0,
) -> GaussianMixture | PPCAMixture:
    """Return a Gaussian mixture of grey image patches less their mean: the prior of :class:`mixcoder.sensing.EPLL`.

    Parameters
    ----------
    images : sequence of arrays, shape (height, width) or (height, width, 3), optional
        Grey or RGB; integers in 0..255, or floating in [0, 1]. By default photographs that ship with scikit-learn and,
        where that is installed, scikit-image.
    n_components : int
    n_latent : int, optional
        Axes of a component along which its patches vary each by its own amount; along the others, all by the same. Half
        the features make half the file, at next to no loss (Parameswaran et al. 2017, "flat tail"). By default
        covariances are full.
    patch_size : int
        Pixels of a side.
    n_patches : int
        Drawn at random places, as many from each image as its share of the pixels.
    max_iter : int
        Passes over the patches; with the defaults the fit takes well under a minute on two cores.
    random_state : int

    Returns
    -------
    GaussianMixture or PPCAMixture
        In float32: ``EPLL.of(mixture.model_)``; it can be saved like any other. It does not keep the sums by which
        ``partial_fit`` would go on from these patches.

    See Also
    --------
    load_patch_prior : The mixture that comes with this package.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((40, 40)).cumsum(0).cumsum(1) % 1.0
    >>> mixture = fit_patches([image], 2, patch_size=4, n_patches=500, max_iter=3)
    >>> tuple(mixture.means_.shape)
    (2, 16)
    """
    greys = [_grey(image) for image in (bundled_photographs() if images is None else images)]
    if not greys or any(min(grey.shape) < patch_size for grey in greys):
        raise DataError(f"There must be images, each of at least {patch_size} pixels a side.")
    rng = np.random.default_rng(random_state)
    total = sum(grey.size for grey in greys)
    rows = []
    for grey in greys:
        n = max(1, round(n_patches * grey.size / total))
        windows = np.lib.stride_tricks.sliding_window_view(grey, (patch_size, patch_size))
        i, j = rng.integers(windows.shape[0], size=n), rng.integers(windows.shape[1], size=n)
        rows.append(windows[i, j].reshape(n, -1))
    patches = torch.as_tensor(np.concatenate(rows).astype(np.float32))
    patches -= patches.mean(1, keepdim=True)
    with warnings.catch_warnings():
        # No last digit of the bound is asked for here, and patches less their mean lie in a plane.
        warnings.simplefilter("ignore", UserWarning)
        start = _labels(patches, n_components, random_state)
        common: dict[str, Any] = {
            "n_components": n_components,
            "max_iter": max_iter,
            "acceleration": "none",
            "random_state": random_state,
        }
        mixture = (
            GaussianMixture(**common, init_params=start)
            if n_latent is None
            else PPCAMixture(**common, n_latent=n_latent, init=start)
        )
        mixture.fit(patches)
    # The start is as long as the patches, the sums are larger than the model: neither is of use to a prior.
    mixture.set_params(**{"init_params" if n_latent is None else "init": "auto"})
    mixture._sums = None
    return mixture


def load_patch_prior() -> PPCAMixture:
    """Return a mixture of grey 8 x 8 patches less their mean, which comes with this package.

    ``save_patch_prior(path)`` made its file, of 1.3 MB, from photographs of scikit-learn and scikit-image (china and
    flower, CC BY 2.0; astronaut and rocket, NASA; chelsea, CC0), in less than a minute on two cores.

    Examples
    --------
    >>> import torch
    >>> from mixcoder.sensing import EPLL
    >>> restorer = EPLL.of(load_patch_prior().model_)
    >>> restorer.denoise(torch.full((9, 9), 0.5), 0.1).mean().round(decimals=3)
    tensor(0.5000)
    """
    mixture: PPCAMixture = load(_PRIOR)
    mixture.model_ = _with_parameters_in(mixture.model_, torch.float64)
    return mixture


def save_patch_prior(path: Any, images: Sequence[Any] | None = None, **settings: Any) -> str:
    """Fit the mixture that :func:`load_patch_prior` returns and write it; return the SHA-256 of the file's content.

    Parameters
    ----------
    path : str or path-like
        A model file like any other, but its parameters are rounded to float32.
    images : sequence of arrays, optional
        As in :func:`fit_patches`.
    **settings
        Of :func:`fit_patches`, where they are others than ``PATCH_PRIOR``: 100 components of 48 axes, 20 passes.
    """
    mixture = fit_patches(images, **{**PATCH_PRIOR, **settings})
    mixture.model_ = _with_parameters_in(mixture.model_, torch.float32)
    return str(mixture.save(path))


def _with_parameters_in(model: MixtureAutoencoder, dtype: torch.dtype) -> MixtureAutoencoder:
    """Return a model with parameters of another precision."""
    params: Any = model.params
    return replace(
        model, params=type(params)(**{f.name: getattr(params, f.name).to(dtype) for f in fields(params)})
    )


def _labels(patches: torch.Tensor, n_components: int, random_state: int) -> torch.Tensor:
    """Return the cluster of each patch by its direction and the logarithm of its length.

    Patches have heavy tails: nearest centres of the patches themselves, or of whitened ones, put most centres on a few
    patches of high contrast. So every component starts as some directions at some contrast.
    """
    lengths = torch.linalg.vector_norm(patches, dim=1, keepdim=True)
    shape = torch.cat([patches / (lengths + 0.05), 0.5 * (lengths + 0.02).log()], 1)
    model = KMeans(n_components, random_state=random_state, max_iter=15)
    step = max(1, len(shape) // max(20_000, 100 * n_components))
    labels: torch.Tensor = model.fit(shape[::step].contiguous()).predict(shape)
    return labels.to(torch.int64)


def bundled_photographs() -> list[np.ndarray]:
    """Return the photographs that come with scikit-learn and, where installed, with scikit-image, RGB in 0..255."""
    from sklearn.datasets import load_sample_images

    images = list(load_sample_images().images)
    if find_spec("skimage") is not None:
        import skimage.data

        images += [getattr(skimage.data, name)() for name in _PHOTOGRAPHS]
    return images


def _grey(image: Any) -> np.ndarray:
    """Return an image in [0, 1], shape (height, width)."""
    values = np.asarray(image)
    scale = 1 / 255 if values.dtype.kind in "iu" else 1.0
    values = values.astype(np.float32) * np.float32(scale)
    if values.ndim == 3 and values.shape[2] >= 3:
        values = values[:, :, :3] @ np.array([0.2125, 0.7154, 0.0721], np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(
            f"An image has shape (height, width) or (height, width, 3) and is finite, got {np.shape(image)}."
        )
    return values


__all__ = ["PATCH_PRIOR", "bundled_photographs", "fit_patches", "load_patch_prior", "save_patch_prior"]
