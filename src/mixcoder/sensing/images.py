"""Operators of images: blur, downsampling, and one operator after another."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any, Self, final

import torch
from torch import Tensor

from mixcoder.sensing.given import as_rows, as_tensor
from mixcoder.sensing.operators import Operator, Rows

# A row is an image of shape (..., height, width), flattened; what lies before the last two axes are channels.


def inpainting(mask: Any, n_channels: int = 1) -> Rows:
    """Return the operator that shows the pixels where a mask, shape (height, width) bool, is true, in each channel.

    Examples
    --------
    >>> inpainting(torch.tensor([[True, False], [False, True]])).apply(torch.arange(4.0)[None])
    tensor([[0., 3.]])
    """
    mask = as_tensor("A mask", mask)
    if mask.dtype != torch.bool or mask.ndim != 2:
        raise ValueError(
            f"A mask is bool of shape (height, width), got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return Rows.observed(mask.flatten().repeat(n_channels))


@final
@dataclass(frozen=True)
class Blur(Operator):
    r"""Circular convolution of images, by FFT.

    .. math:: (Hx)_{ij} = \sum_{ab} h_{ab}\, x_{i + c - a,\, j + c' - b}

    with indices modulo height and width, and (c, c') the middle of the kernel.

    Parameters
    ----------
    kernel : Tensor or array, shape (a, b)
        h, not all zero, no larger than the image.
    image_shape : tuple of int
        (..., height, width) of a row.

    Examples
    --------
    >>> mean = Blur(torch.full((1, 3), 1 / 3), (1, 4))
    >>> mean.apply(torch.tensor([[3.0, 0.0, 0.0, 0.0]])).round(decimals=6) + 0.0
    tensor([[1., 1., 0., 1.]])
    """

    kernel: Tensor
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_image(self.image_shape)
        object.__setattr__(self, "kernel", as_tensor("A kernel", self.kernel))
        if self.kernel.ndim != 2 or not bool(torch.isfinite(self.kernel).all()):
            raise ValueError(
                f"A kernel is a finite matrix, got shape {tuple(self.kernel.shape)}, NaN or infinity."
            )
        if not bool(self.kernel.any()):
            raise ValueError(
                "A kernel without a number other than zero leaves nothing of an image to restore."
            )
        if any(a > b for a, b in zip(self.kernel.shape, self.image_shape[-2:], strict=True)):
            raise ValueError(
                f"The kernel, {tuple(self.kernel.shape)}, is larger than the image, {self.image_shape[-2:]}; crop it."
            )

    @classmethod
    def gaussian(cls, std: float, image_shape: tuple[int, ...], radius: int | None = None) -> Self:
        """Return the blur of a normal kernel with a standard deviation in pixels, cut at ``radius`` (3 std)."""
        if not 0 < std < float("inf"):
            raise ValueError(f"std must be positive and finite, got {std!r}.")
        reach = max(1, round(3 * std)) if radius is None else radius
        at = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (at / std).square())
        kernel = weights[:, None] * weights
        return cls(kernel / kernel.sum(), image_shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (d, d)."""
        return prod(self.image_shape), prod(self.image_shape)

    def transfer(self, like: Tensor) -> Tensor:
        """Return the Fourier transform of h, centred, shape (height, width // 2 + 1), complex."""
        padded = torch.zeros(self.image_shape[-2:], dtype=like.dtype, device=like.device)
        a, b = self.kernel.shape
        padded[:a, :b] = self.kernel.to(like)
        return torch.fft.rfft2(padded.roll((-(a // 2), -(b // 2)), (0, 1)))

    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, d)."""
        x = as_rows(x, self.n_features)
        return self._filtered(x, self.transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d): the correlation with h."""
        y = as_rows(y, self.n_measurements)
        return self._filtered(y, self.transfer(y).conj())

    def _filtered(self, rows: Tensor, transfer: Tensor) -> Tensor:
        images = rows.reshape(len(rows), *self.image_shape)
        spectrum = torch.fft.rfft2(images) * transfer
        return torch.fft.irfft2(spectrum, s=self.image_shape[-2:]).reshape(len(rows), -1)


@final
@dataclass(frozen=True)
class Downsampling(Operator):
    r"""Means of blocks of f x f pixels.

    .. math:: (Hx)_{ij} = \frac1{f^2} \sum_{a, b < f} x_{fi + a,\, fj + b}

    Parameters
    ----------
    factor : int
        f; height and width are multiples of it.
    image_shape : tuple of int
        (..., height, width) of a row.

    Examples
    --------
    >>> Downsampling(2, (2, 4)).apply(torch.arange(8.0)[None])
    tensor([[2.5000, 4.5000]])
    """

    factor: int
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        require_factor(self.factor)
        _require_image(self.image_shape)
        if any(size % self.factor for size in self.image_shape[-2:]):
            raise ValueError(
                f"Height and width, {self.image_shape[-2:]}, must be multiples of factor={self.factor!r}; crop the "
                "image."
            )

    @property
    def small_shape(self) -> tuple[int, ...]:
        """Shape of a measurement as an image."""
        *channels, height, width = self.image_shape
        return (*channels, height // self.factor, width // self.factor)

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        return prod(self.small_shape), prod(self.image_shape)

    def apply(self, x: Tensor) -> Tensor:
        """Return the means of the blocks of each row, shape (n, m)."""
        x, f, (*channels, height, width) = as_rows(x, self.n_features), self.factor, self.small_shape
        return x.reshape(len(x), *channels, height, f, width, f).mean((-3, -1)).reshape(len(x), -1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return each mean spread evenly over its block, shape (n, d)."""
        y, f, (*channels, height, width) = as_rows(y, self.n_measurements), self.factor, self.small_shape
        blocks = y.reshape(len(y), *channels, height, 1, width, 1) / f**2
        return blocks.expand(-1, *channels, height, f, width, f).reshape(len(y), -1)


@final
@dataclass(frozen=True)
class Composition(Operator):
    """One operator after another: the first listed is applied last, as in a product of matrices.

    Parameters
    ----------
    parts : tuple of Operator
        At least one; each sees what the next one measures.

    Examples
    --------
    >>> both = Composition((Rows.of([0], 2), Downsampling(2, (2, 4))))
    >>> both.apply(torch.arange(8.0)[None])
    tensor([[2.5000]])
    """

    parts: tuple[Operator, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("A composition needs at least one operator, got none.")
        for left, right in zip(self.parts, self.parts[1:], strict=False):
            if left.n_features != right.n_measurements:
                raise ValueError(
                    f"An operator that sees {left.n_features} features cannot follow one with "
                    f"{right.n_measurements} measurements; the first listed is applied last."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements of the first and features of the last, (m, d)."""
        return self.parts[0].n_measurements, self.parts[-1].n_features

    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, m)."""
        for part in reversed(self.parts):
            x = part.apply(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d)."""
        for part in self.parts:
            y = part.adjoint(y)
        return y


def require_factor(factor: Any) -> None:
    """Raise where a factor by which an image shrinks is no integer of at least 1."""
    if isinstance(factor, bool) or not isinstance(factor, Integral):
        raise TypeError(f"factor must be an integer, got {factor!r} of type {type(factor).__name__}.")
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor!r}.")


def _require_image(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"An image has shape (..., height, width), each at least 1, got {shape!r}.")


__all__ = ["Blur", "Composition", "Downsampling", "inpainting", "require_factor"]
