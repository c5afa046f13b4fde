"""Four objectives of one decoder, and the free energy that joins hard and soft codes.

For a code u on the simplex, with h_nk = log p(x_n | k) and prototypes a_k:

====  ==========================================  ==========================================
EOP   sum_k u_k p(x|k)                            expected probability
LEOP  log EOP                                     log of the expected probability
EOL   sum_k u_k log p(x|k)                        expected log-probability
LOE   log N(x ; sum_k u_k a_k, s2 I)              log-probability at the expected reconstruction
====  ==========================================  ==========================================

EOL <= LEOP always; EOL <= LOE when every component is N(a_k, s2 I). All are in nats, one per row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixcoder.ops.simplex import entropy


def eop(log_likelihood: Tensor, code: Tensor) -> Tensor:
    r"""Return the expected probability :math:`\sum_k u_{nk}\, p(x_n|k)`, shape (n,).

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
    code : Tensor, shape (n, k) or (k,)
        Non-negative, rows sum to one.
    """
    return leop(log_likelihood, code).exp()


def leop(log_likelihood: Tensor, code: Tensor) -> Tensor:
    r"""Return :math:`\log \sum_k u_{nk}\, p(x_n|k)` in nats, shape (n,)."""
    return torch.logsumexp(log_likelihood + code.log(), dim=1)


def eol(log_likelihood: Tensor, code: Tensor) -> Tensor:
    r"""Return :math:`\sum_k u_{nk} \log p(x_n|k)` in nats, shape (n,); 0 log 0 counts as zero."""
    return torch.where(code > 0, code * log_likelihood, torch.zeros_like(log_likelihood)).sum(dim=1)


def loe(x: Tensor, means: Tensor, code: Tensor, variance: float) -> Tensor:
    r"""Return :math:`\log \mathcal N(x_n;\ \sum_k u_{nk} a_k,\ s^2 I)` in nats, shape (n,).

    Scale and constant are kept: without them the bound EOL <= LOE fails.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    means : Tensor, shape (k, d)
        Prototypes a.
    code : Tensor, shape (n, k)
    variance : float
        s2, in squared units of the rows.
    """
    squared_error = (x - code @ means).square().sum(dim=1)
    return -0.5 * (squared_error / variance + x.shape[1] * math.log(2 * math.pi * variance))


def free_energy(log_joint: Tensor, code: Tensor, beta: float = 1.0) -> Tensor:
    r"""Return :math:`F_\beta(u_n) = \sum_k u_{nk} \log(\pi_k p(x_n|k)) + H(u_n)/\beta`, shape (n,).

    beta = 1 is the evidence bound of soft EM, beta = inf the objective of hard EM.
    """
    energy = eol(log_joint, code)
    return energy if math.isinf(beta) else energy + entropy(code) / beta
