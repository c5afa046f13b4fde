"""A few components a row: the tempered posterior on the most probable ones, none on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self, final

import torch
from torch import Tensor

from mixcoder._numbers import positive_number
from mixcoder._typing import Code
from mixcoder.encoders.base import Encoder
from mixcoder.encoders.posterior import dense
from mixcoder.objectives import free_energy
from mixcoder.ops.simplex import softargmax_


@final
@dataclass(frozen=True)
class Truncated(Encoder):
    r"""The maximiser of the free energy among codes with at most m components.

    .. math::
        \max_{u_n} \sum_k u_{nk} \log(\pi_k p(x_n|k)) + \tfrac1\beta H(u_n)
        \quad \text{with at most } m \text{ of the } u_{nk} \text{ positive},

    the tempered posterior of the m most probable components, whose value is :math:`\tfrac1\beta \log \sum_k
    (\pi_k p(x_n|k))^\beta` over these. m = 1 is the argmax, written out. With a small beta every component learns from
    the rows it is among the m best for, m times as many as belong to it alone: the remedy where components
    have too few rows of their own. The work of an M-step is that of m components a row.

    Parameters
    ----------
    n_active : int
        m, at least one; as many as there are components for the tempered posterior itself.
    beta : float
        Inverse temperature, positive and finite.

    References
    ----------
    Lucke & Eggert (2010), "Expectation truncation and the benefits of preselection in training generative models";
    Forster & Lucke (2018), "Can clustering scale sublinearly with its clusters?".

    Examples
    --------
    >>> import torch
    >>> Truncated(2).encode(torch.tensor([[0.1, 0.2, 0.6]]).log())
    tensor([[0.0000, 0.2500, 0.7500]])
    """

    n_active: int
    beta: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.n_active, bool) or not isinstance(self.n_active, Integral) or self.n_active < 1:
            raise ValueError(f"n_active must be a whole number of at least 1, got {self.n_active!r}.")
        positive_number("beta", self.beta, hint="; use Argmax() for beta = inf")

    def encode(self, log_joint: Tensor) -> Tensor:
        """Return the code, shape (n, k), of which at most m entries a row are positive."""
        return self.encode_with_bound_(log_joint.clone())[0]

    def bound(self, log_joint: Tensor, code: Code) -> Tensor:
        """Return the free energy of a code, shape (n,); minus infinity where more than m entries are positive."""
        shares = dense(code, log_joint)
        allowed = (shares > 0).sum(1) <= self.n_active
        return torch.where(allowed, free_energy(log_joint, shares, self.beta), -torch.inf)

    def encode_with_bound_(self, log_joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return code and free energy; overwrites ``log_joint``."""
        best, index = torch.topk(log_joint, min(self.n_active, log_joint.shape[-1]), dim=-1)
        shares, bound = softargmax_(best, self.beta)
        return log_joint.zero_().scatter_(-1, index, shares), bound

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Return two and three of the components, and the argmax written out."""
        return [cls(2), cls(3, 0.2), cls(1, 3.0)]
