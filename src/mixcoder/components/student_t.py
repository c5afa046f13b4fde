"""Student's t: elliptical clouds with heavy tails, robust to outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, Params, PassSetting, decode_means
from mixcoder.components.gaussian import standard_normal, three_means
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import (
    EMPTY,
    LOG_2PI,
    floor_covariances,
    log_det_whitener,
    pack,
    stands_alone_on_floor,
    unpack,
    variance_floor,
    whitened_square_norms,
    whitening_factors,
)
from mixcoder.statistics import Statistics

# Where a fit of the degrees of freedom begins: heavy enough tails to feel outliers from the first step.
_FIRST_DOF = 10.0


@dataclass(frozen=True)
class StudentTParams(Params):
    """Parameters of :class:`StudentT`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
        Centres; the means where there are more than one degrees of freedom.
    scale_matrices : Tensor, shape (k, d, d)
        The covariances are nu/(nu - 2) times these where nu > 2.
    whiteners : Tensor, shape (k, d, d)
        Lower triangular W with W' W the inverse of the scale matrix.
    degrees_of_freedom : Tensor, shape (k,)
        nu, positive.
    """

    means: Tensor
    scale_matrices: Tensor
    whiteners: Tensor
    degrees_of_freedom: Tensor

    @classmethod
    def build(cls, means: Tensor, scale_matrices: Tensor, degrees_of_freedom: Tensor) -> Self:
        """Return the parameters of given centres, positive definite scale matrices and tails."""
        return cls(means, scale_matrices, whitening_factors(scale_matrices)[0], degrees_of_freedom)


@dataclass(frozen=True)
class StudentTStatistics(Statistics):
    """The sums of :class:`StudentT`, with r the (weighted) code and s the expected latent precision.

    Parameters
    ----------
    counts : Tensor, shape (k,)
        Sum of r.
    scaled_counts : Tensor, shape (k,)
        Sum of r s.
    sums : Tensor, shape (k, d + d(d+1)/2)
        Sums of r s x and of the packed r s x x'.
    gaps : Tensor, shape (k,)
        Sum of r E[s - 1 - log s], which the degrees of freedom are fitted to; never negative.
    pooled : Tensor, shape (g, 1 + 2d), optional
        Row weight, sum and sum of squares of each feature: what the floor is relative to.
    """

    counts: Tensor
    scaled_counts: Tensor
    sums: Tensor
    gaps: Tensor
    pooled: Tensor | None = None


@final
@dataclass(frozen=True)
class StudentT(Family[StudentTParams, StudentTStatistics]):
    r"""Multivariate t components with full scale matrices.

    .. math::
        \log p(x|k) = \log\frac{\Gamma(\frac{\nu_k+d}2)}{\Gamma(\frac{\nu_k}2)} - \tfrac d2\log\pi\nu_k
                      - \tfrac12\log|\Sigma_k| - \tfrac{\nu_k+d}2 \log\left(1 + \frac{\delta_{nk}}{\nu_k}\right),
        \quad \delta_{nk} = (x_n-\mu_k)'\Sigma_k^{-1}(x_n-\mu_k)

    A t is a Gaussian whose precision is scaled by a latent s ~ Gamma(nu/2, nu/2). ``statistics`` takes its
    expectation (nu + d)/(nu + delta) at the current parameters, ``maximize`` raises the bound that follows:
    one EM step, after which the likelihood is never lower. In the first M-step, without parameters, s is
    one for every row (the Gaussian's M-step) and nu starts at 10, or at the nearest bound on it.

    Parameters
    ----------
    degrees_of_freedom : float, optional
        Fixes nu for all components instead of fitting one each.
    min_dof, max_dof : float
        Range of a fitted nu; the exact maximiser within it is taken (the bound is concave in nu).
    min_variance : float
        Smallest eigenvalue of a scale matrix, as in :class:`~mixcoder.components.Gaussian`: relative to the
        variance of the data, outliers included, and therefore smaller by default.

    Examples
    --------
    >>> family, params = StudentT.examples()[0]
    >>> far = torch.tensor([[1e6, 1e6]], dtype=torch.float64)
    >>> bool(family.log_likelihood(params, far).isfinite().all())
    True

    References
    ----------
    Peel & McLachlan (2000), equations 14-17; Liu & Rubin (1995); Lange, Little & Taylor (1989).
    """

    degrees_of_freedom: float | None = None
    min_dof: float = 1.0
    max_dof: float = 200.0
    min_variance: float = 1e-9

    floors_variances: ClassVar[bool] = True
    reach: ClassVar[float] = 5.0
    geometry: ClassVar[str] = "affine"

    def __post_init__(self) -> None:
        given = self.degrees_of_freedom
        if given is not None and not 0 < given < math.inf:
            raise ValueError(
                f"degrees_of_freedom must be positive and finite, or None to fit them, got {given!r}."
            )
        if not 0 < self.min_dof <= self.max_dof <= 1e6:
            raise ValueError(
                f"min_dof and max_dof must satisfy 0 < min_dof <= max_dof <= 1e6, got {self.min_dof!r} and "
                f"{self.max_dof!r}."
            )
        if not self.min_variance > 0:
            raise ValueError(f"min_variance must be positive, got {self.min_variance!r}.")

    def log_likelihood(self, params: StudentTParams, x: Tensor) -> Tensor:
        """Return the log-density through whitened differences, shape (n, k)."""
        norms = whitened_square_norms(x, params.means, params.whiteners)
        dof = params.degrees_of_freedom.to(x.dtype)
        return _log_constant(params).to(x.dtype) - 0.5 * (dof + x.shape[1]) * torch.log1p(norms / dof)

    def statistics(
        self, params: StudentTParams | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> StudentTStatistics:
        """Return the sums of rows and products under code times latent precision."""
        dense = code.dense(x.dtype) if isinstance(code, HardCode) else code
        if weights is not None:
            dense = dense * weights.to(dense.dtype)[:, None]
        counts = dense.sum(0, dtype=torch.float64)
        if params is None:
            gaps = counts * _prior_gap(counts.new_tensor(self._first_dof))
        else:
            d, dof = x.shape[1], params.degrees_of_freedom.to(x.dtype)
            norms = whitened_square_norms(x, params.means, params.whiteners)
            precisions = (dof + d) / norms.add_(dof)
            gaps = (dense * (precisions - 1 - precisions.log())).sum(0, dtype=torch.float64)
            gaps += counts * _prior_gap(params.degrees_of_freedom.double() + d)
            dense = dense * precisions
        moments = [torch.cat([w @ x, pack((x * w[:, None]).T @ x)]) for w in dense.T]
        scaled_counts = dense.sum(0, dtype=torch.float64)
        sums = torch.stack(moments).double()
        return StudentTStatistics(counts, scaled_counts, sums, gaps, self.pooled(x, weights))

    def maximize(self, statistics: StudentTStatistics, reference: Tensor | None = None) -> StudentTParams:
        """Return centres, floored scale matrices, and the degrees of freedom that the gaps ask for."""
        counts, scaled_counts = statistics.counts, statistics.scaled_counts
        assert statistics.pooled is not None
        total, everything = statistics.pooled[0, 0], statistics.pooled[0, 1:]
        first, second = everything.chunk(2)
        overall, d = first / total, len(first)
        variances = (second / total - overall.square()).clamp_min(0)
        # Rows far away from their component count for little, yet they are all that it has: only the number
        # of rows says that it is empty. (Scaled counts below zero come from extrapolated sums.)
        empty = (counts <= EMPTY) | (scaled_counts <= 0)
        means = torch.where(empty[:, None], overall, statistics.sums[:, :d] / scaled_counts[:, None])
        scatters = unpack(statistics.sums[:, d:], d)
        scatters = scatters - scaled_counts[:, None, None] * means[:, :, None] * means[:, None, :]
        scales = scatters / counts.clamp_min(EMPTY)[:, None, None]
        scales = torch.where(empty[:, None, None], torch.diag(variances), scales)
        floor = variance_floor(variances if reference is None else reference, self.min_variance)
        scales, whiteners = floor_covariances(scales, floor)
        gaps = statistics.gaps / counts.clamp_min(EMPTY)
        return StudentTParams(means, scales, whiteners, self._fitted_dof(gaps, empty))

    def decode(self, params: StudentTParams, code: Code) -> Tensor:
        """Return the centres of the components under the code, shape (n, d)."""
        return decode_means(params.means, code)

    def sample(self, params: StudentTParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + L_k e / s^(1/2), with L_k L_k' the scale matrix and s ~ Gamma(nu/2, nu/2)."""
        factors = torch.linalg.cholesky(params.scale_matrices)
        noise = standard_normal(len(index), params.means, generator)
        rows = torch.empty_like(noise)
        for k in range(params.n_components):
            chosen = index == k
            rows[chosen] = noise[chosen] @ factors[k].T
        half = 0.5 * params.degrees_of_freedom[index]
        precisions = _standard_gamma(half, generator) / half
        return params.means[index] + rows / precisions.clamp_min(torch.finfo(rows.dtype).tiny).sqrt()[:, None]

    def n_parameters(self, params: StudentTParams) -> int:
        """Return k (d + d(d+1)/2), and k more where the degrees of freedom are fitted."""
        k, d = params.means.shape
        return k * (d + d * (d + 1) // 2 + (self.degrees_of_freedom is None))

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return row weight, sum and sum of squares of each feature, in float64, shape (1, 1 + 2d)."""
        x = x.to(torch.float64)
        weights = x.new_ones(x.shape[0]) if weights is None else weights.to(torch.float64)
        return torch.cat([weights.sum()[None], weights @ x, weights @ x.square()])[None]

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return centred rows of a spread near one."""
        return Frame.around(mean, std, common_scale=False)

    def collapsed(self, params: StudentTParams, variances: Tensor) -> Tensor:
        """Return which scale matrices touch the floor in some direction that the rows do vary in."""
        floor = variance_floor(variances, self.min_variance)
        return stands_alone_on_floor(params.scale_matrices, params.means, floor)

    def kernel(
        self, params: StudentTParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[StudentTParams, StudentTStatistics]:
        """Return the pass through whitened differences, in float64 where the tolerance asks for it."""
        reach = setting.magnitude + params.means.abs()
        before_cancelling = (params.whiteners.abs() @ reach[:, :, None]).square().sum((1, 2))
        error = float(before_cancelling.max()) * torch.finfo(setting.dtype).eps
        wide = not error <= setting.tolerance
        return super().kernel(params, log_weights, replace(setting, dtype=torch.float64) if wide else setting)

    @property
    def _first_dof(self) -> float:
        return self.degrees_of_freedom or min(max(_FIRST_DOF, self.min_dof), self.max_dof)

    def _fitted_dof(self, gaps: Tensor, empty: Tensor) -> Tensor:
        r"""Return nu with log(nu/2) - digamma(nu/2) = gap, within its range, shape (k,)."""
        if self.degrees_of_freedom is not None:
            return torch.full_like(gaps, self.degrees_of_freedom)
        # The left side falls with nu: a range of nu is a range of gaps.
        ends = _prior_gap(gaps.new_tensor([self.max_dof, self.min_dof]))
        dof = 2 * _inverse_gap(torch.minimum(torch.maximum(gaps, ends[0]), ends[1]))
        return torch.where(empty, self._first_dof, dof.clamp(self.min_dof, self.max_dof))

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, StudentTParams]]:
        """Return three tilted clouds with fitted tails, two on the line with fixed ones."""
        factors = torch.tensor(
            [[[0.6, 0.0], [0.3, 0.4]], [[0.4, 0.0], [-0.2, 0.6]], [[0.7, 0.0], [0.1, 0.3]]],
            dtype=torch.float64,
        )
        tails = torch.tensor([3.0, 5.0, 8.0], dtype=torch.float64)
        line = torch.tensor([[-3.0], [3.0]], dtype=torch.float64)
        widths = torch.tensor([[[0.25]], [[0.64]]], dtype=torch.float64)
        return [
            (cls(), StudentTParams.build(three_means(), factors @ factors.mT, tails)),
            (cls(4.0), StudentTParams.build(line, widths, torch.full_like(line[:, 0], 4.0))),
        ]


def _log_constant(params: StudentTParams) -> Tensor:
    """Return the log-density at the centre, shape (k,)."""
    half = 0.5 * params.means.shape[1]
    gain = _log_gamma_gain(0.5 * params.degrees_of_freedom, half)
    return log_det_whitener(params.whiteners) + gain - half * LOG_2PI


def _log_gamma_gain(a: Tensor, h: float) -> Tensor:
    """Return log Gamma(a + h) - log Gamma(a) - h log a, which vanishes where a is large."""
    near, far = a.clamp_max(1e3), a.clamp_min(1e3)
    exact = torch.lgamma(near + h) - torch.lgamma(near) - h * near.log()
    # Stirling's series of both, term by term: the logarithms of Gamma themselves cancel.
    bend = 1 / (12 * (far + h)) - 1 / (12 * far) - 1 / (360 * (far + h) ** 3) + 1 / (360 * far**3)
    stirling = (far + h - 0.5) * torch.log1p(h / far) - h + bend
    return torch.where(a < 1e3, exact, stirling)


def _prior_gap(dof: Tensor) -> Tensor:
    """Return E[s - 1 - log s] = log(nu/2) - digamma(nu/2) for s ~ Gamma(nu/2, nu/2)."""
    half = 0.5 * dof
    return half.log() - torch.digamma(half)


def _inverse_gap(gaps: Tensor) -> Tensor:
    """Return y with log y - digamma(y) = gap, shape (k,): the shape of a Gamma, fitted.

    Newton's steps on 1/y, from a start within 1.5 % (Minka 2002, Estimating a Gamma distribution).
    """
    y = (3 - gaps + ((gaps - 3).square() + 24 * gaps).sqrt()) / (12 * gaps)
    for _ in range(20):
        error = y.log() - torch.digamma(y) - gaps
        slope = 1 / y - torch.special.polygamma(1, y)
        after = 1 / (1 / y + error / (y.square() * slope))
        # The digits that are right double with every step.
        settled = (after - y).abs() <= 1e-9 * y
        y = after
        if bool(settled.all()):
            break
    return y


def _standard_gamma(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from Gamma(shape, 1), shape (n,), by rejection (Marsaglia & Tsang 2000).

    A draw for shape + 1 times a power of a uniform number holds for shapes below one too.
    """

    def uniform(n: int) -> Tensor:
        return torch.rand(n, generator=generator, dtype=shapes.dtype, device=shapes.device)

    d = shapes + 2 / 3
    c = (9 * d).rsqrt()
    draws, pending = torch.empty_like(shapes), torch.arange(len(shapes), device=shapes.device)
    while len(pending) > 0:
        x = torch.randn(len(pending), generator=generator, dtype=shapes.dtype, device=shapes.device)
        v = (1 + c[pending] * x) ** 3
        log_ratio = 0.5 * x.square() + d[pending] * (1 - v + v.clamp_min(1e-300).log())
        accepted = (v > 0) & (uniform(len(pending)).log() < log_ratio)
        draws[pending[accepted]] = (d[pending] * v)[accepted]
        pending = pending[~accepted]
    return draws * uniform(len(shapes)) ** (1 / shapes)
