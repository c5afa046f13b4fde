"""Different families on different columns of one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeAlias, cast, final

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, Params, PassSetting
from mixcoder.components.bernoulli import Bernoulli
from mixcoder.components.categorical import Categorical
from mixcoder.components.gaussian_diagonal import GaussianDiagonal
from mixcoder.components.gaussian_tied import GaussianTied
from mixcoder.components.poisson import Poisson
from mixcoder.ops.frame import Frame
from mixcoder.statistics import Statistics

Columns: TypeAlias = Sequence[int] | slice
"""Which columns a part reads, in its own order; a slice says where it stops."""


@dataclass(frozen=True)
class ProductParams(Params):
    """Parameters of :class:`Product`.

    Parameters
    ----------
    parts : tuple of Params
        One for each part, with the same components.
    """

    parts: tuple[Params, ...]


@dataclass(frozen=True)
class ProductStatistics(Statistics):
    """The sums of :class:`Product`.

    Parameters
    ----------
    parts : tuple of Statistics
        One for each part, without their pooled sums.
    pooled : Tensor, shape (g, p), optional
        The pooled sums of all parts, one after another.
    """

    parts: tuple[Statistics, ...]
    pooled: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """Sum of responsibilities, which all parts share, shape (k,)."""
        return cast("Any", self.parts[0]).counts


@final
@dataclass(frozen=True)
class Product(Family[ProductParams, ProductStatistics]):
    r"""Components whose groups of columns are independent, each group with a family of its own.

    .. math:: \log p(x|k) = \sum_i \log p_i(x_{C_i}|k)

    Every verb is that of the parts, put together.

    Parameters
    ----------
    parts : sequence of (Family, columns)
        Columns are integers in any order, or a slice or range; every column of the table belongs to
        exactly one part.

    Examples
    --------
    >>> from mixcoder.components import Bernoulli, GaussianFull, Poisson
    >>> family = Product([(GaussianFull(), [0, 2]), (Poisson(), [1]), (Bernoulli(), slice(3, 6))])
    >>> family.n_features
    6
    """

    parts: Sequence[tuple[Family[Any, Any], Columns]]

    floors_variances: ClassVar[bool] = True
    geometry: ClassVar[str] = "units"

    def __post_init__(self) -> None:
        parts = tuple((family, _integers(columns)) for family, columns in self.parts)
        object.__setattr__(self, "parts", parts)
        used = sorted(column for _, columns in parts for column in columns)
        if not parts or used != list(range(len(used))):
            uses = {column: used.count(column) for column in range(max([-1, *used]) + 1)}
            wrong = [f"column {column} is in {count}" for column, count in uses.items() if count != 1]
            raise ValueError(
                "Every column must be in exactly one part, counted from 0: "
                f"{', '.join(wrong) or 'there are no columns'}."
            )
        empty = [type(family).__name__ for family, columns in parts if not columns]
        if empty:
            raise ValueError(f"Every part needs a column: {', '.join(empty)} has none.")

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """Columns of each part."""
        return tuple(columns for _, columns in self._parts)

    @property
    def n_features(self) -> int:
        """Number of columns, D."""
        return sum(len(columns) for _, columns in self._parts)

    def log_likelihood(self, params: ProductParams, x: Tensor) -> Tensor:
        """Return the sum of the parts' log-densities, shape (n, k)."""
        terms = [
            family.log_likelihood(part, _select(x, columns))
            for (family, columns), part in zip(self._parts, params.parts, strict=True)
        ]
        return sum(terms[1:], terms[0])

    def statistics(
        self, params: ProductParams | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> ProductStatistics:
        """Return the sums of every part."""
        current = [None] * len(self.parts) if params is None else params.parts
        parts = [
            family.statistics(part, _select(x, columns), code, weights)
            for (family, columns), part in zip(self._parts, current, strict=True)
        ]
        pooled = [part.pooled for part in parts if getattr(part, "pooled", None) is not None]
        return ProductStatistics(_unpooled(parts), torch.cat(pooled, 1) if pooled else None)

    def maximize(self, statistics: ProductStatistics, reference: Tensor | None = None) -> ProductParams:
        """Return what every part makes of its sums."""
        maximized: list[Params] = []
        pooled = self.split_pooled(statistics.pooled)
        for (family, columns), part, own in zip(self._parts, statistics.parts, pooled, strict=True):
            sums = part if own is None else replace(cast("Any", part), pooled=own)
            if reference is not None and family.floors_variances:
                maximized.append(cast("Any", family).maximize(sums, reference[list(columns)]))
            else:
                maximized.append(family.maximize(sums))
        return ProductParams(tuple(maximized))

    def decode(self, params: ProductParams, code: Code) -> Tensor:
        """Return what every part decodes, in the table's order of columns, shape (n, d)."""
        return self._join(
            [family.decode(part, code) for (family, _), part in zip(self.parts, params.parts, strict=True)]
        )

    def sample(self, params: ProductParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws of every part, in the table's order of columns, shape (n, d)."""
        return self._join(
            [
                family.sample(part, index, generator)
                for (family, _), part in zip(self.parts, params.parts, strict=True)
            ]
        )

    # What a family may say beyond the verbs: asked of the parts.

    def n_parameters(self, params: ProductParams) -> int:
        """Return the sum over the parts."""
        return sum(
            family.n_parameters(part) for (family, _), part in zip(self.parts, params.parts, strict=True)
        )

    def check_rows(self, x: Tensor) -> str | None:
        """Return what the first part that finds something finds."""
        if x.shape[1] != self.n_features:
            return f"X has {x.shape[1]} features, but the parts of this Product have {self.n_features}."
        for family, columns in self._parts:
            problem = family.check_rows(_select(x, columns))
            if problem is not None:
                name = type(family).__name__
                return f"{problem} ({name} reads columns {list(columns)} and counts them from 0.)"
        return None

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the product of the parts completed by the ranges of their columns."""
        return replace(
            self,
            parts=tuple(
                (family.in_domain(lowest[list(columns)], highest[list(columns)]), columns)
                for family, columns in self._parts
            ),
        )

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return the coordinates that every part asks for, side by side."""
        frames = [family.frame(mean[list(columns)], std[list(columns)]) for family, columns in self._parts]
        shift, scale = (self._join([getattr(f, name)[None] for f in frames]) for name in ("shift", "scale"))
        return Frame(shift[0], scale[0])

    def in_frame(self, frame: Frame) -> Self:
        """Return the product of the parts in working coordinates."""
        return replace(
            self,
            parts=tuple(
                (family.in_frame(_select_frame(frame, columns)), columns) for family, columns in self._parts
            ),
        )

    def seeding_view(self, x: Tensor) -> Tensor:
        """Return the views of the parts side by side; the geometry of units brings them to one scale."""
        return torch.cat([family.seeding_view(_select(x, columns)) for family, columns in self._parts], 1)

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Return the pooled sums of the parts one after another, shape (1, p)."""
        sums = [family.pooled(_select(x, columns), weights) for family, columns in self._parts]
        present = [part for part in sums if part is not None]
        return torch.cat(present, 1) if present else None

    def split_pooled(self, pooled: Tensor | None) -> list[Tensor | None]:
        """Return the pooled sums of each part apart, ``None`` for a part without any."""
        if pooled is None:
            return [None] * len(self.parts)
        probes = [family.pooled(_no_rows(pooled, len(columns))) for family, columns in self._parts]
        pieces = iter(pooled.split([probe.shape[1] for probe in probes if probe is not None], 1))
        return [None if probe is None else next(pieces) for probe in probes]

    def collapsed(self, params: ProductParams, variances: Tensor) -> Tensor | None:
        """Return which components stand on a floor in some part."""
        found = [
            family.collapsed(part, variances[list(columns)])
            for (family, columns), part in zip(self._parts, params.parts, strict=True)
        ]
        present = [part for part in found if part is not None]
        return torch.stack(present).any(0) if present else None

    def width(self, n_features: int) -> int:
        """Return how many features of a row a pass multiplies, summed over the parts."""
        del n_features
        return sum(family.width(len(columns)) for family, columns in self._parts)

    def kernel(
        self, params: ProductParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[ProductParams, ProductStatistics]:
        """Return the passes of the parts side by side, each of its own precision."""
        kernels: list[Kernel[Any, Any]] = []
        for (family, columns), part in zip(self._parts, params.parts, strict=True):
            own = replace(
                setting,
                workspace=setting.workspace.child(str(len(kernels))),
                magnitude=setting.magnitude[list(columns)],
                tolerance=setting.tolerance / len(self.parts),
            )
            # The first part brings the weights of the components.
            weights = torch.zeros_like(log_weights) if kernels else log_weights
            kernels.append(family.kernel(part, weights, own))
        # A reader asks the dtype whether to expect overflow: the narrowest part decides.
        dtype = min((kernel.dtype for kernel in kernels), key=lambda dtype: torch.finfo(dtype).bits)
        widths = [
            kernel.expand(
                _no_rows(log_weights, len(columns)), Frame.identity(len(columns), log_weights.device)
            )
            for kernel, columns in zip(kernels, self.columns, strict=True)
        ]
        return ProductKernel(
            self,
            params,
            log_weights,
            dtype,
            setting.workspace,
            tuple(kernels),
            tuple(block.shape[1] for block in widths),
        )

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, ProductParams]]:
        """Return measurements with counts and bits, and tied clouds with categories in mixed order."""
        independent = [(GaussianDiagonal, [4, 0]), (Poisson, [1, 2, 3]), (Bernoulli, range(5, 13))]
        tied = [(Categorical, [0, 2, 4, 6, 7, 5]), (GaussianTied, [3, 1])]
        examples: list[tuple[Self, ProductParams]] = []
        for parts in (independent, tied):
            built = [family.examples()[0] for family, _ in parts]
            families = tuple(
                (family, columns) for (family, _), (_, columns) in zip(built, parts, strict=True)
            )
            examples.append((cls(families), ProductParams(tuple(params for _, params in built))))
        return examples

    @property
    def _parts(self) -> tuple[tuple[Family[Any, Any], tuple[int, ...]], ...]:
        return cast("Any", self.parts)

    def _join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Return blocks of columns in the table's order, shape (n, d)."""
        order = torch.tensor([column for _, columns in self._parts for column in columns])
        return torch.cat(list(blocks), 1)[:, order.argsort().to(blocks[0].device)]


@dataclass(frozen=True)
class ProductKernel(Kernel[ProductParams, ProductStatistics]):
    """The passes of the parts side by side: an expanded block is theirs, one after another.

    Parts of different precision share the wider one on the way; what was narrow is narrowed again, exactly.
    """

    kernels: tuple[Kernel[Any, Any], ...]
    widths: tuple[int, ...]

    def expand(self, x: Tensor, frame: Frame) -> Tensor:
        """Return the expanded blocks of the parts one after another, shape (n, sum of widths)."""
        parts = zip(self.kernels, cast("Product", self.family).columns, strict=True)
        return torch.cat(
            [kernel.expand(_select(x, own), _select_frame(frame, own)) for kernel, own in parts], 1
        )

    def log_joint(self, rows: Tensor) -> Tensor:
        """Return the sum of the parts, in the widest of their dtypes, shape (n, k)."""
        terms = [kernel.log_joint(part) for kernel, part in self._split(rows)]
        return sum(terms[1:], terms[0])

    def statistics(self, rows: Tensor, code: Code, weights: Tensor | None) -> ProductStatistics:
        """Return the sums of every part; pooled sums are not this pass's business."""
        parts: list[Statistics] = []
        for kernel, part in self._split(rows):
            # Each part may overwrite the code it is given.
            own = code if isinstance(code, HardCode) else code.to(kernel.dtype, copy=True)
            parts.append(kernel.statistics(part, own, weights))
        return ProductStatistics(_unpooled(parts))

    def row_offset(self, rows: Tensor) -> Tensor | None:
        """Return what the parts leave out of each row, shape (n,)."""
        return _sum([kernel.row_offset(part) for kernel, part in self._split(rows)])

    def offset(self, pooled: Tensor | None) -> Tensor | None:
        """Return what the parts leave out of all rows, shape (g,)."""
        pieces = cast("Product", self.family).split_pooled(pooled)
        offsets = [kernel.offset(piece) for kernel, piece in zip(self.kernels, pieces, strict=True)]
        return _sum(offsets)

    def _split(self, rows: Tensor) -> list[tuple[Kernel[Any, Any], Tensor]]:
        blocks = rows.split(self.widths, dim=1)
        return [(kernel, block.to(kernel.dtype)) for kernel, block in zip(self.kernels, blocks, strict=True)]


def _integers(columns: Columns) -> tuple[int, ...]:
    if isinstance(columns, slice):
        if columns.stop is None or min(columns.start or 0, columns.stop) < 0:
            raise ValueError(f"A slice of columns must say where it stops, counted from 0, got {columns}.")
        return tuple(range(columns.stop)[columns])
    return tuple(int(column) for column in columns)


def _select(x: Tensor, columns: tuple[int, ...]) -> Tensor:
    """Return some columns of each row: a view where they are neighbours."""
    if columns == tuple(range(columns[0], columns[0] + len(columns))):
        return x[:, columns[0] : columns[0] + len(columns)]
    return x[:, list(columns)]


def _select_frame(frame: Frame, columns: tuple[int, ...]) -> Frame:
    return frame.select(torch.tensor(columns, device=frame.shift.device))


def _unpooled(parts: Sequence[Any]) -> tuple[Statistics, ...]:
    """Return sums without their pooled part, which the product holds for all."""
    return tuple(replace(part, pooled=None) if hasattr(part, "pooled") else part for part in parts)


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def _no_rows(like: Tensor, n_features: int) -> Tensor:
    """Return a table without rows, the one that lies in every domain: it tells how wide results are."""
    return like.new_empty(0, n_features)
