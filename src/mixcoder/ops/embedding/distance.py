"""The kernel of distances that are not squared: bounded log-odds, and kinks at the anchors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mixcoder.ops.embedding.ascent import Climb, Landscape, Local, ascend, newton
from mixcoder.ops.embedding.base import CodeKernel, Outlook, bayes, weighted
from mixcoder.ops.embedding.sphere import best_directions


@final
@dataclass(frozen=True)
class DistanceKernel(CodeKernel):
    r"""The kernel with :math:`h_k = -\beta |v - w_k|`.

    The log-odds of two components are at most :math:`\beta |w_j - w_k|`. A hard target has a code, its own anchor; that
    need not be the only one: of two anchors all points behind the first explain it equally well. Other targets may have
    none without absorber and prior, where the supremum

    .. math:: \max_{|u|=1} \beta u \cdot \sum_k A_k w_k - \log \sum_j e^{\beta u \cdot w_j}

    is reached at infinity, in the direction u. G is not concave and has kinks at the anchors: codes are local maxima.

    Parameters
    ----------
    absorber, alpha, beta, prior : float
        As in :class:`CodeKernel`; alpha is not negative, since the components fall but exponentially.

    Raises
    ------
    ValueError
        As in :class:`CodeKernel`, and if alpha is negative.

    Examples
    --------
    >>> from mixcoder.ops.embedding import encode_embedded
    >>> anchors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> encode_embedded(torch.eye(3, dtype=torch.float64), anchors, DistanceKernel()).codes
    tensor([[0., 0.],
            [1., 0.],
            [0., 1.]], dtype=torch.float64)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(
                f"Expected alpha >= 0 with distances that are not squared, but it is {self.alpha:g}: the absorber "
                "would fall faster than the components and let go of what is far."
            )

    def logits(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the entries of the log-sum-exp, the absorber's last, up to a constant of the row, shape (n, k + 1)."""
        distances = torch.cdist(codes, anchors, compute_mode="donot_use_mm_for_euclid_dist")
        return self._entries(distances, codes)

    def gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return the gradient of G in v, shape (n, e); that of L with ``targets`` = :meth:`responsibilities`.

        .. math::
            \frac{\partial G_n}{\partial v_n} = -\beta \sum_k (A_{nk} - q_{nk}) \frac{v_n - w_k}{|v_n - w_k|}
            - 2(\alpha q_{n0} + \rho) v_n

        At an anchor :math:`w_k` itself it is the steepest slope away from there, zero where all of them lead down.
        """
        return self._look_around(codes, anchors, targets, None).gradient

    def anchor_gradient(
        self, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Return the gradient of :math:`\sum_n G_n` in w, shape (k, e); of L with :meth:`responsibilities`.

        .. math::
            \frac{\partial}{\partial w_k} \sum_n G_n = \beta \sum_n (A_{nk} - q_{nk}) \frac{v_n - w_k}{|v_n - w_k|}

        Rows that sit on the anchor are left out of its sum.
        """
        pull = weighted(targets - self.log_code(codes, anchors)[0].exp(), weights)  # (n, k)
        units, _ = _units(codes, anchors)
        return self.beta * (pull[..., None] * units).sum(dim=0)

    def first_codes(self, targets: Tensor, anchors: Tensor, corners: Tensor) -> Tensor:
        """Return the mean of the anchors under the targets and the best of all anchors, shape (2, n, e)."""
        at_anchors = targets @ self.log_code(anchors, anchors)[0].T - self.prior * anchors.square().sum(
            dim=1
        )  # (n, k)
        return torch.stack([targets @ anchors, anchors[at_anchors.argmax(dim=1)]])

    def climb(
        self, start: Tensor, targets: Tensor, anchors: Tensor, climbs: Tensor, tol: float, max_iter: int
    ) -> Climb:
        """Climb G; an anchor near by is tried at every step, since a kink may be the summit."""

        def look(codes: Tensor, rows: Tensor) -> Local:
            return self._look_around(codes, anchors, targets[rows], None)

        return self._ascend(start, look, anchors, climbs, tol, max_iter)

    def climb_exact(
        self,
        start: Tensor,
        log_likelihood: Tensor,
        anchors: Tensor,
        climbs: Tensor,
        tol: float,
        max_iter: int,
    ) -> Climb:
        """Climb L; an anchor near by is tried at every step, since a kink may be the summit."""

        def look(codes: Tensor, rows: Tensor) -> Local:
            return self._look_around(codes, anchors, None, log_likelihood[rows])

        return self._ascend(start, look, anchors, climbs, tol, max_iter)

    def outlook(self, targets: Tensor, anchors: Tensor) -> Outlook:
        """Return that every row is worth climbing for, and the supremum of G at infinity."""
        good = Outlook.good(targets)
        if self.confines:
            return good
        return good._replace(limit=best_directions(targets, self.beta * anchors))

    def exact_outlook(self, log_likelihood: Tensor, anchors: Tensor) -> Outlook:
        """Return that every row is worth climbing for, and the supremum of L at infinity."""
        good = Outlook.good(log_likelihood)
        if self.confines:
            return good
        return good._replace(limit=best_directions(None, self.beta * anchors, log_likelihood))

    def _entries(self, distances: Tensor, codes: Tensor) -> Tensor:
        near = -self.beta * distances
        if self.absorber == 0:
            return torch.nn.functional.pad(near, (0, 1), value=-math.inf)
        far = self.alpha * codes.square().sum(dim=1) + math.log(self.absorber)
        return torch.cat([near, far[:, None]], dim=1)

    def _look_around(
        self, codes: Tensor, anchors: Tensor, targets: Tensor | None, log_likelihood: Tensor | None
    ) -> Local:
        """Return the objective, its gradient and a step: of G for given targets, of L for given log-likelihoods."""
        units, distances = _units(codes, anchors)  # (n, k, e), (n, k)
        logits = self._entries(distances, codes)
        log_shares = logits.log_softmax(dim=1)
        shares = log_shares.exp()
        value = -self.prior * codes.square().sum(dim=1)
        if targets is None:
            assert log_likelihood is not None
            joint = log_shares[:, :-1] + log_likelihood
            value = value + torch.logsumexp(joint, dim=1)
            targets = bayes(joint)
        else:
            value = value + (targets * log_shares[:, :-1]).sum(dim=1)
        q, q_0 = shares[:, :-1], shares[:, -1:]
        slopes, slope_0 = -self.beta * units, 2 * self.alpha * codes
        mean = (q[..., None] * slopes).sum(dim=1) + q_0 * slope_0
        pull = (targets[..., None] * slopes).sum(dim=1)
        gradient = pull - mean - 2 * self.prior * codes
        apart, apart_0 = slopes - mean[:, None], slope_0 - mean
        spread = (apart * q[..., None]).mT @ apart + (q_0 * apart_0)[..., None] * apart_0[:, None]
        spread.diagonal(dim1=1, dim2=2).add_(2 * (self.alpha * q_0 + self.prior))
        bend = self.beta / distances.where(distances > 0, math.inf)  # (n, k)
        # The Hessian of -beta |v - w| is -(beta / d) (I - u u').
        net = (targets - q) * bend
        exact = spread + torch.diag_embed(net.sum(dim=1, keepdim=True).expand_as(codes))
        exact = exact - (units * net[..., None]).mT @ units
        if log_likelihood is not None:
            apart = slopes - pull[:, None]
            exact = exact - (apart * targets[..., None]).mT @ apart
        # On an anchor the slope away from it is what the others pull, less what the anchor itself holds back.
        hold = self.beta * ((targets - q) * (distances == 0)).sum(dim=1)
        length = gradient.norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        gradient = gradient * (1 - hold / length).clamp_min(0.0)[:, None]
        radius = (anchors - anchors.mean(dim=0)).norm(dim=1).amax()
        reach = 2 * ((codes - anchors.mean(dim=0)).norm(dim=1) + radius) + 1 / self.beta
        step = newton(exact, gradient, reach)
        # Off a kink the function rises along its gradient, not along every step that has an acute angle with it.
        steepest = gradient * (step.norm(dim=1) / length)[:, None]
        step = torch.where((distances == 0).any(dim=1, keepdim=True), steepest, step)
        return Local(value, gradient, step)

    def _ascend(
        self, start: Tensor, look: Landscape, anchors: Tensor, climbs: Tensor, tol: float, max_iter: int
    ) -> Climb:
        def nearest(codes: Tensor, rows: Tensor) -> Tensor:
            del rows
            return anchors[torch.cdist(codes, anchors).argmin(dim=1)]

        return ascend(start, look, climbs, tol, max_iter, rival=nearest)


def _units(codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return (v - w) / |v - w|, zero at the anchor, shape (n, k, e), and the distances, shape (n, k)."""
    apart = codes[:, None] - anchors
    distances = apart.norm(dim=2)
    return apart / distances.where(distances > 0, math.inf)[..., None], distances
