"""The matrix product that all of a pass's time goes into, by the library that is fastest where it runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixcoder.ops.blas import prefers_onednn, prefers_openblas

# Multiplications from which a product is worth the second library: below, what it takes to call it counts more.
_LARGE = 1 << 20

# Rows, columns and length of sums below which the tiles of those libraries stay half empty.
_NARROW = 8


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Return ``a @ b``, in ``out`` or in memory of its own.

    Parameters
    ----------
    a : Tensor, shape (n, f)
    b : Tensor, shape (f, k)
    out : Tensor, shape (n, k)
        Where the result may be put. Stored row by row or column by column, as the result then is.

    Notes
    -----
    PyTorch multiplies by MKL, which leaves half of the vector unit of a processor that is not Intel's unused.
    oneDNN, which PyTorch brings along, does not (float32 only), nor does NumPy's OpenBLAS (float64). Which of them
    it is depends on the processor, the installed libraries and the shapes, never on a measurement, so that one
    machine gives one answer.

    Examples
    --------
    >>> product(torch.eye(2), torch.tensor([[1.0], [2.0]]), out=torch.empty(2, 1))
    tensor([[1.],
            [2.]])
    """
    library = _library(a, b)
    if library == "onednn":
        # What is to be stored column by column is the transpose of a product stored row by row. A sum over
        # many rows is up to two thirds faster with the longer of the outer sides last (measured).
        if not out.is_contiguous() or a.shape[1] > a.shape[0] > b.shape[1]:
            return torch.ops.mkldnn._linear_pointwise.default(b.T, a, None, "none", [], "").T
        return torch.ops.mkldnn._linear_pointwise.default(a, b.T, None, "none", [], "")
    if library == "openblas":
        if out.is_contiguous():
            np.matmul(a.numpy(), b.numpy(), out=out.numpy())
            return out
        if out.T.is_contiguous():
            np.matmul(b.T.numpy(), a.T.numpy(), out=out.T.numpy())
            return out
    return torch.mm(a, b, out=out)


def biased_product(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """Return ``a @ b + bias`` in memory of its own, stored row by row, by the same libraries.

    Parameters
    ----------
    a : Tensor, shape (n, f)
    b : Tensor, shape (f, k)
    bias : Tensor, shape (k,)

    Examples
    --------
    >>> biased_product(torch.eye(2), torch.tensor([[1.0], [2.0]]), torch.tensor([10.0]))
    tensor([[11.],
            [12.]])
    """
    library = _library(a, b)
    if library == "onednn":
        return torch.ops.mkldnn._linear_pointwise.default(a, b.T, bias, "none", [], "")
    if library == "openblas":
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy())).add_(bias)
    return torch.addmm(bias, a, b)


def _library(a: Tensor, b: Tensor) -> str:
    """Return the library that a product goes to."""
    if (
        a.device.type != "cpu"
        or a.shape[0] * a.shape[1] * b.shape[1] < _LARGE
        or min(a.shape[0], a.shape[1], b.shape[1]) < _NARROW
    ):
        return "torch"
    if a.dtype == torch.float32 and prefers_onednn():
        return "onednn"
    if a.dtype == torch.float64 and prefers_openblas():
        return "openblas"
    return "torch"
