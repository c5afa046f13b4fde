"""A mixture of image patches, ready for restoration, from images that come with the packages at hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mixcoder.errors import DataError
from mixcoder.estimators.gaussian_mixture import GaussianMixture
from mixcoder.estimators.k_means import KMeans

# Photographs inside scikit-image's wheel; none is one of those that restoration is usually measured on.
_PHOTOGRAPHS = ("astronaut", "chelsea", "rocket")


def fit_patches(
    images: Sequence[Any] | None = None,
    n_components: int = 100,
    *,
    patch_size: int = 8,
    n_patches: int = 100_000,
    max_iter: int = 12,
    random_state: int = 0,
) -> GaussianMixture:
    """Return a Gaussian mixture of grey image patches less their mean: the prior of :class:`mixcoder.sensing.EPLL`.

    Parameters
    ----------
    images : sequence of arrays, shape (height, width) or (height, width, 3), optional
        Grey or RGB; integers in 0..255, or floating in [0, 1]. By default photographs that ship with scikit-learn and,
        where that is installed, scikit-image.
    n_components : int
    patch_size : int
        Pixels of a side.
    n_patches : int
        Drawn at random places, as many from each image as its share of the pixels.
    max_iter : int
        Passes over the patches; with the defaults the fit takes well under a minute on two cores.
    random_state : int

    Returns
    -------
    GaussianMixture
        With full covariances in float32: ``EPLL.of(mixture.model_)``; it can be saved like any other.

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
        mixture = GaussianMixture(
            n_components,
            init_params=start,
            max_iter=max_iter,
            acceleration="none",
            random_state=random_state,
        )
        return mixture.fit(patches)


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


__all__ = ["bundled_photographs", "fit_patches"]
