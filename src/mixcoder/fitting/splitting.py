"""Which components a temperature makes unstable, and where they are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

from mixcoder.components.base import Params
from mixcoder.fitting.bath import Bath, Mix
from mixcoder.ops.simplex import softargmax_

# Half the distance of the two halves of a round component, in standard deviations along its axis.
_STEP = 0.5

# Steepness of the cut through a component of another family, per standard deviation, and EM steps of its halves.
_STEEPNESS = 4.0
_TRIAL_STEPS = 7

# Lanczos steps that rank round components: what is tried is judged by EM, and a variance a little too small by
# this puts a split off by one temperature.
_RANKING_STEPS = 4

# Components sharing parameters whose splits are tried, each with EM on the whole mixture.
_WHOLE_TRIALS = 4


@dataclass(frozen=True)
class Splits:
    """What splits would bring.

    Parameters
    ----------
    gains : Tensor, shape (k,)
        What to rank components by.
    unstable_at : Tensor, shape (k,), bool
        Which components the temperature makes unstable.
    shares : Tensor, shape (m, k)
        Share of each row's code that the first half of a component takes.
    """

    gains: Tensor
    unstable_at: Tensor
    shares: Tensor

    @classmethod
    def none(cls) -> Splits:
        """Return no splits."""
        return cls(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 0))

    def better(self, other: Splits) -> Splits:
        """Return the better of two splits of each component."""
        ours = self.gains >= other.gains
        return Splits(
            torch.where(ours, self.gains, other.gains),
            torch.where(ours, self.unstable_at, other.unstable_at),
            torch.where(ours, self.shares, other.shares),
        )

    def unstable(self, n_most: int) -> dict[int, Tensor]:
        """Return the cuts of unstable components, at most so many, best first."""
        order = torch.argsort(self.gains, descending=True, stable=True)
        return {k: self.shares[:, k] for k in order[self.unstable_at[order]][:n_most].tolist()}

    def best(self, n_most: int) -> dict[int, Tensor]:
        """Return the best cuts whether unstable or not, at most so many and at most half of them."""
        order = torch.argsort(self.gains, descending=True, stable=True)
        return {k: self.shares[:, k] for k in order[: min(n_most, (len(order) + 1) // 2)].tolist()}


def candidates(bath: Bath, mix: Mix, beta: float, tol: float) -> Splits:
    """Return what a split of each component along its principal axis would bring at a temperature.

    Parameters
    ----------
    tol : float
        Least rise of beta F, in nats per row, that makes a component of a family without formula unstable.
    """
    code = bath.code(mix, beta)
    if bath.fixed_variance is not None:
        variances, places = bath.along(code, _RANKING_STEPS)
        return _by_formula(bath, mix, beta, variances, places[0])
    variances, places = bath.along(code)
    if _has_shared(mix.params):
        trials = [_by_whole_trial(bath, mix, beta, tol, variances, along) for along in places]
        return reduce(Splits.better, trials)
    return _by_trial(bath, mix, beta, tol, code, places)


def _by_formula(bath: Bath, mix: Mix, beta: float, variances: Tensor, along: Tensor) -> Splits:
    r"""Return the splits of round components of one fixed variance s2.

    Two halves of a component drift apart, under EM at beta, by a factor a step along each principal axis:

    .. math:: \beta\, \lambda_{\max}(\mathrm{Cov}_k) / s^2

    so the component is unstable where this exceeds one; with :math:`\log p = -|x - a|^2` it is
    :math:`2 \beta \lambda_{\max} > 1` (Rose 1998, theorem 1).
    """
    assert bath.fixed_variance is not None
    gains = mix.log_masses.exp() * variances
    # A first-order step of the code, so that the means move by _STEP standard deviations each way.
    shares = torch.sigmoid(2 * _STEP * along)
    return Splits(gains, beta * variances > bath.fixed_variance, shares)


def exchanges(bath: Bath, mix: Mix, beta: float, tol: float, n_most: int) -> Iterator[Mix]:
    """Yield the mixture with one component split and two others joined, what promises most first.

    None where components share parameters: no split of these can be judged beside a join.

    Parameters
    ----------
    tol : float
        As in ``candidates``.
    n_most : int
        How many to yield, each with a component of its own to split.
    """
    if mix.n_components < 3 or (bath.fixed_variance is None and _has_shared(mix.params)):
        return
    code = bath.code(mix, beta)
    if bath.fixed_variance is not None:
        variances, places = bath.along(code, _RANKING_STEPS)
        splits = _by_formula(bath, mix, beta, variances, places[0])
        gains = torch.where(splits.unstable_at, splits.gains * (2 / math.pi), 0.0)
        costs = _cost_of_means(bath, mix)
        least = 0.0
    else:
        splits = candidates(bath, mix, beta, tol)
        gains, least = splits.gains, -torch.inf
        costs = _cost_of_joins(bath, mix, beta, code)
    for i in torch.argsort(gains, descending=True, stable=True)[:n_most].tolist():
        others = costs.clone()
        others[i], others[:, i] = torch.inf, torch.inf
        j, k = divmod(int(others.argmin()), mix.n_components)
        if not float(gains[i]) - float(others[j, k]) > least:
            return
        changed = code.clone()
        first = changed[:, i] * splits.shares[:, i]
        changed[:, j] += changed[:, k]
        changed[:, i] -= first
        changed[:, k] = first
        yield bath.maximized(changed.clamp_min_(0))


def _cost_of_means(bath: Bath, mix: Mix) -> Tensor:
    r"""Return what joining two round components of one size adds to the mean square, shape (k, k); inf for one alone.

    Cutting a Gaussian of variance lambda along its axis takes :math:`2 \lambda / \pi` from it, so an exchange pays
    where

    .. math:: \tfrac2\pi \pi_i \lambda_i > \frac{\pi_j \pi_k}{\pi_j + \pi_k} |a_j - a_k|^2
    """
    masses = mix.log_masses.exp()
    means = bath.problem.family.decode(
        mix.params, torch.eye(mix.n_components, dtype=torch.float64, device=masses.device)
    )
    costs = torch.cdist(means, means).square() * masses * masses[:, None] / (masses + masses[:, None])
    return costs.fill_diagonal_(torch.inf)


def _cost_of_joins(bath: Bath, mix: Mix, beta: float, code: Tensor) -> Tensor:
    r"""Return what the free energy falls by where two components become one, others held, shape (k, k).

    With m the component of their codes added,

    .. math:: \Delta F_\beta = \frac1\beta \sum_n w_n \log \Big(1 - u_{nj} - u_{nk}
              + (\pi_j + \pi_k)\, p(x_n|m)^\beta \big/ \sum_i \pi_i\, p(x_n|i)^\beta\Big)

    Only pairs that share rows most are looked at, as many as there are components; the others cost inf.
    """
    k = mix.n_components
    weights = bath.weights.to(code.dtype)
    shared = torch.nn.functional.normalize(code * weights[:, None], dim=0)
    alike = torch.tril(shared.T @ shared, -1) - torch.triu(torch.ones(k, k, dtype=code.dtype), 0)
    first, second = torch.unravel_index(alike.flatten().topk(min(k, k * (k - 1) // 2)).indices, (k, k))
    pairs = code[:, first] + code[:, second]
    joined = bath.maximized(pairs)
    log_masses = torch.logaddexp(mix.log_masses[first], mix.log_masses[second])
    own = bath.log_joint(mix.params, mix.log_masses / beta)
    whole = torch.logsumexp(beta * own, 1, keepdim=True)
    share = (beta * bath.log_joint(joined.params, log_masses / beta) - whole).exp()
    change = torch.log((1 - pairs).clamp_min(0) + share.to(code.dtype)).clamp_min(-700.0)
    costs = code.new_full((k, k), torch.inf).double()
    costs[first, second] = -(weights @ change).double() / beta
    return torch.minimum(costs, costs.T)


def _by_trial(bath: Bath, mix: Mix, beta: float, tol: float, code: Tensor, places: list[Tensor]) -> Splits:
    r"""Return the splits of any family, each tried by EM on its two halves with all else held.

    With halves of shares rho of the component's mass, Jensen's inequality bounds the rise of the free energy:

    .. math:: \Delta F_\beta \ge \Delta_k = \frac1\beta \sum_n w_n u_{nk} \log
              \sum_\pm \rho_\pm \Big(\frac{p(x_n|\pm)}{p(x_n|k)}\Big)^\beta

    so a component with :math:`\Delta_k > 0` has a better state in two halves, whichever way it is found. The
    reverse is not promised: EM on the halves is local.

    Parameters
    ----------
    places : list of Tensor, shape (m, k)
        Places of the rows along each axis to cut; all cuts are one batch, and the best of a component is returned.
    """
    m, k = code.shape
    n_axes = len(places)
    shares = torch.sigmoid(_STEEPNESS * torch.cat(places, 1))  # (m, a k)
    weights = bath.weights.to(code.dtype)
    own = bath.log_joint(mix.params, torch.zeros_like(mix.log_masses)).repeat(1, n_axes)
    masses = (code * weights[:, None]).sum(0).double()
    wide = code.repeat(1, n_axes)
    gains = wide.new_full((n_axes * k,), -torch.inf)
    for _ in range(_TRIAL_STEPS):
        halves = bath.maximized(torch.cat([wide * shares, wide * (1 - shares)], 1))
        log_shares = halves.log_masses.view(2, -1)
        log_shares = (log_shares - torch.logsumexp(log_shares, 0)).clamp_min(-700.0)
        log_joint = bath.log_joint(halves.params, (log_shares / beta).flatten())
        pairs = (log_joint.view(m, 2, -1) - own[:, None]).transpose(1, 2)  # (m, a k, 2)
        pair_code, rise = softargmax_(pairs.contiguous(), beta)
        gains = ((wide * weights[:, None]) * rise).double().sum(0)
        shares = pair_code[:, :, 0]
    gains, best = gains.view(n_axes, k).max(0)
    chosen = shares[:, best * k + torch.arange(k, device=best.device)]
    return Splits(gains, (beta * gains > tol * bath.total) & (masses > 0), chosen)


def _by_whole_trial(
    bath: Bath, mix: Mix, beta: float, tol: float, variances: Tensor, along: Tensor
) -> Splits:
    """Return the splits of components that share parameters: EM on the whole mixture with one of them in two halves.

    What they share changes with every split, so that no split can be tried beside another; those that promise
    most, by mass times variance, are.
    """
    shares = torch.sigmoid(_STEEPNESS * along)
    promise = mix.log_masses.exp() * variances
    gains = promise - float(promise.amax()) - 1e300  # those that are not tried rank last, by promise
    before = bath.step(mix, beta)[0]
    for k in torch.argsort(promise, descending=True, stable=True)[:_WHOLE_TRIALS].tolist():
        trial, reached = bath.split(mix, beta, {k: shares[:, k]}), -torch.inf
        for _ in range(_TRIAL_STEPS):
            reached, trial = bath.step(trial, beta)
        gains[k] = (reached - before) * bath.total
    return Splits(gains, beta * gains > tol * bath.total, shares)


def _has_shared(params: Params) -> bool:
    """Return whether components have parameters in common, in any part."""
    parts = [getattr(params, entry.name) for entry in fields(params)]
    nested = [part for value in parts if isinstance(value, tuple) for part in value]
    return bool(params.shared) or any(_has_shared(part) for part in nested)
