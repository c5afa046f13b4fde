"""An encoder turns log p(x, k) into a code, and knows which bound that code maximises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor

from mixcoder._typing import Code


class Encoder(ABC):
    """The rule by which a row picks its components. Frozen; hyper-parameters only.

    Examples
    --------
    >>> from mixcoder.encoders import Argmax, Posterior
    >>> Posterior().beta, Argmax().beta
    (1.0, inf)
    """

    beta: float
    """Inverse temperature of the code: 1 for Bayes' posterior, inf for the argmax."""

    @abstractmethod
    def encode(self, log_joint: Tensor) -> Code:
        """Return the code that maximises ``bound``.

        Parameters
        ----------
        log_joint : Tensor, shape (n, k)
            log pi_k + log p(x_n | k), in nats. Left unchanged.
        """

    @abstractmethod
    def bound(self, log_joint: Tensor, code: Code) -> Tensor:
        """Return the objective that fitting raises, at any admissible code, shape (n,), in nats."""

    @abstractmethod
    def encode_with_bound_(self, log_joint: Tensor) -> tuple[Code, Tensor]:
        """Return the best code and its bound in one sweep; ``log_joint`` is scratch and is overwritten.

        Leading axes are separate mixtures over the same rows: (g, n, k) gives codes (g, n, k) and bounds
        (g, n).
        """

    def at(self, iteration: int) -> Self:
        """Return the encoder to use in an iteration; itself, unless it follows a schedule."""
        del iteration
        return self

    @property
    def settled(self) -> bool:
        """Whether the rule no longer changes, so that the fit may stop."""
        return True

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Self]:
        """Return encoders for the conformance checks and the documentation."""
