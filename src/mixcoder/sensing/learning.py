"""A mixture of full Gaussians learned from what different operators saw of its rows, never from a row itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.fitting.acceleration import Leap
from mixcoder.sensing.given import as_generator, as_variance
from mixcoder.sensing.indirect import IndirectProblem, Look
from mixcoder.sensing.operators import Operator, as_operator
from mixcoder.sensing.posterior import checked_observation
from mixcoder.sensing.prior import GaussianPrior

# Smallest noise variance, as a fraction of the mean square of the measurements.
_NOISE_FLOOR = 1e-10

# Up to so many features it is computed, not counted, how much of a covariance the operators see.
_COUNTED = 32

_TINY = 1e-300


@dataclass(frozen=True)
class Learned:
    """What :func:`learn_from_measurements` found.

    Parameters
    ----------
    prior : GaussianPrior
    noise_variance : float
        Given, or estimated.
    bounds : tuple of float
        The mean log-evidence of an observation before each step (of EM, or a leap) and after the last, in nats; plus
        the log-density of the covariances, where their strength is not zero.
    converged : bool
        Whether a step changed the bound by less than ``tol``.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2000, 2, generator=g, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    >>> angles = (0.0, 0.8, 1.6, 2.4)  # each row is seen through one number
    >>> lines = [torch.tensor([[math.cos(a), math.sin(a)]], dtype=torch.float64) for a in angles]
    >>> batches = [(x[i::4] @ line.T, line) for i, line in enumerate(lines)]
    >>> learned = learn_from_measurements(batches, 1, noise_variance=0.01, generator=g)
    >>> (
    ...     learned.converged,
    ...     all(b >= a - 1e-9 for a, b in zip(learned.bounds, learned.bounds[1:], strict=False)),
    ... )
    (True, True)
    """

    prior: GaussianPrior
    noise_variance: float
    bounds: tuple[float, ...]
    converged: bool


def learn_from_measurements(
    batches: Sequence[tuple[Tensor, Any]],
    n_components: int,
    noise_variance: float | None = None,
    *,
    strength: float = 0.0,
    start: Any = None,
    generator: torch.Generator | int | None = None,
    max_iter: int = 200,
    tol: float = 1e-5,
    on_step: Callable[[int, float], None] | None = None,
) -> Learned:
    r"""Return the mixture of Gaussians and the noise level under which y_b = H_b x_b + e_b are most probable.

    Exact EM, with the leaps of SQUAREM, each kept only if the bound does not fall. With
    S_bk = H_b S_k H_b' + s^2 I, the E-step takes for each observation the posterior of its row,

    .. math:: r_{bk} \propto \pi_k N(y_b;\ H_b\mu_k, S_{bk}), \qquad
              m_{bk} = \mu_k + \Sigma_k H_b' S_{bk}^{-1} (y_b - H_b\mu_k), \qquad
              C_{bk} = \Sigma_k - \Sigma_k H_b' S_{bk}^{-1} H_b \Sigma_k

    and the M-step, with :math:`N_k = \sum_b r_{bk}`,

    .. math:: \mu_k = \frac1{N_k} \sum_b r_{bk} m_{bk}, \qquad
              \Sigma_k = \frac{\sum_b r_{bk} [(m_{bk}-\mu_k)(m_{bk}-\mu_k)' + C_{bk}] + \kappa \Lambda}{N_k + \kappa},
              \qquad
              s^2 = \frac{\sum_{bk} r_{bk} [|y_b - H_b m_{bk}|^2 + \mathrm{tr}\, H_b C_{bk} H_b']}{\sum_b m_b}

    The bound never falls: it is the log-evidence, less :math:`\tfrac\kappa2 \sum_k [\log|\Sigma_k| +
    \mathrm{tr}\,\Lambda\Sigma_k^{-1}]` where kappa is positive, with Lambda the mean variance of the start times I.

    Parameters
    ----------
    batches : sequence of (y, operator)
        Observations, shape (n_b, m_b), of the rows that one operator saw, and the operator, shape (m_b, d), or whatever
        :func:`as_operator` takes.
    n_components : int
    noise_variance : float, optional
        s^2, positive; estimated where it is left out.
    strength : float
        kappa, how many rows the spherical covariance Lambda counts for: zero is maximum likelihood.
    start : GaussianPrior, MixtureAutoencoder or fitted estimator, optional
        By default minimum norm solutions of some observations, chosen at random, with the variance of all.
    generator : torch.Generator or int, optional
        Draws the start, or its seed; needed where none is given.
    max_iter : int
    tol : float
        The fit stops when a step of EM raises the bound by less than this, in nats an observation. An estimated noise
        level comes last, the more slowly the fewer measurements there are of a row: ask for 1e-7 where it matters.
    on_step : callable, optional
        Told the number of each step and the bound before it.

    Raises
    ------
    ValueError
        If the operators together leave a direction of the rows, or an entry of a covariance, unseen: nothing could be
        learned of it. So with one operator of fewer measurements than features, for which only H Sigma H' matters,
        and where two features are never seen together.
    DataError
        If an observation has the wrong width or is not finite.

    References
    ----------
    Yang, Liao, Yuan, Llull, Brady, Sapiro & Carin (2015), "Compressive sensing by learning a Gaussian mixture model
    from measurements".

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2000, 2, generator=g, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    >>> angles = (0.0, 0.8, 1.6, 2.4)  # each row is seen through one number
    >>> lines = [torch.tensor([[math.cos(a), math.sin(a)]], dtype=torch.float64) for a in angles]
    >>> batches = [(x[i::4] @ line.T, line) for i, line in enumerate(lines)]
    >>> learned = learn_from_measurements(batches, 1, noise_variance=0.01, generator=g)
    >>> covariance = learned.prior.spread(0)
    >>> bool(abs(covariance[0, 0] / 9 - 1) < 0.2), bool(abs(covariance[1, 1] - 1) < 0.2)
    (True, True)
    """
    seen = _checked(batches)
    if noise_variance is not None:  # else it is estimated
        noise_variance = as_variance(
            "noise_variance", noise_variance, positive=True, hint=", or None to estimate it"
        )
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be non-negative and finite, got {strength!r}.")
    n_rows = sum(len(y) for y, _ in seen)
    if not 1 <= n_components <= n_rows:
        raise ValueError(f"n_components must be in 1..{n_rows}, the observations, got {n_components!r}.")
    if start is None:
        if generator is None:
            raise ValueError("Give a generator to draw the start with, or a start.")
        start = _start(seen, n_components, as_generator(generator, torch.device("cpu")))
    prior = _full(GaussianPrior.of(start))
    scale = float(torch.stack([prior.variances(k).mean() for k in prior.used]).mean())
    squares = sum(float(y.square().sum()) for y, _ in seen) / sum(y.numel() for y, _ in seen)
    level = 0.1 * squares if noise_variance is None else noise_variance
    problem = IndirectProblem(seen, strength, scale, noise_variance, _NOISE_FLOOR * squares)
    bounds: list[float] = []

    def reached(look: Look) -> Look:
        bounds.append(look.bound)
        if on_step is not None:
            on_step(len(bounds) - 1, look.bound)
        return look

    at, leap, converged = reached(problem.look(prior, level)), Leap(), False
    while not converged and len(bounds) <= max_iter:
        path = [at]
        while len(path) < 3 and len(bounds) <= max_iter and not converged:
            at = reached(problem.look(*problem.maximised(at)))
            converged = at.bound - path[-1].bound < tol
            path.append(at)
        if len(path) == 3 and len(bounds) <= max_iter and not converged:
            at, leap = _leapt(problem, path, leap)
            if at is not path[-1]:
                reached(at)
    return Learned(at.prior, at.level, tuple(bounds), converged)


def _leapt(problem: IndirectProblem, path: list[Look], leap: Leap) -> tuple[Look, Leap]:
    """Return where a leap along two steps of EM lands, or where they end if it is no better; and the next leap."""
    last = path[-1]
    target, length = leap(*(look.sums.about(last.prior.means - look.prior.means) for look in path))
    if target is None:
        return last, leap
    landed = problem.look(*problem.maximised(replace(last, sums=target)))
    accepted = landed.bound >= last.bound
    return (landed if accepted else last), leap.after(length, accepted=accepted)


def _start(
    batches: list[tuple[Tensor, Tensor]], n_components: int, generator: torch.Generator
) -> GaussianPrior:
    """Return the mean of least squares through all operators, and means drawn around it by minimum norm solutions."""
    d = batches[0][1].shape[1]
    normal = sum(len(y) * matrix.T @ matrix for y, matrix in batches)
    right = sum(y.sum(0) @ matrix for y, matrix in batches)
    mean = torch.linalg.solve(torch.as_tensor(normal), torch.as_tensor(right))
    lengths = torch.tensor([len(y) for y, _ in batches], dtype=torch.float64)
    means, power, share = [], 0.0, 0.0
    for y, matrix in batches:
        apart = y - mean @ matrix.T
        power += float(apart.square().sum())
        share += len(y) * float(matrix.square().sum())
    variance = power / share
    places = torch.multinomial(
        lengths.repeat_interleave(lengths.long()).fill_(1.0), n_components, generator=generator
    )
    ends = lengths.cumsum(0)
    for place in places.tolist():
        b = int((ends <= place).sum())
        y, matrix = batches[b]
        row = y[place - int(ends[b] - lengths[b])]
        means.append(
            torch.linalg.lstsq(matrix, (row - mean @ matrix.T)[:, None], driver="gelsd").solution[:, 0]
        )
    identity = torch.eye(d, dtype=torch.float64)
    even = torch.full((n_components,), -math.log(n_components), dtype=torch.float64)
    centres = torch.stack(means) if n_components > 1 else mean.new_zeros(1, d)
    return GaussianPrior(even, mean, centres, variance * identity.expand(n_components, d, d).contiguous())


def _full(prior: GaussianPrior) -> GaussianPrior:
    """Return a prior with covariances written out, one a component."""
    spreads = []
    for k in range(len(prior.means)):
        spread, loading = prior.spread(k), prior.loading(k)
        spreads.append((torch.diag(spread) if spread.ndim == 1 else spread) + loading @ loading.T)
    return replace(prior, spreads=torch.stack(spreads), loadings=None)


def _checked(batches: Sequence[tuple[Tensor, Any]]) -> list[tuple[Tensor, Tensor]]:
    """Return observations and matrices in float64; refuse operators that leave a direction unseen."""
    if not len(batches):
        raise DataError("There is no batch of observations; give pairs (y, operator).")
    pairs: list[tuple[Tensor, Operator]] = [(y, as_operator(operator)) for y, operator in batches]
    d = pairs[0][1].n_features
    checked = [
        (checked_observation(y, operator, d).double(), operator.matrix().to(y.device))
        for y, operator in pairs
    ]
    matrices = [matrix for _, matrix in checked]
    seen, needed = _directions(matrices), d
    if seen == needed:
        seen, needed = _pairs(matrices), d * (d + 1) // 2
    if seen < needed:
        what = "directions of the rows" if needed == d else "numbers of a covariance of the rows"
        raise ValueError(
            f"The operators see {seen} of {needed} {what}, so the data say nothing of the others and they cannot be "
            "learned. A fixed operator with fewer measurements than features only ever shows H Sigma H'; let the "
            "operator vary from batch to batch, or learn in the space of the measurements."
        )
    return checked


def _directions(matrices: list[Tensor]) -> int:
    """Return the rank of all operators together."""
    grams = [matrix.T @ matrix / matrix.square().sum().clamp_min(_TINY) for matrix in matrices]
    return int(torch.linalg.matrix_rank(torch.stack(grams).sum(0), hermitian=True))


def _pairs(matrices: list[Tensor]) -> int:
    """Return the rank of S -> (H_b S H_b')_b on symmetric S; of many features, the most that it can be."""
    d = matrices[0].shape[1]
    ranks = [min(matrix.shape) for matrix in matrices]
    most = min(d * (d + 1) // 2, sum(rank * (rank + 1) // 2 for rank in ranks))
    if d > _COUNTED:
        return most
    rows, columns = torch.triu_indices(d, d).unbind()
    gram = torch.zeros(len(rows), len(rows), dtype=matrices[0].dtype, device=matrices[0].device)
    for matrix in matrices:
        own = matrix.T @ matrix / matrix.square().sum().clamp_min(_TINY)
        # <E_ij, H'H E_kl H'H> of the symmetric units E_ij = e_i e_j' + e_j e_i'.
        gram += own[rows][:, rows] * own[columns][:, columns] + own[rows][:, columns] * own[columns][:, rows]
    return int(torch.linalg.matrix_rank(gram, hermitian=True))


__all__ = ["Learned", "learn_from_measurements"]
