"""The kernel of codes on the unit sphere, where a best code always exists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mixcoder.ops.embedding.ascent import Climb, Local, ascend, newton
from mixcoder.ops.embedding.base import CodeKernel, Outlook, bayes, weighted


@final
@dataclass(frozen=True)
class SphereKernel(CodeKernel):
    r"""The kernel of squared distances with :math:`|v| = 1`; anchors are anywhere.

    The domain is compact, so that every row has a code. On it
    :math:`h_k = 2\beta\, v \cdot w_k - \beta |w_k|^2` up to a constant, and the absorber is a constant
    :math:`\lambda e^{\alpha}` beside :math:`e^{-\beta |v - w|^2}`. The gradient is the tangential part of that of
    :class:`EmbeddingKernel`. G is concave in the ball: a code where it still rises outwards is the best one; others are
    local maxima.

    Parameters
    ----------
    absorber, alpha, beta : float
        As in :class:`EmbeddingKernel`.
    prior : float
        0: on the sphere it says nothing.

    Raises
    ------
    ValueError
        As in :class:`CodeKernel`, and if a prior is given.

    Examples
    --------
    >>> from mixcoder.ops.embedding import encode_embedded
    >>> anchors = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> encode_embedded(torch.tensor([[0.5, 0.5]], dtype=torch.float64), anchors, SphereKernel()).codes
    tensor([[0.7071, 0.7071]], dtype=torch.float64)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior != 0:
            raise ValueError(
                f"Expected prior = 0 on the unit sphere, where |v|^2 is 1, but it is {self.prior:g}: leave it out."
            )

    @property
    def confines(self) -> bool:
        """Whether every target has a code: on a compact domain, yes."""
        return True

    def logits(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the entries of the log-sum-exp, the absorber's last, up to a constant of the row, shape (n, k + 1)."""
        slopes, biases = self._lines(anchors)
        return _entries(codes, slopes, biases)

    def gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return the gradient of G along the sphere, shape (n, e); that of L with :meth:`responsibilities`.

        .. math:: (I - v_n v_n^\top)\; 2\beta \sum_k (A_{nk} - q_{nk}) w_k
        """
        slopes, biases = self._lines(anchors)
        return _look_around(codes, slopes, biases, targets, None).gradient

    def anchor_gradient(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Return :math:`2\beta \sum_n (A_{nk} - q_{nk}) (v_n - w_k)`, shape (k, e)."""
        pull = weighted(targets - self.log_code(codes, anchors)[0].exp(), weights)  # (n, k)
        return 2 * self.beta * (pull.T @ codes - pull.sum(dim=0)[:, None] * anchors)

    def first_codes(self, targets: Tensor, anchors: Tensor, corners: Tensor) -> Tensor:
        """Return the direction in which the targets pull and the one against it, shape (2, n, e)."""
        return _first(targets, self._lines(anchors)[0])

    def climb(
        self, start: Tensor, targets: Tensor, anchors: Tensor, climbs: Tensor, tol: float, max_iter: int
    ) -> Climb:
        """Climb G along the sphere."""
        return _climb(start, *self._lines(anchors), targets, None, climbs, tol, max_iter)

    def climb_exact(
        self,
        start: Tensor,
        log_likelihood: Tensor,
        anchors: Tensor,
        climbs: Tensor,
        tol: float,
        max_iter: int,
    ) -> Climb:
        """Climb L along the sphere."""
        return _climb(start, *self._lines(anchors), None, log_likelihood, climbs, tol, max_iter)

    def outlook(self, targets: Tensor, anchors: Tensor) -> Outlook:
        """Return that every row has a code."""
        return Outlook.good(targets)

    def exact_outlook(self, log_likelihood: Tensor, anchors: Tensor) -> Outlook:
        """Return that every row has a code."""
        return Outlook.good(log_likelihood)

    def _lines(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return slopes (k, e) and biases (k + 1,): on the sphere every entry of the log-sum-exp is linear."""
        absorber = math.log(self.absorber) + self.alpha + self.beta if self.absorber > 0 else -math.inf
        biases = torch.nn.functional.pad(-self.beta * anchors.square().sum(dim=1), (0, 1), value=absorber)
        return 2 * self.beta * anchors, biases


def best_directions(targets: Tensor | None, slopes: Tensor, log_likelihood: Tensor | None = None) -> Tensor:
    r"""Return :math:`\max_{|u|=1} \sum_k A_k \log q_k(u)`, q the softargmax of u . slopes, shape (n,).

    Parameters
    ----------
    targets : Tensor, shape (n, k), optional
    slopes : Tensor, shape (k, e)
    log_likelihood : Tensor, shape (n, k), optional
        Instead of targets: the maximum of :math:`\log \sum_k q_k(u) p_k`.
    """
    biases = slopes.new_zeros(len(slopes) + 1)
    biases[-1] = -math.inf
    given = targets if log_likelihood is None else log_likelihood
    assert given is not None
    found: list[Tensor] = []
    for rows in torch.arange(len(given), device=given.device).split(max(1, (1 << 18) // slopes.numel())):
        a = None if targets is None else targets[rows]
        h = None if log_likelihood is None else log_likelihood[rows]
        climbs = torch.ones(len(rows), dtype=torch.bool, device=given.device)
        summits: list[Tensor] = []
        for first in _first(a if a is not None else bayes(given[rows]), slopes):
            codes = _climb(first, slopes, biases, a, h, climbs, 1e-10, 200).codes
            summits.append(_look_around(codes, slopes, biases, a, h).value)
        found.append(torch.stack(summits).amax(dim=0))
    return torch.cat(found) if found else given.new_empty(0)


def _entries(codes: Tensor, slopes: Tensor, biases: Tensor) -> Tensor:
    return torch.nn.functional.pad(codes @ slopes.T, (0, 1)) + biases


def _first(targets: Tensor, slopes: Tensor) -> Tensor:
    """Return where the targets pull from the middle of all slopes, and the opposite, shape (2, n, e)."""
    pull = targets @ slopes - slopes.mean(dim=0)
    own = slopes[targets.argmax(dim=1)]
    axis = torch.zeros_like(pull)
    axis[:, 0] = 1.0
    for other in (own, axis):  # no pull, and an anchor in the origin, have no direction
        pull = torch.where(pull.norm(dim=1, keepdim=True) > 1e-12 * slopes.norm(), pull, other)
    ahead = torch.nn.functional.normalize(pull, dim=1)
    return torch.stack([ahead, -ahead])


def _look_around(
    codes: Tensor, slopes: Tensor, biases: Tensor, targets: Tensor | None, log_likelihood: Tensor | None
) -> Local:
    r"""Return G (for targets) or L (for log-likelihoods), the gradient along the sphere, and a step along it.

    With g and C the gradient and the negative Hessian in space, and P = I - v v' the projection, minus the Hessian on
    the sphere is :math:`P C P + (v \cdot g) P`.
    """
    log_shares = _entries(codes, slopes, biases).log_softmax(dim=1)
    q = log_shares[:, :-1].exp()  # the absorber's entry is flat: it takes a share and adds no slope
    exact = targets is None
    if targets is None:
        assert log_likelihood is not None
        joint = log_shares[:, :-1] + log_likelihood
        value, targets = torch.logsumexp(joint, dim=1), bayes(joint)
    else:
        value = (targets * log_shares[:, :-1]).sum(dim=1)
    pull, mean = targets @ slopes, q @ slopes
    apart = slopes - mean[:, None]
    curvature = (apart * q[..., None]).mT @ apart
    curvature = curvature + (log_shares[:, -1:].exp() * mean)[..., None] * mean[:, None]
    if exact:
        apart = slopes - pull[:, None]
        curvature = curvature - (apart * targets[..., None]).mT @ apart
    slope = pull - mean
    outward = (codes * slope).sum(dim=1, keepdim=True)
    gradient = slope - outward * codes
    project = (
        torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device) - codes[..., None] * codes[:, None]
    )
    along = project @ curvature @ project + outward[..., None] * project
    normal = codes[..., None] * codes[:, None]
    far = codes.new_full((len(codes),), math.pi)
    return Local(value, gradient, newton(along + normal, gradient, far))


def _climb(
    start: Tensor,
    slopes: Tensor,
    biases: Tensor,
    targets: Tensor | None,
    log_likelihood: Tensor | None,
    climbs: Tensor,
    tol: float,
    max_iter: int,
) -> Climb:
    def look(codes: Tensor, rows: Tensor) -> Local:
        a = None if targets is None else targets[rows]
        h = None if log_likelihood is None else log_likelihood[rows]
        return _look_around(codes, slopes, biases, a, h)

    def move(codes: Tensor, step: Tensor) -> Tensor:
        return torch.nn.functional.normalize(codes + step, dim=1)

    return ascend(start, look, climbs, tol, max_iter, move=move)
