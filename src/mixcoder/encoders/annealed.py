"""Deterministic annealing: the temperatures through which a fit comes to its encoder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, final

from torch import Tensor

from mixcoder._numbers import positive_number, real_number
from mixcoder._typing import Code
from mixcoder.encoders.argmax import Argmax
from mixcoder.encoders.base import Encoder
from mixcoder.encoders.posterior import Posterior
from mixcoder.encoders.tempered import Tempered


@final
@dataclass(frozen=True)
class Annealed(Encoder):
    r"""A schedule of inverse temperatures, at whose end stands the encoder that it is.

    A fit with this encoder begins with one component at the hottest temperature. While beta rises, components
    split in two where a temperature makes them unstable, until there are as many as were asked for. On the way
    a row is coded by

    .. math:: u_{nk} = \frac{\pi_k\, p(x_n|k)^\beta}{\sum_j \pi_j\, p(x_n|j)^\beta}, \qquad
              F_\beta = \frac1\beta \sum_n \log \sum_k \pi_k\, p(x_n|k)^\beta

    where the weights are masses, not tempered: a component and two copies of it with half its mass each are
    the same thing, so that coincident components count once. The last fit, which goes on from there, is that of
    the encoder at ``stop``: Bayes' posterior at 1, the argmax at infinity, else softargmax.

    That last encoder is also what a fitted model codes new rows with; nothing of the schedule is left in it.

    Parameters
    ----------
    start : float, optional
        First beta; by default just below the first critical one of the data.
    stop : float, optional
        Last beta; inf for hard codes. By default 1, or what the estimator fits at: inf for k-means.
    ratio : float
        Factor from one beta to the next, above 1.
    betas : tuple of float, optional
        The whole sequence instead of the three, increasing.
    tol : float
        EM at one temperature ends when further steps promise to raise beta F by less than this, in nats per row, and
        a split that raises it by less has split nothing. Where another temperature follows EM makes a few steps
        at most, and goes on from there.

    References
    ----------
    Rose (1998), "Deterministic annealing for clustering, compression, classification, regression, and related
    optimization problems", section II, equations 20 and 21 for the masses.

    Examples
    --------
    >>> list(Annealed(start=0.25, stop=1.0, ratio=2.0).rising_from(0.1))
    [0.25, 0.5, 1.0]
    >>> Annealed(stop=float("inf")).end
    Argmax()
    """

    start: float | None = None
    stop: float | None = None
    ratio: float = 1.5
    betas: tuple[float, ...] | None = None
    tol: float = 1e-3

    def __post_init__(self) -> None:
        if self.start is not None:
            positive_number("start", self.start)
        if self.stop is not None:
            positive_number("stop", self.stop, or_inf=True)
        if self.start is not None and self.stop is not None and self.start > self.stop:
            raise ValueError(f"start={self.start!r} is beyond stop={self.stop!r}; beta rises.")
        if not (1 < real_number("ratio", self.ratio) < math.inf):
            raise ValueError(f"ratio must be a finite number above 1, got {self.ratio!r}.")
        positive_number("tol", self.tol)
        if self.betas is None:
            return
        if self.start is not None or self.stop is not None:
            raise ValueError("Give either betas or start and stop, not both.")
        betas: Any = self.betas
        if isinstance(betas, str) or not isinstance(betas, Iterable):
            raise TypeError(f"betas must be a sequence of numbers, got {betas!r}.")
        object.__setattr__(self, "betas", tuple(real_number("every beta", beta) for beta in betas))
        rising = all(a < b for a, b in zip(self.betas, self.betas[1:], strict=False))
        if not (self.betas and rising and self.betas[0] > 0 and not math.isinf(self.betas[0])):
            raise ValueError(
                f"betas must be positive and increasing, only the last may be inf, got {self.betas!r}."
            )

    @property
    def beta(self) -> float:  # type: ignore[override]
        """Inverse temperature at the end."""
        if self.betas is not None:
            return self.betas[-1]
        return 1.0 if self.stop is None else self.stop

    @property
    def end(self) -> Encoder:
        """The encoder at the end of the schedule."""
        if math.isinf(self.beta):
            return Argmax()
        return Posterior() if self.beta == 1 else Tempered(self.beta)

    def ending_at(self, beta: float) -> Annealed:
        """Return the schedule with its end, where it has none of its own."""
        return self if self.stop is not None or self.betas is not None else replace(self, stop=beta)

    def scaled(self, factor: float) -> Annealed:
        """Return the schedule with every finite beta multiplied, as for energies in another unit."""

        def times(beta: float) -> float:
            return beta if math.isinf(beta) else beta * factor

        if self.betas is not None:
            return replace(self, betas=tuple(map(times, self.betas)))
        start, stop = (None if beta is None else times(beta) for beta in (self.start, self.stop))
        return replace(self, start=start, stop=stop)

    def rising_from(self, first: float) -> Iterator[float]:
        """Yield the finite betas in turn, without end where the end is infinite.

        Parameters
        ----------
        first : float
            Where to begin, unless the schedule says so itself.
        """
        if self.betas is not None:
            yield from (beta for beta in self.betas if not math.isinf(beta))
            return
        beta = first if self.start is None else self.start
        while beta < self.beta:
            yield beta
            beta *= self.ratio
        if not math.isinf(self.beta):
            yield self.beta

    def encode(self, log_joint: Tensor) -> Code:
        """Return the code at the end of the schedule."""
        return self.end.encode(log_joint)

    def bound(self, log_joint: Tensor, code: Code) -> Tensor:
        """Return the bound at the end of the schedule, shape (n,)."""
        return self.end.bound(log_joint, code)

    def encode_with_bound_(self, log_joint: Tensor) -> tuple[Code, Tensor]:
        """Return code and bound at the end of the schedule; overwrites ``log_joint``."""
        return self.end.encode_with_bound_(log_joint)

    def at(self, iteration: int) -> Encoder:  # type: ignore[override]
        """Return the encoder at the end: what the alternation after the annealing iterates."""
        del iteration
        return self.end

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Return schedules to soft, hard and tempered codes, geometric and given."""
        return [cls(), cls(stop=math.inf, ratio=2.0), cls(betas=(0.1, 0.3, 0.7))]
