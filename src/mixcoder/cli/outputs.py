"""Where results go: refused before the work if something is there already, put in place in one step after it."""

import contextlib
import importlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mixcoder._drafts import draft_beside, remove_stale_drafts
from mixcoder.cli.console import stdout_is_closed

__all__ = ["claim", "claim_table", "replace_atomically"]


def claim(path: str, *, force: bool, inputs: tuple[str, ...] = ()) -> Path:
    """The path of an output that may be written; call it before the long work.

    Raises
    ------
    click.UsageError
        If it exists (without ``force``), is one of the inputs, is not a plain file, or its directory cannot be
        written to.
    """
    target = Path(path)
    shown = click.format_filename(path)
    if target.is_symlink() or target.exists():
        target = Path(os.path.realpath(target))  # write through a link, do not replace it
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            raise click.UsageError(f"{shown} is not a plain file: choose another name.")
        for source in inputs:
            if source != "-" and os.path.exists(source) and os.path.samefile(source, target):
                raise click.UsageError(f"{shown} is the input itself: choose another name.")
        if not force:
            raise click.UsageError(f"{shown} exists: choose another name, or --force to write over it.")
    parent = target.parent
    if not parent.is_dir():
        raise click.UsageError(f"{click.format_filename(str(parent))} is not a directory: make it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"{click.format_filename(str(parent))} may not be written to by this user.")
    return target


def claim_table(
    path: str, *, force: bool, as_json: bool = False, inputs: tuple[str, ...] = ()
) -> Path | None:
    """As :func:`claim`, for a table; None for ``-``, which is stdout."""
    from mixcoder.cli import tables

    if path == "-":
        if as_json:
            raise click.UsageError("-o - and --json both write to stdout: choose one.")
        if stdout_is_closed():
            raise click.UsageError("-o - writes to stdout, which is closed: give --out a name.")
        return None
    kind = tables.extension(path)
    if kind is None:
        raise click.UsageError(
            f"{click.format_filename(path)}: the extension must be one of {', '.join(tables.EXTENSIONS)}."
        )
    if kind == ".parquet":
        try:
            importlib.import_module("pyarrow")  # asked now, so that nobody waits for a fit to hear it
        except ImportError:
            raise click.UsageError("writing Parquet needs pyarrow: pip install 'mixcoder[io]'.") from None
    return claim(path, force=force, inputs=inputs)


@contextmanager
def replace_atomically(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; on success it takes its place in one step, else it is removed.

    Without ``force`` a file that has appeared there in the meantime is left alone, and an error is raised.
    """
    draft = draft_beside(target)
    try:
        yield draft
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        if force:
            os.replace(draft, target)
        else:
            _link(draft, target)
        _sync_directory(target.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    remove_stale_drafts(target.parent)


def _link(draft: Path, target: Path) -> None:
    """Give ``draft`` its name only if nobody has it: a hard link never overwrites, a rename does."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise click.UsageError(
            f"{click.format_filename(str(target))} was made by someone else in the meantime: "
            "choose another name, or --force to write over it."
        ) from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise click.UsageError(f"{click.format_filename(str(target))} exists.") from None
        os.replace(draft, target)


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open a directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
