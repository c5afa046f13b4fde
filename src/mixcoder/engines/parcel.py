"""Values on their way to a worker: tensors as flat arrays, and back to the last bit of what is computed with them.

Where a tensor begins in memory, and how its axes are laid out, decide the last bit of a product. Both travel along,
so that a worker gives the bits that this process would have given. Plain arrays also keep torch from moving tensors
into shared memory, whose handles run out and die with their process.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Kernels tell addresses apart by the width of a vector register.
_LINE = 64


# A view with gaps keeps them, as they too decide how a product reads it, unless they are most of what would travel.
_MOST_GAPS = 2


@dataclass(frozen=True)
class FlatTensor:
    """A tensor as one run of numbers.

    Parameters
    ----------
    numbers : ndarray, shape (m,)
        In the order of memory; zero in the gaps of a view.
    shape, strides : tuple of int
    offset : int
        Bytes from a line of 64 to the first number.
    """

    numbers: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> FlatTensor:
        """Return a tensor as it lies in memory."""
        tensor = tensor.detach().cpu()
        offset, span = tensor.data_ptr() % _LINE, _span(tensor)
        if span is None or span > _MOST_GAPS * tensor.numel():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif span > tensor.numel():
            home = torch.zeros(span, dtype=tensor.dtype)
            tensor = home.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
        numbers = tensor.as_strided((_span(tensor) or 0,), (1,)).numpy()
        return cls(numbers, tuple(tensor.shape), tuple(tensor.stride()), offset)

    def tensor(self) -> Tensor:
        """Return the tensor in memory of its own."""
        numbers = np.asarray(self.numbers)
        kind = torch.from_numpy(np.empty(0, numbers.dtype)).dtype
        skip = self.offset // numbers.itemsize
        home = torch.empty(skip + numbers.size, dtype=kind)
        home.numpy()[skip:] = numbers
        return home.as_strided(self.shape, self.strides, skip)


def pack(value: Any) -> Any:
    """Return a value whose tensors, wherever they are in dataclasses, tuples, lists and dicts, are flat arrays."""
    return _mapped(value, Tensor, FlatTensor.of)


def unpack(value: Any) -> Any:
    """Return what was packed, in memory of its own."""
    return _mapped(value, FlatTensor, FlatTensor.tensor)


def _mapped(value: Any, kind: type[Any], change: Any) -> Any:
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        entries = [_mapped(entry, kind, change) for entry in value]
        return value if _same(entries, value) else type(value)(entries)
    if type(value) is dict:
        return {name: _mapped(entry, kind, change) for name, entry in value.items()}
    if not is_dataclass(value) or isinstance(value, (type, FlatTensor)):
        return value
    before = {field.name: getattr(value, field.name) for field in fields(value)}
    after = {name: _mapped(entry, kind, change) for name, entry in before.items()}
    if _same(list(after.values()), list(before.values())):
        return value
    result = copy(value)  # a frozen dataclass may check in its constructor what a packed one is not
    for name, entry in after.items():
        object.__setattr__(result, name, entry)
    return result


def _same(new: Any, old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _span(tensor: Tensor) -> int | None:
    """Return how many numbers lie from the first to the last, or ``None`` where some have several places."""
    span = 1
    axes = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in axes if size != 1):
        if size == 0:
            return 0
        if stride < span:
            return None
        span += stride * (size - 1)
    return span
