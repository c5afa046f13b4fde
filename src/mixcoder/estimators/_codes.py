"""Codes on disk: a folder of parts that is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mixcoder._drafts import draft_beside
from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.sources import FileSource, Source, TensorSource

MANIFEST = "manifest.json"

# Rows of a block, and of a part where the source has none of its own.
_BLOCK = 1 << 16
_PART = 1 << 20


class _Stream(Protocol):
    def write(self, data: bytes, /) -> Any: ...


def write_codes(
    model: MixtureAutoencoder, source: Source, folder: Any, *, hard: bool, overwrite: bool
) -> dict[str, Any]:
    """Write the codes of all rows and return the manifest.

    The parts go to a folder beside the target, which is flushed to the disk and only then given its name.
    """
    target = Path(os.path.realpath(folder))
    _require_free(target, overwrite=overwrite)
    draft = draft_beside(target)
    draft.mkdir()
    try:
        manifest = _write_parts(model, source, draft, hard=hard)
        with (draft / MANIFEST).open("w", encoding="utf-8") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        _sync(draft)
        old = target.with_name(draft.name + ".old")
        if target.exists():
            _require_free(target, overwrite=overwrite)  # once more: this took a while
            target.rename(old)
        draft.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _require_free(target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is no directory: make it first.")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it.")
    if not (target / MANIFEST).is_file():
        raise FileExistsError(
            f"{target} holds no codes of an earlier call, and is not replaced. Choose another."
        )


def _write_parts(model: MixtureAutoencoder, source: Source, draft: Path, *, hard: bool) -> dict[str, Any]:
    files = source.parts if isinstance(source, FileSource) else None
    if isinstance(source, FileSource):
        ends = list(source.starts[1:])
    else:
        ends = [*range(_PART, source.n_rows, _PART), source.n_rows]
    narrow = str(source.dtype) == "torch.float32"
    dtype = np.dtype(np.int64) if hard else np.dtype(np.float32 if narrow else np.float64)
    columns = 1 if hard else model.n_components
    blocks, told, start = _codes(model, source, hard=hard), list[dict[str, Any]](), 0
    held = np.empty((0, columns), dtype)
    for place, end in enumerate(ends):
        name, left = f"part-{place:05d}.npy", end - start
        digest = hashlib.sha256()
        with (draft / name).open("xb") as stream:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (left, columns)}
            np.lib.format.write_array_header_1_0(_Both(stream, digest), header)
            while left:
                if len(held) == 0:
                    held = next(blocks)
                some, held = held[:left], held[left:]
                data = np.ascontiguousarray(some, dtype).tobytes()
                stream.write(data)
                digest.update(data)
                left -= len(some)
            stream.flush()
            os.fsync(stream.fileno())
        part = {"file": name, "rows": end - start, "sha256": digest.hexdigest()}
        told.append(part | ({} if files is None else {"source": str(files[place].path)}))
        start = end
    return {"rows": source.n_rows, "columns": columns, "dtype": dtype.name, "hard": hard, "parts": told}


def _codes(model: MixtureAutoencoder, source: Source, *, hard: bool) -> Any:
    for block in source.blocks(_BLOCK):
        if hard:
            yield model.assign(TensorSource(block.x))[:, None].numpy(force=True)
            continue
        code = model.encode(block.x)
        yield (code.dense(block.x.dtype) if isinstance(code, HardCode) else code).numpy(force=True)


class _Both:
    """Writes to a file and to a digest."""

    def __init__(self, stream: _Stream, digest: Any) -> None:
        self._stream, self._digest = stream, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._stream.write(data)
        return len(data)


def _sync(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open a directory
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


__all__ = ["MANIFEST", "write_codes"]
