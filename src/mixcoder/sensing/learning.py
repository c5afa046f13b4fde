"""A mixture of full Gaussians learned from what different operators saw of its rows, never from a row itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.operators import Operator, as_operator
from mixcoder.sensing.posterior import checked_observation
from mixcoder.sensing.prior import GaussianPrior

# Smallest variance of a component in any direction, as a fraction of the mean variance of the first prior.
_FLOOR = 1e-8

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
        The mean log-evidence of an observation before each step and after the last, in nats; plus
        the log-density of the covariances, where their strength is not zero.
    converged : bool
        Whether a step changed the bound by less than ``tol``.
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
    start: GaussianPrior | None = None,
    generator: torch.Generator | None = None,
    max_iter: int = 200,
    tol: float = 1e-5,
    on_step: Callable[[int, float], None] | None = None,
) -> Learned:
    r"""Return the mixture of Gaussians and the noise level under which y_b = H_b x_b + e_b are most probable.

    Exact EM: with S_bk = H_b S_k H_b' + s^2 I, the E-step takes for each observation the posterior of its row,

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
    start : GaussianPrior, optional
        By default minimum norm solutions of some observations, chosen at random, with the variance of all.
    generator : torch.Generator, optional
        Draws the start; needed where none is given.
    max_iter : int
    tol : float
        The fit stops when a step raises the bound by less than this, in nats an observation. An estimated noise level
        comes last, the more slowly the fewer measurements there are of a row: ask for 1e-7 where it matters.
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
    """
    seen = _checked(batches)
    if noise_variance is not None and not 0 < noise_variance < math.inf:
        raise ValueError(
            f"noise_variance must be positive and finite, or None to estimate it, got {noise_variance!r}."
        )
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be non-negative and finite, got {strength!r}.")
    n_rows = sum(len(y) for y, _ in seen)
    if not 1 <= n_components <= n_rows:
        raise ValueError(f"n_components must be in 1..{n_rows}, the observations, got {n_components!r}.")
    if start is None:
        if generator is None:
            raise ValueError("Give a generator to draw the start with, or a start.")
        start = _start(seen, n_components, generator)
    prior = _full(start)
    scale = float(torch.stack([prior.variances(k).mean() for k in prior.used]).mean())
    squares = sum(float(y.square().sum()) for y, _ in seen) / sum(y.numel() for y, _ in seen)
    level = 0.1 * squares if noise_variance is None else noise_variance
    bounds: list[float] = []
    for i in range(max_iter + 1):
        sums = _sums(prior, seen, level)
        bounds.append((sums.log_evidence + _penalty(prior, strength, scale)) / n_rows)
        if on_step is not None:
            on_step(i, bounds[-1])
        if i == max_iter or (i and bounds[-1] - bounds[-2] < tol):
            break
        prior = _maximised(prior, sums, strength, scale)
        if noise_variance is None:
            level = max(sums.noise / sums.n_measured, _NOISE_FLOOR * squares)
    return Learned(prior, level, tuple(bounds), len(bounds) > 1 and bounds[-1] - bounds[-2] < tol)


@dataclass
class _Sums:
    """What the M-step needs of all observations; means and scatters are about the current means."""

    counts: Tensor
    firsts: Tensor
    seconds: Tensor
    noise: float
    n_measured: int
    log_evidence: float


def _sums(prior: GaussianPrior, batches: list[tuple[Tensor, Tensor]], level: float) -> _Sums:
    k, d = prior.means.shape
    sums = _Sums(
        prior.means.new_zeros(k), prior.means.new_zeros(k, d), prior.means.new_zeros(k, d, d), 0.0, 0, 0.0
    )
    for y, matrix in batches:
        centred = y - prior.shift @ matrix.T
        log_joint = y.new_full((len(y), k), -torch.inf)
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for c in prior.used:
            cross = prior.spreads[c] @ matrix.T  # (d, m)
            covariance = matrix @ cross
            covariance.diagonal().add_(level)
            factor = torch.linalg.cholesky(covariance)
            white = torch.linalg.solve_triangular(factor, cross.T, upper=False)  # (m, d)
            apart = torch.linalg.solve_triangular(
                factor, (centred - prior.means[c] @ matrix.T).T, upper=False
            )
            log_det = 2 * factor.diagonal().log().sum() + len(factor) * LOG_2PI
            log_joint[:, c] = prior.log_weights[c] - 0.5 * (apart.square().sum(0) + log_det)
            parts[c] = (white, apart.T)
        evidence = torch.logsumexp(log_joint, 1)
        weights = torch.softmax(log_joint, 1)
        sums.log_evidence += float(evidence.sum())
        sums.n_measured += y.numel()
        for c, (white, apart) in parts.items():
            r = weights[:, c]
            moved = apart @ white  # m_bk - mu_k, (n, d)
            left = prior.spreads[c] - white.T @ white
            sums.counts[c] += r.sum()
            sums.firsts[c] += r @ moved
            sums.seconds[c] += (moved * r[:, None]).T @ moved + r.sum() * left
            residual = centred - (prior.means[c] + moved) @ matrix.T
            trace = float(((matrix @ left) * matrix).sum())
            sums.noise += float(r @ residual.square().sum(1)) + float(r.sum()) * max(trace, 0.0)
    return sums


def _maximised(prior: GaussianPrior, sums: _Sums, strength: float, scale: float) -> GaussianPrior:
    """Return the mixture that the sums ask for; a component that no observation asks for keeps its shape."""
    weights = sums.counts / sums.counts.sum()
    total = sums.counts.clamp_min(1e-10)
    moved = sums.firsts / total[:, None]
    identity = torch.eye(prior.n_features, dtype=moved.dtype, device=moved.device)
    scatter = sums.seconds - sums.counts[:, None, None] * moved[:, :, None] * moved[:, None, :]
    spreads = (scatter + strength * scale * identity) / (total + strength)[:, None, None]
    spreads = 0.5 * (spreads + spreads.mT)
    values, vectors = torch.linalg.eigh(spreads)
    if bool((values < _FLOOR * scale).any()):
        # The most likely covariance under the floor (its eigenvalues are raised): the bound still never falls.
        spreads = (vectors * values.clamp_min(_FLOOR * scale)[:, None, :]) @ vectors.mT
    idle = (sums.counts <= 1e-10)[:, None]
    return replace(
        prior,
        log_weights=weights.log(),
        means=torch.where(idle, prior.means, prior.means + moved),
        spreads=torch.where(idle[:, :, None], prior.spreads, spreads),
    )


def _penalty(prior: GaussianPrior, strength: float, scale: float) -> float:
    if strength == 0:
        return 0.0
    factors = torch.linalg.cholesky(prior.spreads[prior.used])
    log_dets = 2 * factors.diagonal(dim1=1, dim2=2).log().sum()
    traces = scale * torch.cholesky_inverse(factors).diagonal(dim1=1, dim2=2).sum()
    return -0.5 * strength * float(log_dets + traces)


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
