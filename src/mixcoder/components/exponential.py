"""Exponential families: two matrix products are the whole algorithm."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, Params, PassSetting
from mixcoder.ops.frame import Frame
from mixcoder.ops.moments import class_sums
from mixcoder.ops.products import product
from mixcoder.ops.simplex import FUSED_COMPONENTS
from mixcoder.statistics import Moments

P = TypeVar("P", bound=Params)


class ExponentialFamily(Family[P, Moments]):
    r"""A family whose log-density is linear in features of the row.

    .. math:: \log p(x|k) = \langle \eta_k, T(x) \rangle + b_k + \langle c, t(x) \rangle

    T are the features that the code weighs, t the row terms that it does not (a base measure, or what
    tied components share). The first feature is the constant 1, which carries b_k into the product on the
    way out and brings the counts back on the way in. A concrete family says ``width``, ``write_features``,
    ``natural``, ``maximize``, and, where it has them, ``row_terms`` and ``common``.
    """

    leads_with_rows: ClassVar[bool] = True
    """Whether the first d features are the row itself; ``write_features`` may then find it in place."""

    writes_columns: ClassVar[bool] = False
    """Whether ``write_features`` works column by column, and is faster where columns lie in one piece."""

    @abstractmethod
    def width(self, n_features: int) -> int:
        """Return the number of features F of a row, the constant included."""

    @abstractmethod
    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write T(x), without the constant, into ``out``, shape (n, f - 1)."""

    @abstractmethod
    def natural(self, params: P) -> Tensor:
        """Return (b_k, eta_k), shape (k, f)."""

    def row_terms(self, x: Tensor) -> Tensor | None:
        """Return t(x), shape (n, p); ``None`` where nothing is common."""
        del x
        return None

    def common(self, params: P) -> Tensor | None:
        """Return c, shape (g, p): one a group of components that share parameters."""
        del params
        return None

    def common_term(self, params: P, x: Tensor) -> Tensor | None:
        """Return <c, t(x)> of each row, shape (n,); ``None`` where nothing is common."""
        terms, common = self.row_terms(x), self.common(params)
        return None if terms is None or common is None else terms @ common[0].to(x.dtype)

    # The verbs follow.

    def features(self, x: Tensor) -> Tensor:
        """Return (1, T(x)), shape (n, f)."""
        out = torch.empty(x.shape[0], self.width(x.shape[1]), dtype=x.dtype, device=x.device)
        out[:, 0] = 1.0
        self.write_features(x, out[:, 1:])
        return out

    def log_likelihood(self, params: P, x: Tensor) -> Tensor:
        """Return log p(x_n | k), shape (n, k)."""
        result = self.features(x) @ self.natural(params).to(x.dtype).T
        common = self.common_term(params, x)
        return result if common is None else result + common[:, None]

    def statistics(self, params: P | None, x: Tensor, code: Code, weights: Tensor | None = None) -> Moments:
        """Return counts, sums of T, and sums of t over the rows."""
        del params
        if not isinstance(code, HardCode) and weights is not None:
            code = code.clone()
        sums = class_sums(code, self.features(x), weights).double()
        return Moments(sums[:, 0], sums[:, 1:], self.pooled(x, weights))

    def expected_log_joint(self, params: P, log_weights: Tensor, statistics: Moments) -> Tensor:
        r"""Return :math:`\sum_{nk} u_{nk} (\log\pi_k + \log p(x_n|k))` from the sums of a code, shape ()."""
        natural = self.natural(params)
        result = statistics.counts @ (natural[:, 0] + log_weights) + (statistics.sums * natural[:, 1:]).sum()
        common = self.common(params)
        if common is None or statistics.pooled is None:
            return result
        return result + (common * statistics.pooled).sum()

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Return the sum of t over the rows in float64, shape (1, p)."""
        terms = self.row_terms(x.to(torch.float64))
        if terms is None:
            return None
        return (terms.sum(0) if weights is None else weights.to(torch.float64) @ terms)[None]

    def kernel(self, params: P, log_weights: Tensor, setting: PassSetting) -> Kernel[P, Moments]:
        """Return the cheapest pass that keeps within the tolerance.

        In order of cost: the feature products in the dtype of the rows, the same in float64, and the
        family's own ``log_likelihood`` in float64, which subtracts before it squares.
        """
        natural = self.natural(params)
        natural.select(1, 0).add_(log_weights)
        d = setting.magnitude.shape[0]
        largest = 0.0
        if setting.tolerance < math.inf:
            typical = self.features(setting.magnitude[None])[0].abs_()
            largest = float((natural.abs().nan_to_num_(posinf=0.0) @ typical).amax())
        for dtype in dict.fromkeys((setting.dtype, torch.float64)):
            if largest * torch.finfo(dtype).eps <= setting.tolerance:
                return FeatureKernel(
                    self,
                    params,
                    log_weights,
                    dtype,
                    setting.workspace,
                    natural.to(dtype),
                    self.common(params),
                    d,
                    setting.column_major and self._by_columns(params.n_components, dtype),
                )
        return Kernel(self, params, log_weights, torch.float64, setting.workspace)

    def _by_columns(self, n_components: int, dtype: torch.dtype) -> bool:
        """Return whether a soft pass is faster on columns (measured): few components, or no fused softargmax."""
        return self.writes_columns or n_components < FUSED_COMPONENTS or dtype != torch.float32


@dataclass(frozen=True)
class FeatureKernel(Kernel[P, Moments]):
    """A pass as two products: features times natural parameters, code times features.

    ``log_joint`` leaves the row terms out: they shift a row's log-joint by the same amount for every
    component, so no code sees them, and ``offset`` gives their sum.
    """

    natural: Tensor
    common: Tensor | None
    n_features: int
    column_major: bool

    def expand(self, x: Tensor, frame: Frame) -> Tensor:
        """Return (1, T(z)) of the block in working coordinates, shape (n, f)."""
        family = cast("ExponentialFamily[P]", self.family)
        n, d = x.shape
        out = self.workspace.take(
            "features", n, self.natural.shape[1], self.dtype, x.device, column_major=self.column_major
        )
        out[:, 0] = 1.0
        # Where T(x) begins with x itself, the change of units writes it in place.
        rows = frame.apply(x, out=out[:, 1 : 1 + d]) if family.leads_with_rows else super().expand(x, frame)
        family.write_features(rows, out[:, 1:])
        return out

    def log_joint(self, rows: Tensor) -> Tensor:
        """Return the product of features and natural parameters, shape (n, k)."""
        shape = rows.shape[0], self.natural.shape[0]
        out = self.workspace.take(
            "log_joint", *shape, self.dtype, rows.device, column_major=self.column_major
        )
        return product(rows, self.natural.T, out)

    def row_offset(self, rows: Tensor) -> Tensor | None:
        """Return the row terms that ``log_joint`` leaves out, shape (n,)."""
        if self.common is None:
            return None
        family = cast("ExponentialFamily[P]", self.family)
        return family.common_term(self.params, rows[:, 1 : 1 + self.n_features])

    def statistics(self, rows: Tensor, code: Code, weights: Tensor | None) -> Moments:
        """Return counts and sums of the block; pooled sums are not this pass's business."""
        k, width = self.natural.shape
        # In float32 stored column by column, so that the product reads both of its factors along their long
        # axis: up to a half faster for few components. In float64 a third slower for many (both measured).
        by_columns = self.column_major and self.dtype == torch.float32
        out = self.workspace.take("sums", k, width, self.dtype, rows.device, column_major=by_columns)
        sums = class_sums(code, rows, weights, out=out).to(torch.float64, copy=True)
        return Moments(sums[:, 0], sums[:, 1:])

    def offset(self, pooled: Tensor | None) -> Tensor | None:
        """Return the row terms summed over all rows, one sum a group."""
        if pooled is None or self.common is None:
            return None
        return (self.common * pooled).sum(1)


def write_rows(x: Tensor, out: Tensor) -> None:
    """Write x into ``out``, unless it is there already."""
    if out.data_ptr() != x.data_ptr():
        out.copy_(x)
