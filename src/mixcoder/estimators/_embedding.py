"""What the estimators of embedded codes share: kernels by name, and the data of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from sklearn.utils._param_validation import StrOptions

from mixcoder.estimators._validation import Number
from mixcoder.ops.embedding import CodeKernel, DistanceKernel, EmbeddingKernel, SphereKernel

KERNEL_CONSTRAINTS: dict[str, list[Any]] = {
    "kernel": [StrOptions({"squared", "distance", "sphere"})],
    "prior": [Number(Real, 0, None, closed="left")],
    "absorber": [Number(Real, 0, None, closed="left")],
    "alpha": [Number(Real, None, None, closed="neither")],
    "beta": [Number(Real, 0, None, closed="neither")],
}


def kernel_of(estimator: Any) -> CodeKernel:
    """Return the kernel that an estimator's parameters describe; on the sphere the prior is the anchors' alone."""
    absorber, alpha, beta = float(estimator.absorber), float(estimator.alpha), float(estimator.beta)
    if estimator.kernel == "sphere":
        return SphereKernel(absorber, alpha, beta)
    make = EmbeddingKernel if estimator.kernel == "squared" else DistanceKernel
    return make(absorber, alpha, beta, float(estimator.prior))


@dataclass(frozen=True)
class EmbeddingMap:
    """What a picture of embedded codes shows.

    Attributes
    ----------
    codes : array, shape (n_samples, e)
        v of the rows.
    anchors : array, shape (k, e)
        w of the components.
    absorber_share : array, shape (n_samples,)
        q_0: how much of each row's code belongs to no component.
    labels : array of int64, shape (n_samples,)
        The component with the largest share.
    exists : array of bool, shape (n_samples,)
        Whether the row has a code; if not, its place is where the search began.
    """

    codes: Any
    anchors: Any
    absorber_share: Any
    labels: Any
    exists: Any


__all__ = ["KERNEL_CONSTRAINTS", "EmbeddingMap", "kernel_of"]
