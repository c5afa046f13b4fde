"""Points of the simplex from log-weights: softargmax, its normaliser, entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# exp of less than this is subnormal in the products that follow (e^-60 * 1e-10 in float32): such
# responsibilities become exact zeros, because subnormals make a matrix product an order of magnitude
# slower and mean nothing.
_LOG_TINY = {torch.float32: -60.0, torch.float64: -600.0}

FUSED_COMPONENTS = 16
"""From so many components on, one fused kernel over float32 rows is twice as fast as six sweeps."""


def softargmax_(log_joint: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Overwrite log-weights by their softargmax and return it with the scaled normaliser.

    .. math::
        u_{nk} = \frac{\exp(\beta h_{nk})}{\sum_j \exp(\beta h_{nj})}, \qquad
        F_n = \tfrac1\beta \log \sum_k \exp(\beta h_{nk})

    Parameters
    ----------
    log_joint : Tensor, shape (..., n, k)
        h, in nats; overwritten by u.
    beta : float
        Inverse temperature, positive and finite.

    Returns
    -------
    code : Tensor, shape (..., n, k)
        u, the same memory as ``log_joint``.
    free_energy : Tensor, shape (..., n)
        F, the maximum over the simplex of sum_k u_k h_k + H(u)/beta.

    Examples
    --------
    >>> code, bound = softargmax_(torch.log(torch.tensor([[0.2, 0.6]])))
    >>> code
    tensor([[0.2500, 0.7500]])
    >>> bound.exp()
    tensor([0.8000])
    """
    if log_joint.shape[-1] == 1:
        free_energy = log_joint[..., 0].clone()
        return log_joint.fill_(1.0), free_energy
    largest = log_joint.amax(dim=-1, keepdim=True)
    if _fuses(log_joint, largest):
        code = torch.softmax(log_joint.mul_(beta) if beta != 1.0 else log_joint, dim=-1, out=log_joint)
        # The largest share is the one whose log-weight is the maximum: u = exp(beta (h - F)) there.
        free_energy = largest[..., 0].sub_(code.amax(dim=-1).log_().div_(beta))
        return torch.threshold_(code, math.exp(_LOG_TINY[torch.float32]), 0.0), free_energy
    # A row that no component can explain (all -inf) must give -inf, not NaN.
    largest.clamp_min_(torch.finfo(largest.dtype).min)
    log_joint.sub_(largest)
    if beta != 1.0:
        log_joint.mul_(beta)
    torch.threshold_(log_joint, _LOG_TINY.get(log_joint.dtype, -60.0), -math.inf)
    code = log_joint.exp_()
    total = code.sum(dim=-1, keepdim=True)
    free_energy = total.log()
    if beta != 1.0:
        free_energy.div_(beta)
    free_energy = free_energy.add_(largest)[..., 0]
    if float(total.amin()) == 0:
        # An unexplained row is shared out evenly: it weighs on nothing more than on anything else.
        code.add_(total == 0)
        total = code.sum(dim=-1, keepdim=True)
    return code.div_(total), free_energy


def _fuses(log_joint: Tensor, largest: Tensor) -> bool:
    """Return whether the fused kernel applies: long float32 rows on a CPU, each of which some component explains."""
    return (
        log_joint.dtype == torch.float32
        and log_joint.shape[-1] >= FUSED_COMPONENTS
        and log_joint.stride(-1) == 1
        and log_joint.device.type == "cpu"
        and bool(largest.isfinite().all())
    )


def entropy(code: Tensor) -> Tensor:
    r"""Return :math:`H(u_n) = -\sum_k u_{nk} \log u_{nk}` in nats, shape (n,).

    Examples
    --------
    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    return torch.special.entr(code).sum(dim=1)


def log_simplex(weights: Tensor) -> Tensor:
    """Return the logarithm of non-negative weights scaled to sum to one; a zero weight gives -inf."""
    log_weights = (weights / weights.sum()).log()
    # What rounding left of the sum. The largest weight is no less than 1/k: nothing overflows or vanishes in exp.
    return log_weights - log_weights.exp().sum().log()
