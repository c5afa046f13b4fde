"""Four objectives of one decoder, and the free energy that joins hard and soft codes.

For a code u on the simplex, with h_nk = log p(x_n | k) and prototypes a_k:

====  ==========================================  ==========================================
EOP   sum_k u_k p(x|k)                            expected probability
LEOP  log EOP                                     log of the expected probability
EOL   sum_k u_k log p(x|k)                        expected log-probability
LOE   log N(x ; sum_k u_k a_k, s2 I)              log-probability at the expected reconstruction
====  ==========================================  ==========================================

EOL <= LEOP always; EOL <= LOE when every component is N(a_k, s2 I). All are in nats, one per row. `leop_gap` and
`loe_gap` say by how much, exactly.
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


def leop_gap(log_likelihood: Tensor, code: Tensor) -> Tensor:
    r"""Return what Jensen's inequality loses, in nats, shape (n,).

    .. math::
        \mathrm{LEOP}_n - \mathrm{EOL}_n = \mathrm{KL}(u_n \,\|\, r_n), \qquad
        r_{nk} = \frac{u_{nk}\, p(x_n|k)}{\sum_j u_{nj}\, p(x_n|j)}

    Zero where the components that the code uses are equally likely. Infinite where it uses one that cannot
    generate the row.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
    code : Tensor, shape (n, k) or (k,)
        Non-negative, rows sum to one.

    Examples
    --------
    >>> h, u = torch.tensor([[0.1, 0.3]]).log(), torch.tensor([[0.5, 0.5]])
    >>> leop_gap(h, u), leop(h, u) - eol(h, u)
    (tensor([0.1438]), tensor([0.1438]))
    """
    used = torch.where(code > 0, log_likelihood, -math.inf)
    # log u - log r = LEOP - h. Both are large for a row that is far from everything: the largest goes first.
    h = used - used.amax(dim=1, keepdim=True).clamp_min(torch.finfo(used.dtype).min)
    divergence = torch.where(code > 0, code * (leop(h, code)[:, None] - h), torch.zeros_like(h))
    return divergence.sum(dim=1).clamp_min(0.0)  # a rounding error below zero is zero


def loe_gap(means: Tensor, code: Tensor, variance: float) -> Tensor:
    r"""Return what decoding component by component loses on the mean reconstruction, in nats, shape (n,).

    .. math::
        \mathrm{LOE}_n - \mathrm{EOL}_n = \frac{1}{2 s^2} \sum_k u_{nk} \| a_k - \bar a_n \|^2
        = \frac{1}{4 s^2} \sum_{jk} u_{nj} u_{nk} \| a_j - a_k \|^2, \qquad \bar a_n = \sum_k u_{nk} a_k

    It holds when every component is N(a_k, s2 I) and does not depend on the row, only on its code.

    Parameters
    ----------
    means : Tensor, shape (k, d)
        Prototypes a.
    code : Tensor, shape (n, k)
        Non-negative, rows sum to one.
    variance : float
        s2, in squared units of the rows.

    Examples
    --------
    >>> x, a, u = torch.tensor([[0.3]]), torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.25, 0.75]])
    >>> h = -0.5 * ((x - a.T).square() / 2 + math.log(4 * math.pi))
    >>> loe_gap(a, u, 2.0), loe(x, a, u, 2.0) - eol(h, u)
    (tensor([0.1875]), tensor([0.1875]))
    """
    # The second form: sum_k u_k |a_k|^2 - |abar|^2 cancels, and the first one written out is (n k d) large.
    apart = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()  # (k, k)
    return ((code @ apart) * code).sum(dim=1) / (4 * variance)


def free_energy(log_joint: Tensor, code: Tensor, beta: float = 1.0) -> Tensor:
    r"""Return :math:`F_\beta(u_n) = \sum_k u_{nk} \log(\pi_k p(x_n|k)) + H(u_n)/\beta`, shape (n,).

    beta = 1 is the evidence bound of soft EM, beta = inf the objective of hard EM.
    """
    energy = eol(log_joint, code)
    return energy if math.isinf(beta) else energy + entropy(code) / beta
