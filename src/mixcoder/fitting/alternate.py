"""The alternation: encode, maximise, watch the bound, repair, accelerate, stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.base import Params
from mixcoder.encoders import Encoder
from mixcoder.errors import FitError
from mixcoder.fitting.acceleration import Leap
from mixcoder.fitting.em import Problem, Totals
from mixcoder.fitting.repair import empty_components, refill
from mixcoder.statistics import Statistics

# The bound is a sum of rounded terms: a fall by less than this share of its size is no fall.
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}

# A component that loses its rows this many times is left out: the rows do not need it.
_MAX_REFILLS = 2


@dataclass(frozen=True)
class Step:
    """What one iteration shows to a stopping rule or a callback.

    Parameters
    ----------
    iteration : int
        From one.
    bound : float
        Mean bound per unit of row weight, nats, at ``params``.
    gain : float
        ``bound`` minus that of the iteration before; inf in the first.
    params, previous : Params
        Parameters the bound belongs to, and those that follow from this iteration's M-step.
    log_weights : Tensor, shape (k,)
    encoder : Encoder
    """

    iteration: int
    bound: float
    gain: float
    params: Params
    following: Params
    log_weights: Tensor
    encoder: Encoder


StopRule = Callable[[Step], str | None]
"""Returns why to stop, or ``None`` to go on."""


def gain_below(tol: float, unit: float = 1.0) -> StopRule:
    """Return the rule that stops once an EM step changes ``unit`` times the mean bound by less than ``tol``, or not."""
    nats = "nats per row" if unit == 1.0 else "nats"

    def rule(step: Step) -> str | None:
        gain = unit * abs(step.gain)
        if gain == 0.0:
            return f"the bound no longer changes, to the last digit (tol={tol:g})"
        if gain < tol:
            return f"the bound changed by {gain:.2g} {nats}, less than tol={tol:g}"
        return None

    return rule


@dataclass(frozen=True)
class History:
    """What happened in each iteration."""

    bound: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the columns by name."""
        return {
            "bound": list(self.bound),
            "beta": list(self.beta),
            "seconds": list(self.seconds),
            "events": list(self.events),
        }


@dataclass(frozen=True)
class FitResult:
    """A fitted model, how it was reached, and why the fit stopped.

    Parameters
    ----------
    model : MixtureAutoencoder
    params : Params
        What was alternated: the parameters of the model, or a posterior of them.
    bound : float
        Mean bound per unit of row weight, in nats, in the last E-step.
    converged : bool
    reason : str
    n_iter : int
    history : History
    refilled : tuple of int
        Components that lost their rows and were given new ones.
    dropped : tuple of int
        Components that the rows do not need: their weight is zero.
    statistics : Statistics, optional
        The sums that the last M-step maximised.
    interrupted : bool
        Whether somebody pressed Ctrl-C.
    attempt : int
        Which of several starts it came from.
    encoded_at : int
        Iteration whose encoder the model has.
    """

    model: MixtureAutoencoder
    params: Params
    bound: float
    converged: bool
    reason: str
    n_iter: int
    history: History
    refilled: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    statistics: Statistics | None = None
    interrupted: bool = False
    attempt: int = 0
    encoded_at: int = 0

    def clone(self) -> FitResult:
        """Return the result with its tensors in memory of their own."""
        params, sums = self.model.params.clone(), self.statistics
        return replace(
            self,
            model=replace(self.model, params=params, log_weights=self.model.log_weights.clone()),
            params=params if self.params is self.model.params else self.params.clone(),
            statistics=None if sums is None else sums.clone(),
        )


@dataclass(frozen=True)
class Progress:
    """All that the iterations to come depend on: an alternation goes on from it to the same bits.

    Parameters
    ----------
    params : Params
    log_weights : Tensor, shape (k,)
    iteration : int
        Passes made.
    previous : float
        The bound that the next one is compared with.
    best : tuple
        The last bound, and the parameters and log-weights that it belongs to.
    recent : tuple of Statistics
        Sums from which the next leap is made.
    longest : float
        Of the next leap.
    last : Statistics
        That the last M-step maximised.
    history : History
    refills : dict of int to int
    dropped : tuple of int
    """

    params: Params
    log_weights: Tensor
    iteration: int
    previous: float
    best: tuple[float, Params, Tensor]
    recent: tuple[Statistics, ...]
    longest: float
    last: Statistics
    history: History
    refills: dict[int, int]
    dropped: tuple[int, ...]


@dataclass
class _Run:
    """The moving parts of one alternation."""

    params: Params
    log_weights: Tensor
    history: History
    refills: dict[int, int] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)


def alternate(
    problem: Problem,
    params: Params,
    log_weights: Tensor,
    encoder: Encoder,
    *,
    max_iter: int,
    stop: StopRule,
    accelerate: bool = False,
    monotone: bool = True,
    on_step: Callable[[Step], bool] | None = None,
    keep_on_interrupt: bool = False,
    resume: Progress | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Return the result of alternating from given parameters.

    Each iteration encodes all rows at the current parameters, which gives the bound, and maximises. The
    returned parameters are those after the last M-step; the returned bound is that of the E-step before it.

    Parameters
    ----------
    max_iter : int
        Largest number of passes over the rows.
    stop : StopRule
    accelerate : bool
        Whether to try a SQUAREM leap after every second step; a leap that lowers the bound is undone.
    monotone : bool
        Whether the M-step is an exact maximiser, so that a falling bound is an error to be caught.
    on_step : callable, optional
        Called after every iteration; returning true stops the fit.
    keep_on_interrupt : bool
        Whether an interrupt returns the best parameters so far instead of going up.
    resume : Progress, optional
        Where an earlier call was; it goes on from there.
    on_progress : callable, optional
        Told after every iteration how to go on from it.
    """
    run = _Run(params, log_weights, History())
    previous = -math.inf
    iteration, converged, reason = 0, False, f"max_iter={max_iter} iterations were used up"
    interrupted, kept = False, None
    best: tuple[float, Params, Tensor] | None = None
    recent: list[Statistics] = []
    leap = Leap()
    started = time.perf_counter()
    last: Statistics | None = None
    if resume is not None:
        run, iteration, previous, best = _resumed(resume), resume.iteration, resume.previous, resume.best
        recent, leap, last = list(resume.recent), Leap(resume.longest), resume.last
        started -= resume.history.seconds[-1]
    current, encoded_at = encoder.at(iteration), iteration
    try:
        while iteration < max_iter:
            if on_progress is not None and best is not None and last is not None:
                on_progress(_progress(run, iteration, previous, best, recent, leap, last))
            current, encoded_at = encoder.at(iteration), iteration
            iteration += 1
            totals = problem.totals(run.params, run.log_weights, current)
            bound = float(totals.bound / totals.weight)
            gain = bound - previous if current.settled else math.inf
            run.history.bound.append(bound)
            run.history.beta.append(getattr(current, "beta", math.inf))
            run.history.seconds.append(time.perf_counter() - started)
            if not math.isfinite(bound):
                if best is None:
                    raise FitError(
                        f"The bound is {bound} at the start of the fit: no component explains some row. "
                        "Check the start (means_init, precisions_init, ...) against the units of the data."
                    )
                kept, run.params, run.log_weights = best
                reason = "the bound left the finite numbers; the last good parameters are kept"
                break
            if _fell(gain, bound, problem) and monotone and best is not None:
                kept, run.params, run.log_weights = best
                reason = "the bound fell by more than rounding; the best parameters are kept"
                run.history.events.append(f"iteration {iteration}: {reason}")
                break
            best = (bound, run.params, run.log_weights)
            statistics, event = _repaired(problem, run, totals, current)
            if event:
                run.history.events.append(f"iteration {iteration}: {event}")
                gain, recent = math.inf, []
            following, following_weights = problem.maximize(statistics, run.log_weights)
            following_weights = _without(following_weights, run.dropped)
            last = statistics
            step = Step(iteration, bound, gain, run.params, following, following_weights, current)
            why = stop(step) if current.settled and not event else None
            run.params, run.log_weights = following, following_weights
            asked_to_stop = on_step is not None and on_step(step)
            if why is not None:
                converged, reason = True, why
                break
            if asked_to_stop:
                reason = "a callback asked to stop"
                break
            # A bound at another beta is another objective: the first settled one has nothing to fall from.
            previous = bound if current.settled and not event else -math.inf
            if not (accelerate and current.settled):
                continue
            recent.append(statistics)
            if len(recent) == 3 and iteration < max_iter:
                recent, leap, previous = _try_leap(problem, run, current, recent, leap, bound, started)
                iteration += 1
    except KeyboardInterrupt:
        if not keep_on_interrupt or best is None:
            raise
        kept, run.params, run.log_weights = best
        interrupted, reason = True, "the fit was interrupted; the best parameters so far are kept"
    last_bound = run.history.bound[-1] if run.history.bound else -math.inf
    return FitResult(
        model=problem.model(run.params, run.log_weights, current),
        params=run.params,
        bound=last_bound if kept is None else kept,
        converged=converged,
        reason=reason,
        n_iter=iteration,
        history=run.history,
        refilled=tuple(sorted(run.refills)),
        dropped=tuple(sorted(run.dropped)),
        statistics=last,
        interrupted=interrupted,
        encoded_at=encoded_at,
    )


def _progress(
    run: _Run,
    iteration: int,
    previous: float,
    best: tuple[float, Params, Tensor],
    recent: list[Statistics],
    leap: Leap,
    last: Statistics,
) -> Progress:
    """Return where an alternation is; its lists are copies, its tensors are never written to."""
    history = History(**{name: list(values) for name, values in run.history.as_dict().items()})
    return Progress(
        run.params,
        run.log_weights,
        iteration,
        previous,
        best,
        tuple(recent),
        leap.longest,
        last,
        history,
        dict(run.refills),
        tuple(sorted(run.dropped)),
    )


def _resumed(progress: Progress) -> _Run:
    history = History(**{name: list(values) for name, values in progress.history.as_dict().items()})
    return _Run(progress.params, progress.log_weights, history, dict(progress.refills), set(progress.dropped))


def _try_leap(
    problem: Problem,
    run: _Run,
    encoder: Encoder,
    recent: list[Statistics],
    leap: Leap,
    bound: float,
    started: float,
) -> tuple[list[Statistics], Leap, float]:
    """Leap from the last three sums if the bound allows.

    ``run`` stands at the parameters of the last plain step. The pass that judges a leap is not lost when
    the leap is accepted: its sums are the next step. Returned are the sums that the next cycle begins
    with, the rule for its leap, and the last bound.
    """
    target, length = leap(*recent)
    reached = -math.inf
    if target is not None:
        params, log_weights = problem.maximize(target, run.log_weights)
        log_weights = _without(log_weights, run.dropped)
        totals = problem.totals(params, log_weights, encoder)
        reached = float(totals.bound / totals.weight)
        if math.isfinite(reached) and reached >= bound and not empty_components(problem, totals):
            run.params, run.log_weights = problem.maximize(totals.statistics, log_weights)
            run.log_weights = _without(run.log_weights, run.dropped)
            run.history.bound.append(reached)
            run.history.beta.append(getattr(encoder, "beta", math.inf))
            run.history.seconds.append(time.perf_counter() - started)
            return [totals.statistics], leap.after(length, accepted=True), reached
    return [recent[-1]], leap.after(length, accepted=False), bound


def _fell(gain: float, bound: float, problem: Problem) -> bool:
    # Sums and squares cancel at most at the scale of the data, log-densities at the size of the bound.
    return gain < -_ROUNDING[problem.source.dtype] * (1.0 + abs(bound))


def _repaired(problem: Problem, run: _Run, totals: Totals, encoder: Encoder) -> tuple[Statistics, str]:
    """Return the sums with components that lost their rows refilled or dropped, and what was done."""
    lost = [k for k in empty_components(problem, totals) if k not in run.dropped]
    if not lost:
        return totals.statistics, ""
    hopeless = [k for k in lost if run.refills.get(k, 0) >= _MAX_REFILLS]
    hopeful = [k for k in lost if k not in hopeless]
    statistics, filled = refill(problem, run.params, run.log_weights, encoder, totals, hopeful)
    for k in filled:
        run.refills[k] = run.refills.get(k, 0) + 1
    run.dropped.update(hopeless, set(hopeful) - set(filled))
    told = [
        f"components {ks} {what}"
        for ks, what in (
            (filled, "had lost their rows and took over the worst-explained ones"),
            (sorted(set(lost) - set(filled)), "are not needed and were given weight zero"),
        )
        if ks
    ]
    return statistics, "; ".join(told)


def _without(log_weights: Tensor, dropped: set[int]) -> Tensor:
    if not dropped:
        return log_weights
    index = torch.tensor(sorted(dropped), device=log_weights.device)
    log_weights = log_weights.index_fill(0, index, -math.inf)
    return log_weights - torch.logsumexp(log_weights, 0)
