"""Sums of rows under a code: the one reduction that every M-step needs."""

from __future__ import annotations

from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.ops.products import product


def class_sums(
    code: Code, features: Tensor, weights: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Return the weighted sum of features per component, shape (k, f).

    .. math:: S_{kf} = \sum_n w_n u_{nk} T_{nf}

    Parameters
    ----------
    code : SoftCode, shape (n, k), or HardCode
        u. With row weights a soft code is multiplied **in place** (it is a block's scratch).
    features : Tensor, shape (n, f)
        T.
    weights : Tensor, shape (n,), optional
        w, non-negative; one by default.
    """
    if isinstance(code, HardCode):
        if weights is not None:
            features = features * weights.to(features.dtype)[:, None]
        sums = features.new_zeros(code.n_components, features.shape[1]) if out is None else out.zero_()
        return sums.index_add_(0, code.index, features)
    if weights is not None:
        code = code.mul_(weights.to(code.dtype)[:, None])
    if out is None:
        out = features.new_empty(code.shape[1], features.shape[1])
    return product(code.T, features, out)


def class_counts(code: Code, dtype_like: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weighted number of rows per component, shape (k,)."""
    ones = dtype_like.new_ones(len(code), 1)
    return class_sums(code, ones, weights)[:, 0]
