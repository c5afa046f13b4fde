"""Between scikit-learn's arrays, in the units of the rows, and parameters in working coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixcoder.components import (
    Gaussian,
    GaussianDiagonal,
    GaussianFull,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
)
from mixcoder.components.gaussian_diagonal import GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.components.gaussian_spherical import GaussianSphericalParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.components.gaussian_tied_diagonal import GaussianTiedDiagonalParams
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.estimators._validation import numbers_of
from mixcoder.ops.frame import Frame

# How far given weights may sum from one.
_SUM_TOLERANCE = 1e-6

FAMILIES: dict[str, type[Gaussian[Any]]] = {
    "full": GaussianFull,
    "tied": GaussianTied,
    "diag": GaussianDiagonal,
    "spherical": GaussianSpherical,
    "tied_diag": GaussianTiedDiagonal,
    "tied_spherical": GaussianTiedSpherical,
}


def shape_of(covariance_type: str, k: int, d: int) -> tuple[int, ...]:
    """Return the shape of ``covariances_``."""
    return {
        "full": (k, d, d),
        "tied": (d, d),
        "diag": (k, d),
        "spherical": (k,),
        "tied_diag": (d,),
        "tied_spherical": (),
    }[covariance_type]


def params_of(covariance_type: str, means: Tensor, matrices: Tensor, frame: Frame, *, precision: bool) -> Any:
    """Return parameters in working coordinates from means and covariances (or precisions) of the rows."""
    means = frame.apply(means)
    scale = frame.scale
    if covariance_type in ("full", "tied"):
        outer = scale[:, None] * scale
        if precision:
            # P = A A' with A upper triangular: its inverse transpose is the factor of the covariance.
            working = matrices / outer
            factor = torch.linalg.cholesky(working.flip(-2, -1)).flip(-2, -1)  # upper, P = A A'
            whiteners = factor.mT
            covariances = torch.cholesky_inverse(torch.linalg.cholesky(working))
        else:
            covariances = matrices * outer
            identity = torch.eye(len(scale), dtype=means.dtype, device=means.device)
            lower = torch.linalg.cholesky(covariances)
            whiteners = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
        if covariance_type == "full":
            return GaussianFullParams(means, covariances, whiteners)
        return GaussianTiedParams(means, covariances[None], whiteners[None])
    variances = matrices.reciprocal() if precision else matrices
    if covariance_type == "diag":
        return GaussianDiagonalParams(means, variances * scale.square())
    if covariance_type == "tied_diag":
        return GaussianTiedDiagonalParams(means, (variances * scale.square())[None])
    variances = variances * scale[0].square()
    if covariance_type == "spherical":
        return GaussianSphericalParams(means, variances)
    return GaussianTiedSphericalParams(means, variances[None])


def covariances_of(covariance_type: str, params: Any, frame: Frame) -> Tensor:
    """Return the covariances in squared units of the rows."""
    scale = frame.scale
    if covariance_type == "full":
        return params.covariances / scale[:, None] / scale
    if covariance_type == "tied":
        return params.covariance[0] / scale[:, None] / scale
    if covariance_type in ("diag", "tied_diag"):
        variances = params.variances if covariance_type == "diag" else params.variances[0]
        return variances / scale / scale
    variance = params.variances if covariance_type == "spherical" else params.variance[0]
    return variance / scale[0] / scale[0]


def precision_factors_of(covariance_type: str, params: Any, frame: Frame) -> Tensor:
    """Return upper triangular U with U U' the precision, or reciprocal standard deviations."""
    scale = frame.scale
    if covariance_type == "full":
        return scale[:, None] * params.whiteners.mT
    if covariance_type == "tied":
        return scale[:, None] * params.whitener[0].T
    if covariance_type in ("diag", "tied_diag"):
        variances = params.variances if covariance_type == "diag" else params.variances[0]
        return scale * variances.rsqrt()
    variance = params.variances if covariance_type == "spherical" else params.variance[0]
    return scale[0] * variance.rsqrt()


def check_weights(weights: Any, k: int, name: str = "weights_init") -> Tensor:
    """Return given weights, validated as scikit-learn does."""
    values = _shaped(weights, (k,), name)
    if bool((values < 0.0).any()) or bool((values > 1.0).any()):
        raise ValueError(
            f"The parameter {name!r} should be in the range [0, 1], but got max value "
            f"{float(values.max()):.5f}, min value {float(values.min()):.5f}"
        )
    total = values.sum()
    if not abs(1.0 - float(total)) <= _SUM_TOLERANCE:
        raise ValueError(f"The parameter {name!r} should be normalized, but got sum = {float(total):.5f}")
    return values / total


def check_means(means: Any, k: int, d: int, name: str = "means_init") -> Tensor:
    """Return given means, validated."""
    return _shaped(means, (k, d), name)


def check_spreads(
    matrices: Any, covariance_type: str, k: int, d: int, name: str = "precisions_init"
) -> Tensor:
    """Return given precisions, or covariances, validated: the right shape, symmetric, positive definite."""
    values = _shaped(matrices, shape_of(covariance_type, k, d), name)
    if covariance_type not in ("full", "tied"):
        if bool((values <= 0.0).any()):
            raise ValueError(f"The parameter {name!r} should be positive, but got {float(values.min()):.5g}")
        return values
    for place, matrix in enumerate(values.reshape(-1, d, d)):
        symmetric = torch.allclose(matrix, matrix.T)
        if not symmetric or bool((torch.linalg.eigvalsh(matrix) <= 0.0).any()):
            where = f", entry {place}" if covariance_type == "full" else ""
            raise ValueError(f"The parameter {name!r}{where}, should be symmetric, positive-definite")
    return values


def _shaped(values: Any, shape: tuple[int, ...], name: str) -> Tensor:
    numbers = numbers_of(values, f"The parameter {name!r}")
    if tuple(numbers.shape) != shape:
        raise ValueError(
            f"The parameter {name!r} should have the shape of {shape}, but got {tuple(numbers.shape)}"
        )
    return numbers
