"""Deterministic annealing: one component, split wherever a falling temperature makes it unstable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from mixcoder.encoders import Annealed
from mixcoder.fitting.bath import Bath, Mix
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import InterruptedStart, Start
from mixcoder.fitting.splitting import Splits, candidates, exchanges
from mixcoder.fitting.start import draw_sample
from mixcoder.ops.threads import single_threaded_kernels

# EM steps at one temperature, and rounds of splits followed by EM.
_MAX_STEPS = 100
_MAX_ROUNDS = 20

# EM steps at a temperature that another follows, and at one of a schedule without end, which finds a start for hard
# codes: what comes next goes on from wherever these lead, and EM that crawls there leads to worse places (measured).
_STEPS_ON_THE_WAY = 20
_HASTY_STEPS = 6

# Exchanges of a pair for a split made at one temperature, how many are tried for each at the end, and the EM steps
# of a trial.
_MAX_EXCHANGES = 10
_LAST_TRIALS = 3
_TRIAL_STEPS = 15

# Codes of so few nats a row are hard: the rest is left to the argmax.
_HARD = 0.1

# Temperatures that a search for the hottest one tries, each half the one before.
_HALVINGS = 30

# A schedule without end gives up on further splits this far below its first temperature.
_COLDEST = 1e12

# Temperatures that a hard schedule goes on for once all components are there.
_COOLING_OFF = 30


@dataclass(frozen=True)
class AnnealingTrace:
    """What was reached at each temperature, after EM and splits there.

    Parameters
    ----------
    beta : list of float
        Inverse temperatures.
    n_components : list of int
        Different components, with coincident ones counted once.
    entropy : list of float
        Mean entropy of the rows' codes, in nats.
    free_energy : list of float
        Mean F_beta per unit of row weight, in nats.
    n_steps : list of int
        EM steps made at this temperature.
    """

    beta: list[float] = field(default_factory=list)
    n_components: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    free_energy: list[float] = field(default_factory=list)
    n_steps: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the columns by name."""
        return {entry.name: list(getattr(self, entry.name)) for entry in fields(self)}


@dataclass(frozen=True)
class AnnealingStep:
    """What one EM step of an annealing shows.

    Parameters
    ----------
    beta : float
    n_components : int
    free_energy : float
        Mean F_beta before the step, in nats per row.
    settled : bool
        Whether components have not been split or joined since the step before.
    """

    beta: float
    n_components: int
    free_energy: float
    settled: bool


OnStep = Callable[[AnnealingStep], None]


def anneal(
    problem: Problem,
    n_components: int,
    schedule: Annealed,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> tuple[Mix, AnnealingTrace]:
    r"""Return parameters and log-masses at the end of a schedule, and the trace of the way there.

    All rows of a small source take part, some of a large one, as in every search for a start. Masses are free on
    the way, also where the fit that follows holds the weights fixed.

    Parameters
    ----------
    problem : Problem
    n_components : int
        Splits end at so many. What the schedule leaves to be split at its end is split there, so that a fit with
        so many components can begin.
    schedule : Annealed
    generator : torch.Generator
        For the rows of a large source.
    on_step : callable, optional
        Told of every EM step.

    Raises
    ------
    ValueError
        If the family has a rank for each of so many components: an annealed fit begins with one.

    References
    ----------
    Rose (1998), table I. Ueda & Nakano (1998) for general families.
    """
    ranks = getattr(problem.family, "n_latent", None)
    if isinstance(ranks, tuple):
        raise ValueError(
            f"An annealed fit begins with one component, but n_latent={ranks} has a rank for each of {len(ranks)}: "
            "give one rank for all, or do not anneal."
        )
    with single_threaded_kernels(), torch.inference_mode():
        sample = draw_sample(problem, n_components, problem.family.geometry, generator)
        bath = Bath.of(problem, sample, n_components, generator)
        cooling = _Cooling(bath, n_components, schedule, on_step)
        if bath.n_rows <= n_components:
            return bath.one_each(n_components).clone(), cooling.trace
        try:
            return cooling.run().clone(), cooling.trace
        except KeyboardInterrupt:
            raise InterruptedAnnealing(cooling) from None


class InterruptedAnnealing(InterruptedStart):
    """An interrupt of an annealing; where it had come to, completed at that temperature, and the trace until there."""

    def __init__(self, cooling: _Cooling) -> None:
        super().__init__(self._finish)
        self.cooling, self.trace = cooling, cooling.trace

    def _finish(self) -> Start:
        with single_threaded_kernels(), torch.inference_mode():
            mix = self.cooling.completed().clone()
        return mix.params, mix.log_masses


class _Cooling:
    """One annealing: the mixture as it stands, and what was noted."""

    def __init__(self, bath: Bath, n_components: int, schedule: Annealed, on_step: OnStep | None) -> None:
        self.bath, self.n_components, self.schedule = bath, n_components, schedule
        self.on_step = on_step
        self.stable_until = 0.0
        self.mix, self.beta = bath.one_component(), min(1.0, schedule.beta)
        self.trace = AnnealingTrace()

    def run(self) -> Mix:
        """Return the mixture at the end."""
        mix = self.mix
        first = self._hottest(mix)
        beta, n_cooling = first, 0
        for beta in self.schedule.rising_from(first):
            # Nothing splits any more once all components are there: every second temperature will do.
            n_cooling += self.endless and mix.n_components >= self.n_components
            if n_cooling % 2:
                continue
            mix, entropy = self.settle(mix, beta)
            self.mix, self.beta = mix, beta
            if not self.endless:
                continue
            hard = entropy < _HARD or n_cooling > _COOLING_OFF
            if (hard and mix.n_components >= self.n_components) or beta > _COLDEST * first:
                break
        mix = self.completed()
        if self.endless:
            return self._exchanged(mix, beta, self.bath.step(mix, beta)[0], 0, _LAST_TRIALS)[0]
        return mix

    @property
    def endless(self) -> bool:
        """Whether the schedule ends where codes are hard, and no temperature of it is the last."""
        return math.isinf(self.schedule.beta)

    def settle(self, mix: Mix, beta: float) -> tuple[Mix, float]:
        """Return the mixture after EM and splits at one temperature, and the entropy of its codes; note them."""
        mix, free_energy, n_steps = self._em(mix, beta)
        for _ in range(_MAX_ROUNDS):
            found = self._splits(mix, beta).unstable(self.n_components - mix.n_components)
            if not found:
                break
            trial, reached, n_done = self._em(self.bath.split(mix, beta, found), beta)
            trial, n_steps = self.bath.joined(trial, beta), n_steps + n_done
            # Halves that raise the free energy by nothing to speak of have not parted yet: one component still.
            if beta * (reached - free_energy) < self.schedule.tol * max(
                1, trial.n_components - mix.n_components
            ):
                break
            mix, free_energy = trial, reached
        at_end = beta == self.schedule.beta
        if mix.n_components == self.n_components and (at_end or self.bath.fixed_variance is not None):
            n_trials = _LAST_TRIALS if at_end else 1
            mix, free_energy, n_steps = self._exchanged(mix, beta, free_energy, n_steps, n_trials)
        entropy = self.bath.entropy(mix, beta)
        for name, value in (
            ("beta", beta),
            ("n_components", mix.n_components),
            ("entropy", entropy),
            ("free_energy", free_energy),
            ("n_steps", n_steps),
        ):
            getattr(self.trace, name).append(value)
        return mix, entropy

    def _em(self, mix: Mix, beta: float, n_most: int = _MAX_STEPS) -> tuple[Mix, float, int]:
        """Return the mixture after EM at a temperature, the free energy before the last step, and the steps made."""
        before, gain, free_energy, n_done = -math.inf, math.inf, -math.inf, 0
        for n_done in range(1, min(n_most, self._most_steps(beta)) + 1):
            free_energy, following = self.bath.step(mix, beta)
            if self.on_step is not None:
                settled = n_done > 1 and following.n_components == mix.n_components
                self.on_step(AnnealingStep(beta, mix.n_components, free_energy, settled))
            mix = following
            last, gain = gain, free_energy - before
            if n_done > 2 and beta * _still_to_come(gain, last) < self.schedule.tol:
                break
            before = free_energy
        return mix, free_energy, n_done

    def _most_steps(self, beta: float) -> int:
        """Return how many EM steps are made at a temperature."""
        if self.endless:
            return _HASTY_STEPS
        return _MAX_STEPS if beta == self.schedule.beta else _STEPS_ON_THE_WAY

    def _exchanged(
        self, mix: Mix, beta: float, free_energy: float, n_steps: int, n_trials: int = 1
    ) -> tuple[Mix, float, int]:
        """Return the mixture after unstable components took the place of pairs that are hardly two.

        Once all components are there, one that is unstable can only split if two others become one. That is tried
        where it promises a rise, ``n_trials`` times, and kept where EM then reaches a higher free energy.
        """
        for _ in range(_MAX_EXCHANGES):
            for exchange in exchanges(self.bath, mix, beta, self.schedule.tol, n_trials):
                trial, reached, n_done = self._em(exchange, beta, _TRIAL_STEPS)
                n_steps += n_done
                gained = beta * (reached - free_energy) >= self.schedule.tol
                if gained and trial.n_components == mix.n_components and not self.bath.collapsed(trial, mix):
                    mix, free_energy = trial, reached
                    break
            else:
                break
        return mix, free_energy, n_steps

    def _splits(self, mix: Mix, beta: float) -> Splits:
        """Return what a split of each component would bring at a temperature; nothing where none is wanted."""
        if mix.n_components >= self.n_components or (mix.n_components == 1 and beta <= self.stable_until):
            return Splits.none()
        return candidates(self.bath, mix, beta, self.schedule.tol)

    def _hottest(self, mix: Mix) -> float:
        """Return a beta at which one component is stable, near the first critical one."""
        if self.schedule.betas is not None or self.schedule.start is not None or self.n_components == 1:
            return min(1.0, self.schedule.beta)
        critical = self.bath.critical_beta(mix)
        if critical is not None:
            return critical / math.sqrt(self.schedule.ratio)
        beta = min(1.0, self.schedule.beta)
        for _ in range(_HALVINGS):
            if not len(candidates(self.bath, mix, beta, self.schedule.tol).unstable(1)):
                self.stable_until = beta
                break
            beta /= 2
        return beta

    def completed(self) -> Mix:
        """Return the mixture with as many components as were asked for, the best splits made though they are none."""
        mix = self.mix
        while mix.n_components < self.n_components:
            found = candidates(self.bath, mix, self.beta, self.schedule.tol)
            mix = self.bath.split(mix, self.beta, found.best(self.n_components - mix.n_components))
        return mix


def _still_to_come(gain: float, last: float) -> float:
    """Return what further EM steps would add, if gains go on to shrink as they did (Aitken's extrapolation).

    Halves that have just been cut part slowly at first: gains that still grow see no end.
    """
    if gain <= 0:
        return 0.0
    return gain * gain / (last - gain) if gain < last else math.inf
