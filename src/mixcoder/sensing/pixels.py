"""What is asked of an image before it is restored, and what its pixels say of their rounding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.sensing.given import as_variance

# Pixels in float32 that were whole numbers are whole to this.
_WHOLE = 1e-3


def require_image(image: Any) -> None:
    """Raise where an image is no finite tensor of two axes or three."""
    if not isinstance(image, Tensor):
        raise TypeError(f"An image must be a torch.Tensor, got {type(image).__name__}; use torch.as_tensor.")
    if image.ndim not in (2, 3) or not image.is_floating_point() or not image.numel():
        raise DataError(
            f"An image is floating of shape (height, width) or (channels, height, width), got {image.dtype} of "
            f"shape {tuple(image.shape)}."
        )
    if not bool(torch.isfinite(image).all()):
        raise DataError("The image contains NaN or infinity; inpaint takes a mask of what is known.")


def side_of(n_features: int) -> int:
    """Return the side of square patches of one channel or three."""
    for channels in (1, 3):
        side = math.isqrt(n_features // channels)
        if channels * side**2 == n_features:
            return side
    raise ValueError(
        f"The mixture has {n_features} features, expected p^2, or 3 p^2 in colour: square patches of p x p pixels, as "
        "of mixcoder.fit_patches."
    )


def at_least_rounding(noise_std: float, image: Tensor) -> float:
    """Return the noise of an image, which is that of rounding at least where all pixels are whole numbers or 255ths.

    Examples
    --------
    >>> round(255 * at_least_rounding(0.0, torch.tensor([[0.0, 8.0, 255.0]]) / 255), 3)  # 1/sqrt(12)
    0.289
    """
    return max(as_variance("noise_std", noise_std), _rounding(image))


def _rounding(image: Tensor) -> float:
    """Return the standard deviation of what was lost where the pixels are whole numbers, or 255ths; else zero."""
    full = 255.0 if bool(image.abs().max() <= 1) else 1.0
    levels = image.double() * full
    whole = bool(((levels - levels.round()).abs() < _WHOLE).all())
    return 1 / (full * math.sqrt(12)) if whole else 0.0


def checked_mask(mask: Any, shape: torch.Size) -> Tensor:
    """Return a mask in the shape of an image."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape in (shape, shape[-2:]):
        return mask.expand(shape)
    given = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise DataError(
        f"A mask is a bool tensor of shape {tuple(shape[-2:])}, or the image's, true where a pixel is known; got "
        f"{given}."
    )


__all__ = ["at_least_rounding", "checked_mask", "require_image", "side_of"]
