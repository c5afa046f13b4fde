r"""Codes that are points of R^E: rows v and anchors w of the components, joined by a softargmax of squared distances.

.. math::
    q_{nk} = \frac{\exp(-\beta |v_n - w_k|^2)}{\lambda \exp(\alpha |v_n|^2) + \sum_j \exp(-\beta |v_n - w_j|^2)},
    \qquad q_{n0} = 1 - \sum_k q_{nk}

The absorber takes the share q_0 and generates no data. Two objectives of one row, both less rho |v|^2:

====  =========================  =======================================================================
L     log sum_k q_k p(x|k)       exact; wants the best component alone; a difference of convex functions
G     sum_k A_k log q_k          for fixed targets A; copies them (q = A); concave in v, whatever A
====  =========================  =======================================================================

At A = r(v), r_k = q_k p_k / sum_j q_j p_j, the two touch: L >= G + sum_k A_k (log p_k - log A_k), and their gradients
agree. Climbing G at A = r(v) therefore never lowers L.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK_NUMBERS = 1 << 19
"""Numbers in the largest array of a block, which is (rows k e)."""


@dataclass(frozen=True)
class EmbeddingKernel:
    r"""How codes and anchors make a point of the simplex.

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

    >>> kernel = EmbeddingKernel(absorber=1.0, alpha=1.0, beta=1.0)
    >>> anchors = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)
    >>> best = encode_embedded(torch.tensor([[1.0, 0.0]], dtype=torch.float64), anchors, kernel)
    >>> best.codes, kernel.log_code(best.codes, anchors)[0][0, 0].exp()
    (tensor([[0.1353]], dtype=torch.float64), tensor(0.4314, dtype=torch.float64))
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
        if self.alpha + self.beta <= 0:
            raise ValueError(
                f"Expected alpha + beta > 0, but it is {self.alpha:g} + {self.beta:g}: otherwise the absorber lets go "
                f"of what is far; choose alpha > {-self.beta:g}."
            )
        if self.prior < 0:
            raise ValueError(
                f"Expected prior >= 0, but it is {self.prior:g}: a negative rho drives codes to infinity; "
                "use 0 for no prior."
            )

    @property
    def confines(self) -> bool:
        """Whether every target has one finite code: an absorber or a prior makes G strictly concave and coercive."""
        return self.absorber > 0 or self.prior > 0

    def log_code(self, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\log q_{nk}`, shape (n, k), and :math:`\log q_{n0}`, shape (n,).

        Parameters
        ----------
        codes : Tensor, shape (n, e)
            v.
        anchors : Tensor, shape (k, e)
            w.
        """
        log_shares = self._logits(codes, anchors).log_softmax(dim=1)  # (n, k + 1)
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
        return _bayes(log_q + log_likelihood)

    def gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return the gradient of G in v, shape (n, e); that of L with ``targets`` = :meth:`responsibilities`.

        .. math::
            \frac{\partial G_n}{\partial v_n} = 2\beta \sum_k (A_{nk} - q_{nk}) w_k - 2(\alpha + \beta)\, q_{n0} v_n
            - 2\rho v_n
        """
        return self.expand(codes, anchors, targets @ anchors).gradient

    def anchor_gradient(self, codes: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        r"""Return the gradient of :math:`\sum_n G_n` in w, shape (k, e); of L with :meth:`responsibilities`.

        .. math:: \frac{\partial}{\partial w_k} \sum_n G_n = 2\beta \sum_n (A_{nk} - q_{nk}) (v_n - w_k)
        """
        pull = targets - self.log_code(codes, anchors)[0].exp()  # (n, k)
        return 2 * self.beta * (pull.T @ codes - pull.sum(dim=0)[:, None] * anchors)

    def _logits(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Entries of the log-sum-exp, the absorber's last, up to a constant of the row, shape (n, k + 1)."""
        # -beta |v - w|^2 and alpha |v|^2, both plus beta |v - c|^2: what is large for a code far away is not formed,
        # and c, the middle of the anchors, keeps the digits of anchors far from the origin.
        middle = anchors.mean(dim=0)
        v, w = codes - middle, anchors - middle
        near = 2 * self.beta * v @ w.T - self.beta * w.square().sum(dim=1)
        if self.absorber == 0:
            return torch.nn.functional.pad(near, (0, 1), value=-math.inf)
        far = self.alpha * codes.square().sum(dim=1) + self.beta * v.square().sum(dim=1)
        return torch.cat([near, (far + math.log(self.absorber))[:, None]], dim=1)

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
        logits = self._logits(codes, anchors)
        total = torch.logsumexp(logits, dim=1)
        shares = (logits - total[:, None]).exp()
        q, q_0 = shares[:, :-1], shares[:, -1:]
        # The slopes of the k + 1 entries; the curvature of a log-sum-exp is their covariance plus their mean curvature.
        slopes = 2 * self.beta * (anchors - middle)
        slope_0 = 2 * self.alpha * codes + 2 * self.beta * (codes - middle)
        mean = q @ slopes + q_0 * slope_0
        pull = 2 * self.beta * (moments - middle)
        value = (pull * (codes - middle)).sum(dim=1) - total - self.prior * codes.square().sum(dim=1)
        gradient = pull - mean - 2 * self.prior * codes
        # Centred first: at an almost one-hot q the covariance is tiny, and a difference of squares would be noise.
        apart = slopes - mean[:, None]  # (n, k, e)
        apart_0 = slope_0 - mean
        curvature = (apart * q[..., None]).mT @ apart + (q_0 * apart_0)[..., None] * apart_0[
            :, None
        ]  # (n, e, e)
        bend = 2 * (self.alpha + self.beta) * q_0[:, 0] + 2 * self.prior
        curvature.diagonal(dim1=1, dim2=2).add_(bend[:, None])
        return Expansion(value, gradient, curvature)


class Expansion(NamedTuple):
    """A concave function at one point a row: value (n,), gradient (n, e), negative Hessian (n, e, e)."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class EmbeddedCodes:
    """Codes of rows, and how far to trust each.

    Attributes
    ----------
    codes : Tensor, shape (n, e)
        v. Finite always; where ``exists`` is false it is only the mean of the anchors under the row's targets.
    value : Tensor, shape (n,)
        The objective there, G or L, in nats.
    gradient_norm : Tensor, shape (n,)
        Length of its gradient there.
    n_steps : Tensor of int64, shape (n,)
        Newton steps.
    n_updates : Tensor of int64, shape (n,)
        How often the targets were renewed; 0 for fixed ones.
    exists : Tensor of bool, shape (n,)
        False: the objective has no maximum for this row, it still rises at infinity (push-away).
    """

    codes: Tensor
    value: Tensor
    gradient_norm: Tensor
    n_steps: Tensor
    n_updates: Tensor
    exists: Tensor


def encode_embedded(
    targets: Tensor,
    anchors: Tensor,
    kernel: EmbeddingKernel,
    *,
    start: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int = 100,
) -> EmbeddedCodes:
    r"""Return the code of every row that maximises G for fixed targets: :math:`\arg\max_v G_n(v; A_n)`.

    Damped Newton, all rows of a block at once, each until its own gradient is small. G is concave, so that the
    maximum is global; with an absorber or a prior it exists and is unique, and satisfies

    .. math:: v = \frac{\beta \sum_k (A_k - q_k) w_k}{(\alpha + \beta)\, q_0 + \rho}

    With neither it exists where :func:`code_exists` says so; other rows are left alone and reported.

    Parameters
    ----------
    targets : Tensor, shape (n, k)
        A, non-negative, rows sum to one.
    anchors : Tensor, shape (k, e)
        w.
    kernel : EmbeddingKernel
    start : Tensor, shape (n, e), optional
        Where to begin; the mean of the anchors under the targets by default.
    tol : float
        A row is done when its gradient is not longer.
    max_iter : int
        Newton steps at most.

    Raises
    ------
    ValueError
        If a row of the targets is no point of the simplex, or the anchors leave the codes undetermined: they span fewer
        axes than e and neither absorber nor prior decides.

    Examples
    --------
    >>> anchors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> targets = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], dtype=torch.float64)
    >>> plain = encode_embedded(targets, anchors, EmbeddingKernel())
    >>> plain.exists
    tensor([ True, False])
    >>> EmbeddingKernel().log_code(plain.codes[:1], anchors)[0].exp()
    tensor([[0.2000, 0.5000, 0.3000]], dtype=torch.float64)
    """
    _require_simplex(targets)
    _require_identified(anchors, kernel)
    n = len(targets)
    exists = code_exists(targets, anchors) if not kernel.confines else targets.new_ones(n, dtype=torch.bool)
    found: list[_Climb] = []
    for block in _blocks(n, anchors):
        moments = targets[block] @ anchors
        first = moments if start is None else start[block]
        here = torch.where(exists[block, None], first, moments)
        found.append(_climb(here, moments, anchors, kernel, exists[block], tol, max_iter))
    codes, norms, steps = (torch.cat(parts) for parts in zip(*found, strict=True))
    values = [kernel.surrogate(codes[b], anchors, targets[b]) for b in _blocks(n, anchors)]
    return EmbeddedCodes(codes, torch.cat(values), norms, steps, torch.zeros_like(steps), exists)


def encode_exact(
    log_likelihood: Tensor,
    anchors: Tensor,
    kernel: EmbeddingKernel,
    *,
    start: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int = 500,
) -> EmbeddedCodes:
    r"""Return a code of every row that maximises L, near its start: :math:`L_n(v) = \log \sum_k q_{nk}(v)\, p(x_n|k)`.

    Repeats: r from v (:meth:`EmbeddingKernel.responsibilities`), v <- argmax G(.; r); then one Newton step on L itself
    where L is concave and the step raises it. L never falls by more than rounding. It is no concave function, so the
    maximum is a local one.

    Without absorber and prior L nears the largest log p(x|k) among the vertices of the hull of the anchors as v goes to
    infinity; a row whose best component sits at a vertex has no code, and one that ends below that limit has not found
    any: both are reported as not existing.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
        log p(x_n | k).
    anchors : Tensor, shape (k, e)
        w.
    kernel : EmbeddingKernel
    start : Tensor, shape (n, e), optional
        Where to begin; the mean of the anchors under the posterior of equal weights by default.
    tol : float
        A row is done when its gradient is not longer.
    max_iter : int
        Renewals of r at most.

    Raises
    ------
    ValueError
        As for :func:`encode_embedded`.
    """
    _require_identified(anchors, kernel)
    n = len(log_likelihood)
    exists = log_likelihood.new_ones(n, dtype=torch.bool)
    outer = None
    if not kernel.confines:
        outer = hull_vertices(anchors)
        exists = ~outer[log_likelihood.argmax(dim=1)]
    found: list[_Ascent] = []
    for block in _blocks(n, anchors):
        h = log_likelihood[block]
        first = _bayes(h) @ anchors
        if start is not None:
            first = torch.where(exists[block, None], start[block], first)
        found.append(_ascend(first, h, anchors, kernel, exists[block], tol, max_iter))
    codes, values, norms, steps, updates = (torch.cat(parts) for parts in zip(*found, strict=True))
    if outer is not None:
        exists = exists & (values >= log_likelihood[:, outer].amax(dim=1))
    return EmbeddedCodes(codes, values, norms, steps, updates, exists)


def code_exists(targets: Tensor, anchors: Tensor, tolerance: float = 1e-9) -> Tensor:
    r"""Return for which targets G has a maximum with the plain kernel (no absorber, no prior), shape (n,), bool.

    It has one iff the moment :math:`m = \sum_k A_k w_k` lies in the relative interior of the hull of the anchors: the
    existence of a maximum-likelihood estimate in an exponential family. That is asked as a linear program,

    .. math:: t^* = \max \{t : c_k \ge t,\ \textstyle\sum_k c_k = 1,\ \sum_k c_k w_k = m\} > 0

    Parameters
    ----------
    targets : Tensor, shape (n, k)
        A. Where every entry exceeds the tolerance, A itself is the proof and no program is solved.
    anchors : Tensor, shape (k, e)
        w.
    tolerance : float
        Smallest t that counts as positive.

    References
    ----------
    Barndorff-Nielsen, Information and Exponential Families (1978), theorem 9.13.

    Examples
    --------
    >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    >>> code_exists(torch.eye(4), corners)
    tensor([False, False, False,  True])
    """
    exists = targets.amin(dim=1) > tolerance
    open_ = (~exists).nonzero()[:, 0]
    if len(open_) == 0:
        return exists
    different, which = torch.unique(
        targets[open_], dim=0, return_inverse=True
    )  # hard codes: k programs, not n
    w = _unit(anchors)
    depths = [_depth(row @ w, w) for row in different.to(w.dtype)]
    exists[open_] = (torch.tensor(depths, device=targets.device) > tolerance)[which]
    return exists


def hull_vertices(anchors: Tensor) -> Tensor:
    r"""Return which anchors are vertices of their hull, shape (k,), bool.

    w_k is one iff it cannot be mixed without itself. Anchors that coincide count as one.

    .. math:: \min \{c_k : c \ge 0,\ \textstyle\sum_j c_j = 1,\ \sum_j c_j w_j = w_k\} = 1

    Examples
    --------
    >>> hull_vertices(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([ True, False,  True])
    """
    from scipy.optimize import linprog

    w = _unit(anchors)
    k = len(w)
    equal = torch.cat([torch.ones(1, k, dtype=w.dtype), w.T]).numpy()
    outer: list[bool] = []
    for row in w:
        own = (w - row).norm(dim=1) < 1e-12
        side = torch.cat([torch.ones(1, dtype=w.dtype), row]).numpy()
        solved = linprog(own.to(w.dtype).numpy(), A_eq=equal, b_eq=side, bounds=(0, None), method="highs")
        # c = (w_k alone) is feasible, so a failure is one of rounding: then nothing else mixes it.
        outer.append(solved.fun is None or float(solved.fun) > 1 - 1e-7)
    return torch.tensor(outer, device=anchors.device)


def _depth(moment: Tensor, anchors: Tensor) -> float:
    """Return the largest t such that weights of at least t each mix the anchors to the moment."""
    from scipy.optimize import linprog

    k = len(anchors)
    # c = t + s with s >= 0: one variable a component and t, no inequality but the signs.
    rows = torch.cat([torch.ones(1, k, dtype=anchors.dtype), anchors.T])  # (1 + e, k)
    equal = torch.cat([rows, rows.sum(dim=1, keepdim=True)], dim=1).numpy()
    side = torch.cat([torch.ones(1, dtype=anchors.dtype), moment]).numpy()
    solved = linprog([0.0] * k + [-1.0], A_eq=equal, b_eq=side, bounds=(0, None), method="highs")
    return (
        0.0 if solved.fun is None else -float(solved.fun)
    )  # on the boundary rounding can make it infeasible


def _bayes(log_joint: Tensor) -> Tensor:
    """Return the softargmax over k, without a gradient through 0/0: a row that nothing explains is shared evenly."""
    unexplained = (log_joint == -math.inf).all(dim=1, keepdim=True)
    return torch.where(unexplained, 0.0, log_joint).softmax(dim=1)


def _unit(anchors: Tensor) -> Tensor:
    """Return the anchors centred and scaled to the unit ball, in float64 on the CPU: tolerances have no unit."""
    w = anchors.detach().to("cpu", torch.float64)
    w = w - w.mean(dim=0)
    return w / w.norm(dim=1).amax().clamp_min(torch.finfo(w.dtype).tiny)


class _Climb(NamedTuple):
    codes: Tensor
    norms: Tensor
    steps: Tensor


def _climb(
    codes: Tensor,
    moments: Tensor,
    anchors: Tensor,
    kernel: EmbeddingKernel,
    climbs: Tensor,
    tol: float,
    max_iter: int,
) -> _Climb:
    """Climb G from the codes given, for the rows that ``climbs`` marks."""
    codes, running = codes.clone(), climbs.clone()
    steps = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    value, gradient, curvature = kernel.expand(codes, anchors, moments)
    norms = gradient.norm(dim=1)
    middle = anchors.mean(dim=0)
    radius = (anchors - middle).norm(dim=1).amax()
    for _ in range(max_iter):
        running &= norms > tol
        rows = running.nonzero()[:, 0]
        if len(rows) == 0:
            break
        v, f, m = codes[rows], value[rows], moments[rows]
        # Where q is all but one-hot G is all but linear, and a Newton step has no scale of its own.
        reach = 2 * ((v - middle).norm(dim=1) + radius) + 1 / (2 * kernel.beta * radius + 1e-300)
        direction = _newton(curvature[rows], gradient[rows], reach)
        slope = (direction * gradient[rows]).sum(dim=1)
        noise = _noise(f)
        new, local = _backtrack(v, m, f, direction, slope, noise, anchors, kernel)
        length = local.gradient.norm(dim=1)
        # Once a step promises less than rounding, only a shorter gradient shows progress.
        better = (slope > noise) | (length < norms[rows])
        better &= local.value >= f - noise
        kept = rows[better]
        codes[kept], norms[kept] = new[better], length[better]
        value[kept], gradient[kept] = local.value[better], local.gradient[better]
        curvature[kept] = local.curvature[better]
        steps[kept] += 1
        running[rows[~better]] = False
    return _Climb(codes, norms, steps)


def _backtrack(
    v: Tensor,
    moments: Tensor,
    f: Tensor,
    direction: Tensor,
    slope: Tensor,
    noise: Tensor,
    anchors: Tensor,
    kernel: EmbeddingKernel,
) -> tuple[Tensor, Expansion]:
    """Halve each row's step until it gains a tenth of what its slope promises (Armijo)."""
    size = torch.ones_like(slope)
    new = v + direction
    local = kernel.expand(new, anchors, moments)
    for halving in range(60):
        short = local.value < f + 0.1 * size * slope - noise
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2 if halving < 59 else 0.0, size)  # never a step that does not gain
        new = v + size[:, None] * direction
        local = kernel.expand(new, anchors, moments)
    return new, local


def _newton(curvature: Tensor, gradient: Tensor, reach: Tensor) -> Tensor:
    """Return the solution of curvature @ step = gradient, not longer than ``reach``; an ascent direction always."""
    factor, info = torch.linalg.cholesky_ex(curvature)
    if bool((info != 0).any()):
        # Flat to rounding: a ridge that lets the gradient lead.
        lost = info != 0
        ridge = 1e-8 * curvature.diagonal(dim1=1, dim2=2).sum(dim=1) + gradient.norm(dim=1) / reach
        curvature = curvature.clone()
        curvature.diagonal(dim1=1, dim2=2).add_(torch.where(lost, ridge, 0.0)[:, None])
        factor, info = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    unusable = ~step.isfinite().all(dim=1) | (info != 0)
    step = torch.where(unusable[:, None], gradient, step)
    length = step.norm(dim=1).clamp_min(torch.finfo(step.dtype).tiny)
    return step * (reach / length).clamp_max(1.0)[:, None]


class _Ascent(NamedTuple):
    codes: Tensor
    values: Tensor
    norms: Tensor
    steps: Tensor
    updates: Tensor


def _ascend(
    codes: Tensor,
    log_likelihood: Tensor,
    anchors: Tensor,
    kernel: EmbeddingKernel,
    climbs: Tensor,
    tol: float,
    max_iter: int,
) -> _Ascent:
    """Raise L from the codes given, for the rows that ``climbs`` marks."""
    codes, running = codes.clone(), climbs.clone()
    steps = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    updates = torch.zeros_like(steps)
    values = kernel.objective(codes, anchors, log_likelihood)
    r = kernel.responsibilities(codes, anchors, log_likelihood)
    norms = kernel.gradient(codes, anchors, r).norm(dim=1)
    for _ in range(max_iter):
        running &= norms > tol
        rows = running.nonzero()[:, 0]
        if len(rows) == 0:
            break
        v, h, before = codes[rows], log_likelihood[rows], values[rows]
        r = kernel.responsibilities(v, anchors, h)
        climb = _climb(v, r @ anchors, anchors, kernel, running[rows], tol, 50)
        new = _sharpen(climb.codes, h, anchors, kernel)
        after = kernel.objective(new, anchors, h)
        r = kernel.responsibilities(new, anchors, h)
        length = kernel.gradient(new, anchors, r).norm(dim=1)
        noise = _noise(before)
        better = (after > before + noise) | ((after >= before - noise) & (length < norms[rows]))
        kept = rows[better]
        codes[kept], values[kept], norms[kept] = new[better], after[better], length[better]
        steps[kept] += climb.steps[better] + 1
        updates[kept] += 1
        running[rows[~better]] = False
    return _Ascent(codes, values, norms, steps, updates)


def _sharpen(codes: Tensor, log_likelihood: Tensor, anchors: Tensor, kernel: EmbeddingKernel) -> Tensor:
    """Take one Newton step on L where L is concave and the step raises it: MM alone converges linearly."""
    r = kernel.responsibilities(codes, anchors, log_likelihood)
    _, gradient, curvature = kernel.expand(codes, anchors, r @ anchors)
    apart = 2 * kernel.beta * (anchors - (r @ anchors)[:, None])  # (n, k, e)
    factor, info = torch.linalg.cholesky_ex(curvature - (apart * r[..., None]).mT @ apart)
    new = codes + torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    usable = (info == 0) & new.isfinite().all(dim=1)
    new = torch.where(usable[:, None], new, codes)
    before, after = (kernel.objective(at, anchors, log_likelihood) for at in (codes, new))
    r = kernel.responsibilities(new, anchors, log_likelihood)
    shorter = kernel.gradient(new, anchors, r).norm(dim=1) < gradient.norm(dim=1)
    noise = _noise(before)
    raised = (after > before + noise) | ((after >= before - noise) & shorter)
    return torch.where(raised[:, None], new, codes)


def _noise(value: Tensor) -> Tensor:
    """Return by how much values of an objective may differ for no reason but rounding."""
    return 64 * torch.finfo(value.dtype).eps * (1 + value.abs())


def _blocks(n: int, anchors: Tensor) -> Iterator[slice]:
    """Return slices of rows, of which the largest intermediate array (rows k e) has a bounded size."""
    rows = max(1, _BLOCK_NUMBERS // max(1, anchors.numel()))
    for first in range(0, max(n, 1), rows):
        yield slice(first, min(n, first + rows))


def _require_simplex(targets: Tensor) -> None:
    if targets.numel() == 0:
        return
    least, totals = targets.amin(dim=1), targets.sum(dim=1)
    wrong = ~((least >= 0) & ((totals - 1).abs() <= 1e-5))  # NaN is wrong, too
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"Expected targets on the simplex, but row {row} has least entry {float(least[row]):g} and sum "
            f"{float(totals[row]):g}: divide each row of non-negative weights by its sum."
        )


def _require_identified(anchors: Tensor, kernel: EmbeddingKernel) -> None:
    if not bool(anchors.isfinite().all()):
        raise ValueError("Expected finite anchors, but some are not: start from finite ones.")
    if kernel.confines:
        return
    k, e = anchors.shape
    spanned = int(torch.linalg.matrix_rank(_unit(anchors), rtol=1e-10))
    if spanned < e:
        raise ValueError(
            f"Expected anchors that span all {e} axes, but the {k} given span {spanned}: without absorber and prior "
            "the code is free along the others; move the anchors apart, use fewer axes, or set absorber or prior."
        )
