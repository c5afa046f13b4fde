"""Between scikit-learn's arrays, in the units of the rows, and parameters in working coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
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
from mixcoder.ops.frame import Frame

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


def check_weights(weights: Any, k: int) -> Tensor:
    """Return given weights, validated as scikit-learn does."""
    values = _numbers(weights, "weights")
    if values.shape != (k,):
        raise ValueError(f"The parameter 'weights' should have the shape of ({k},), but got {values.shape}")
    if (values < 0.0).any() or (values > 1.0).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{values.max():.5f}, min value {values.min():.5f}"
        )
    if not np.isclose(abs(1.0 - values.sum()), 0.0, atol=1e-6):
        raise ValueError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {values.sum():.5f}"
        )
    return torch.as_tensor(values / values.sum())


def check_means(means: Any, k: int, d: int) -> Tensor:
    """Return given means, validated."""
    values = _numbers(means, "means")
    if values.shape != (k, d):
        raise ValueError(f"The parameter 'means' should have the shape of ({k}, {d}), but got {values.shape}")
    return torch.as_tensor(values)


def check_precisions(precisions: Any, covariance_type: str, k: int, d: int) -> Tensor:
    """Return given precisions, validated: the right shape, symmetric, positive definite."""
    values = _numbers(precisions, "precisions")
    shape = shape_of(covariance_type, k, d)
    if values.shape != shape:
        raise ValueError(
            f"The parameter '{covariance_type} precision' should have the shape of {shape}, but got "
            f"{values.shape}"
        )
    if covariance_type in ("full", "tied"):
        for place, matrix in enumerate(values.reshape(-1, d, d)):
            if not np.allclose(matrix, matrix.T) or np.any(np.linalg.eigvalsh(matrix) <= 0.0):
                where = f" {place}" if covariance_type == "full" else ""
                raise ValueError(
                    f"'{covariance_type} precision'{where} should be symmetric, positive-definite"
                )
    elif np.any(values <= 0.0):
        raise ValueError(f"'{covariance_type} precision' should be positive")
    return torch.as_tensor(values)


def _numbers(values: Any, name: str) -> np.ndarray[Any, Any]:
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"The parameter '{name}' contains NaN or infinity; give finite numbers.")
    return array
