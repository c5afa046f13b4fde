"""The matrix product that all of a pass's time goes into, by the library that is fastest where it runs."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

# Multiplications from which a product is worth the second library: below, what it takes to call it counts more.
_LARGE = 1 << 20

# Rows, columns and length of sums below which oneDNN's tiles stay half empty.
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
    PyTorch multiplies float32 matrices by MKL, which leaves half of the vector unit of a processor that is not
    Intel's unused; oneDNN, which PyTorch brings along, does not (measured on AMD EPYC, one thread: 254 GFLOP/s
    against 117). Which of the two it is depends on the processor and the shapes, never on a measurement, so
    that one machine gives one answer.

    Examples
    --------
    >>> product(torch.eye(2), torch.tensor([[1.0], [2.0]]), out=torch.empty(2, 1))
    tensor([[1.],
            [2.]])
    """
    if _is_large(a, b):
        # What is to be stored column by column is the transpose of a product stored row by row. A sum over
        # many rows is up to two thirds faster with the longer of the outer sides last (measured).
        if not out.is_contiguous() or a.shape[1] > a.shape[0] > b.shape[1]:
            return torch.ops.mkldnn._linear_pointwise.default(b.T, a, None, "none", [], "").T
        return torch.ops.mkldnn._linear_pointwise.default(a, b.T, None, "none", [], "")
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
    if _is_large(a, b):
        return torch.ops.mkldnn._linear_pointwise.default(a, b.T, bias, "none", [], "")
    return torch.addmm(bias, a, b)


def _is_large(a: Tensor, b: Tensor) -> bool:
    """Return whether a product goes to oneDNN."""
    return (
        a.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[1] >= _LARGE
        and min(a.shape[0], a.shape[1], b.shape[1]) >= _NARROW
        and prefers_onednn()
    )


@functools.cache
def prefers_onednn() -> bool:
    """Return whether large float32 products go to oneDNN: a processor with AVX-512 that is not Intel's."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _vendor() not in ("", "GenuineIntel")
    )


def _vendor() -> str:
    """Return the processor's vendor where Linux tells it, else nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")
