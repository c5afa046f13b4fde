"""How the estimators ask for annealing: by a schedule in place of a temperature, or by the name of a start."""

from __future__ import annotations

from typing import Any

import torch

from mixcoder.encoders import Annealed
from mixcoder.fitting.annealing import AnnealingTrace, InterruptedAnnealing, anneal
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start

NAME = "annealed"
"""The start that anneals with the default schedule, down to the temperature of the estimator."""


def schedule_of(rule: Any, start: Any, beta: float) -> Annealed | None:
    """Return the schedule that an estimator asks for; ``None`` where it asks for none.

    Parameters
    ----------
    rule : Any
        Temperature or encoder.
    start : Any
        How the fit is to begin.
    beta : float
        Where a schedule without end of its own ends.
    """
    named = isinstance(start, str) and start == NAME
    if isinstance(rule, Annealed):
        if not (named or (isinstance(start, str) and start == "auto")):
            raise ValueError(
                f"An annealed fit begins with one component: leave out the start {_short(start)}, or give a "
                "temperature that is a number."
            )
        return rule.ending_at(beta)
    return Annealed().ending_at(beta) if named else None


class Annealing:
    """The annealed starts of a fit, and the trace of each."""

    def __init__(self, schedule: Annealed) -> None:
        self.schedule = schedule
        self.traces: list[AnnealingTrace] = []

    def start(self, problem: Problem, n_components: int, generator: torch.Generator) -> Start:
        """Return parameters and log-weights at the end of the schedule."""
        try:
            mix, trace = anneal(problem, n_components, self.schedule, generator)
        except InterruptedAnnealing as stopped:
            self.traces.append(stopped.trace)
            raise
        self.traces.append(trace)
        return mix.params, mix.log_masses


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]}..."
