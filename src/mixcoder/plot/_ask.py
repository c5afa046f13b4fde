"""What a picture asks of a fitted estimator, and how it refuses one that cannot answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixcoder.estimators._validation import rows_of
from mixcoder.estimators.base import AutoencoderEstimator
from mixcoder.estimators.mixture import DensityEstimator


def require_autoencoder(estimator: Any, display: str) -> AutoencoderEstimator:
    """Return the estimator if it is a fitted one of this library, or say what was expected."""
    if not isinstance(estimator, AutoencoderEstimator):
        raise TypeError(
            f"{display} draws a fitted estimator of mixcoder (GaussianMixture, KMeans, Mixture, PPCAMixture, ...), "
            f"got {type(estimator).__name__}. Fit one of these, or give arrays to {display}(...) itself."
        )
    check_is_fitted(estimator)
    return estimator


def require_density(estimator: Any, display: str) -> DensityEstimator:
    """Return the estimator if it is a fitted mixture with a density."""
    require_autoencoder(estimator, display)
    if not isinstance(estimator, DensityEstimator):
        raise TypeError(
            f"{display} draws probabilities, and {type(estimator).__name__} has none; fit a GaussianMixture with "
            "covariance_type='tied_spherical' (its soft counterpart), or another mixture."
        )
    return estimator


def rows(estimator: Any, X: Any) -> np.ndarray:
    """Return rows, checked as the estimator checks them, as a float64 array."""
    return rows_of(estimator, X, reset=False).double().numpy(force=True)


def filled(estimator: Any, X: Any, x: np.ndarray) -> np.ndarray:
    """Return the rows x that :func:`rows` made of X, each missing cell as the model expects it given the others."""
    return array(estimator.impute(X)).astype(np.float64) if np.isnan(x).any() else x


def grid_points(grid_size: Any, display: str) -> int:
    """Return the number of points along an axis, or say what is expected."""
    if isinstance(grid_size, bool) or not isinstance(grid_size, int | np.integer) or grid_size < 2:
        raise ValueError(
            f"grid_size of {display} is a whole number of points, 2 at least, got {grid_size!r}."
        )
    return int(grid_size)


def array(values: Any) -> np.ndarray:
    """Return what an estimator answered as a NumPy array."""
    return values.numpy(force=True) if hasattr(values, "numpy") else np.asarray(values)


def names_of(estimator: Any) -> list[str]:
    """Return the names of the features; x0, x1, ... where the rows had none."""
    known = getattr(estimator, "feature_names_in_", None)
    return [f"x{j}" for j in range(estimator.n_features_in_)] if known is None else [str(n) for n in known]


def columns_of(estimator: Any, features: Any) -> list[int]:
    """Return features, given by number or name, by number."""
    names = names_of(estimator)
    numbers: list[int] = []
    for feature in [features] if isinstance(features, str | int | np.integer) else features:
        if isinstance(feature, str):
            if feature not in names:
                raise ValueError(f"There is no feature {feature!r}; this model knows {names}.")
            numbers.append(names.index(feature))
        else:
            if not 0 <= int(feature) < len(names):
                raise ValueError(f"Features must be in 0..{len(names) - 1}, got {feature}.")
            numbers.append(int(feature))
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Features must be distinct, got {features!r}.")
    return numbers


def image_shape(n_features: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of rows that are images: those given, or of a square."""
    if shape is None:
        side = math.isqrt(n_features)
        if side * side != n_features:
            raise ValueError(
                f"Rows of {n_features} features are no square image: say shape=(height, width), with "
                f"height * width = {n_features}."
            )
        return side, side
    if len(shape) != 2 or shape[0] * shape[1] != n_features:
        raise ValueError(
            f"shape={tuple(shape)} has {math.prod(shape)} pixels, but rows have {n_features} features."
        )
    return int(shape[0]), int(shape[1])
