"""What every kernel of an embedded code answers: shares of the components, two objectives, their gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mixcoder.ops.embedding.ascent import Climb

# By how many nats a component may fall from one anchor to another: of so many rounding takes 1e-8.
MOST_NATS = 1e8

# Lengths are taken of vectors divided by this, whose squares do not overflow.
_SAFE = 2.0**512


@dataclass(frozen=True)
class CodeKernel(ABC):
    r"""How codes v and anchors w make a point of the simplex.

    .. math::
        q_{nk} = \frac{e^{h_k(v_n)}}{\lambda e^{\alpha |v_n|^2} + \sum_j e^{h_j(v_n)}}, \qquad
        q_{n0} = 1 - \sum_k q_{nk}

    A concrete kernel says what :math:`h_k` is, and how its objectives are climbed.

    Parameters
    ----------
    absorber : float
        lambda, the mass of the absorber, which takes the share q_0 and generates no data; 0 for none.
    alpha : float
        How fast the absorber grows with :math:`|v|^2`; 0 for a constant one.
    beta : float
        Inverse width of the kernel, positive.
    prior : float
        rho of the Gaussian :math:`\log N(v;\, 0, I/2\rho) = -\rho |v|^2 + \text{const}`, added *outside* of the
        softargmax, where it does not cancel. The constant is left out.

    Raises
    ------
    ValueError
        If lambda or rho is negative, beta is not positive, the absorber lets go of what is far, or a number is not
        finite.

    Examples
    --------
    >>> from mixcoder.ops.embedding import EmbeddingKernel
    >>> kernel = EmbeddingKernel(absorber=1.0)
    >>> code, absorbed = kernel.log_code(torch.zeros(1, 1), torch.tensor([[0.0], [1.0]]))
    >>> isinstance(kernel, CodeKernel), float(code.exp().sum() + absorbed.exp())
    (True, 1.0)
    """

    absorber: float = 0.0
    alpha: float = 0.0
    beta: float = 1.0
    prior: float = 0.0

    def __post_init__(self) -> None:
        given = (self.absorber, self.alpha, self.beta, self.prior)
        if not all(math.isfinite(value) for value in given):
            raise ValueError(
                f"Expected finite numbers for the kernel, but it was given {self}: replace them."
            )
        if self.absorber < 0:
            raise ValueError(
                f"Expected absorber >= 0, but it is {self.absorber:g}: a negative mass makes q no share of anything; "
                "use 0 for no absorber."
            )
        if self.beta <= 0:
            raise ValueError(
                f"Expected beta > 0, but it is {self.beta:g}: components must weigh less with distance; "
                "move the anchors together for a flatter kernel."
            )
        if self.prior < 0:
            raise ValueError(
                f"Expected prior >= 0, but it is {self.prior:g}: a negative rho drives codes to infinity; "
                "use 0 for no prior."
            )

    @property
    def confines(self) -> bool:
        """Whether every target has a finite code: an absorber or a prior makes G fall at infinity."""
        return self.absorber > 0 or self.prior > 0

    # What a kernel says

    @abstractmethod
    def logits(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the entries of the log-sum-exp, the absorber's last, up to a constant of the row, shape (n, k + 1)."""

    @abstractmethod
    def gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of G in v, shape (n, e); that of L with ``targets`` = :meth:`responsibilities`."""

    @abstractmethod
    def anchor_gradient(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the gradient of the weighted sum of G in w, shape (k, e); that of L with :meth:`responsibilities`."""

    def anchor_curvature(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Return a curvature to scale steps of the anchors by, shape (k e, k e).

        Here :math:`2\beta \sum_n (A + q)_{nk} I`; a kernel that knows how codes follow anchors has its own.
        """
        total = targets + self.log_code(codes, anchors)[0].exp()
        sums = total.sum(dim=0) if weights is None else weights @ total
        return torch.diag(2 * self.beta * sums.repeat_interleave(anchors.shape[1]))

    @abstractmethod
    def first_codes(self, targets: Tensor, anchors: Tensor, corners: Tensor) -> Tensor:
        """Return where to begin to climb, shape (s, n, e): s places a row, the best of whose summits is taken.

        Parameters
        ----------
        corners : Tensor, shape (k, e)
            From :meth:`corners`.
        """

    def corners(self, anchors: Tensor) -> Tensor:
        """Return where rows that are sure of their component begin, shape (k, e): at its anchor."""
        return anchors

    @abstractmethod
    def climb(
        self, start: Tensor, targets: Tensor, anchors: Tensor, climbs: Tensor, tol: float, max_iter: int
    ) -> Climb:
        """Climb G from a start, in the rows that ``climbs`` marks; it never falls by more than rounding."""

    @abstractmethod
    def climb_exact(
        self,
        start: Tensor,
        log_likelihood: Tensor,
        anchors: Tensor,
        climbs: Tensor,
        tol: float,
        max_iter: int,
    ) -> Climb:
        """Climb L from a start, in the rows that ``climbs`` marks; it never falls by more than rounding."""

    @abstractmethod
    def outlook(self, targets: Tensor, anchors: Tensor) -> Outlook:
        """Return where G may have a maximum, and what it must exceed to be one."""

    @abstractmethod
    def exact_outlook(self, log_likelihood: Tensor, anchors: Tensor) -> Outlook:
        """Return where L may have a maximum, and what it must exceed to be one."""

    def require_identified(self, anchors: Tensor) -> None:
        """Raise a ValueError where anchors leave the codes undetermined, or are too far apart."""
        if not bool(anchors.isfinite().all()):
            raise ValueError("Expected finite anchors, but some are not: start from finite ones.")
        self.require_near(anchors)

    def require_near(self, anchors: Tensor) -> None:
        """Raise a ValueError where anchors are so far apart that no step finds the codes between them."""
        # Where the prior or the absorber pulls codes to the origin, distance from there counts as well.
        small = anchors.detach().double() / _SAFE
        middle = torch.zeros_like(small[0]) if self.confines else small.mean(dim=0)
        radius = float((small - middle).norm(dim=1).amax()) * _SAFE
        nats = self.nats_at(radius)
        if not nats <= MOST_NATS:
            raise ValueError(
                f"Expected anchors within {MOST_NATS:g} nats of each other, but with beta={self.beta:g} the farthest "
                f"lies {radius:.3g} from their middle or the origin, {nats:.3g} nats: codes change there from one "
                "component to the next within less than rounding. Divide the anchors by a common factor, or make "
                "beta smaller."
            )

    def nats_at(self, radius: float) -> float:
        r"""Return how far :math:`h_k` falls over a distance, in nats."""
        return self.beta * radius

    # What follows

    def log_code(self, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\log q_{nk}`, shape (n, k), and :math:`\log q_{n0}`, shape (n,).

        Parameters
        ----------
        codes : Tensor, shape (n, e)
            v.
        anchors : Tensor, shape (k, e)
            w.
        """
        log_shares = self.logits(codes, anchors).log_softmax(dim=1)  # (n, k + 1)
        return log_shares[:, :-1], log_shares[:, -1]

    def objective(self, codes: Tensor, anchors: Tensor, log_likelihood: Tensor) -> Tensor:
        r"""Return :math:`L_n(v_n) = \log \sum_k q_{nk}\, p(x_n|k) - \rho |v_n|^2` in nats, shape (n,).

        Parameters
        ----------
        log_likelihood : Tensor, shape (n, k)
            log p(x_n | k).
        """
        log_q, _ = self.log_code(codes, anchors)
        return torch.logsumexp(log_q + log_likelihood, dim=1) - self.prior * codes.square().sum(dim=1)

    def surrogate(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return :math:`G_n(v_n; A_n) = \sum_k A_{nk} \log q_{nk} - \rho |v_n|^2` in nats, shape (n,).

        Parameters
        ----------
        targets : Tensor, shape (n, k)
            A, non-negative, rows sum to one.
        """
        log_q, _ = self.log_code(codes, anchors)
        return (targets * log_q).sum(dim=1) - self.prior * codes.square().sum(dim=1)

    def responsibilities(self, codes: Tensor, anchors: Tensor, log_likelihood: Tensor) -> Tensor:
        r"""Return :math:`r_{nk} = q_{nk} p(x_n|k) / \sum_j q_{nj} p(x_n|j)`, shape (n, k).

        The targets at which G touches L.
        """
        log_q, _ = self.log_code(codes, anchors)
        return bayes(log_q + log_likelihood)


def bayes(log_joint: Tensor) -> Tensor:
    """Return the softargmax over k, without a gradient through 0/0: a row that nothing explains is shared evenly."""
    unexplained = (log_joint == -math.inf).all(dim=1, keepdim=True)
    return torch.where(unexplained, 0.0, log_joint).softmax(dim=1)


class Outlook(NamedTuple):
    """Before the climb: which rows are worth it (n,), and the supremum at infinity (n,), below which a code is none."""

    possible: Tensor
    limit: Tensor

    @classmethod
    def good(cls, rows: Tensor) -> Outlook:
        """Return that every row has a code: its objective falls at infinity, or the domain is compact."""
        return cls(torch.ones(len(rows), dtype=torch.bool, device=rows.device), nowhere(rows))


def nowhere(rows: Tensor) -> Tensor:
    """Return the limit at infinity of an objective that falls there without end, shape (n,)."""
    return rows.new_full((len(rows),), -math.inf)


def weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Return the rows times their weights."""
    return rows if weights is None else rows * weights.to(rows)[:, None]
