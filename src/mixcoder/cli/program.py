"""The program around the commands: finds them, runs one, and turns whatever happens into one line and one exit code."""

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from mixcoder.cli.console import open_standard_streams, warnings_as_lines
from mixcoder.errors import DataError, EngineError, FitError, ModelFileError

__all__ = ["COMMANDS", "EXIT_CODES", "Program", "main"]

COMMANDS = (
    "fit",
    "encode",
    "decode",
    "score",
    "sample",
    "impute",
    "restore",
    "report",
    "inspect",
    "check",
    "doctor",
    "demo",
    "reproduce",
)

OK, INTERNAL, USAGE, DATA, FIT, MODEL, ENGINE, INTERRUPTED, BROKEN_PIPE, TERMINATED = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    130,
    141,
    143,
)

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (click.ClickException, USAGE),
    (DataError, DATA),
    (FitError, FIT),
    (ModelFileError, MODEL),
    (EngineError, ENGINE),
)


class Terminated(BaseException):
    """Raised in the main thread on SIGTERM, so that temporary files are removed on the way out, as on Ctrl-C."""


class Program(click.Group):
    """A click group whose commands are modules of this package, imported by name on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"mixcoder.cli.{cmd_name}").command

    # The signature is click's; `Any` keeps its three overloads out of the way.
    def main(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its code; with ``standalone_mode=False`` leave exceptions to the caller."""
        if not standalone_mode or "_MIXCODER_COMPLETE" in os.environ:
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        words = sys.argv[1:] if args is None else list(args)
        open_standard_streams()
        # Without a word the help is the answer, but nothing was asked for.
        code = self._run(list(words) or ["--help"], prog_name or "mixcoder", extra)
        sys.exit(code if words else code or USAGE)

    def _run(self, words: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        ctx: click.Context | None = None
        try:
            with sigterm_raises(), warnings_as_lines():
                with self.make_context(prog_name, words, **extra) as ctx:
                    self.invoke(ctx)
                # A reader that has gone away is noticed here, not at interpreter shutdown.
                sys.stdout.flush()
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except BrokenPipeError:
            _discard_stdout()
            return BROKEN_PIPE
        except (KeyboardInterrupt, click.exceptions.Abort, EOFError):
            click.echo("\nmixcoder: interrupted", err=True)
            return INTERRUPTED
        except Terminated:
            click.echo("mixcoder: terminated", err=True)
            return TERMINATED
        except Exception as error:  # noqa: BLE001  (whatever it is, it ends as one line and one code)
            if ctx is not None and ctx.meta.get("mixcoder.debug"):
                traceback.print_exc(file=sys.stderr)
            message, code = explain(error)
            click.echo(f"mixcoder: error: {message}", err=True)
            return code
        return OK


def explain(error: Exception) -> tuple[str, int]:
    """The one-line message and the exit code of an exception; anything unforeseen is an internal error (1).

    Examples
    --------
    >>> explain(DataError("rows.csv line 3 has 2 cells."))
    ('rows.csv line 3 has 2 cells.', 3)
    >>> explain(KeyError("k"))[1]
    1
    """
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{_line(error.format_message())} (help: {error.ctx.command_path} --help)", USAGE
    if isinstance(error, click.ClickException):
        return _line(error.format_message()), USAGE
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return _line(str(error)), code
    if (
        type(error).__name__ == "InvalidParameterError"
    ):  # scikit-learn's, matched by name: it may not be imported yet
        return _line(str(error)), USAGE
    if isinstance(error, MemoryError):
        return "not enough memory; `mixcoder check DATA` prints how much a fit needs.", INTERNAL
    if isinstance(error, OSError) and error.strerror:
        where = (
            f"{click.format_filename(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        )
        return f"{where}{error.strerror}.", INTERNAL
    detail = _line(str(error))
    return (
        f"internal error, {type(error).__name__}{': ' + detail if detail else ''}; "
        "--debug prints the traceback to report."
    ), INTERNAL


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Terminated`; outside the main thread, where none may be set, nothing."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(text: str) -> str:
    return " ".join(text.split())


def _discard_stdout() -> None:
    """Point stdout at nothing: its buffer is flushed again at shutdown and must not fail twice."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):  # a stand-in without a descriptor, as in tests
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, target)
    os.close(nothing)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from mixcoder import __version__

        click.echo(f"mixcoder {__version__}")
        ctx.exit()


@click.command(
    cls=Program,
    name="mixcoder",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 internal error, 2 usage, 3 bad data, 4 fit failed, 5 bad model file, 6 engine, "
    "130 interrupted, 141 reader went away, 143 terminated.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Print the version.",
)
@click.option("--debug", is_flag=True, help="On an error print the traceback too.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Mixture models as generative autoencoders: fit one to a table, then encode, decode, score, sample and impute.

    Tables are CSV, NPY, NPZ or Parquet by their extension, and to read HDF5, Zarr or Arrow; `-` is CSV on stdin or
    stdout.
    """
    if debug:
        ctx.meta["mixcoder.debug"] = True
