"""Four objectives of one decoder, and the free energy that joins hard and soft codes.

For a code u on the simplex, with h_nk = log p(x_n | k) and prototypes a_k:

====  ==========================================  ==========================================
EOP   sum_k u_k p(x|k)                            expected probability
LEOP  log EOP                                     log of the expected probability
EOL   sum_k u_k log p(x|k)                        expected log-probability
LOE   log N(x ; sum_k u_k a_k, S)                 log-probability at the expected reconstruction
====  ==========================================  ==========================================

EOL <= LEOP always, whatever the family; EOL <= LOE when every component is N(a_k, S) with one S. All are in nats, one
per row. `leop_gap` and `loe_gap` say by how much, exactly, and `free_energy_gap` how far a code is from the one that
its temperature asks for. Codes are points of the simplex or component numbers. What is no tensor raises ``TypeError``,
a temperature or a variance that is not positive ``ValueError``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixcoder._numbers import positive_number
from mixcoder._typing import Code, HardCode
from mixcoder.ops.simplex import entropy


def eop(log_likelihood: Tensor, code: Code) -> Tensor:
    r"""Return the expected probability :math:`\sum_k u_{nk}\, p(x_n|k)`, shape (n,).

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
    code : Code, shape (n, k) or (k,)
        Non-negative, rows sum to one; or a component a row.

    Examples
    --------
    >>> eop(torch.tensor([[0.1, 0.3]]).log(), torch.tensor([[0.5, 0.5]]))
    tensor([0.2000])
    """
    return leop(log_likelihood, code).exp()


def leop(log_likelihood: Tensor, code: Code) -> Tensor:
    r"""Return :math:`\log \sum_k u_{nk}\, p(x_n|k)` in nats, shape (n,).

    Examples
    --------
    >>> leop(torch.tensor([[0.1, 0.3]]).log(), torch.tensor([[0.5, 0.5]])).exp()
    tensor([0.2000])
    """
    _require_tensors(log_likelihood=log_likelihood)
    code = _dense(code, log_likelihood)
    return torch.logsumexp(torch.where(code > 0, log_likelihood + code.log(), -math.inf), dim=1)


def eol(log_likelihood: Tensor, code: Code) -> Tensor:
    r"""Return :math:`\sum_k u_{nk} \log p(x_n|k)` in nats, shape (n,); 0 log 0 counts as zero.

    Examples
    --------
    >>> eol(torch.tensor([[0.1, 0.3]]).log(), torch.tensor([[0.5, 0.5]])).exp()  # the geometric mean
    tensor([0.1732])
    """
    _require_tensors(log_likelihood=log_likelihood)
    code = _dense(code, log_likelihood)
    return torch.where(code > 0, code * log_likelihood, torch.zeros_like(log_likelihood)).sum(dim=1)


def loe(x: Tensor, means: Tensor, code: Code, variance: float | Tensor) -> Tensor:
    r"""Return :math:`\log \mathcal N(x_n;\ \sum_k u_{nk} a_k,\ S)` in nats, shape (n,).

    Scale and constant are kept: without them the bound EOL <= LOE fails.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    means : Tensor, shape (k, d)
        Prototypes a.
    code : Code, shape (n, k)
    variance : float or Tensor, shape (d,) or (d, d)
        S, in squared units of the rows: one variance for all features, one for each, or the covariance.

    Examples
    --------
    >>> x, a = torch.tensor([[0.0]]), torch.tensor([[-1.0], [1.0]])
    >>> loe(x, a, torch.tensor([[0.5, 0.5]]), 1.0)  # log N(0; 0, 1)
    tensor([-0.9189])
    """
    _require_tensors(x=x, means=means)
    scaled, log_det = _whitened(x - _dense(code, means) @ means, variance)
    return -0.5 * (scaled.square().sum(dim=1) + log_det + x.shape[1] * math.log(2 * math.pi))


def leop_gap(log_likelihood: Tensor, code: Code) -> Tensor:
    r"""Return what Jensen's inequality loses, in nats, shape (n,).

    .. math::
        \mathrm{LEOP}_n - \mathrm{EOL}_n = \mathrm{KL}(u_n \,\|\, r_n), \qquad
        r_{nk} = \frac{u_{nk}\, p(x_n|k)}{\sum_j u_{nj}\, p(x_n|j)}

    Zero where the components that the code uses are equally likely. Infinite where it uses one that cannot
    generate the row.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
    code : Code, shape (n, k) or (k,)
        Non-negative, rows sum to one; or a component a row.

    Examples
    --------
    >>> h, u = torch.tensor([[0.1, 0.3]]).log(), torch.tensor([[0.5, 0.5]])
    >>> leop_gap(h, u), leop(h, u) - eol(h, u)
    (tensor([0.1438]), tensor([0.1438]))
    """
    _require_tensors(log_likelihood=log_likelihood)
    code = _dense(code, log_likelihood)
    used = torch.where(code > 0, log_likelihood, -math.inf)
    # log u - log r = LEOP - h. Both are large for a row that is far from everything: the largest goes first.
    h = used - used.amax(dim=1, keepdim=True).clamp_min(torch.finfo(used.dtype).min)
    divergence = torch.where(code > 0, code * (leop(h, code)[:, None] - h), torch.zeros_like(h))
    return divergence.sum(dim=1).clamp_min(0.0)  # a rounding error below zero is zero


def loe_gap(means: Tensor, code: Code, variance: float | Tensor) -> Tensor:
    r"""Return what decoding component by component loses on the mean reconstruction, in nats, shape (n,).

    .. math::
        \mathrm{LOE}_n - \mathrm{EOL}_n = \tfrac12 \sum_k u_{nk} \| a_k - \bar a_n \|_{S^{-1}}^2
        = \tfrac14 \sum_{jk} u_{nj} u_{nk} \| a_j - a_k \|_{S^{-1}}^2, \qquad \bar a_n = \sum_k u_{nk} a_k

    with :math:`\|a\|_{S^{-1}}^2 = a' S^{-1} a`. It holds when every component is N(a_k, S) and does not depend on
    the row, only on its code.

    Parameters
    ----------
    means : Tensor, shape (k, d)
        Prototypes a.
    code : Code, shape (n, k)
        Non-negative, rows sum to one; or a component a row.
    variance : float or Tensor, shape (d,) or (d, d)
        S, in squared units of the rows.

    Examples
    --------
    >>> x, a, u = torch.tensor([[0.3]]), torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.25, 0.75]])
    >>> h = -0.5 * ((x - a.T).square() / 2 + math.log(4 * math.pi))
    >>> loe_gap(a, u, 2.0), loe(x, a, u, 2.0) - eol(h, u)
    (tensor([0.1875]), tensor([0.1875]))
    """
    _require_tensors(means=means)
    scaled, _ = _whitened(means - means.mean(dim=0), variance)
    # The second form: sum_k u_k |a_k|^2 - |abar|^2 cancels, and the first one written out is (n k d) large.
    apart = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist").square()  # (k, k)
    code = _dense(code, means)
    return ((code @ apart) * code).sum(dim=1) / 4


def free_energy(log_joint: Tensor, code: Code, beta: float = 1.0) -> Tensor:
    r"""Return :math:`F_\beta(u_n) = \sum_k u_{nk} \log(\pi_k p(x_n|k)) + H(u_n)/\beta`, shape (n,).

    beta = 1 is the evidence bound of soft EM, beta = inf the objective of hard EM.

    Examples
    --------
    >>> h = torch.tensor([[0.1, 0.3]]).log()
    >>> free_energy(h, torch.tensor([[0.25, 0.75]])).exp()  # at the posterior it is the evidence
    tensor([0.4000])
    """
    beta = _inverse_temperature(beta)
    _require_tensors(log_joint=log_joint)
    energy = eol(log_joint, code)
    return energy if math.isinf(beta) else energy + entropy(_dense(code, log_joint)) / beta


def free_energy_gap(log_joint: Tensor, code: Code, beta: float = 1.0) -> Tensor:
    r"""Return how far the free energy of a code lies below the best of its temperature, in nats, shape (n,).

    .. math::
        \max_u F_\beta(u) - F_\beta(u_n) = \tfrac1\beta \mathrm{KL}(u_n \,\|\, q_n), \qquad
        q_{nk} = \frac{(\pi_k p(x_n|k))^\beta}{\sum_j (\pi_j p(x_n|j))^\beta}

    and :math:`\max_k \log(\pi_k p(x_n|k)) - \sum_k u_{nk} \log(\pi_k p(x_n|k))` for beta = inf. Infinite where the
    code uses a component that cannot generate the row.

    Parameters
    ----------
    log_joint : Tensor, shape (n, k)
        log pi_k + log p(x_n | k), in nats.
    code : Code, shape (n, k)
        Non-negative, rows sum to one; or a component a row.
    beta : float
        Inverse temperature, positive.

    Examples
    --------
    >>> h = torch.tensor([[0.1, 0.3]]).log()
    >>> free_energy_gap(h, torch.tensor([[0.25, 0.75]])), free_energy_gap(h, torch.tensor([[0.5, 0.5]]))
    (tensor([0.]), tensor([0.1438]))
    """
    beta = _inverse_temperature(beta)
    _require_tensors(log_joint=log_joint)
    code = _dense(code, log_joint)
    # Far rows have large log-joints whose differences alone matter: the largest goes first.
    h = log_joint - log_joint.amax(dim=1, keepdim=True).clamp_min(torch.finfo(log_joint.dtype).min)
    if math.isinf(beta):
        return -eol(h, code)
    log_q = torch.log_softmax(beta * h, dim=1)
    divergence = torch.where(code > 0, code * (code.log() - log_q), torch.zeros_like(h))
    return divergence.sum(dim=1).clamp_min(0.0) / beta  # a rounding error below zero is zero


def _require_tensors(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor({name})."
            )


def _inverse_temperature(beta: Any) -> float:
    """Return beta as a float: positive, and inf for hard codes."""
    return positive_number("beta", _item(beta), or_inf=True)


def _item(value: Any) -> Any:
    """Return the number in a tensor of no axes, else the value itself."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _dense(code: Code, like: Tensor) -> Tensor:
    """Return a code as points of the simplex, shape (n, k) or (k,)."""
    if isinstance(code, HardCode):
        return code.dense(like.dtype)
    _require_tensors(code=code)
    return code


def _whitened(x: Tensor, variance: float | Tensor) -> tuple[Tensor, Tensor | float]:
    """Return rows whose squared norms are x' S^-1 x, shape (n, d), and log |S|."""
    d = x.shape[1]
    if getattr(variance, "ndim", 0):
        _require_tensors(variance=variance)
    if not isinstance(variance, Tensor) or variance.ndim == 0:
        number = positive_number("variance", _item(variance))
        return x / math.sqrt(number), d * math.log(number)
    if variance.shape == (d, d):
        factor = _root(variance)
        scaled = torch.linalg.solve_triangular(factor, x.T, upper=False).T
        return scaled, 2 * factor.diagonal().log().sum()
    if variance.shape != (d,):
        raise ValueError(
            f"variance must be a number or have shape ({d},) or ({d}, {d}), got {tuple(variance.shape)}."
        )
    wrong = ~((variance > 0) & (variance < math.inf))  # NaN is wrong, too
    if bool(wrong.any()):
        raise ValueError(
            f"variance must be positive and finite, got {float(variance[wrong][0]):g}; a feature that does "
            "not vary has no density: give it a small variance, or leave it out."
        )
    return x / variance.sqrt(), variance.log().sum()


def _root(covariance: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a covariance, shape (d, d)."""
    if not bool(covariance.isfinite().all()):
        raise ValueError("variance must be finite, but the matrix contains NaN or infinity.")
    apart = float((covariance - covariance.mT).abs().amax())
    if apart > math.sqrt(torch.finfo(covariance.dtype).eps) * float(covariance.abs().amax()):
        raise ValueError(
            f"variance must be a symmetric matrix, but entries across its diagonal differ by {apart:g}."
        )
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool(info):
        least = float(torch.linalg.eigvalsh(covariance)[0])
        raise ValueError(
            f"variance must be positive definite, but its least eigenvalue is {least:g}; add a small multiple of the "
            "identity."
        )
    return factor
