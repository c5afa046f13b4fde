"""A change of units that loses nothing: subtract a shift, multiply by powers of two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    r"""Working coordinates ``z = (x - shift) * scale`` in which a fit happens.

    Squares of large offsets cancel and squares of large or tiny scales overflow; a frame removes both
    before anything is squared. The scales are powers of two, so that the change of units itself rounds
    nothing and a fit of ``2**p * x`` gives, bit for bit, the rescaled fit of ``x``.

    .. math:: \log p_x(x) = \log p_z(z) + \sum_d \log \mathrm{scale}_d

    Parameters
    ----------
    shift : Tensor, shape (d,)
        Origin of the frame, in the units of the rows.
    scale : Tensor, shape (d,)
        Powers of two, in one over the units of the rows.
    """

    shift: Tensor
    scale: Tensor

    @classmethod
    def identity(cls, n_features: int, device: torch.device | None = None) -> Frame:
        """Return the frame that changes nothing."""
        zeros = torch.zeros(n_features, dtype=torch.float64, device=device)
        return cls(zeros, torch.ones_like(zeros))

    @classmethod
    def around(cls, mean: Tensor, std: Tensor, *, common_scale: bool) -> Frame:
        """Return the frame centred on ``mean`` in which every feature has a spread near one.

        A feature of zero spread takes the common scale. ``common_scale`` gives all features one scale
        (what rotations and round balls need).
        """
        common = float(_safe_norm(std)) / math.sqrt(max(1, std.shape[0])) or 1.0
        spread = torch.full_like(std, common) if common_scale else torch.where(std > 0, std, common)
        return cls(mean, _power_of_two(spread))

    @property
    def is_identity(self) -> bool:
        """Whether applying the frame changes nothing."""
        return bool((self.shift == 0).all() and (self.scale == 1).all())

    @cached_property
    def log_scale(self) -> float:
        """Sum of log scales, what a log-density gains on the way back to the units of the rows."""
        return float(self.scale.log().sum())

    def apply(self, x: Tensor, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return ``(x - shift) * scale``, shape (n, d), in ``dtype`` (default: that of ``x``).

        The difference is taken in the wider of the two dtypes: rows at 1e4 standard deviations keep
        every digit that they came with.
        """
        dtype = dtype or x.dtype
        if out is None:
            out = torch.empty(x.shape, dtype=dtype, device=x.device)
        if x.dtype == out.dtype == torch.float64:
            change = self._change
        else:
            change = _Change.of(self, x.dtype if x.is_floating_point() else torch.float64, out.dtype)
        if x.dtype == out.dtype and change.offset is not None:
            # One sweep instead of two. Scaling by a power of two rounds nothing, so the difference
            # of the scaled numbers is, bit for bit, the scaled difference.
            torch.addcmul(change.offset, x, change.scale, out=out)
        elif x.dtype == torch.float32 and out.dtype == torch.float64:
            out.copy_(x).sub_(change.near).mul_(
                change.scale
            )  # torch.sub would round to float32 before it widens
        else:
            torch.sub(x, change.near, out=out).mul_(change.scale)
        return out if change.rest is None else out.sub_(change.rest)

    @cached_property
    def _change(self) -> _Change:
        """What is subtracted and multiplied in float64, worked out once."""
        with torch.inference_mode(mode=False):  # what is kept must serve everybody
            return _Change.of(self, torch.float64, torch.float64)

    def undo(self, z: Tensor) -> Tensor:
        """Return ``z / scale + shift``, shape (n, d)."""
        return z / self.scale.to(z.dtype) + self.shift.to(z.dtype)

    def rounded(self, dtype: torch.dtype) -> Frame:
        """Return the frame whose shift is representable in ``dtype``, so that applying it is exact."""
        return Frame(self.shift.to(dtype).to(torch.float64), self.scale)

    def select(self, columns: slice | Tensor) -> Frame:
        """Return the frame of some of the columns."""
        return Frame(self.shift[columns], self.scale[columns])

    def to(self, device: torch.device) -> Frame:
        """Return the frame on another device."""
        return Frame(self.shift.to(device), self.scale.to(device))


@dataclass(frozen=True)
class _Change:
    """The numbers by which rows of one dtype become rows of another in a frame.

    The shift is a number of the rows' dtype and a rest: the difference of two nearby numbers of one dtype is exact
    (Sterbenz), and the rest (nothing, where the rows are those of the fit) is small by then.

    Parameters
    ----------
    near, scale : Tensor, shape (d,)
    offset : Tensor, shape (d,), optional
        -near scale, where that is finite.
    rest : Tensor, shape (d,), optional
        What is left of the shift, scaled; ``None`` for nothing.
    """

    near: Tensor
    scale: Tensor
    offset: Tensor | None
    rest: Tensor | None

    @classmethod
    def of(cls, frame: Frame, rows: torch.dtype, result: torch.dtype) -> _Change:
        """Return the change from rows of one dtype to another."""
        near, scale = frame.shift.to(rows), frame.scale.to(result)
        offset = -near * scale
        rest = frame.shift - near
        return cls(
            near,
            scale,
            offset if bool(torch.isfinite(offset).all()) else None,
            (rest * frame.scale).to(result) if bool(rest.any()) else None,
        )


def _power_of_two(std: Tensor) -> Tensor:
    """Return the power of two nearest to 1 / std that is itself a normal number."""
    _, exponent = torch.frexp(std)
    return torch.ldexp(torch.ones_like(std), (-exponent).clamp(-1021, 1021))


def _safe_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm without overflow or underflow of the squares."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    return torch.linalg.vector_norm(x / largest) * largest if largest > 0 else x.new_zeros(())
