"""From rows to a fitted model: prepare, start, alternate, keep the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.base import Family, Params
from mixcoder.encoders import Encoder
from mixcoder.fitting.alternate import FitResult, Progress, Step, StopRule, alternate
from mixcoder.fitting.em import Problem, everyone
from mixcoder.fitting.incomplete import IncompleteProblem
from mixcoder.fitting.scan import Range, Scan, middle_variances, scan
from mixcoder.fitting.start import begins_with_planes, draw_sample, search
from mixcoder.ops.frame import Frame
from mixcoder.ops.threads import single_threaded_kernels
from mixcoder.sources import Block, RowValues, Source

Start = tuple[Params, Tensor]
"""Parameters in working coordinates, and log-weights."""


class InterruptedStart(KeyboardInterrupt):
    """An interrupt of a search that has come somewhere already.

    Parameters
    ----------
    finish : callable
        Returns the start that the search has come to.
    """

    def __init__(self, finish: Callable[[], Start]) -> None:
        super().__init__("the search for a start was interrupted")
        self.finish = finish


# Arithmetic that the search for a start may spend, in passes over all rows, and in plain operations for
# small problems, where a pass costs next to nothing.
_SEARCH_PASSES = 3.0
_SEARCH_OPERATIONS = 2e8
_MAX_STARTS = 6

# Memory that the sums of all starts may take.
_SEARCH_BYTES = 32 << 20

# Standard deviations from the mean beyond which a row makes one look at the middle of its column, rows that are
# looked at, and the share of the variance of all rows below which that of the middle is believed instead.
_FAR = 5.0
_MIDDLE_ROWS = 4000
_MISLEADING = 1e-2

# Share of the variance of all rows that a reference is at least: floors a millionth of it are still above rounding.
_LEAST_REFERENCE = 1e-8

# Share of the variance of all rows up to which a floor guards against collapse. A higher one is a wish: that all
# components stand on it, as those of principal subspaces with little noise do, is no accident.
_GUARD = 0.05

# Periods of a random start's zigzag within a standard deviation.
_PERIODS = 10.0

# A fit is better than another if its bound is greater by more than this share of it.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Budget:
    """When a fit ends, and what it may try on the way.

    Parameters
    ----------
    max_iter : int
        Largest number of passes over the rows.
    stop : StopRule
    accelerate : bool
        Whether SQUAREM leaps are tried.
    monotone : bool
        Whether the M-step is an exact maximiser.
    keep_on_interrupt : bool
        Whether an interrupt keeps the best model so far.
    """

    max_iter: int
    stop: StopRule
    accelerate: bool = False
    monotone: bool = True
    keep_on_interrupt: bool = False


@dataclass(frozen=True)
class FitState:
    """Where a fit is.

    Parameters
    ----------
    attempt : int
        The start that is being fitted.
    progress : Progress
        Of this start.
    best : FitResult or None
        Of the starts before.
    """

    attempt: int
    progress: Progress
    best: FitResult | None


def prepare(
    source: Source,
    family: Family[Any, Any],
    limits: Range,
    *,
    frame: Frame | None = None,
    fixed_weights: bool = False,
) -> tuple[Problem, Scan]:
    """Return the problem in working coordinates, and what the scan of the rows told.

    Parameters
    ----------
    limits : Range
        Finite; from :func:`~mixcoder.fitting.scan.scan_range`.
    frame : Frame, optional
        Working coordinates of an earlier fit, to go on in.
    fixed_weights : bool
        Whether the weights of the components stay as they start.
    """
    seen = scan(source, limits)
    family = family.in_domain(seen.lowest, seen.highest)
    if frame is None:
        frame = family.frame(seen.mean, seen.std).rounded(source.dtype)
    problem = Problem(
        source=source,
        family=family.in_frame(frame),
        frame=frame,
        magnitude=seen.magnitude_in(frame),
        variances=seen.variances_in(frame),
        total_weight=seen.weight,
        fixed_weights=fixed_weights,
    )
    problem = replace(problem, reference=floor_reference(source, problem.family, frame, seen))
    if limits.incomplete:
        # The mean row is of the domain of few families other than the Gaussian ones; the lowest of all.
        middle = family.check_rows(seen.mean[None]) is None
        return IncompleteProblem.of(problem, filler=seen.mean if middle else seen.lowest), seen
    return problem.with_pooled(), seen


def floor_reference(source: Source, family: Family[Any, Any], frame: Frame, seen: Scan) -> Tensor | None:
    """Return the variances that floors are relative to, in working units, shape (d,), where those of all rows mislead.

    One wrong cell makes the variance of its column as large as it likes, and a floor of a millionth of that may be
    wider than any cluster. Where some row is far away, the middle of each column is looked at as well.
    """
    if not family.floors_variances:
        return None
    reach = torch.maximum(seen.highest - seen.mean, seen.mean - seen.lowest)
    if not bool((reach > _FAR * seen.std).any()):
        return None
    index = torch.arange(0, source.n_rows, -(-source.n_rows // _MIDDLE_ROWS))
    rows = frame.apply(source.take(index).to(torch.float64))
    middle, variances = middle_variances(rows, source.take_weights(index)), seen.variances_in(frame)
    misleading = (middle > 0) & (middle < _MISLEADING * variances)
    if not bool(misleading.any()):
        return None
    return torch.where(misleading, middle.clamp_min(_LEAST_REFERENCE * variances), variances)


def n_search_starts(problem: Problem, n_components: int, sample_rows: int) -> int:
    """Return how many starts the search can afford."""
    width = problem.width
    step = 4.0 * sample_rows * n_components * width
    allowed = max(_SEARCH_OPERATIONS, _SEARCH_PASSES * 4.0 * problem.source.n_rows * n_components * width)
    fitting = _SEARCH_BYTES // (8 * n_components * width)
    return max(1, min(_MAX_STARTS, int(allowed / (20 * step)), fitting))


def found_start(problem: Problem, n_components: int, encoder: Encoder, generator: torch.Generator) -> Start:
    """Return the best of several short fits on some of the rows."""
    # One thread: the same bits on every machine, and faster than two that wait for each other on a sample.
    # Nothing here is differentiated: inference mode takes a sixth off the many small operations of a search.
    with single_threaded_kernels(), torch.inference_mode():
        plain = problem.without_prior()
        sample = draw_sample(plain, n_components, plain.family.geometry, generator)
        n_starts = n_search_starts(plain, n_components, len(sample.rows))
        if n_components == 1:
            n_starts = 1
        elif begins_with_planes(sample, n_components, problem.family.seeding_rank):
            n_starts = max(
                2, n_starts
            )  # points or planes: which of the two suits the rows is not known before
        params, log_weights = search(
            plain, sample, n_components, encoder.at(0), n_starts=n_starts, generator=generator
        )
    # Clones: tensors of inference mode cannot be written to later.
    return problem.adopt(params.clone(), log_weights.clone(), encoder.at(0))


@dataclass(frozen=True)
class _GivenCode:
    """A code of every row: the numbers of components, or responsibilities."""

    values: RowValues
    n_components: int

    @classmethod
    def of(cls, code: Code, n_components: int) -> _GivenCode:
        return cls(RowValues(code.index if isinstance(code, HardCode) else code), n_components)

    def __call__(self, block: Block) -> Code:
        values = self.values(block)
        return (
            HardCode(values, self.n_components) if values.ndim == 1 else values.to(torch.float64, copy=True)
        )

    def of_rows(self, start: int, stop: int) -> _GivenCode:
        return replace(self, values=self.values.of_rows(start, stop))


@dataclass(frozen=True)
class _Zigzags:
    """Responsibilities that are zigzags along random directions."""

    frame: Frame
    directions: Tensor
    phases: Tensor

    def __call__(self, block: Block) -> Code:
        along = self.frame.apply(block.x.double()) @ self.directions + self.phases
        code = (2 * (along - along.floor()) - 1).abs()
        return code / code.sum(1, keepdim=True)


def start_from_code(problem: Problem, code: Code, n_components: int) -> Start:
    """Return the first M-step of a code of every row."""
    return problem.maximize_code(_GivenCode.of(code, n_components), n_components)


def start_at_random(problem: Problem, n_components: int, generator: torch.Generator) -> Start:
    """Return the first M-step of responsibilities that are a random function of the row.

    A row has the same ones wherever it stands and however often: zigzags of many periods along random
    directions, uniform on [0, 1], divided by their sum.
    """
    d, device = problem.source.n_features, problem.source.device
    variances = problem.floor_variances
    spread = torch.where(variances > 0, variances, 1.0).sqrt()
    draws = torch.randn(d + 1, n_components, generator=generator, dtype=torch.float64).to(device)
    directions, phases = _PERIODS * draws[:d] / spread[:, None], draws[d]

    return problem.maximize_code(_Zigzags(problem.frame, directions, phases), n_components)


def start_around(problem: Problem, means: Tensor, encoder: Encoder) -> Start:
    """Return the M-step after one E-step with given means and the overall shape for every component.

    Parameters
    ----------
    means : Tensor, shape (k, d)
        In working coordinates.
    """
    k = means.shape[0]
    plain = problem.without_prior()
    whole, _ = plain.maximize_code(everyone, 1)
    same = torch.zeros(k, dtype=torch.int64, device=means.device)
    params = replace(whole.take(same), means=means)  # type: ignore[call-arg]
    equal = means.new_full((k,), -math.log(k))
    totals = plain.totals(params, equal, encoder)
    return problem.maximize(totals.statistics, equal)


def fit(
    problem: Problem,
    encoder: Encoder,
    starts: Callable[[int], Start],
    n_init: int,
    budget: Budget,
    on_step: Callable[[int, Step], bool] | None = None,
    resume: FitState | None = None,
    on_progress: Callable[[FitState], None] | None = None,
) -> FitResult:
    """Return the best of ``n_init`` fits, each from its own start.

    An interrupt ends all of them. Where the budget asks to keep what there is, the best so far is
    returned, not converged.
    """
    best: FitResult | None = None if resume is None else resume.best
    interrupted = False
    for attempt in range(0 if resume is None else resume.attempt, n_init):
        begun = resume.progress if resume is not None and attempt == resume.attempt else None

        def tell(progress: Progress, attempt: int = attempt, best: FitResult | None = best) -> None:
            if on_progress is not None:
                on_progress(FitState(attempt, progress, best))

        try:
            if begun is None:
                (params, log_weights), interrupted = _begin(starts, attempt, budget, best)
            else:
                params, log_weights = begun.params, begun.log_weights
            # Nothing here is differentiated either. What leaves may be, and so leaves as a clone.
            with torch.inference_mode():
                ended: FitResult = alternate(
                    problem,
                    params,
                    log_weights,
                    encoder,
                    max_iter=1 if interrupted else budget.max_iter,
                    stop=budget.stop,
                    accelerate=budget.accelerate,
                    monotone=budget.monotone,
                    on_step=None if on_step is None else (lambda step, i=attempt: on_step(i, step)),
                    keep_on_interrupt=budget.keep_on_interrupt,
                    resume=begun,
                    on_progress=None if on_progress is None else tell,
                )
            result: FitResult = ended.clone()
        except KeyboardInterrupt:
            if not budget.keep_on_interrupt or best is None:
                raise
            interrupted = True
            break
        if best is None or result.bound - best.bound > _ROUNDING * abs(best.bound):
            best = replace(result, attempt=attempt)
        interrupted = interrupted or result.interrupted
        if interrupted:
            break
    assert best is not None
    if interrupted:
        reason = "the fit was interrupted; the best parameters so far are kept"
        return replace(best, converged=False, reason=reason, interrupted=True)
    return best


def _begin(
    starts: Callable[[int], Start], attempt: int, budget: Budget, best: FitResult | None
) -> tuple[Start, bool]:
    """Return a start, and whether its search was interrupted and this is what there was."""
    try:
        return starts(attempt), False
    except InterruptedStart as stopped:
        if not budget.keep_on_interrupt or best is not None:
            raise KeyboardInterrupt from None
        return stopped.finish(), True


def describe(model: MixtureAutoencoder, variances: Tensor) -> list[int]:
    """Return the components that stand on the floor of their family, where that floor is a guard."""
    if getattr(model.family, "min_variance", 0.0) > _GUARD:
        return []
    collapsed = model.family.collapsed(model.params, variances)
    if collapsed is None:
        return []
    used = torch.isfinite(model.log_weights)
    return torch.nonzero(collapsed & used)[:, 0].tolist()
