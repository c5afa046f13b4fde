"""A fitted model on disk: one file that is either whole or refused.

The file is valid safetensors, so any tool that knows the format can look inside:

    8 bytes     length of the header, little-endian
    header      canonical JSON, padded with spaces to a multiple of 8
    arrays      little-endian, C order, without gaps; the widest type first, then by name

The header's ``__metadata__`` says ``format``, ``format_version``, ``kind``, ``library_version``, ``metadata`` (the
caller's, as canonical JSON) and ``sha256``, the digest of all of these and of the name, dtype, shape and bytes
of every array. Two rules then find every changed bit: the header is the only header that its own content can
produce, and the digest matches. They hold for every format version, so damage is told apart from age.

Reading parses JSON and copies bytes. Nothing is unpickled, executed or imported by name: ``kind`` is a key into
a registry that lives elsewhere. The digest detects damage, not forgery; `read` takes ``expected_sha256`` from
those who keep the digest in a safe place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mixcoder._drafts import draft_beside, remove_stale_drafts
from mixcoder.errors import CorruptModelError, ModelFileError, UnsupportedVersionError

__all__ = [
    "FORMAT_VERSION",
    "MAX_BYTES",
    "MIGRATIONS",
    "ModelFile",
    "inspect",
    "library_version",
    "read",
    "write",
]

FORMAT_VERSION: Final = 1
"""Written into every file; newer files are refused, older ones go through :data:`MIGRATIONS`."""

MAX_BYTES: Final = 2**32
"""Larger files are refused before memory is asked for; pass ``max_bytes`` to read one on purpose."""

_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors format
_MAX_DEPTH: Final = 64  # of nested metadata: far from the recursion limit of any reader
_MAX_INT_BITS: Final = 2048  # 617 digits: below 640, the lowest limit CPython lets a reader set for int(str)
_MAX_DIMS: Final = 32  # the least any supported NumPy allows

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("|u1"),
    "BOOL": np.dtype("|b1"),
}
_CODES: Final[Mapping[str, str]] = {dtype.str: code for code, dtype in _DTYPES.items()}
_ENVELOPE: Final = {"format", "format_version", "kind", "library_version", "metadata", "sha256"}


@dataclass(frozen=True)
class ModelFile:
    """What one model file holds; two are equal when their digests are.

    Parameters
    ----------
    kind : str
        Key of the model in a registry, never an import path.
    arrays : mapping of str to ndarray
        Writable, C-ordered, in native types.
    metadata : mapping of str to JSON values
        Dictionaries come back with sorted keys.
    sha256 : str
        Digest of everything in the file, 64 hexadecimal digits.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     digest = write(f"{directory}/two.mixcoder", "example", {"means": np.zeros((2, 3))}, {"n": 2})
    ...     model = read(f"{directory}/two.mixcoder")
    >>> model.kind, model.arrays["means"].shape, model.metadata, model.sha256 == digest
    ('example', (2, 3), {'n': 2}, True)
    """

    kind: str = field(compare=False)
    arrays: Mapping[str, NDArray[Any]] = field(compare=False)
    metadata: Mapping[str, Any] = field(compare=False)
    sha256: str


MIGRATIONS: Final[Mapping[int, Callable[[ModelFile], ModelFile]]] = {}
"""``MIGRATIONS[v]`` is the pure function from the content of version ``v`` to that of ``v + 1``."""


def write(
    path: str | os.PathLike[str],
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = True,
) -> str:
    """Return the digest of a model, once it is safely on disk.

    The bytes go to a temporary file in the same directory, which is flushed to the disk, read back, compared
    with ``arrays`` (through the safetensors library, a second opinion) and only then given its name. Whatever
    happens on the way, the name holds the old file or the new one, each whole. Only a process that is killed
    outright can leave a temporary file, ``.mixcoder-*.tmp``, which the next save into the directory deletes. For a
    moment it takes five times the memory of ``arrays`` on top of them.

    Parameters
    ----------
    path : path-like
        Where; ``.mixcoder`` is the custom. A link is followed. The permissions of an existing file are kept.
    kind : str
        Key of the model in a registry.
    arrays : mapping of str to ndarray
        float64, float32, int64, int32, uint8 or bool; any shape, memory order and byte order.
    metadata : mapping of str to JSON values
        dict, list, str, int, float (also inf and nan), bool and None; exactly these, so that what is read
        equals what was written.
    overwrite : bool, default=True
        Whether an existing file may be replaced.

    Raises
    ------
    TypeError, ValueError
        When a value cannot be stored; the message names it. Nothing has been written.
    FileExistsError
        When the file exists and ``overwrite`` is false.
    OSError
        When the disk is full, the directory missing or read-only, and so on; the old file is whole.
    CorruptModelError
        When the disk gives back other bytes than it was given; the old file is whole.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "two-means.mixcoder")
    ...     digest = write(path, "demo", {"means": np.array([[0.0], [9.0]])}, {"tol": math.inf})
    ...     model = read(path, expected_sha256=digest)
    >>> model.arrays["means"].tolist(), model.metadata
    ([[0.0], [9.0]], {'tol': inf})
    """
    data, sha256 = _pack(kind, arrays, metadata)
    target = Path(os.path.realpath(path))
    temporary = draft_beside(target)
    mode = _replaceable(target, overwrite=overwrite)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        _verify(temporary, data, arrays)
        _rename(temporary, target, overwrite=overwrite)
    except OSError as error:
        told = f"{error.strerror or error} (while saving {len(data)} bytes; an old file is unharmed)"
        raise OSError(error.errno, told, os.fspath(path)) from error
    finally:  # reached by KeyboardInterrupt too; after the renaming there is nothing left to delete
        with contextlib.suppress(OSError):
            temporary.unlink()
    remove_stale_drafts(target.parent)
    _sync_directory(target.parent)
    return sha256


def read(
    path: str | os.PathLike[str], *, expected_sha256: str | None = None, max_bytes: int = MAX_BYTES
) -> ModelFile:
    """Return the content of a model file, every bit of it verified.

    Parameters
    ----------
    path : path-like
        A file that `write` made, in this version or an older one.
    expected_sha256 : str, optional
        The digest that `write` returned (not that of the ``sha256sum`` command); another one is refused.
    max_bytes : int, default=MAX_BYTES
        Larger files are refused before memory is asked for.

    Raises
    ------
    OSError
        When the file cannot be opened (``FileNotFoundError``, ``PermissionError``, ``IsADirectoryError``).
    CorruptModelError
        When the file is damaged, truncated, not a model file, or not the expected one.
    UnsupportedVersionError
        When its format is newer than this version reads.
    ModelFileError
        When it is larger than ``max_bytes``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "damaged.mixcoder")
    ...     digest = write(path, "demo", {"weights": np.array([0.5, 0.5])}, {})
    ...     data = path.read_bytes()
    ...     size = path.write_bytes(data[:-1] + b"!")
    ...     try:
    ...         read(path)
    ...     except CorruptModelError as error:
    ...         print(str(error).partition(": ")[2])
    the digest does not match the content. Restore it from a copy or save it again.
    """
    envelope, entries = _open(path, max_bytes)
    sha256 = envelope["sha256"]
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        message = (
            f"{os.fspath(path)} is whole, but its digest is {sha256} and {expected_sha256} was expected."
        )
        raise CorruptModelError(message)
    arrays = {name: entry.array() for name, entry in entries.items()}
    model = ModelFile(envelope["kind"], arrays, _loads(envelope["metadata"]), sha256)
    for version in range(int(envelope["format_version"]), FORMAT_VERSION):
        model = MIGRATIONS[version](model)
    return replace(model, sha256=sha256)


def inspect(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return what a model file says about itself, without its arrays; the file is verified as by `read`.

    Parameters
    ----------
    path, max_bytes
        As for `read`, which also says what is raised.

    Returns
    -------
    dict
        ``kind``, ``format_version``, ``library_version`` (that wrote it), ``sha256``, ``n_bytes``, ``metadata``
        as stored, before any migration, and ``arrays``: for each name its ``dtype`` and ``shape``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "demo.mixcoder")
    ...     digest = write(path, "demo", {"means": np.zeros((4, 2))}, {"n_iter": 7})
    ...     about = inspect(path)
    >>> about["kind"], about["metadata"], about["arrays"]
    ('demo', {'n_iter': 7}, {'means': {'dtype': 'float64', 'shape': (4, 2)}})
    """
    envelope, entries = _open(path, max_bytes)
    return {
        "kind": envelope["kind"],
        "format_version": int(envelope["format_version"]),
        "library_version": envelope["library_version"],
        "sha256": envelope["sha256"],
        "n_bytes": len(_header(envelope, entries)) + sum(entry.n_bytes for entry in entries.values()),
        "metadata": _loads(envelope["metadata"]),
        "arrays": {
            name: {"dtype": _DTYPES[entry.code].name, "shape": entry.shape} for name, entry in entries.items()
        },
    }


# ---------------------------------------------------------------------------------- the content and its bytes


class _Entry(NamedTuple):
    code: str
    shape: tuple[int, ...]
    data: bytes | memoryview = b""

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.code].itemsize

    def array(self) -> NDArray[Any]:
        dtype = _DTYPES[self.code]
        return np.frombuffer(self.data, dtype).reshape(self.shape).astype(dtype.newbyteorder("="), copy=False)


def _header(envelope: Mapping[str, str], entries: Mapping[str, _Entry]) -> bytes:
    """Return the one header of a content: its length, canonical JSON, spaces up to a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": dict(envelope)}
    start = 0
    for name in _in_file_order(entries):
        code, shape, _ = entry = entries[name]
        end = start + entry.n_bytes
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = _canonical(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _in_file_order(entries: Mapping[str, _Entry]) -> list[str]:
    # The widest type first keeps every array aligned without gaps, which the format forbids.
    return sorted(entries, key=lambda name: (-_DTYPES[entries[name].code].itemsize, name))


def _digest(envelope: Mapping[str, str], entries: Mapping[str, _Entry]) -> str:
    """Return SHA-256 of the envelope, then of (name, dtype, shape, bytes) of every array by name."""
    told = {key: value for key, value in envelope.items() if key != "sha256"}
    digest = hashlib.sha256(_canonical(told).encode("ascii"))
    for name in sorted(entries):
        code, shape, data = entries[name]
        # JSON escapes its line ends and the shape says where the bytes end: no two contents share a stream.
        digest.update(b"\n" + _canonical([name, code, list(shape)]).encode("ascii") + b"\n")
        digest.update(data)
    return digest.hexdigest()


def _pack(kind: str, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of a file and their digest."""
    _check_name(kind, "kind")
    for name in arrays:
        _check_name(name, "array name")
    entries = {name: _entry(name, value) for name, value in arrays.items()}
    envelope = {
        "format": "mixcoder",
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "library_version": library_version(),
        "metadata": _canonical(_encode(dict(metadata), "metadata")),
    }
    envelope["sha256"] = _digest(envelope, entries)
    header = _header(envelope, entries)
    if len(header) - 8 > _MAX_HEADER:
        message = f"The metadata take {len(header)} bytes and a file holds {_MAX_HEADER}; store long lists as arrays."
        raise ValueError(message)
    return b"".join([header, *(entries[name].data for name in _in_file_order(entries))]), envelope["sha256"]


def _entry(name: str, value: object) -> _Entry:
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        message = f"arrays[{name!r}] is a {type(value).__name__}; expected a numpy.ndarray without a mask."
        raise TypeError(message)
    array = cast("NDArray[Any]", value)
    little = array.dtype.newbyteorder("<")
    if little.str not in _CODES:
        allowed = ", ".join(dtype.name for dtype in _DTYPES.values())
        message = f"arrays[{name!r}] has dtype {array.dtype}; a model file holds {allowed}. Convert it first."
        raise TypeError(message)
    if array.ndim > _MAX_DIMS:
        message = f"arrays[{name!r}] has {array.ndim} axes; a model file holds at most {_MAX_DIMS}."
        raise ValueError(message)
    if little.kind == "b":
        array = array != 0  # a byte of a bool may hold more than 0 or 1 when it was made by a view
    # The bytes are copied in C order here: safetensors 0.8.0 writes Fortran-ordered arrays in memory order under
    # their logical shape, and they come back scrambled. `astype`, not `ascontiguousarray`: the latter has no 0-d.
    return _Entry(_CODES[little.str], array.shape, array.astype(little, copy=False).tobytes(order="C"))


def _unpack(data: memoryview) -> tuple[dict[str, str], dict[str, _Entry]]:
    """Return the envelope and the entries (views of ``data``), or raise when they are not exactly what was packed."""
    end = 8 + int.from_bytes(data[:8], "little")
    if not 8 < end <= min(len(data), 8 + _MAX_HEADER):
        raise ValueError("it is truncated, or no model file: it does not begin with a header that fits in it")
    header = json.loads(bytes(data[8:end]).decode("ascii"))
    envelope = header.pop("__metadata__", {})
    if envelope.get("format") != "mixcoder" or not all(type(value) is str for value in envelope.values()):
        raise ValueError("it was not written by mixcoder")
    entries = {name: _Entry(about["dtype"], tuple(about["shape"])) for name, about in header.items()}
    for code, shape, _ in entries.values():
        if code not in _DTYPES or len(shape) > _MAX_DIMS:
            raise ValueError("it holds an array of a type that mixcoder does not write")
        if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
            raise ValueError("it holds an array whose shape makes no sense")
    # Offsets, order, padding, white space, repeated keys: whatever they said, there is one way to say it.
    if _header(envelope, entries) != bytes(data[:end]):
        raise ValueError("its header is not the one that its content produces")
    if len(data) != end + sum(entry.n_bytes for entry in entries.values()):
        raise ValueError("its size is not the one that its header announces")
    for name in _in_file_order(entries):
        start, end = end, end + entries[name].n_bytes
        entries[name] = entries[name]._replace(data=data[start:end])
    if _digest(envelope, entries) != envelope["sha256"]:
        raise ValueError("the digest does not match the content")
    return envelope, {name: entries[name] for name in sorted(entries)}


def _check_content(envelope: Mapping[str, str], entries: Mapping[str, _Entry]) -> None:
    """Raise when a content of this version or an older one is intact, yet none that `write` makes."""
    if set(envelope) != _ENVELOPE:
        raise ValueError(f"its header holds {sorted(envelope)}; expected {sorted(_ENVELOPE)}")
    metadata = _loads(envelope["metadata"])
    if type(metadata) is not dict or _canonical(_encode(metadata, "metadata")) != envelope["metadata"]:
        raise ValueError("its metadata are not canonical JSON")
    for name, (code, _, data) in entries.items():
        if code == "BOOL" and np.any(np.frombuffer(data, np.uint8) > 1):
            raise ValueError(f"the boolean array {name!r} holds other values than 0 and 1")


# ------------------------------------------------------------------------------------- metadata as canonical JSON


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _encode(value: object, where: str, depth: int = 0) -> Any:
    """Return ``value`` in strict JSON: inf becomes ``{"$float": "inf"}``, and a key ``$x`` of the caller ``$$x``.

    Types are compared exactly: a tuple, an enumeration or a NumPy scalar would come back as something else.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {_MAX_DEPTH} levels deep, or contains itself.")
    if value is None or type(value) in {bool, str}:
        return value
    if type(value) is int:
        if value.bit_length() > _MAX_INT_BITS:
            raise ValueError(
                f"{where} is an integer of {value.bit_length()} bits; at most {_MAX_INT_BITS} are stored."
            )
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if type(value) is list:
        items = cast("list[object]", value)
        return [_encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(items)]
    if type(value) is dict:
        pairs = cast("dict[object, object]", value)
        for key in pairs:
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; expected str.")
        return {
            _escaped(cast("str", key)): _encode(item, f"{where}[{key!r}]", depth + 1)
            for key, item in pairs.items()
        }
    message = (
        f"{where} is a {type(value).__name__}; expected dict, list, str, int, float, bool or None "
        "(NumPy scalars: call .item(); tuples: make a list; arrays: pass them in `arrays`)."
    )
    raise TypeError(message)


def _escaped(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


def _loads(text: str) -> Any:
    """Return what `_encode` was given."""
    return json.loads(text, object_hook=_decoded)


def _decoded(pairs: dict[str, Any]) -> Any:
    if pairs.keys() == {"$float"}:
        return float(pairs["$float"])
    return {key.removeprefix("$"): item for key, item in pairs.items()}


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"The {what} {name!r} is a {type(name).__name__}; expected str.")
    if not name or name == "__metadata__" or re.search("[\ud800-\udfff]", name):
        raise ValueError(f"The {what} {name!r} cannot be stored: it is empty, reserved, or half a character.")


def library_version() -> str:
    """Return the version of this package.

    Examples
    --------
    >>> library_version()[0].isdigit()
    True
    """
    from importlib import metadata  # slow to import, and only a save needs it

    try:
        return metadata.version("mixcoder")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0+unknown"


# ---------------------------------------------------------------------------------------------- bytes and disks


def _open(path: str | os.PathLike[str], max_bytes: int) -> tuple[dict[str, str], dict[str, _Entry]]:
    """Return the verified envelope and entries of a file that this version can read."""
    data = _bytes(path, max_bytes)
    try:
        envelope, entries = _unpack(memoryview(data))
        version = int(envelope["format_version"])
        if str(version) != envelope["format_version"] or version < 1:
            raise ValueError(f"its format version is {envelope['format_version']!r}")
        if version <= FORMAT_VERSION:
            _check_content(envelope, entries)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail in any way; it is damaged in all of them
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        message = f"{os.fspath(path)} is damaged or no model file: {reason}. Restore it from a copy or save it again."
        raise CorruptModelError(message) from error
    if version > FORMAT_VERSION:
        needed = envelope.get("library_version")
        message = (
            f"{os.fspath(path)} has format version {version}, and this mixcoder ({library_version()}) reads up to "
            f"{FORMAT_VERSION}. It was written by mixcoder {needed!r}: upgrade to that version or a later one."
        )
        raise UnsupportedVersionError(message)
    return envelope, entries


def _bytes(path: str | os.PathLike[str], max_bytes: int) -> bytearray:
    """Return the bytes of a regular file of at most ``max_bytes``, in one writable buffer."""
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for ever
        raise CorruptModelError(f"{os.fspath(path)} is a device, pipe or socket; expected a file.")
    with Path(path).open("rb") as file:  # a directory: IsADirectoryError
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            message = f"{os.fspath(path)} has {size} bytes, more than max_bytes={max_bytes}; raise it to read the file."
            raise ModelFileError(message)
        data = bytearray(size)  # writable, so that the arrays are, and torch takes them without a copy
        # Read, not mapped: a file truncated under a map kills the process (SIGBUS).
        if file.readinto(data) != size or file.read(1):
            raise CorruptModelError(
                f"{os.fspath(path)} changed its size while it was being read; read it again."
            )
    return data


def _replaceable(target: Path, *, overwrite: bool) -> int | None:
    """Return the permissions of the file to replace, None when there is none; raise when it must stay."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory; expected the name of a file", str(target))
    if not overwrite:
        raise FileExistsError(errno.EEXIST, "File exists; pass overwrite=True to replace it", str(target))
    if not stat.S_ISREG(mode):  # renaming over /dev/null would replace the device
        raise ModelFileError(f"{target} is a device, pipe or socket; it is not replaced by a file.")
    if not os.access(target, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, "The file is write-protected", str(target))
    return stat.S_IMODE(mode)


def _verify(temporary: Path, data: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise unless the file holds ``data``, and the safetensors library finds ``arrays`` in it."""
    from safetensors import numpy as safetensors  # a second opinion, needed by a save only

    found = bytes(_bytes(temporary, len(data)))
    if found != data:
        raise CorruptModelError(f"{temporary} does not hold the bytes written to it; is the disk failing?")
    _unpack(memoryview(found))
    seen = safetensors.load(found)
    if seen.keys() != arrays.keys() or not all(_same(seen[name], value) for name, value in arrays.items()):
        raise CorruptModelError(
            f"{temporary} does not hold the arrays to be saved; did they change meanwhile?"
        )


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return (
        a.dtype == b.dtype.newbyteorder("=")
        and a.shape == b.shape
        and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    )


def _rename(temporary: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            target.hardlink_to(temporary)  # unlike a rename, fails where a file has appeared meanwhile
        except FileExistsError:
            raise
        except OSError as error:  # a file system without links: look, then rename
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "File exists", str(target)) from error
        else:
            temporary.unlink()
            return
    temporary.replace(target)


def _sync_directory(directory: Path) -> None:
    """Make a renaming survive a power cut, where directories can be opened."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # a directory may be writable without being readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)
