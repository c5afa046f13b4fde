"""Quadratic problems of images, solved by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from mixcoder.sensing.operators import Operator


def smooth_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image with its unknown pixels on the smoothest (harmonic) surface through those around them."""
    unknown = (~mask).to(image)

    def roughness(x: Tensor) -> Tensor:
        """Return the gradient of the sum of squared differences between neighbours, at the unknown pixels."""
        down, across = torch.diff(x, dim=-2), torch.diff(x, dim=-1)
        total = torch.zeros_like(x)
        total[..., 1:, :] += down
        total[..., :-1, :] -= down
        total[..., :, 1:] += across
        total[..., :, :-1] -= across
        return unknown * total

    start = unknown * image[mask].mean()
    known = torch.where(mask, image, 0.0)
    return known + conjugate_gradients(lambda x: roughness(unknown * x), -roughness(known), start, 500)


def compromise(
    x: Tensor, y: Tensor, operator: Operator, weight: float, precision: Tensor, pull: Tensor
) -> Tensor:
    """Return the solution of (w H'H + diag(precision)) x = w H'y + pull, found in float64."""
    # What the patches pull at is small beside the data where the noise is: float32 would not see it.
    wide, y = x.double(), y.double()
    precision, pull = precision.double(), pull.double()

    def system(v: Tensor) -> Tensor:
        seen = operator.adjoint(operator.apply(v.reshape(1, prod(v.shape)))).view_as(v)
        return weight * seen + precision * v

    right = weight * operator.adjoint(y[None]).view_as(wide) + pull
    return conjugate_gradients(system, right, wide, 200).to(x)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, x: Tensor, n_steps: int) -> Tensor:
    """Return x with system(x) = right, symmetric positive definite, to 1e-8 of the right side or its rounding."""
    residual = right - system(x)
    direction, norm = residual.clone(), residual.square().sum()
    enough = max(1e-8, torch.finfo(x.dtype).eps) ** 2 * right.square().sum()
    for _ in range(n_steps):
        if norm <= enough or norm == 0:
            break
        image = system(direction)
        step = norm / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        last, norm = norm, residual.square().sum()
        direction = residual + norm / last * direction
    return x


__all__ = ["compromise", "conjugate_gradients", "smooth_fill"]
