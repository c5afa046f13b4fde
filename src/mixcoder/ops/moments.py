"""Sums of rows under a code: the one reduction that every M-step needs."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.ops.gaussian import pack
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


MAX_PACKED = 160
"""Above this many features the d(d+1)/2 products of a row outgrow a cache, and whitening is as cheap."""


def class_scatters(x: Tensor, code: Code, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return counts, shape (k,), and sums of rows and packed products, shape (k, d + d(d+1)/2), in float64.

    One component at a time: work memory is one copy of the block and one scatter.
    """
    dense = code.dense(x.dtype) if isinstance(code, HardCode) else code
    if weights is not None:
        dense = dense * weights.to(dense.dtype)[:, None]
    n_components, d = dense.shape[1], x.shape[1]
    sums = x.new_empty(n_components, d + d * (d + 1) // 2, dtype=torch.float64)
    sums[:, :d] = dense.T @ x
    for k in range(n_components):
        sums[k, d:] = pack((x * dense[:, k : k + 1]).T @ x)
    return dense.sum(0, dtype=torch.float64), sums


def packed_features(packed_width: int) -> int:
    """Return d from d + d(d+1)/2."""
    return round(((9 + 8 * packed_width) ** 0.5 - 3) / 2)
