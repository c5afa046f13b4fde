"""Gamma functions of a tempered posterior, with their limits at temperature zero."""

from __future__ import annotations

import torch
from torch import Tensor


def tempered_log_gamma(a: Tensor, temperature: float) -> Tensor:
    r"""Return :math:`t \log\Gamma(a/t) + a \log t`, and its limit :math:`a \log a - a` at t = 0.

    The normaliser of a density raised to the power 1/t is made of these; the second term cancels in it.

    Parameters
    ----------
    a : Tensor
        Positive.
    temperature : float
        t, in [0, 1].

    Examples
    --------
    >>> a = torch.tensor([2.5], dtype=torch.float64)
    >>> bool((tempered_log_gamma(a, 1e-9) - tempered_log_gamma(a, 0.0)).abs() < 1e-6)
    True
    """
    if temperature == 0:
        return torch.xlogy(a, a) - a
    t = torch.as_tensor(temperature, dtype=a.dtype, device=a.device)
    return t * torch.lgamma(a / t) + a * t.log()


def tempered_digamma(a: Tensor, temperature: float) -> Tensor:
    r"""Return :math:`\psi(a/t) + \log t`, the derivative of :func:`tempered_log_gamma`; log a at t = 0.

    Examples
    --------
    >>> a = torch.tensor([2.5], dtype=torch.float64)
    >>> bool((tempered_digamma(a, 1e-9) - a.log()).abs() < 1e-8)
    True
    """
    if temperature == 0:
        return a.log()
    t = torch.as_tensor(temperature, dtype=a.dtype, device=a.device)
    return torch.digamma(a / t) + t.log()
