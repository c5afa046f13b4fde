"""Softargmax at an inverse temperature beta, fixed or following a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

from torch import Tensor

from mixcoder._numbers import positive_number, real_number
from mixcoder._typing import Code
from mixcoder.encoders.base import Encoder
from mixcoder.encoders.posterior import dense
from mixcoder.objectives import free_energy
from mixcoder.ops.simplex import softargmax_


@final
@dataclass(frozen=True)
class Tempered(Encoder):
    r"""The maximiser of the free energy at inverse temperature beta.

    .. math::
        F_\beta(u_n) = \sum_k u_{nk} \log(\pi_k p(x_n|k)) + \tfrac1\beta H(u_n), \qquad
        u_{nk} \propto (\pi_k\, p(x_n|k))^\beta

    beta = 1 is Bayes' posterior, beta -> infinity the argmax, 0 < beta < 1 the annealing region.

    Parameters
    ----------
    beta : float
        Inverse temperature, positive and finite.
    target_beta : float, optional
        Where a geometric schedule ends; without it beta stays fixed.
    rate : float
        Factor by which beta moves towards ``target_beta`` in each iteration, above 1.

    References
    ----------
    Ueda & Nakano (1998), deterministic annealing EM; Rose (1998).

    Examples
    --------
    >>> import torch
    >>> Tempered(2.0).encode(torch.tensor([[0.1, 0.3]]).log())
    tensor([[0.1000, 0.9000]])
    """

    beta: float = 1.0
    target_beta: float | None = None
    rate: float = 1.2

    def __post_init__(self) -> None:
        hint = "; use Argmax() for beta = inf"
        positive_number("beta", self.beta, hint=hint)
        if self.target_beta is not None:
            positive_number("target_beta", self.target_beta, hint=hint)
        if not (1 < real_number("rate", self.rate) < math.inf):
            raise ValueError(f"rate must be a finite number above 1, got {self.rate!r}.")

    def encode(self, log_joint: Tensor) -> Tensor:
        """Return the tempered posterior, shape (n, k)."""
        return softargmax_(log_joint.clone(), self.beta)[0]

    def bound(self, log_joint: Tensor, code: Code) -> Tensor:
        """Return the free energy of any code, shape (n,)."""
        return free_energy(log_joint, dense(code, log_joint), self.beta)

    def encode_with_bound_(self, log_joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tempered posterior and its free energy; overwrites ``log_joint``."""
        return softargmax_(log_joint, self.beta)

    def at(self, iteration: int) -> Self:
        """Return the encoder of an iteration: beta times rate**iteration, not beyond the target."""
        if self.target_beta is None or iteration == 0:
            return self
        rising = self.target_beta >= self.beta
        log_step = math.log(self.rate) * iteration
        log_gap = abs(math.log(self.target_beta / self.beta))
        if log_step >= log_gap:
            return replace(self, beta=self.target_beta)
        return replace(self, beta=self.beta * math.exp(log_step if rising else -log_step))

    @property
    def settled(self) -> bool:
        """Whether beta has reached its target."""
        return self.target_beta is None or self.beta == self.target_beta

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Return a hot, a cold and a scheduled encoder."""
        return [cls(0.3), cls(4.0), cls(0.2, target_beta=1.0)]
