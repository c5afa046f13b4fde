"""The kernel of squared distances: concave whatever the targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from mixcoder.ops.embedding.ascent import Climb, Local, ascend, newton
from mixcoder.ops.embedding.base import CodeKernel, Outlook, bayes, nowhere, weighted
from mixcoder.ops.embedding.existence import code_exists, hull_vertices, require_spanning

# Shares this close to one leave the expanded covariance fewer than eight digits.
_SURE = 1e-8


@final
@dataclass(frozen=True)
class EmbeddingKernel(CodeKernel):
    r"""How codes and anchors make a point of the simplex: by squared distances, :math:`h_k = -\beta |v - w_k|^2`.

    Parameters
    ----------
    absorber : float
        lambda, the mass of the absorber at the origin; 0 for none. Without one (and without a prior) the best code of
        a row may not exist: see :func:`code_exists`.
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
        If lambda or rho is negative, beta or alpha + beta is not positive, or one of them is not finite.

    Examples
    --------
    The worked example: anchors 0 and -1, the first component alone explains the row.

    >>> from mixcoder.ops.embedding import encode_embedded
    >>> kernel = EmbeddingKernel(absorber=1.0, alpha=1.0, beta=1.0)
    >>> anchors = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)
    >>> best = encode_embedded(torch.tensor([[1.0, 0.0]], dtype=torch.float64), anchors, kernel)
    >>> best.codes, kernel.log_code(best.codes, anchors)[0][0, 0].exp()
    (tensor([[0.1353]], dtype=torch.float64), tensor(0.4314, dtype=torch.float64))
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha + self.beta <= 0:
            raise ValueError(
                f"Expected alpha + beta > 0, but it is {self.alpha:g} + {self.beta:g}: otherwise the absorber lets go "
                f"of what is far; choose alpha > {-self.beta:g}."
            )

    def logits(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the entries of the log-sum-exp, the absorber's last, up to a constant of the row, shape (n, k + 1)."""
        # -beta |v - w|^2 and alpha |v|^2, both plus beta |v - c|^2: what is large for a code far away is not formed,
        # and c, the middle of the anchors, keeps the digits of anchors far from the origin.
        middle = anchors.mean(dim=0)
        v, w = codes - middle, anchors - middle
        near = 2 * self.beta * v @ w.T - self.beta * w.square().sum(dim=1)
        if self.absorber == 0:
            return torch.nn.functional.pad(near, (0, 1), value=-math.inf)
        far = self.alpha * codes.square().sum(dim=1) + self.beta * v.square().sum(dim=1)
        return torch.cat([near, (far + math.log(self.absorber))[:, None]], dim=1)

    def gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return the gradient of G in v, shape (n, e); that of L with ``targets`` = :meth:`responsibilities`.

        .. math::
            \frac{\partial G_n}{\partial v_n} = 2\beta \sum_k (A_{nk} - q_{nk}) w_k - 2(\alpha + \beta)\, q_{n0} v_n
            - 2\rho v_n
        """
        return self.expand(codes, anchors, targets @ anchors).gradient

    def anchor_gradient(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Return the gradient of :math:`\sum_n G_n` in w, shape (k, e); of L with :meth:`responsibilities`.

        .. math:: \frac{\partial}{\partial w_k} \sum_n G_n = 2\beta \sum_n (A_{nk} - q_{nk}) (v_n - w_k)
        """
        pull = weighted(targets - self.log_code(codes, anchors)[0].exp(), weights)  # (n, k)
        return 2 * self.beta * (pull.T @ codes - pull.sum(dim=0)[:, None] * anchors)

    def anchor_curvature(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Return minus the Hessian in w of :math:`\sum_n \max_v G_n(v; A_n)`, shape (k e, k e), at the best codes.

        The codes follow the anchors: with :math:`C_n = -\partial^2 G_n / \partial v^2` and
        :math:`J_n = \partial^2 G_n / \partial v \partial w`,

        .. math:: -\sum_n \frac{\partial^2 G_n}{\partial w^2} - \sum_n J_n^\top C_n^{-1} J_n
        """
        k, e = anchors.shape
        log_q, log_q_0 = self.log_code(codes, anchors)
        q, q_0 = log_q.exp(), log_q_0.exp()
        slopes = 2 * self.beta * (codes[:, None] - anchors)  # of h_k in w_k; in v they are the opposite
        shared = q[..., None] * slopes  # (n, k, e)
        mean = 2 * self.alpha * q_0[:, None] * codes - shared.sum(dim=1)
        pull = targets - q
        response = shared[:, None] * (slopes + mean[:, None]).movedim(2, 1)[..., None]  # (n, e, k, e)
        for axis in range(e):
            response[:, axis, :, axis] += 2 * self.beta * pull
        factor, info = torch.linalg.cholesky_ex(self.expand(codes, anchors, targets @ anchors).curvature)
        root = torch.linalg.solve_triangular(factor, response.flatten(2), upper=False)  # (n, e, k e)
        # A row whose G is flat to rounding has no code that could follow.
        root = torch.where(((info == 0) & root.isfinite().flatten(1).all(dim=1))[:, None, None], root, 0.0)
        own = (weighted(shared.flatten(1), weights).view_as(shared).movedim(0, 2)) @ slopes.movedim(
            0, 1
        )  # (k, e, e)
        own.diagonal(dim1=1, dim2=2).add_(2 * self.beta * weighted(pull, weights).sum(dim=0)[:, None])
        scale = None if weights is None else weights.sqrt()
        flat = torch.cat(
            [weighted(shared.flatten(1), scale), weighted(root.flatten(1), scale).view(-1, k * e)]
        )
        return torch.block_diag(*own) - flat.T @ flat

    def corners(self, anchors: Tensor) -> Tensor:
        """Return the codes of hard targets, shape (k, e), where they exist: k climbs save the others many steps."""
        if not self.confines:
            return anchors
        k = len(anchors)
        everyone = torch.ones(k, dtype=torch.bool, device=anchors.device)
        return self.climb(anchors, torch.eye(k).to(anchors), anchors, everyone, 1e-6, 50).codes

    def first_codes(self, targets: Tensor, anchors: Tensor, corners: Tensor) -> Tensor:
        """Return the mean of the corners under the targets, shape (1, n, e)."""
        return (targets @ corners)[None]

    def climb(
        self, start: Tensor, targets: Tensor, anchors: Tensor, climbs: Tensor, tol: float, max_iter: int
    ) -> Climb:
        """Climb G, which is concave: damped Newton finds its maximum from anywhere."""
        moments, reach = targets @ anchors, _reach(anchors, self.beta)

        def look(codes: Tensor, rows: Tensor) -> Local:
            at = self.expand(codes, anchors, moments[rows])
            return Local(at.value, at.gradient, newton(at.curvature, at.gradient, reach(codes)))

        return ascend(start, look, climbs, tol, max_iter)

    def climb_exact(
        self,
        start: Tensor,
        log_likelihood: Tensor,
        anchors: Tensor,
        climbs: Tensor,
        tol: float,
        max_iter: int,
    ) -> Climb:
        """Climb L, whose curvature is that of G less the covariance under r of the slopes: it need not be concave."""
        reach = _reach(anchors, self.beta)

        def look(codes: Tensor, rows: Tensor) -> Local:
            logits = self.logits(codes, anchors)
            joint = logits[:, :-1] + log_likelihood[rows]
            value = torch.logsumexp(joint, dim=1) - torch.logsumexp(logits, dim=1)
            r = bayes(joint)
            moments = r @ anchors
            at = self.expand(codes, anchors, moments)
            apart = 2 * self.beta * (anchors - moments[:, None])  # (n, k, e)
            exact = at.curvature - (apart * r[..., None]).mT @ apart
            step = newton(exact, at.gradient, reach(codes))
            return Local(value - self.prior * codes.square().sum(dim=1), at.gradient, step)

        return ascend(start, look, climbs, tol, max_iter)

    def outlook(self, targets: Tensor, anchors: Tensor) -> Outlook:
        """Return that all rows have a code, or those of :func:`code_exists`; a concave G then falls without end."""
        if self.confines:
            return Outlook.good(targets)
        return Outlook(code_exists(targets, anchors), nowhere(targets))

    def exact_outlook(self, log_likelihood: Tensor, anchors: Tensor) -> Outlook:
        """Return which rows may have a code, and the limits of L: the largest log p(x|k) among the hull's vertices.

        A row whose best component sits at a vertex has none.
        """
        if self.confines:
            return Outlook.good(log_likelihood)
        outer = hull_vertices(anchors)
        return Outlook(~outer[log_likelihood.argmax(dim=1)], log_likelihood[:, outer].amax(dim=1))

    def require_identified(self, anchors: Tensor) -> None:
        """Raise a ValueError where the anchors span fewer axes than e and neither absorber nor prior decides."""
        super().require_identified(anchors)
        if not self.confines:
            require_spanning(anchors)

    def nats_at(self, radius: float) -> float:
        r"""Return :math:`\beta |v - w|^2`."""
        return self.beta * radius * radius

    def expand(self, codes: Tensor, anchors: Tensor, moments: Tensor) -> Expansion:
        r"""Return G, up to a constant in v, with its gradient and its negative Hessian at v.

        The negative Hessian is :math:`2((\alpha + \beta) q_0 + \rho) I` plus the covariance under (q, q_0) of the
        slopes of the k + 1 entries of the log-sum-exp.

        Parameters
        ----------
        moments : Tensor, shape (n, e)
            :math:`\sum_k A_{nk} w_k`: all that G knows of its targets.
        """
        middle = anchors.mean(dim=0)
        v, w = codes - middle, anchors - middle
        near = torch.addmm(-self.beta * w.square().sum(dim=1), v, w.T, alpha=2 * self.beta)  # see ``logits``
        top = near.amax(dim=1)
        far: Tensor | None = None
        if self.absorber > 0:
            far = self.alpha * codes.square().sum(dim=1) + self.beta * v.square().sum(dim=1)
            far += math.log(self.absorber)
            top = torch.maximum(top, far)
        q = near.sub_(top[:, None]).exp_()
        mass = q.sum(dim=1)
        q_0 = torch.zeros_like(mass) if far is None else (far - top).exp()
        mass += q_0
        q /= mass[:, None]
        q_0 = (q_0 / mass)[:, None]
        total = top + mass.log()
        # The slopes of the k + 1 entries; the curvature of a log-sum-exp is their covariance plus their mean curvature.
        slopes, slope_0 = 2 * self.beta * w, 2 * self.alpha * codes + 2 * self.beta * v
        mean = q @ slopes + q_0 * slope_0
        pull = 2 * self.beta * (moments - middle)
        value = (pull * v).sum(dim=1) - total - self.prior * codes.square().sum(dim=1)
        gradient = pull - mean - 2 * self.prior * codes
        curvature = _covariances(q, slopes, mean, q_0)
        apart_0 = slope_0 - mean
        curvature += (q_0 * apart_0)[..., None] * apart_0[:, None]
        bend = 2 * (self.alpha + self.beta) * q_0[:, 0] + 2 * self.prior
        curvature.diagonal(dim1=1, dim2=2).add_(bend[:, None])
        return Expansion(value, gradient, curvature)


class Expansion(NamedTuple):
    """A concave function at one point a row: value (n,), gradient (n, e), negative Hessian (n, e, e)."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor


def _covariances(q: Tensor, slopes: Tensor, mean: Tensor, q_0: Tensor) -> Tensor:
    r"""Return :math:`\sum_k q_{nk} (s_k - m_n)(s_k - m_n)^\top`, shape (n, e, e).

    The expanded squares are one product, but at an almost one-hot q they cancel to noise; such rows are centred first.
    """
    e = slopes.shape[1]
    squares = (slopes[:, :, None] * slopes[:, None]).flatten(1)  # (k, e e)
    found = (q @ squares).unflatten(1, (e, e))
    outer = mean[:, :, None] * mean[:, None]
    first = q @ slopes
    cross = first[:, :, None] * mean[:, None]
    found = found - cross - cross.mT + (1 - q_0[..., None]) * outer
    sure = (q.amax(dim=1) > 1 - _SURE).nonzero()[:, 0]
    if len(sure) > 0:
        apart = slopes - mean[sure, None]  # (m, k, e)
        found[sure] = (apart * q[sure, :, None]).mT @ apart
    return found


def _reach(anchors: Tensor, beta: float) -> Callable[[Tensor], Tensor]:
    """Return how far a step from codes may go: where q is all but one-hot G is all but linear, and has no scale."""
    middle = anchors.mean(dim=0)
    radius = (anchors - middle).norm(dim=1).amax()

    def reach(codes: Tensor) -> Tensor:
        return 2 * ((codes - middle).norm(dim=1) + radius) + 1 / (2 * beta * radius + 1e-300)

    return reach
