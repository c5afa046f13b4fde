"""What every check shares: a subject, a law that it must obey, and a message that names both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components import Family, Params
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import prepare
from mixcoder.fitting.scan import scan_range
from mixcoder.ops.threads import single_threaded_kernels
from mixcoder.sources import TensorSource
from mixcoder.statistics import Statistics


@dataclass(frozen=True)
class Check:
    """One law, asked of one subject. Call it; it raises an ``AssertionError`` where the law is broken.

    Parameters
    ----------
    law : callable
        Takes the subject; the first line of its docstring states it.
    subject : object
        Whatever the law takes; it has a ``name``.
    one_thread : bool
        Whether products run on one thread: the laws read a few hundred rows, less than a second thread is worth.
    """

    law: Callable[[Any], None]
    subject: Any
    one_thread: bool = True

    @property
    def name(self) -> str:
        """What test reports call it."""
        return f"{self.subject.name}-{self.law.__name__}"

    def __call__(self) -> None:
        """Raise an ``AssertionError`` that names the law, the subject and the numbers."""
        try:
            with single_threaded_kernels() if self.one_thread else nullcontext():
                self.law(self.subject)
        except Exception as error:
            words = self.law.__name__.replace("_", " ")
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self.subject.name} breaks the law {words!r}: {what}") from error


def run(checks: Iterable[Check]) -> None:
    """Run every check, and raise one ``AssertionError`` that lists all that failed; none at all fails too."""
    failures: list[str] = []
    n_run = 0
    for check in checks:
        n_run += 1
        try:
            check()
        except AssertionError as error:
            failures.append(str(error))
    if n_run == 0:
        raise AssertionError("No check was collected: an empty suite proves nothing.")
    if failures:
        raise AssertionError("\n".join([f"{len(failures)} of {n_run} checks failed.", *failures]))


@dataclass(frozen=True)
class Case:
    """A family with parameters that rows can be drawn from.

    Parameters
    ----------
    family : Family
    params : Params
    name : str
    """

    family: Family[Any, Any]
    params: Params
    name: str

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return self.params.n_components

    @property
    def log_weights(self) -> Tensor:
        """Weights that differ from component to component, shape (k,)."""
        weights = torch.arange(2, 2 + self.n_components, dtype=torch.float64)
        return (weights / weights.sum()).log()

    def rows(self, n_rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return rows drawn from the mixture, shape (n, d), and the component of each, shape (n,)."""
        generator = random(seed)
        shares = self.log_weights.exp().cumsum(0)
        places = (torch.arange(n_rows, dtype=torch.float64) + 0.5) / n_rows
        index = torch.searchsorted(shares, places).clamp_(max=self.n_components - 1)
        index = index[torch.randperm(n_rows, generator=generator)]
        return self.family.sample(self.params, index, generator), index

    def problem(self, x: Tensor, weights: Tensor | None = None) -> Problem:
        """Return the rows as a fit reads them, in working coordinates."""
        source = TensorSource(x, weights)
        return prepare(source, self.family, scan_range(source))[0]

    def settled(
        self, x: Tensor, code: Code, weights: Tensor | None = None, start: Params | None = None
    ) -> Any:
        """Return the maximiser at a fixed code: the M-step, repeated until it moves no more.

        Families without latent scales are there at once; the others take a step of their own EM each time.
        """
        params = start
        for _ in range(1000):
            after = self.family.maximize(self.family.statistics(params, x, code, weights))
            if params is not None and distance(after, params) <= 1e-10:
                return after
            params = after
        return params

    def objective(self, params: Params, x: Tensor, code: Code, weights: Tensor | None = None) -> float:
        """Return sum_nk w_n u_nk log p(x_n | k) and the log-prior of the parameters, what ``maximize`` raises."""
        log_likelihood = self.family.log_likelihood(params, x)
        dense = code.dense(x.dtype) if isinstance(code, HardCode) else code
        terms = torch.where(dense > 0, dense * log_likelihood, 0.0).sum(1)
        total = terms.sum() if weights is None else weights @ terms
        log_prior = self.family.log_prior(params, self.family.statistics(params, x, dense.clone(), weights))
        return float(total if log_prior is None else total + log_prior.sum())


def require(condition: bool, message: str) -> None:
    """Raise an ``AssertionError`` unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_same_sums(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Raise unless two bundles of sums agree: a sum near nothing is as exact as the others are large."""
    largest = max(
        (float(tensor.abs().max()) for _, tensor in tensors(expected) if tensor.numel()), default=0.0
    )
    require_close(actual, expected, tolerance, what, size=1e-2 * largest)


def require_close(actual: Any, expected: Any, tolerance: float, what: str, *, size: float = 0.0) -> None:
    """Raise unless two values agree tensor by tensor, relative to the largest entry of each.

    Parameters
    ----------
    actual, expected : Tensor, Statistics or Params
    tolerance : float
    what : str
        What is compared, for the message.
    size : float
        Size of what was added up to get there, where that is larger.
    """
    mine, theirs = dict(tensors(actual)), dict(tensors(expected))
    require(mine.keys() == theirs.keys(), f"{what}: fields {sorted(mine)} and {sorted(theirs)} differ")
    for path, one in mine.items():
        two, label = theirs[path], f"{what}{path and ', '}{path}"
        require(one.shape == two.shape, f"{label}: shapes {tuple(one.shape)} and {tuple(two.shape)} differ")
        if one.numel() == 0:
            continue
        if not bool((one.isfinite() == two.isfinite()).all()):
            raise AssertionError(f"{label}: finite in one place only: {_shown(one)} and {_shown(two)}")
        finite = two.isfinite()
        gap = (one.double() - two.double())[finite].abs()
        reach = float(two.double()[finite].abs().max()) if bool(finite.any()) else 0.0
        error = float(gap.max()) if bool(finite.any()) else 0.0
        require(
            error <= tolerance * max(reach, size) + 1e-300,
            f"{label}: differ by {error:.3g} where values reach {reach:.3g} "
            f"(relative tolerance {tolerance:.0e}): {_shown(one)} and {_shown(two)}",
        )
        same = one[~finite].isnan() & two[~finite].isnan() | (one[~finite] == two[~finite])
        require(bool(same.all()), f"{label}: values that are not finite differ")


def require_finite(value: Any, what: str) -> None:
    """Raise unless every tensor of a value is finite."""
    for path, tensor in tensors(value):
        require(bool(torch.isfinite(tensor).all()), f"{what}{path and ', '}{path} is {_shown(tensor)}")


def require_same_bits(actual: Any, expected: Any, what: str) -> None:
    """Raise unless two values agree in every bit."""
    mine, theirs = dict(tensors(actual)), dict(tensors(expected))
    require(mine.keys() == theirs.keys(), f"{what}: fields {sorted(mine)} and {sorted(theirs)} differ")
    for path, one in mine.items():
        two = theirs[path]
        same = one.dtype == two.dtype and one.shape == two.shape and bool(_same(one, two).all())
        require(same, f"{what}{path and ', '}{path}: {_shown(one)} is not bit for bit {_shown(two)}")


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor inside a value with the path that leads to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from tensors(part, f"{path}[{i}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))


def copied(value: Any) -> list[Tensor]:
    """Return copies of every tensor inside a value, to compare it with later."""
    return [tensor.clone() for _, tensor in tensors(value)]


def distance(one: Any, two: Any) -> float:
    """Return the largest difference between tensors of two values, relative to the size of each tensor."""
    gaps = [
        float((a - b).abs().max()) / (float(b.abs().max()) + 1e-300)
        for (_, a), (_, b) in zip(tensors(one), tensors(two), strict=True)
        if a.numel()
    ]
    return max(gaps, default=0.0)


def random(seed: int) -> torch.Generator:
    """Return a generator for a check: the seed is part of the check."""
    return torch.Generator().manual_seed(seed)


def simplex(n_rows: int, n_components: int, seed: int, concentration: float = 1.0) -> Tensor:
    """Return random points of the simplex, spread by ``concentration``, shape (n, k)."""
    uniform = torch.rand(n_rows, n_components, generator=random(seed), dtype=torch.float64)
    masses = (-(1 - uniform).log()) ** (1 / concentration)
    return masses / masses.sum(1, keepdim=True)


def near(index: Tensor, n_components: int, seed: int, share: float = 0.05) -> Tensor:
    """Return a soft code near a hard one: ``share`` of it is random, shape (n, k)."""
    hard = HardCode(index, n_components).dense(torch.float64)
    return (1 - share) * hard + share * simplex(len(index), n_components, seed)


def row_weights(n_rows: int, seed: int) -> Tensor:
    """Return uneven row weights, shape (n,)."""
    return 0.2 + 2.8 * torch.rand(n_rows, generator=random(seed), dtype=torch.float64)


def part_of(code: Code, start: int, stop: int) -> Code:
    """Return the code of consecutive rows; a copy, because a code may be scratch."""
    if isinstance(code, HardCode):
        return HardCode(code.index[start:stop], code.n_components)
    return code[start:stop].clone()


def counts_of(statistics: Statistics) -> Tensor:
    """Return the effective number of rows of each component, which every statistics must know."""
    counts = getattr(statistics, "counts", None)
    require(isinstance(counts, Tensor), f"{type(statistics).__name__} has no tensor 'counts', shape (k,)")
    assert isinstance(counts, Tensor)
    return counts


def rounding(size: float) -> float:
    """Return the rounding error of a sum whose terms add up to ``size`` in absolute value."""
    return 1e-12 * (1.0 + abs(size))


def whole_numbers(x: Tensor) -> Tensor:
    """Return which columns hold whole numbers only, shape (d,) bool."""
    return (x == x.round()).all(0)


def log_odds(z: float) -> str:
    """Return how unlikely a standard normal number this far out is, for messages."""
    return f"{z:+.1f} standard errors (chance {math.erfc(abs(z) / math.sqrt(2)):.1g})"


def _same(one: Tensor, two: Tensor) -> Tensor:
    return (one == two) | (one.isnan() & two.isnan()) if one.is_floating_point() else one == two


def _shown(tensor: Tensor) -> str:
    flat = tensor.detach().flatten()
    values = ", ".join(f"{float(value):.6g}" for value in flat[:6])
    return f"[{values}{', ...' if len(flat) > 6 else ''}]"
