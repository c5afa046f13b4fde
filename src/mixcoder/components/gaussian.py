"""What all Gaussian families share: units, floors, means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params, decode_means
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.ops.frame import Frame


@dataclass(frozen=True)
class GaussianParams(Params):
    """Parameters with a mean per component.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    """

    means: Tensor


P = TypeVar("P", bound=GaussianParams)


@dataclass(frozen=True)
class Gaussian(ExponentialFamily[P]):
    """Base of the Gaussian families; the concrete ones differ in what their covariances share.

    Parameters
    ----------
    min_variance : float
        Smallest variance of a component in any direction, as a fraction of the variance of the data
        there. The M-step is the exact maximiser under this constraint, so the bound still never falls.
    added_variance : float or sequence of d floats
        Added to the diagonal of every covariance, in squared units of the rows (scikit-learn's
        ``reg_covar``). It is part of no bound: with it the bound may fall by as little as it adds.
    """

    min_variance: float = 1e-6
    added_variance: float | tuple[float, ...] = 0.0

    common_scale: ClassVar[bool] = False
    """Whether all features must share one unit (round covariances)."""

    def __post_init__(self) -> None:
        if not self.min_variance >= 0:
            raise ValueError(f"min_variance must be non-negative, got {self.min_variance!r}.")
        if not bool((torch.as_tensor(self.added_variance) >= 0).all()):
            raise ValueError(f"added_variance must be non-negative, got {self.added_variance!r}.")

    def decode(self, params: P, code: Code) -> Tensor:
        """Return the mean of the components under the code, shape (n, d)."""
        return decode_means(params.means, code)

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return centred rows of a spread near one."""
        return Frame.around(mean, std, common_scale=self.common_scale)

    def in_frame(self, frame: Frame) -> Self:
        """Return the family with ``added_variance`` in squared working units."""
        if self.added_variance == 0.0:
            return self
        added = torch.as_tensor(self.added_variance, dtype=torch.float64, device=frame.scale.device)
        return replace(self, added_variance=tuple((added * frame.scale.square()).tolist()))

    def added(self, like: Tensor) -> Tensor:
        """Return ``added_variance`` as a tensor, shape () or (d,)."""
        return torch.as_tensor(self.added_variance, dtype=like.dtype, device=like.device)


def standard_normal(n_rows: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent standard normal numbers, shape (n, d), d from the last axis of ``like``."""
    return torch.randn(n_rows, like.shape[-1], generator=generator, dtype=like.dtype, device=like.device)


def three_means() -> Tensor:
    """Return the means that the Gaussian examples share, shape (3, 2)."""
    return torch.tensor([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0]], dtype=torch.float64)
