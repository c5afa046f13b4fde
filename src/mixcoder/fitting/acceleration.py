"""SQUAREM: two EM steps show where the sequence is heading, one leap goes there."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mixcoder.statistics import Statistics

# Sums of rows of spread one that are below this share of their number may be rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Leap:
    r"""The squared extrapolation step in the space of averaged sufficient statistics.

    With s_0 -> s_1 -> s_2 two EM steps, r = s_1 - s_0 and v = (s_2 - s_1) - r,

    .. math:: s' = s_0 + 2a r + a^2 v, \qquad a = \lVert r\rVert / \lVert v\rVert \ge 1

    (a = 1 gives s_2 back). Every feature is measured in units of its own sums, so that the units of the
    columns do not change a leap. Sums live in a linear space, so s' needs no constraint but positive counts; the
    caller keeps the leap only if the bound does not fall, which makes the iteration monotone.

    Parameters
    ----------
    longest : float
        Largest a to try.

    References
    ----------
    Varadhan & Roland (2008), equations 5, 7 and 9 (scheme S3).
    """

    longest: float = 4.0

    def __call__(self, s0: Statistics, s1: Statistics, s2: Statistics) -> tuple[Statistics | None, float]:
        """Return s' and a, or ``None`` where the sequence gives nothing to extrapolate."""
        r = s1 + s0.scaled(-1.0)
        v = s2 + s1.scaled(-1.0) + r.scaled(-1.0)
        curvature = math.sqrt(_square_norm(v, s2))
        if curvature == 0:
            return None, 1.0
        step = min(math.sqrt(_square_norm(r, s2)) / curvature, self.longest)
        while step > 1.0:
            leap = s0 + r.scaled(2 * step) + v.scaled(step * step)
            if _positive_counts(leap):
                return leap, step
            step = 0.5 * (step + 1.0) if step > 1.05 else 1.0
        return None, 1.0

    def after(self, step: float, accepted: bool) -> Leap:
        """Return the rule for the next leap: bolder after success at the limit, shyer after failure."""
        if accepted:
            return Leap(4.0 * self.longest) if step >= self.longest else self
        return Leap(max(2.0, 0.5 * step))


def _leaves(statistics: Statistics) -> list[Tensor]:
    leaves: list[Tensor] = []
    for entry in fields(statistics):
        value = getattr(statistics, entry.name)
        parts = value if isinstance(value, tuple) else (value,)
        for part in parts:
            if isinstance(part, Statistics):
                leaves.extend(_leaves(part))
            elif part is not None:
                leaves.append(part)
    return leaves


def _square_norm(change: Statistics, sums: Statistics) -> float:
    """Return the squared norm of a change, each feature relative to its sums over the components.

    Sums of centred rows may be nothing but rounding: they are measured in a small share of the rows instead.
    """
    total = torch.zeros((), dtype=torch.float64)
    least = (_ROUNDING * float(sums.counts.sum())) ** 2  # type: ignore[attr-defined]
    for part, whole in zip(_leaves(change), _leaves(sums), strict=True):
        size = whole.square().sum(0).clamp_min(max(least, torch.finfo(whole.dtype).tiny))
        total = total.to(part.device) + (part.square().sum(0) / size).sum()
    return float(total)


def _positive_counts(statistics: Statistics) -> bool:
    return bool((statistics.counts > 0).all())  # type: ignore[attr-defined]
