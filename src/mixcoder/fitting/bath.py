"""A mixture in a bath of some temperature: EM steps, codes and splits on a sample of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixcoder.components import GaussianTiedSpherical
from mixcoder.components.base import Kernel, Params, PassSetting
from mixcoder.components.exponential import ExponentialFamily, FeatureKernel
from mixcoder.components.gaussian import Gaussian
from mixcoder.encoders import Tempered
from mixcoder.fitting.axes import DENSE_FEATURES, LANCZOS_STEPS, flattest_places, principal_axes
from mixcoder.fitting.em import FIT_TOLERANCE, Problem
from mixcoder.fitting.start import Sample
from mixcoder.ops.frame import Frame
from mixcoder.ops.moments import class_sums
from mixcoder.ops.simplex import entropy, log_simplex, softargmax_
from mixcoder.ops.workspace import Workspace
from mixcoder.sources import TensorSource
from mixcoder.statistics import Moments

# Rows times components whose codes are held at once.
_CODE_NUMBERS = 1 << 24

# A component with less than this share of the rows is none.
_DEAD = 1e-9

# A Gaussian whose variance along some axis is less than this share of that of the rows, floors aside, is a spike.
_SPIKE = 1e-4

# Features of all rows stay in memory up to this size; beyond, they are written block by block in every step.
_FEATURE_BYTES = 8 << 20

# Components whose log-densities, times beta, vary against each other by no more than this are one.
_COINCIDENT = 1e-3


@dataclass(frozen=True)
class Mix:
    """Components with masses that sum to one.

    Parameters
    ----------
    params : Params
    log_masses : Tensor, shape (k,)
    """

    params: Params
    log_masses: Tensor

    @property
    def n_components(self) -> int:
        """Number of components."""
        return int(self.log_masses.shape[0])

    def clone(self) -> Mix:
        """Return a copy that may be written to: tensors of inference mode may not."""
        return Mix(self.params.clone(), self.log_masses.clone())

    def take(self, index: Tensor) -> Mix:
        """Return some of the components, their masses summing to one."""
        log_masses = self.log_masses[index]
        return Mix(self.params.take(index), log_masses - torch.logsumexp(log_masses, 0))


@dataclass(frozen=True)
class Bath:
    """Some rows, and what a mixture does among them at an inverse temperature beta.

    Parameters
    ----------
    problem : Problem
        Of the rows of the sample in working coordinates, with free weights.
    rows : Tensor, shape (m, d)
        In working coordinates, float64 whatever the dtype of the fit, as everywhere in the search for a start.
    view : Tensor, shape (m, e)
        The rows where principal axes are taken.
    weights : Tensor, shape (m,)
        Row weights.
    log_scale : float
        What a log-density gains on the way back to the units of the rows.
    """

    problem: Problem
    rows: Tensor
    view: Tensor
    weights: Tensor
    log_scale: float

    @classmethod
    def of(cls, problem: Problem, sample: Sample, n_components: int, generator: torch.Generator) -> Bath:
        """Return the bath of a sample, thinned out where codes of so many components would not fit."""
        # Whitened rows have no principal axis: those in the units of the columns have.
        rows, view, weights = sample.rows, sample.views[-1], sample.weights
        most = max(2 * n_components, _CODE_NUMBERS // n_components)
        if len(rows) > most:
            kept = torch.randperm(len(rows), generator=generator)[:most].sort().values.to(rows.device)
            rows, view, weights = rows[kept], view[kept], weights[kept]
        if problem.family.geometry == "rotation":
            view = problem.family.seeding_view(
                rows
            )  # in working units, as the variances of round components are
        even = bool((weights == weights[0]).all())
        given = {entry.name: getattr(problem, entry.name) for entry in fields(Problem)}
        given |= {
            "source": TensorSource(rows, None if even else weights),
            "frame": Frame.identity(rows.shape[1], rows.device),
            "total_weight": float(len(rows) if even else weights.sum()),
            "pooled": None,
            "fixed_weights": False,
            "workspace": Workspace(),
        }
        weights = torch.ones_like(weights) if even else weights
        return cls(Problem(**given).with_pooled(), rows, view, weights, problem.frame.log_scale)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def total(self) -> float:
        """Sum of the row weights."""
        return self.problem.total_weight

    @property
    def _row_weights(self) -> Tensor | None:
        """Row weights, ``None`` where all are equal."""
        source = self.problem.source
        return source.weights if isinstance(source, TensorSource) else None

    # One step

    def step(self, mix: Mix, beta: float) -> tuple[float, Mix]:
        r"""Return the mean free energy of a mixture, and the mixture after one EM step.

        .. math:: F_\beta = \frac1{\beta N} \sum_n w_n \log \sum_k \pi_k\, p(x_n|k)^\beta
        """
        # (pi^(1/beta) p)^beta: the tempered code of the library with masses that are not tempered.
        if self._is_small:
            statistics, bound = self._sums(mix.params, mix.log_masses / beta, beta)
        else:
            totals = self.problem.totals(mix.params, mix.log_masses / beta, Tempered(beta))
            statistics, bound = totals.statistics, totals.bound
        params, log_masses = self.problem.maximize(statistics, mix.log_masses)
        following = Mix(params, log_masses)
        # A comparison with NaN is false: what is not a number is not taken for dead here.
        if float(log_masses.amin()) <= math.log(_DEAD):
            following = following.take(torch.nonzero(log_masses > math.log(_DEAD))[:, 0])
        return float(bound) / self.total + self.log_scale, following

    def _sums(self, params: Params, log_weights: Tensor, beta: float) -> tuple[Any, Tensor]:
        """Return what ``Problem.totals`` adds up, without blocks: all features stay where they were first written."""
        family = self.problem.family
        kernel = family.kernel(params, log_weights, self._setting)
        features = self._expanded(kernel)
        code, bounds = softargmax_(kernel.log_joint(features), beta)
        weights = self._row_weights
        bound = bounds.sum() if weights is None else weights @ bounds
        statistics = self.problem.with_pooled_sums(kernel.statistics(features, code, weights))
        offset = kernel.offset(self.problem.pooled)
        log_prior = family.log_prior(params, statistics)
        bound = bound if offset is None else bound + offset[0]
        return statistics, bound if log_prior is None else bound + log_prior.sum()

    @cached_property
    def _is_small(self) -> bool:
        """Whether the features of all rows may stay in memory, and a step costs little more than its operations."""
        return 8 * self.n_rows * self.problem.width <= _FEATURE_BYTES

    @cached_property
    def _setting(self) -> PassSetting:
        dtype = self.problem.source.dtype
        # Round components of one size cannot shrink onto a few rows, where products lose digits.
        tolerance = math.inf if self.fixed_variance is not None else FIT_TOLERANCE[dtype]
        return PassSetting(dtype, Workspace(), self.problem.magnitude, tolerance)

    @cached_property
    def _written(self) -> list[Tensor]:
        """The features of all rows, once written: they depend on no parameter."""
        return []

    def _expanded(self, kernel: Kernel[Any, Any]) -> Tensor:
        """Return what a kernel makes of all rows."""
        if not (self._is_small and isinstance(kernel, FeatureKernel)):
            return kernel.expand(self.rows, self.problem.frame)
        if not self._written:
            rows = kernel.expand(self.rows, self.problem.frame)
            self._written.append(kernel.workspace.given_away(rows))
        return self._written[0]

    def code(self, mix: Mix, beta: float) -> Tensor:
        """Return the code of each row, shape (m, k)."""
        return softargmax_(self.log_joint(mix.params, mix.log_masses / beta), beta)[0]

    def entropy(self, mix: Mix, beta: float) -> float:
        """Return the mean entropy of the codes, in nats."""
        return float(entropy(self.code(mix, beta)).double() @ self.weights) / self.total

    def log_joint(self, params: Params, log_weights: Tensor) -> Tensor:
        """Return log pi + log p up to what is the same for all components of a row, shape (m, k)."""
        kernel = self.problem.family.kernel(
            params, log_weights, replace(self._setting, workspace=Workspace())
        )
        return kernel.log_joint(self._expanded(kernel))

    def maximized(self, code: Tensor) -> Mix:
        """Return components and masses that maximise the bound at a code, shape (m, k)."""
        family, weights = self.problem.family, self._row_weights
        if self._written and isinstance(family, ExponentialFamily):
            sums = class_sums(code if weights is None else code.clone(), self._written[0], weights)
            statistics: Any = self.problem.with_pooled_sums(Moments(sums[:, 0], sums[:, 1:]))
        else:
            statistics = family.statistics(None, self.rows, code.clone(), weights)
        counts: Tensor = statistics.counts
        return Mix(self.problem.maximize(statistics, counts)[0], log_simplex(counts.clamp_min(0)))

    # Splits

    def collapsed(self, mix: Mix, before: Mix) -> bool:
        """Return whether more components than before are spikes: narrower than any real cluster somewhere."""
        return self._n_spikes(mix) > self._n_spikes(before)

    def _n_spikes(self, mix: Mix) -> int:
        family, variances = self.problem.family, self.problem.variances
        # Families of low rank have no spreads that are written out.
        if not isinstance(family, Gaussian) or type(family).spreads is Gaussian.spreads:
            found = family.collapsed(mix.params, variances)
            return 0 if found is None else int(found.sum())
        spreads, added = family.spreads(mix.params), family.added(variances).expand_as(variances)
        stds = torch.where(variances > 0, variances, 1.0).sqrt()
        if spreads.ndim == 2:
            least = ((spreads - added) / stds.square()).amin(1)
        else:
            least = torch.linalg.eigvalsh((spreads - torch.diag(added)) / torch.outer(stds, stds))[:, 0]
        return int((least < _SPIKE).sum())

    def one_component(self) -> Mix:
        """Return the mixture of one component."""
        return self.maximized(self.rows.new_ones(self.n_rows, 1))

    def one_each(self, n_components: int) -> Mix:
        """Return one component a row and the others empty, for no more rows than components."""
        return self.maximized(
            torch.eye(self.n_rows, n_components, dtype=self.rows.dtype, device=self.rows.device)
        )

    def split(self, mix: Mix, beta: float, halves: dict[int, Tensor]) -> Mix:
        """Return the mixture after some components were cut in two.

        Parameters
        ----------
        halves : dict of int to Tensor, shape (m,)
            The share of each row's code that the first half of a component takes.
        """
        code = self.code(mix, beta)
        first = torch.stack([code[:, k] * share for k, share in halves.items()], 1)
        chosen = torch.tensor(list(halves), device=code.device)
        code[:, chosen] -= first
        return self.maximized(torch.cat([code.clamp_min_(0), first], 1))

    def joined(self, mix: Mix, beta: float) -> Mix:
        """Return the mixture with components that coincide made one, their masses added."""
        pairs = self._near_pairs(mix)
        if not pairs:
            return mix
        kept, log_masses = list(range(mix.n_components)), mix.log_masses.clone()
        log_joint = self.log_joint(mix.params, mix.log_masses / beta).double()
        code = softargmax_(log_joint.clone(), beta)[0] * self.weights[:, None]
        for j, k in pairs:
            apart = beta * (log_joint[:, j] - log_joint[:, k])
            share = code[:, j] + code[:, k]
            mean = (share @ apart) / share.sum()
            if float((share @ (apart - mean).square()) / share.sum()) < _COINCIDENT**2:
                kept.remove(k)
                log_masses[j] = torch.logaddexp(log_masses[j], log_masses[k])
        if len(kept) == mix.n_components:
            return mix
        return Mix(mix.params, log_masses).take(torch.tensor(kept, device=log_masses.device))

    def _near_pairs(self, mix: Mix) -> list[tuple[int, int]]:
        """Return pairs of components whose expected rows are each other's nearest."""
        if mix.n_components == 1:
            return []
        family, k = self.problem.family, mix.n_components
        points = family.decode(mix.params, torch.eye(k, dtype=torch.float64, device=mix.log_masses.device))
        gaps = torch.cdist(points, points).fill_diagonal_(math.inf)
        nearest = gaps.argmin(1).tolist()
        return [(j, k) for j, k in enumerate(nearest) if j < k and nearest[k] == j]

    @property
    def fixed_variance(self) -> float | None:
        """The variance of round components of one fixed size, in squared working units; ``None`` for others."""
        family = self.problem.family
        return family.variance if isinstance(family, GaussianTiedSpherical) else None

    def along(self, code: Tensor, n_steps: int = LANCZOS_STEPS) -> tuple[Tensor, list[Tensor]]:
        """Return the largest variance of each component, (k,), and places of the rows along axes to cut, (m, k) each.

        Places are in standard deviations from the centre of the component.
        """
        weighted = code * self.weights.to(code.dtype)[:, None]
        variances, axes, centres = principal_axes(self.view, weighted, n_steps)
        places = self.view @ axes.T - (centres * axes).sum(1)
        places /= variances.sqrt().clamp_min(torch.finfo(places.dtype).tiny).to(places.dtype)
        if self.problem.family.geometry == "affine" and self.view.shape[1] <= DENSE_FEATURES:
            return variances, [places, flattest_places(self.view, weighted)]
        return variances, [places]

    def critical_beta(self, mix: Mix) -> float | None:
        """Return the first critical beta of one component; ``None`` where no formula tells it."""
        if self.fixed_variance is None:
            return None
        variance = float(self.along(self.code(mix, 1.0))[0].amax())
        return self.fixed_variance / variance if variance > 0 else None
