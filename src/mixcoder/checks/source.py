"""The laws of a source: every row once, with its own weight, and sums that do not depend on who adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder import sources
from mixcoder.checks.case import Check, random, require, require_close, require_same_bits, row_weights, run
from mixcoder.checks.discovery import discover
from mixcoder.sources import Block, Source

SourceFactory = Callable[[Tensor, Tensor | None], Source]
"""Makes a source of rows, shape (n, d), and row weights, shape (n,), or ``None`` for one each."""

_N_ROWS = 103


@dataclass(frozen=True)
class Subject:
    """A way to make a source, and its name."""

    factory: SourceFactory
    name: str

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> Source:
        """Return a source of rows and weights."""
        return self.factory(x, weights)


def every_row_comes_once_with_its_weight(subject: Subject) -> None:
    """Blocks of any size hold all rows, in order, each with its own weight and its own place."""
    for x, weights in _tables():
        source = subject(x, weights)
        for block_rows in (1, 7, _N_ROWS, 4 * _N_ROWS):
            blocks = source.map_reduce(_seen, block_rows)
            what = f"blocks of {block_rows}"
            require(max(stop - start for start, stop, _, _ in blocks) <= block_rows, f"{what}: one is larger")
            starts, stops = [block[0] for block in blocks], [block[1] for block in blocks]
            require(
                starts == [0, *stops[:-1]] and stops[-1] == _N_ROWS,
                f"{what}: they begin at {starts[:5]}... and end at {stops[-1]}, there are {_N_ROWS} rows",
            )
            require_same_bits(torch.cat([rows for _, _, rows, _ in blocks]), x, f"{what}: the rows")
            for start, stop, _, own in blocks:
                if weights is None:
                    require(own is None, f"{what}: rows {start} to {stop} have weights, none were given")
                else:
                    require(own is not None, f"{what}: rows {start} to {stop} lost their weights")
                    require_same_bits(
                        own, weights[start:stop], f"{what}: the weights of rows {start} to {stop}"
                    )


def sums_do_not_depend_on_the_blocks(subject: Subject) -> None:
    """The sum over blocks is the sum over all rows, whatever the size of a block."""
    for x, weights in _tables():
        source = subject(x, weights)
        w = torch.ones(_N_ROWS, dtype=torch.float64) if weights is None else weights.double()
        expected = w @ x.double().square()
        for block_rows in (1, 10, 64, _N_ROWS, 1000):
            require_close(
                source.map_reduce(_squares, block_rows), expected, 1e-12, f"sum over blocks of {block_rows}"
            )


def the_same_bits_whoever_adds(subject: Subject) -> None:
    """A sum has the same bits in every run and with any number of threads: its tree belongs to the rows."""
    x = torch.randn(5000, 3, generator=random(501), dtype=torch.float32)
    source = subject(x, None)
    threads = torch.get_num_threads()
    sums: dict[str, Tensor] = {}
    try:
        for n_threads in (1, 2, 4, 2):
            torch.set_num_threads(n_threads)
            for attempt in range(2):
                sums[f"{n_threads} threads, run {attempt}"] = source.map_reduce(
                    lambda block: block.x.sum(0), 13
                )
            left = torch.get_num_threads()
            require(left == n_threads, f"a sum left {left} threads of {n_threads}")
    finally:
        torch.set_num_threads(threads)
    first = sums["1 threads, run 0"]
    for what, total in sums.items():
        require_same_bits(total, first, f"a sum in float32, {what}")


def map_rows_visits_every_row(subject: Subject) -> None:
    """``map_rows`` calls the function on every block for what it writes."""
    for x, weights in _tables():
        written = torch.full_like(x, float("nan"))
        visits = torch.zeros(_N_ROWS)

        def write(block: Block, written: Tensor = written, visits: Tensor = visits) -> None:
            written[block.start : block.stop] = block.x
            visits[block.start : block.stop] += 1

        subject(x, weights).map_rows(write, 10)
        require_same_bits(written, x, "the rows that map_rows showed")
        require(bool((visits == 1).all()), f"map_rows showed rows {visits.min():g} to {visits.max():g} times")


def rows_can_be_taken(subject: Subject) -> None:
    """``take`` and ``take_weights`` return the rows asked for, in that order, repeated where asked twice."""
    index = torch.tensor([5, 0, _N_ROWS - 1, 5])
    for x, weights in _tables():
        source = subject(x, weights)
        require_same_bits(source.take(index), x[index], "taken rows")
        own = source.take_weights(index)
        require(
            (own is None) == (weights is None), "take_weights of a source: weights that are and are not there"
        )
        if own is not None and weights is not None:
            require_same_bits(own, weights[index], "taken weights")


def a_source_knows_its_rows(subject: Subject) -> None:
    """Number of rows and features, dtype, device and total weight are those of the table."""
    for x, weights in _tables():
        source = subject(x, weights)
        told = source.n_rows, source.n_features, source.dtype, torch.device(source.device).type
        require(
            told == (*x.shape, x.dtype, x.device.type),
            f"it says {told} of a table of {tuple(x.shape)}, {x.dtype}",
        )
        total = float(_N_ROWS if weights is None else weights.double().sum())
        stated = source.total_weight
        require(abs(stated - total) <= 1e-12 * total, f"total_weight is {stated}, not {total}")


def rows_are_left_unchanged(subject: Subject) -> None:
    """Reading a table does not change it."""
    for x, weights in _tables():
        rows, own = x.clone(), None if weights is None else weights.clone()
        source = subject(x, weights)
        source.map_reduce(_squares, 10)
        source.map_rows(lambda block: None, 10)
        source.take(torch.arange(3)).add_(1.0)
        require_same_bits(x, rows, "the rows")
        if weights is not None and own is not None:
            require_same_bits(weights, own, "the weights")


def an_error_goes_up_and_leaves_no_trace(subject: Subject) -> None:
    """What a function raises in any block reaches the caller, and the source works afterwards."""
    x, weights = _tables()[0]
    source = subject(x, weights)
    for bad in (0, 50, 100):

        def fails(block: Block, bad: int = bad) -> Tensor:
            if block.start == bad:
                raise KeyError(f"block {bad}")
            return block.x.sum(0)

        for call in (source.map_reduce, source.map_rows):
            function: Any = fails
            try:
                call(function, 10)
            except KeyError:
                continue
            raise AssertionError(f"{call.__name__} hid an error of the block that starts at {bad}")
    require_close(source.map_reduce(lambda block: block.x.sum(0), 10), x.sum(0), 1e-12, "a sum after errors")


LAWS: tuple[Callable[[Subject], None], ...] = (
    every_row_comes_once_with_its_weight,
    sums_do_not_depend_on_the_blocks,
    the_same_bits_whoever_adds,
    map_rows_visits_every_row,
    rows_can_be_taken,
    a_source_knows_its_rows,
    rows_are_left_unchanged,
    an_error_goes_up_and_leaves_no_trace,
)
"""What every source obeys."""


def check_source(source_factory: SourceFactory) -> None:
    """Run every law of a source.

    Parameters
    ----------
    source_factory : callable
        Takes rows, shape (n, d), and weights, shape (n,) or ``None``; returns a source of them. A class whose
        constructor takes them is one.

    Raises
    ------
    AssertionError
        Lists every law that is broken, with the numbers.

    Examples
    --------
    >>> from mixcoder.sources import TensorSource
    >>> check_source(TensorSource)
    """
    run(_checks(source_factory))


def source_checks(
    source_factories: list[SourceFactory] | None = None,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a name and a callable for every law of every source.

    Parameters
    ----------
    source_factories : list of callables, optional
        All classes of :mod:`mixcoder.sources`, found by discovery, by default; made by their ``holding`` where they
        have one.
    """
    found: list[Any] = discover(sources, Source) if source_factories is None else source_factories  # type: ignore[type-abstract]
    found = [entry for entry in found if not hasattr(entry, "available") or entry.available()]
    for factory in (getattr(entry, "holding", entry) for entry in found):
        for check in _checks(factory):
            yield check.name, check


def _checks(factory: SourceFactory) -> Iterator[Check]:
    subject = Subject(factory, getattr(factory, "__qualname__", repr(factory)).removesuffix(".holding"))
    for law in LAWS:
        yield Check(law, subject, one_thread=False)


def _tables() -> list[tuple[Tensor, Tensor | None]]:
    x = torch.randn(_N_ROWS, 4, generator=random(500), dtype=torch.float64)
    weights = row_weights(_N_ROWS, seed=502)
    weights[3] = 0.0
    return [(x, None), (x.float(), weights), (x, weights.float())]


def _seen(block: Block) -> list[tuple[int, int, Tensor, Tensor | None]]:
    weights = None if block.weights is None else block.weights.clone()
    return [(block.start, block.stop, block.x.clone(), weights)]


def _squares(block: Block) -> Tensor:
    x = block.x.double().square()
    return x.sum(0) if block.weights is None else block.weights.double() @ x
