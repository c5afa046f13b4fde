"""Bayes' rule: the code of soft EM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from mixcoder._typing import Code
from mixcoder.encoders.base import Encoder
from mixcoder.objectives import free_energy
from mixcoder.ops.simplex import softargmax_


@final
@dataclass(frozen=True)
class Posterior(Encoder):
    r"""The posterior over components, the maximiser of the evidence bound (beta = 1).

    .. math:: u_{nk} = \frac{\pi_k p(x_n|k)}{\sum_j \pi_j p(x_n|j)}, \qquad
              F_1(u_n) = \log p(x_n)

    References
    ----------
    Dempster, Laird & Rubin (1977); Neal & Hinton (1998), equation 7.

    Examples
    --------
    >>> import torch
    >>> Posterior().encode(torch.tensor([[0.1, 0.3]]).log())
    tensor([[0.2500, 0.7500]])
    """

    beta: ClassVar[float] = 1.0  # type: ignore[misc]

    def encode(self, log_joint: Tensor) -> Tensor:
        """Return the posterior, shape (n, k)."""
        return softargmax_(log_joint.clone())[0]

    def bound(self, log_joint: Tensor, code: Code) -> Tensor:
        """Return the evidence bound of any code, shape (n,)."""
        return free_energy(log_joint, dense(code, log_joint))

    def encode_with_bound_(self, log_joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior and log-evidence; overwrites ``log_joint``."""
        return softargmax_(log_joint)

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Return the one posterior."""
        return [cls()]


def dense(code: Code, like: Tensor) -> Tensor:
    """Return a code as rows of the simplex, shape (n, k)."""
    return code if isinstance(code, Tensor) else code.dense(like.dtype)
