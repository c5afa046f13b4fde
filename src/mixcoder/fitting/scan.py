"""Before a fit: where the rows lie, how far they spread, what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder.ops.frame import Frame
from mixcoder.sources import Block, Source

MIDDLE_HALF = 1.3489795003921634
"""Width of the middle half of a normal distribution, in standard deviations: 2 Phi^-1(3/4)."""

# Numbers of a block, in float64 two megabytes: several sweeps over them stay in cache.
_SCAN_NUMBERS = 1 << 18


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of each column; NaN where a column holds one, shape (d,).

    Parameters
    ----------
    lowest, highest : Tensor, shape (d,)
    incomplete : bool
        Whether entries are missing, and these are the ranges of what is seen: (inf, -inf) of a column of which
        nothing is.
    """

    lowest: Tensor
    highest: Tensor
    incomplete: bool = False

    def __add__(self, other: Range) -> Range:
        """Return the range of both sets of rows."""
        lowest, highest = torch.minimum(self.lowest, other.lowest), torch.maximum(self.highest, other.highest)
        return Range(lowest, highest, self.incomplete or other.incomplete)

    @property
    def has_nan(self) -> bool:
        """Whether some value is NaN."""
        return bool(self.lowest.isnan().any())

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(torch.isfinite(self.lowest).all() and torch.isfinite(self.highest).all())


@dataclass(frozen=True)
class _Spread:
    """Weight, of all or of each column, mean and summed squared deviations of some rows."""

    weight: Tensor
    mean: Tensor
    squares: Tensor

    def __add__(self, other: _Spread) -> _Spread:
        # Chan, Golub & LeVeque (1983): nothing cancels.
        weight = self.weight + other.weight
        share = other.weight / weight.clamp_min(torch.finfo(torch.float64).tiny)
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap.square() * (self.weight * share)
        return _Spread(weight, self.mean + gap * share, squares)


@dataclass(frozen=True)
class Scan:
    """What one look at the rows tells.

    Parameters
    ----------
    weight : float
        Sum of the row weights.
    mean, std : Tensor, shape (d,)
        Exact for a constant column: its value, and zero.
    lowest, highest : Tensor, shape (d,)
    n_missing, n_empty : int
        Number of missing entries, and of rows without any other.
    """

    weight: float
    mean: Tensor
    std: Tensor
    lowest: Tensor
    highest: Tensor
    n_missing: int = 0
    n_empty: int = 0

    @property
    def constant(self) -> Tensor:
        """Which columns hold one value only, shape (d,) bool."""
        return self.lowest == self.highest

    def beyond(self, n_stds: float) -> Tensor:
        """Return which columns that vary lie more standard deviations from zero, shape (d,) bool."""
        return (self.mean.abs() > n_stds * self.std) & ~self.constant

    def variances_in(self, frame: Frame) -> Tensor:
        """Return the variance of each feature in working coordinates, shape (d,)."""
        return (self.std * frame.scale).square()

    def magnitude_in(self, frame: Frame) -> Tensor:
        """Return the root mean square of each feature in working coordinates, shape (d,)."""
        mean = (self.mean - frame.shift) * frame.scale
        return torch.sqrt(self.variances_in(frame) + mean.square())


def scan_range(source: Source) -> Range:
    """Return the range of every column."""
    return source.map_reduce(_range_of, _scan_rows(source))


def observed_range(source: Source) -> Range:
    """Return the range of what each column holds where its entry is not NaN."""
    return source.map_reduce(_observed_range_of, _scan_rows(source))


def scan(source: Source, limits: Range) -> Scan:
    """Return mean and spread of rows whose range is known, at any offset and any scale; of what is seen of them."""
    lowest, highest = limits.lowest.double(), limits.highest.double()
    # In the units of its own range no column can overflow when it is squared.
    reach = torch.maximum(highest.abs(), lowest.abs())
    centre = 0.5 * lowest + 0.5 * highest
    half_width = torch.where(lowest == highest, reach, 0.5 * highest - 0.5 * lowest)
    units = Frame.around(centre, half_width, common_scale=False)
    spread = source.map_reduce(_SpreadOf(units, limits.incomplete), _scan_rows(source))
    constant = lowest == highest
    std = (spread.squares / spread.weight.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    weight, n_missing, n_empty = _missing_in(source) if limits.incomplete else (float(spread.weight), 0, 0)
    return Scan(
        weight,
        torch.where(constant, lowest, units.undo(spread.mean)),
        torch.where(constant, torch.zeros_like(std), std / units.scale),
        lowest,
        highest,
        n_missing,
        n_empty,
    )


def middle_variances(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Return the variance of the normal distribution whose middle half is as wide as a column's, shape (d,).

    .. math:: s^2 = \left(\frac{q_{3/4} - q_{1/4}}{2 \Phi^{-1}(3/4)}\right)^2

    Half of the rows have no say in it, however far away they are. Zero where half of a column is one value.

    Parameters
    ----------
    rows : Tensor, shape (m, d)
        NaN is a missing entry.
    weights : Tensor, shape (m,), optional

    Examples
    --------
    >>> middle_variances(torch.tensor([[-2.0], [-0.6745], [0.0], [0.6745], [1e9]]))
    tensor([1.0000])
    """
    low, high = quartiles(rows, weights)
    return ((high - low) / MIDDLE_HALF).square().nan_to_num(nan=0.0)


def quartiles(rows: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the values below which a quarter and three quarters of each column lie, shape (d,) each.

    Examples
    --------
    >>> quartiles(torch.tensor([[4.0], [1.0], [3.0], [2.0]]))
    (tensor([1.]), tensor([3.]))
    """
    ordered, order = torch.sort(rows, dim=0)  # NaN comes last
    masses = torch.ones_like(rows) if weights is None else weights.to(rows.dtype)[:, None].expand_as(rows)
    below = masses.gather(0, order).masked_fill_(ordered.isnan(), 0.0).cumsum(0).T.contiguous()
    shares = below[:, -1:] * rows.new_tensor([0.25, 0.75]) * (1 - 4 * torch.finfo(rows.dtype).eps)
    places = torch.searchsorted(below, shares).clamp_max(len(rows) - 1)
    low, high = ordered.T.gather(1, places).unbind(1)
    return low, high


def _observed_spread(x: Tensor, weights: Tensor | None) -> _Spread:
    """Return weight, mean and squared deviations of what is seen, shape (d,) each."""
    seen = (~x.isnan()).to(x.dtype)
    shares = seen if weights is None else seen * weights.to(x.dtype)[:, None]
    weight, x = shares.sum(0), x.nan_to_num(nan=0.0)
    mean = (shares * x).sum(0) / weight.clamp_min(torch.finfo(torch.float64).tiny)
    return _Spread(weight, mean, (shares * (x - mean).square()).sum(0))


def _missing_in(source: Source) -> tuple[float, int, int]:
    """Return the weight of the rows that hold anything, the number of missing entries, and of empty rows."""
    weight, n_missing, n_empty = source.map_reduce(_missing_of, _scan_rows(source)).tolist()
    return weight, int(n_missing), int(n_empty)


def _missing_of(block: Block) -> Tensor:
    missing = block.x.isnan()
    some = (~missing).any(1).double()
    weight = some.sum() if block.weights is None else some @ block.weights.double()
    return torch.stack([weight, missing.sum().double(), len(some) - some.sum()])


def _scan_rows(source: Source) -> int:
    return max(256, _SCAN_NUMBERS // source.n_features)


@dataclass(frozen=True)
class _SpreadOf:
    """The spread of a block in given units."""

    units: Frame
    incomplete: bool

    def __call__(self, block: Block) -> _Spread:
        x = self.units.apply(block.x.to(torch.float64))
        if self.incomplete:
            return _observed_spread(x, block.weights)
        if block.weights is None:
            mean = x.mean(0)
            return _Spread(x.new_tensor(float(x.shape[0])), mean, (x - mean).square_().sum(0))
        w = block.weights.to(torch.float64)
        weight = w.sum()
        mean = (w @ x) / weight.clamp_min(torch.finfo(torch.float64).tiny)
        return _Spread(weight, mean, w @ (x - mean).square_())


def _range_of(block: Block) -> Range:
    lowest, highest = torch.aminmax(block.x, dim=0)
    return Range(lowest, highest)


def _observed_range_of(block: Block) -> Range:
    missing = block.x.isnan()
    lowest = block.x.masked_fill(missing, torch.inf).amin(0)
    return Range(lowest, block.x.masked_fill(missing, -torch.inf).amax(0), incomplete=bool(missing.any()))
