"""Directions: points of the unit sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params, decode_means
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.ops.gaussian import LOG_2PI, safe_means, scaled_square_norms
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class VonMisesFisherParams(Params):
    """Parameters of :class:`VonMisesFisher`.

    Parameters
    ----------
    directions : Tensor, shape (k, d)
        Unit vectors mu.
    concentrations : Tensor, shape (k,)
        kappa, zero (uniform) or more.
    """

    directions: Tensor
    concentrations: Tensor


@final
@dataclass(frozen=True)
class VonMisesFisher(ExponentialFamily[VonMisesFisherParams]):
    r"""Round clouds of directions on the sphere S^(d-1), d >= 2.

    .. math::
        \log p(x|k) = \kappa_k \mu_k'x + \log C_d(\kappa_k), \qquad
        C_d(\kappa) = \frac{\kappa^{d/2-1}}{(2\pi)^{d/2} I_{d/2-1}(\kappa)}

    A density with respect to area. A row is read as a direction: what its norm lacks of one (see
    ``check_rows``) is divided out. The expected row of a component lies inside the ball, at the mean
    resultant length A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa) along mu.

    Parameters
    ----------
    max_concentration : float
        Largest kappa; one over kappa is about the variance along each tangent. The M-step is the exact
        maximiser under this constraint (the likelihood is concave in kappa), so the bound still never
        falls.

    Examples
    --------
    >>> family, params = VonMisesFisher.examples()[0]
    >>> family.log_likelihood(params, params.directions).argmax(1)
    tensor([0, 1, 2])

    References
    ----------
    Banerjee, Dhillon, Ghosh & Sra (2005), equation 4.4 for the start; Wood (1994) for the sampler;
    DLMF 10.41.3 for the expansion of I_v.
    """

    max_concentration: float = 1e6

    def __post_init__(self) -> None:
        if not 0 < self.max_concentration <= 1e12:
            raise ValueError(f"max_concentration must be in (0, 1e12], got {self.max_concentration!r}.")

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write the direction of x."""
        torch.div(x, _norms(x), out=out)

    def natural(self, params: VonMisesFisherParams) -> Tensor:
        """Return log C_d(kappa) and kappa mu."""
        directions, kappa = _unit(params.directions), params.concentrations
        bias = _log_peak(kappa, directions.shape[1]) - kappa
        return torch.cat([bias[:, None], kappa[:, None] * directions], 1)

    def log_likelihood(self, params: VonMisesFisherParams, x: Tensor) -> Tensor:
        """Return the log-density through differences, shape (n, k)."""
        # kappa mu'x = kappa - kappa |x - mu|^2 / 2: near the mode of a narrow component the right side
        # keeps the digits that the left one loses against log C.
        directions, kappa = _unit(params.directions), params.concentrations
        norms = scaled_square_norms(_unit(x), directions, kappa[:, None])
        return -0.5 * norms + _log_peak(kappa, directions.shape[1]).to(x.dtype)

    def maximize(self, statistics: Moments) -> VonMisesFisherParams:
        """Return the directions of the sums, and the kappa at which A_d(kappa) is their mean length."""
        means = safe_means(statistics.counts, statistics.sums)
        lengths = torch.linalg.vector_norm(means, dim=1)
        first = torch.zeros_like(means)
        first[:, 0] = 1.0
        directions = torch.where((lengths > 0)[:, None], means / lengths[:, None], first)
        kappa = _concentrations(lengths, means.shape[1], self.max_concentration)
        return VonMisesFisherParams(_unit(directions), kappa)

    def decode(self, params: VonMisesFisherParams, code: Code) -> Tensor:
        """Return the expected direction under the code, inside the ball, shape (n, d)."""
        lengths, _ = _mean_lengths(params.concentrations, params.directions.shape[1])
        return decode_means(params.directions * lengths[:, None], code)

    def sample(self, params: VonMisesFisherParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return directions whose cosine with mu is drawn by rejection."""
        directions, kappa = params.directions[index], params.concentrations[index]
        rows, pending = torch.empty_like(directions), torch.arange(len(index), device=index.device)
        while len(pending) > 0:
            drawn, accepted = _propose(directions[pending], kappa[pending], generator)
            rows[pending[accepted]] = drawn[accepted]
            pending = pending[~accepted]
        return rows

    def check_rows(self, x: Tensor) -> str | None:
        """Return the first row that is not on the sphere."""
        if x.shape[1] < 2:
            return f"X has {x.shape[1]} feature, but a direction needs at least 2."
        norms = torch.linalg.vector_norm(x.to(torch.float64), dim=1)
        tolerance = 1e-6 if x.dtype == torch.float64 else 1e-4
        wrong = ~((norms - 1).abs() <= tolerance)
        if not bool(wrong.any()):
            return None
        row = int(wrong.to(torch.uint8).argmax())
        return (
            f"Row {row} has norm {float(norms[row]):.6g}, but directions have norm 1 within {tolerance:g}: "
            "divide each row by its norm."
        )

    def collapsed(self, params: VonMisesFisherParams, variances: Tensor) -> Tensor:
        """Return which components stand on the largest concentration."""
        del variances
        return params.concentrations >= self.max_concentration * 0.99

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, VonMisesFisherParams]]:
        """Return three clouds in space, and two on the circle."""
        space = torch.tensor([[1.0, 0.0, 0.0], [-0.6, 0.8, 0.0], [0.0, -0.6, 0.8]], dtype=torch.float64)
        circle = torch.tensor([[1.0, 0.0], [-0.8, 0.6]], dtype=torch.float64)
        narrow = torch.tensor([20.0, 8.0, 40.0], dtype=torch.float64)
        wide = torch.tensor([6.0, 12.0], dtype=torch.float64)
        return [
            (cls(), VonMisesFisherParams(space, narrow)),
            (cls(), VonMisesFisherParams(circle, wide)),
        ]

    def n_parameters(self, params: VonMisesFisherParams) -> int:
        """Return k d: a direction has d - 1, its concentration one."""
        return int(params.directions.numel())


def _norms(x: Tensor) -> Tensor:
    # The zero vector has no direction and stays as it is.
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _unit(x: Tensor) -> Tensor:
    return x / _norms(x)


def _concentrations(lengths: Tensor, n_features: int, largest: float) -> Tensor:
    """Return the root of A_d(kappa) = length, at most ``largest``, shape (k,).

    A_d is concave and increases: whatever the start, Newton's steps come from the left from the second on.
    """
    lengths = lengths.clamp_max(1.0)
    gaps = 1 - lengths
    start = lengths * (n_features - lengths.square()) / (gaps * (1 + lengths))
    kappa = start.nan_to_num(largest).clamp(1e-100, largest)
    for _ in range(50):
        mean, gap = _mean_lengths(kappa, n_features)
        slope = gap * (1 + mean) - (n_features - 1) * mean / kappa
        # Near one a length says less than its distance from one.
        excess = torch.where(lengths < 0.5, lengths - mean, gap - gaps)
        step = excess / slope.clamp_min(torch.finfo(slope.dtype).tiny)
        after = torch.minimum(torch.maximum(kappa + step, 0.1 * kappa), kappa.new_tensor(largest))
        settled = (after - kappa).abs() <= _SETTLED * kappa
        kappa = after
        if bool(settled.all()):
            break
    return torch.where(lengths == 0, 0.0, kappa)


# The digits that are right double with every step: after one this small none is left to gain.
_SETTLED = 1e-9

# I_v(kappa) by two expansions in float64: the power series where h^2 = v^2 + kappa^2 is below 30^2, Debye's
# uniform expansion elsewhere. Thirteen terms of the one, 48 of the other leave less than 1e-14.
_DEBYE_FROM = 30.0
_DEBYE_TERMS = 13
_SERIES_TERMS = 48


def _log_peak(kappa: Tensor, n_features: int) -> Tensor:
    """Return log C_d(kappa) + kappa, the log-density at the mode, shape (k,)."""
    v, half = 0.5 * n_features - 1, 0.5 * n_features
    h, total, _ = _debye(kappa, v)
    # log I_v - kappa = v^2 / (h + kappa) - v arsinh(v / kappa) - ...; the logarithms of kappa cancel.
    by_debye = v * torch.log(v + h) - v * v / (h + kappa) + 0.5 * (LOG_2PI + h.log()) - total.log()
    small = kappa.clamp_max(_DEBYE_FROM)
    log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
    by_series = small - torch.log1p(_series(small, half)) - log_area
    return torch.where(_is_small(kappa, v), by_series, by_debye - half * LOG_2PI)


def _mean_lengths(kappa: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Return A_d(kappa) and 1 - A_d(kappa), both to full relative precision, shape (k,)."""
    v, half = 0.5 * n_features - 1, 0.5 * n_features
    h, total, slope = _debye(kappa, v)
    tail = kappa / h * (slope / total)
    mean, gap = kappa / (h + v) - tail, (v + v * v / (h + kappa)) / (h + v) + tail
    small = kappa.clamp_max(_DEBYE_FROM)
    by_series = small / n_features * (1 + _series(small, half + 1)) / (1 + _series(small, half))
    is_small = _is_small(kappa, v)
    return torch.where(is_small, by_series, mean), torch.where(is_small, 1 - by_series, gap)


def _is_small(kappa: Tensor, v: float) -> Tensor:
    return kappa.square() + v * v < _DEBYE_FROM**2


def _series(kappa: Tensor, half: float) -> Tensor:
    """Return 0F1(; d/2; kappa^2 / 4) - 1, to which I_v is proportional: a sum of positive terms."""
    j = torch.arange(1, _SERIES_TERMS + 1, dtype=kappa.dtype, device=kappa.device)
    ratios = (0.25 * kappa.square())[:, None] / (j * (half + j - 1))
    return ratios.cumprod(1).sum(1)


def _debye(kappa: Tensor, v: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return h, the sum U of Debye's expansion, and S with I'_v / I_v = (1 - (kappa/h)^2 S/U) h / kappa.

    .. math:: I_v(\kappa) = \frac{e^{h - v\,\mathrm{arsinh}(v/\kappa)}}{\sqrt{2\pi h}}
              \sum_j h^{-j} \tilde U_j(v^2/h^2), \qquad h = \sqrt{v^2 + \kappa^2}

    The usual form divides by v; with U_j(t) = t^j Ũ_j(t^2) and t = v/h it holds for v = 0 too.
    """
    h = (kappa.square() + v * v).clamp_min(_DEBYE_FROM**2).sqrt()
    values, slopes = (table.to(kappa.device) for table in _debye_tables())
    j = torch.arange(_DEBYE_TERMS, dtype=kappa.dtype, device=kappa.device)
    s = (v / h).square().clamp_max(1.0)[:, None] ** j  # (k, j)
    inverse = h[:, None] ** -j
    return h, (inverse * (s @ values.T)).sum(1), (inverse * (s @ slopes.T)).sum(1) / h


@lru_cache(maxsize=1)
def _debye_tables() -> tuple[Tensor, Tensor]:
    r"""Return the coefficients of Ũ_j(s), and of (1/2 + j) Ũ_j + 2 s Ũ_j', each shape (j, j).

    .. math:: U_{j+1}(t) = \tfrac12 t^2 (1-t^2) U_j'(t) + \tfrac18 \int_0^t (1 - 5 s^2)\, U_j(s)\, ds

    (DLMF 10.41.9.) The second row is what remains of V_j - U_j when its factor 1 - t^2 is taken out.
    """
    with torch.inference_mode(mode=False):  # what is kept must serve everybody
        row = [Fraction(1)]
        values = torch.zeros(_DEBYE_TERMS, _DEBYE_TERMS, dtype=torch.float64)
        for j in range(_DEBYE_TERMS):
            values[j, : j + 1] = torch.tensor([float(a) for a in row], dtype=torch.float64)
            following = [Fraction(0)] * (j + 2)
            for i, a in enumerate(row):
                power = j + 2 * i
                following[i] += a * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
                following[i + 1] -= a * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
            row = following
        i = torch.arange(_DEBYE_TERMS, dtype=torch.float64)
        return values, values * (0.5 + i[:, None] + 2 * i)


def _propose(directions: Tensor, kappa: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return one proposal of Wood's for each direction, and whether it is accepted.

    His beta variate and his uniform tangent are the two parts of one uniform direction.
    """
    n, d = directions.shape
    noise = torch.randn(n, d, generator=generator, dtype=kappa.dtype, device=kappa.device)
    along = (noise * directions).sum(1)
    tangents = noise - along[:, None] * directions
    lengths = torch.linalg.vector_norm(tangents, dim=1)
    z = 0.5 * (1 - along / torch.hypot(along, lengths))  # Beta((d-1)/2, (d-1)/2)
    b = (d - 1) / (2 * kappa + torch.hypot(2 * kappa, kappa.new_tensor(d - 1.0)))
    gap = 2 * b * z / (1 - (1 - b) * z)  # 1 - w, with w the cosine
    best = 2 * b / (1 + b)  # 1 - x0, where the ratio of the densities is largest
    log_ratio = kappa * (best - gap) + (d - 1) * torch.log((best + gap - best * gap) / (best * (2 - best)))
    uniform = torch.rand(n, generator=generator, dtype=kappa.dtype, device=kappa.device)
    sines = (gap * (2 - gap)).sqrt()
    rows = (1 - gap)[:, None] * directions + (sines / lengths)[:, None] * tangents
    return _unit(rows), (uniform.log() <= log_ratio) & (lengths > 0)
