"""Which linear algebra libraries this process carries, and which of them is fastest for what."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# OpenBLAS kernels that use 512-bit vectors; an environment variable (OPENBLAS_CORETYPE) may ask for lesser ones.
_WIDE_KERNELS = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids", "Zen5"})


@functools.cache
def prefers_onednn() -> bool:
    """Return whether large float32 products go to oneDNN: a processor with AVX-512 that is not Intel's."""
    return (
        _mkl_is_slow()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@functools.cache
def prefers_openblas() -> bool:
    """Return whether large float64 products go to NumPy's OpenBLAS: the same processors, its AVX-512 kernels."""
    return any(library.architecture in _WIDE_KERNELS for library in _openblas())


@contextmanager
def single_threaded_openblas() -> Generator[None]:
    """Run OpenBLAS on one thread, where products go to it at all; the last to leave restores its threads."""
    before = [(library, library.get_num_threads()) for library in _openblas()]
    for library, _ in before:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, n_threads in before:
            library.set_num_threads(n_threads)


@functools.cache
def _openblas() -> tuple[Any, ...]:
    """Return the handles of NumPy's OpenBLAS, where it may be the faster library; looking takes milliseconds."""
    if not _mkl_is_slow():
        return ()
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().lib_controllers
    return tuple(
        library
        for library in found
        if library.internal_api == "openblas" and "scipy.libs" not in str(library.filepath)
    )


@functools.cache
def _mkl_is_slow() -> bool:
    """Return whether torch multiplies by MKL on a processor half of whose vector unit MKL leaves unused."""
    return (
        torch.backends.mkl.is_available()
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
