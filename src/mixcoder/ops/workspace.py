"""Reusable block buffers. A fresh allocation per block costs more in page faults than the arithmetic."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor


class Workspace:
    """Named scratch tensors, one set per thread, kept as long as the workspace lives.

    The contents are undefined at every call: a buffer is where a block's result is put, never state.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._children: dict[str, Workspace] = {}

    def child(self, name: str) -> Workspace:
        """Return a workspace of its own for a part that uses the same names."""
        return self._children.setdefault(name, Workspace())

    def take(
        self,
        name: str,
        rows: int,
        columns: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        column_major: bool = False,
    ) -> Tensor:
        """Return an uninitialised (rows, columns) tensor.

        ``column_major`` stores whole columns one after another: with few columns, sums along a row are
        then sums of long vectors, which the processor does 16 numbers at a time.
        """
        buffers = self._local.__dict__
        key = f"{name} {dtype} {device}"
        size = rows * columns
        buffer = buffers.get(key)
        if buffer is None or buffer.numel() < size:
            with torch.inference_mode(mode=False):  # a buffer outlives the mode that it is first asked for in
                buffer = torch.empty(size, dtype=dtype, device=device)
            buffers[key] = buffer
        flat = buffer[:size]
        return flat.view(columns, rows).T if column_major else flat.view(rows, columns)

    def given_away(self, value: Tensor) -> Tensor:
        """Return a result of this thread that is the caller's from now on: its memory is not used for another."""
        buffers, home = self._local.__dict__, value.untyped_storage().data_ptr()
        for key, buffer in list(buffers.items()):
            if isinstance(buffer, Tensor) and buffer.untyped_storage().data_ptr() == home:
                del buffers[key]
        return value

    def keep(self, name: str, value: Any) -> None:
        """Keep what one step of a block has computed for the next step of the same block, on the same thread."""
        self._local.__dict__[f"kept {name}"] = value

    def kept(self, name: str) -> Any:
        """Return what was kept last on this thread, or ``None``."""
        return self._local.__dict__.get(f"kept {name}")

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()
