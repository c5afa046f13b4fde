"""The iteration that Lagrange's condition suggests for a free code: multiply by p, and divide by the sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.encoders.posterior import dense

_TINY = {torch.float32: 1e-30, torch.float64: 1e-300}


@dataclass(frozen=True)
class Ascent:
    """Where the multiplicative iteration has come to.

    Parameters
    ----------
    code : Tensor, shape (n, k)
    n_steps : int
        Steps made.
    leop : Tensor, shape (n_steps + 1, n)
        LEOP before the first step and after each, in nats: it never falls.
    rate : Tensor, shape (n,)
        Factor by which the distance from the vertices that the iteration tends to shrinks in a step, in the limit.
    converged : bool
        Whether every row is within the tolerance of its limit.
    """

    code: Tensor
    n_steps: int
    leop: Tensor
    rate: Tensor
    converged: bool


def multiplicative_ascent(
    log_likelihood: Tensor, start: Code | None = None, *, tol: float = 1e-9, max_steps: int = 1000
) -> Ascent:
    r"""Climb to the code that maximises LEOP on the simplex, one multiplication a step.

    .. math:: u_k \leftarrow \frac{u_k\, p(x|k)}{\sum_j u_j\, p(x|j)}, \qquad
              u^{(t)}_k = \frac{u^{(0)}_k\, p(x|k)^t}{\sum_j u^{(0)}_j\, p(x|j)^t}

    It is what a Lagrange multiplier for :math:`\sum_k u_k = 1` gives: at a stationary point
    :math:`u_k\, \partial_{u_k} \mathrm{LEOP} = u_k`. LEOP never falls. From the weights of the mixture the first
    step is Bayes' posterior, and every further one adds one to the inverse temperature of p: the iteration is an
    annealing that nobody asked for, and ends at the vertex of the likeliest component (the even mixture of those
    that are tied, in proportion to the start).

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
        log p(x_n | k) in nats; every row finite somewhere.
    start : Code, shape (n, k) or (k,), optional
        First code; even by default. A component at zero stays there.
    tol : float
        The iteration ends when no row is farther than this from its limit, in the sum of the shares of all
        components that are not among its likeliest.
    max_steps : int

    Returns
    -------
    Ascent

    Examples
    --------
    >>> h = torch.tensor([[0.2, 0.8]]).log()
    >>> multiplicative_ascent(h, torch.tensor([0.5, 0.5]), max_steps=1).code
    tensor([[0.2000, 0.8000]])
    >>> contraction_rate(h)
    tensor([0.2500])
    """
    if log_likelihood.ndim != 2:
        raise ValueError(f"log_likelihood must have shape (n, k), got {tuple(log_likelihood.shape)}.")
    log_code = _log_start(start, log_likelihood)
    reachable = torch.where(log_code > -math.inf, log_likelihood, -math.inf)
    best = reachable.amax(1, keepdim=True)
    if not bool(best.isfinite().all()):
        row = int(torch.nonzero(~best[:, 0].isfinite())[0, 0])
        raise ValueError(
            f"Row {row} of log_likelihood is {log_likelihood[row].tolist()}: no component in the start explains it."
        )
    away = reachable < best
    traces: list[Tensor] = []
    n_steps, converged = 0, False
    while True:
        joint = log_code + reachable
        leop = torch.logsumexp(joint, 1)
        traces.append(leop)
        rest = torch.where(away, log_code.exp(), 0.0).sum(1)
        converged = bool((rest <= tol).all())
        if converged or n_steps >= max_steps:
            break
        log_code = joint - leop[:, None]
        n_steps += 1
    code = log_code.exp()
    code = torch.where(code > _TINY.get(code.dtype, 0.0), code, 0.0)
    return Ascent(
        code / code.sum(1, keepdim=True), n_steps, torch.stack(traces), contraction_rate(reachable), converged
    )


def contraction_rate(log_likelihood: Tensor) -> Tensor:
    r"""Return the linear rate of the multiplicative iteration, shape (n,).

    .. math:: \lim_t \frac{1 - u^{(t+1)}_{k^*}}{1 - u^{(t)}_{k^*}} = \frac{p_{(2)}}{p_{(1)}}, \qquad
              k^* = \arg\max_k p(x|k)

    the ratio of the two largest different likelihoods of the row; zero where there is only one.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
        In nats.
    """
    best = log_likelihood.amax(1, keepdim=True)
    second = torch.where(log_likelihood < best, log_likelihood, -math.inf).amax(1)
    return (second - best[:, 0]).exp()


def _log_start(start: Code | None, like: Tensor) -> Tensor:
    n, k = like.shape
    if start is None:
        return like.new_full((n, k), -math.log(k))
    code = dense(start, like).to(like.dtype)
    if code.shape not in ((k,), (n, k)):
        raise ValueError(f"start must have shape ({n}, {k}) or ({k},), got {tuple(code.shape)}.")
    total = code.sum(-1, keepdim=True)
    if not bool((code >= 0).all() and (total > 0).all() and total.isfinite().all()):
        raise ValueError("start must be non-negative and finite, with a positive share in every row.")
    return (code / total).log().expand(n, k)
