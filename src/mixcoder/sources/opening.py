"""Which format a file is of, and rows of anything that can be read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from os import PathLike, fspath
from pathlib import Path
from typing import Any, overload

from mixcoder.errors import DataError, DataTypeError
from mixcoder.sources.arrow import ArrowPart
from mixcoder.sources.csv import CsvPart
from mixcoder.sources.files import FileSource, Part
from mixcoder.sources.hdf5 import Hdf5Part
from mixcoder.sources.iterable import IterableSource
from mixcoder.sources.npy import NpyPart
from mixcoder.sources.parquet import ParquetPart
from mixcoder.sources.zarr import ZarrPart

PathLikes = str | PathLike[str] | Sequence[str | PathLike[str]]
Blocks = Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Options:
    """What the caller says of the files; ``None`` where nothing."""

    columns: Sequence[str] | None = None
    header: bool | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class Format:
    """How files of a suffix are opened.

    Parameters
    ----------
    open : callable
    takes : tuple of str
        The options that have a meaning for them.
    """

    open: Callable[[Path, Options], Part]
    takes: tuple[str, ...] = ()


_CSV = Format(lambda path, say: CsvPart.open(path, say.columns, say.header), ("columns", "header"))
_HDF5 = Format(lambda path, say: Hdf5Part.open(path, say.dataset), ("dataset",))
_ARROW = Format(lambda path, say: ArrowPart.open(path, say.columns), ("columns",))

FORMATS: dict[str, Format] = {
    ".npy": Format(lambda path, say: NpyPart.open(path)),
    ".parquet": Format(lambda path, say: ParquetPart.open(path, say.columns), ("columns",)),
    ".csv": _CSV,
    ".tsv": _CSV,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".zarr": Format(lambda path, say: ZarrPart.open(path, say.dataset), ("dataset",)),
    ".arrow": _ARROW,
    ".feather": _ARROW,
}

_NOT_THERE = {
    "columns": "has no named columns: leave columns out",
    "header": "is no CSV: leave header out",
    "dataset": "is no HDF5 or Zarr file: leave dataset out",
}


@overload
def open_blocks(
    paths: PathLikes,
    *,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    dataset: str | None = None,
) -> FileSource: ...


@overload
def open_blocks(paths: Blocks) -> IterableSource: ...


def open_blocks(
    paths: PathLikes | Blocks,
    *,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    dataset: str | None = None,
) -> FileSource | IterableSource:
    """Return the rows of files as something to fit: they are read block by block, and never all in memory.

    Parameters
    ----------
    paths : path, sequence of paths, iterable of blocks, or callable
        Files: NPY stored row by row, Parquet, Arrow (Feather), CSV, TSV, HDF5 and Zarr, told apart by their suffix.
        A pattern (``"day-*.parquet"``) stands for the files that match it, a folder for those in it, in order of
        name. Rows keep the order of the files. ``"x.h5::/group/name"`` is one dataset of a file.

        Or anything that gives two-dimensional arrays or tensors every time it is iterated over, the same each time:
        a list of them, a DataLoader that does not shuffle, a function that returns a generator. All of them are read
        once, here, to count and check them.
    columns : sequence of str, optional
        Columns of files that name theirs, in the order wanted; all by default.
    header : bool, optional
        Whether the first line of a CSV names the columns; by default seen from its cells.
    dataset : str, optional
        Which table of an HDF5 or Zarr file; needed where there are several.

    Returns
    -------
    FileSource or IterableSource
        For ``fit``, ``predict``, ``score_samples`` and ``score`` of every estimator.

    Raises
    ------
    DataError
        For what is wrong with a file: not there in full, cut off, no numbers, other columns than the first. It is
        raised here, before the first iteration; a CSV is parsed from end to end for it. Also for an iterator, which
        can be read once only.
    ImportError
        If a format needs a library that is not installed; it says which.

    Examples
    --------
    >>> import numpy as np, tempfile, mixcoder
    >>> folder = tempfile.TemporaryDirectory()
    >>> for day in range(3):
    ...     np.save(f"{folder.name}/day-{day}.npy", np.random.default_rng(day).normal(size=(1000, 2)))
    >>> rows = open_blocks(f"{folder.name}/day-*.npy")
    >>> rows.n_rows, rows.n_features
    (3000, 2)
    >>> model = mixcoder.GaussianMixture(2, random_state=0).fit(rows)
    >>> model.predict(rows).shape
    (3000,)
    >>> blocks = open_blocks(lambda: (np.load(f"{folder.name}/day-{day}.npy") for day in range(3)))
    >>> bool((mixcoder.GaussianMixture(2, random_state=0).fit(blocks).means_ == model.means_).all())
    True
    >>> folder.cleanup()
    """
    say = Options(columns, header, dataset)
    if not _are_paths(paths):
        if say != Options():
            raise DataError(
                "columns, header and dataset are of files: the blocks of an iterable are read as they are."
            )
        return IterableSource(paths)  # type: ignore[arg-type]
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)  # type: ignore[arg-type]
    parts = [_opened(path, inner, say) for entry in given for path, inner in _found(fspath(entry))]  # type: ignore[arg-type]
    if not parts:
        raise DataError("There are no files to open: paths is empty.")
    return FileSource(parts)


def _are_paths(paths: Any) -> bool:
    if isinstance(paths, (str, PathLike)):
        return True
    return isinstance(paths, (list, tuple)) and all(isinstance(path, (str, PathLike)) for path in paths)


def _found(name: str) -> list[tuple[Path, str | None]]:
    """Return the files that a name means, in order, and the dataset that it names in them."""
    outer, mark, inner = name.rpartition("::")
    if not mark or Path(outer).suffix.lower() not in FORMATS:
        outer, inner = name, None
    if has_magic(outer) and not Path(outer).exists():
        found = [Path(match) for match in sorted(glob(outer, recursive=True))]
    elif Path(outer).is_dir() and Path(outer).suffix.lower() not in FORMATS:
        found = sorted(path for path in Path(outer).iterdir() if path.suffix.lower() in FORMATS)
    else:
        found = [Path(outer)]
    if not found:
        raise DataError(f"No file matches {name!r}; expected {' or '.join(FORMATS)} files.")
    return [(path, inner) for path in found]


def _opened(path: Path, inner: str | None, say: Options) -> Part:
    form = FORMATS.get(path.suffix.lower())
    if form is None and path.suffix.lower() == ".gz":
        raise DataTypeError(f"{path} cannot be read from the middle, as blocks are: gunzip it first.")
    if form is None:
        raise DataTypeError(
            f"{path} is neither of {', '.join(FORMATS)}: convert it to one of them, or read it into memory and pass "
            "the array."
        )
    if inner is not None:
        say = Options(say.columns, say.header, inner)
    for option, trouble in _NOT_THERE.items():
        if getattr(say, option) is not None and option not in form.takes:
            raise DataError(f"{path} {trouble}.")
    return form.open(path, say)
