"""A family says what a component generates: p(x | k). One family a file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.observed import Observed
from mixcoder.ops.frame import Frame
from mixcoder.ops.workspace import Workspace
from mixcoder.statistics import Statistics


@dataclass(frozen=True)
class Params:
    """Base of the parameters of a family: a frozen dataclass of float64 tensors.

    The first axis of every field is the component, unless the field is named in ``shared``: then it is the
    *group*. Components of one group share these; there is one group, except while several mixtures are
    fitted side by side as one long list of components.

    Examples
    --------
    >>> from mixcoder.components.poisson import PoissonParams
    >>> params = PoissonParams(rates=torch.tensor([[1.0], [5.0], [9.0]]))
    >>> params.n_components, params.take(torch.tensor([2, 0])).rates[:, 0]
    (3, tensor([9., 1.]))
    """

    shared: ClassVar[tuple[str, ...]] = ()

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        for field in fields(self):
            if field.name not in self.shared:
                value = getattr(self, field.name)
                return value[0].n_components if isinstance(value, tuple) else int(value.shape[0])
        raise TypeError(f"{type(self).__name__} has no field with a component axis.")

    def take(self, index: Tensor) -> Self:
        """Return the parameters of some components, in the order of ``index``; groups stay whole."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                changes[field.name] = tuple(part.take(index) for part in value)
            elif field.name in self.shared:
                groups = index // (self.n_components // value.shape[0])
                changes[field.name] = value[torch.unique_consecutive(groups)]
            else:
                changes[field.name] = value[index]
        return replace(self, **changes)

    def put(self, index: Tensor, other: Self) -> Self:
        """Return the parameters with the components at ``index`` replaced by those of ``other``, in order."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            if field.name in self.shared:
                continue
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, tuple):
                changes[field.name] = tuple(a.put(index, b) for a, b in zip(mine, theirs, strict=True))
            else:
                changes[field.name] = mine.index_copy(0, index, theirs.to(mine.dtype))
        return replace(self, **changes)

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the parameters on another device or in another floating dtype."""

        def moved(value: Tensor) -> Tensor:
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return self._map(moved)

    def clone(self) -> Self:
        """Return the parameters in memory of their own."""
        return self._map(Tensor.clone)

    def contiguous(self) -> Self:
        """Return the parameters stored row by row: the order of memory decides the last bit of a product."""
        return self._map(Tensor.contiguous)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                changes[field.name] = tuple(part._map(function) for part in value)
            else:
                changes[field.name] = function(value)
        return replace(self, **changes)


P = TypeVar("P", bound=Params)
S = TypeVar("S", bound=Statistics)


class Family(ABC, Generic[P, S]):
    """What a component can generate. Frozen; hyper-parameters only, never tensors that were fitted.

    A new family is one file: ``Params``, ``Statistics`` where :class:`~mixcoder.statistics.Moments` does
    not do, and the six verbs ``log_likelihood``, ``statistics``, ``maximize``, ``decode``, ``sample``,
    ``examples``. Every conformance check in :mod:`mixcoder.checks` then runs on it by discovery.

    Examples
    --------
    >>> from mixcoder.components import Bernoulli
    >>> family, params = Bernoulli.examples()[0]
    >>> (
    ...     isinstance(family, Family),
    ...     family.log_likelihood(params, family.decode(params, torch.eye(3)).round()).shape,
    ... )
    (True, torch.Size([3, 3]))
    """

    geometry: ClassVar[str] = "rotation"
    """What must not change the distances that seed a fit: "affine" maps, the "units" of each column, or
    a "rotation" and one unit for all."""

    marginalizes: ClassVar[bool] = False
    """Whether entries may be missing: ``observe`` then integrates them out."""

    floors_variances: ClassVar[bool] = False
    """Whether ``maximize`` keeps variances above a share of those of all rows, and takes others, shape (d,), as its
    second argument ``reference``."""

    reach: ClassVar[float] = math.inf
    """Standard deviations, told by the middle half of a column, beyond which no row counts as farther away when
    a fit looks for a start."""

    @abstractmethod
    def log_likelihood(self, params: P, x: Tensor) -> Tensor:
        """Return log p(x_n | k) in nats, shape (n, k), in the dtype of ``x``."""

    @abstractmethod
    def statistics(self, params: P | None, x: Tensor, code: Code, weights: Tensor | None = None) -> S:
        """Return the sums over rows that ``maximize`` needs.

        Parameters
        ----------
        params : Params or None
            Current parameters, for families with latent scales; ``None`` in the first M-step.
        x : Tensor, shape (n, d)
        code : SoftCode, shape (n, k), or HardCode
        weights : Tensor, shape (n,), optional
            Row weights, non-negative.
        """

    @abstractmethod
    def maximize(self, statistics: S) -> P:
        """Return argmax_m sum_nk u_nk log p(x_n | k, m), finite for any sums of finite rows."""

    @abstractmethod
    def decode(self, params: P, code: Code) -> Tensor:
        """Return the expected row of each code, sum_k u_nk E[x | k], shape (n, d)."""

    @abstractmethod
    def sample(self, params: P, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw from p(x | k) for each entry k of ``index``, shape (n, d)."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[tuple[Self, P]]:
        """Return (family, parameters) pairs for the conformance checks and the documentation."""

    # What follows has a sensible default.

    def n_parameters(self, params: P) -> int:
        """Return the number of free parameters of all components, weights left out."""
        return sum(_numel(getattr(params, field.name)) for field in fields(params))

    def check_rows(self, x: Tensor) -> str | None:
        """Return what is wrong with rows outside the family's domain, or ``None``."""
        del x
        return None

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the family completed by what the ranges of the columns, shape (d,), tell about it."""
        del lowest, highest
        return self

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return the coordinates to fit in; the identity for families that know no change of units."""
        del std
        return Frame.identity(mean.shape[0], mean.device)

    def width(self, n_features: int) -> int:
        """Return how many numbers of a row a pass multiplies: it sizes blocks and budgets."""
        return n_features

    def seeding_view(self, x: Tensor) -> Tensor:
        """Return the rows as points among which Euclidean distances mean something, shape (n, e)."""
        return x

    @property
    def seeding_rank(self) -> int | None:
        """Dimension of the planes that a fit may begin with; ``None`` where components are around points."""
        return None

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Return the sums that no code weighs, computed once a fit; ``None`` where there are none."""
        del x, weights
        return None

    def log_prior(self, params: P, statistics: S, reference: Tensor | None = None) -> Tensor | None:
        """Return what ``maximize`` adds to the bound for the parameters alone, shape (k,), in the unit of the sums.

        ``None`` where it is nothing. It may depend on sums that no code changes: the weight of the rows, their
        variance; where entries are missing and no sum is free of the code, ``reference`` is the variance of what was
        seen, shape (d,).
        """
        del params, statistics, reference
        return None

    def collapsed(self, params: P, variances: Tensor) -> Tensor | None:
        """Return which components stand on the family's floor, shape (k,) bool; ``None``: it has none.

        Where the rows themselves do not vary, as in a constant column, no component counts as collapsed.

        Parameters
        ----------
        params : Params
        variances : Tensor, shape (d,)
            Variance of each feature over all rows, in working coordinates.
        """
        del params, variances
        return None

    def in_frame(self, frame: Frame) -> Self:
        """Return the family with hyper-parameters that carry units expressed in working coordinates."""
        del frame
        return self

    def observe(self, params: P, x: Tensor) -> Observed[S]:
        """Return what rows show of which some entries, NaN, are missing, under each component.

        Parameters
        ----------
        params : Params
        x : Tensor, shape (n, d)
            In working coordinates, float64.
        """
        del params, x
        raise TypeError(
            f"{type(self).__name__} has no rule for missing entries: remove or impute them first."
        )

    def observed_size(self, params: P) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        d = _numel(params) // max(1, params.n_components)
        return 0, 8 * (d + params.n_components)

    def kernel(self, params: P, log_weights: Tensor, setting: PassSetting) -> Kernel[P, S]:
        """Return the parameters prepared for one pass over the rows."""
        dtype = setting.dtype
        return Kernel(self, params.to(dtype=dtype), log_weights.to(dtype), dtype, setting.workspace)


@dataclass(frozen=True)
class PassSetting:
    """What a pass over the rows is asked for.

    Parameters
    ----------
    dtype : torch.dtype
        Precision of the rows; a kernel may choose a wider one.
    workspace : Workspace
        Where blocks put their intermediate results.
    magnitude : Tensor, shape (d,)
        Root mean square of each feature in working coordinates.
    tolerance : float
        Largest error, in nats, that the arithmetic may make on a row of typical size; inf for any.
    column_major : bool
        Whether blocks are stored column by column: best for soft codes, whose sums along a row become sums
        of long columns; hard codes search along rows.

    Examples
    --------
    >>> setting = PassSetting(torch.float64, Workspace(), torch.ones(2, dtype=torch.float64), tolerance=1e-6)
    >>> setting.column_major
    True
    """

    dtype: torch.dtype
    workspace: Workspace
    magnitude: Tensor
    tolerance: float
    column_major: bool = True


@dataclass(frozen=True)
class Kernel(Generic[P, S]):
    """One pass's view of a family: parameters prepared once, then applied block by block.

    ``expand`` makes of a block of rows what the other two verbs read; it may be the rows themselves.

    Examples
    --------
    >>> from mixcoder.components import Poisson
    >>> family, params = Poisson.examples()[0]
    >>> setting = PassSetting(torch.float64, Workspace(), torch.ones(3, dtype=torch.float64), tolerance=1e-6)
    >>> kernel = family.kernel(params, torch.full((3,), 1 / 3, dtype=torch.float64).log(), setting)
    >>> rows = kernel.expand(torch.tensor([[2.0, 9.0, 1.0]], dtype=torch.float64), Frame.identity(3))
    >>> kernel.log_joint(rows).argmax(1)
    tensor([0])
    """

    family: Family[P, S]
    params: P
    log_weights: Tensor
    dtype: torch.dtype
    workspace: Workspace

    def expand(self, x: Tensor, frame: Frame) -> Tensor:
        """Return the block in working coordinates and compute precision."""
        if frame.is_identity:
            return x.to(self.dtype)
        out = self.workspace.take("rows", x.shape[0], x.shape[1], self.dtype, x.device)
        return frame.apply(x, out=out)

    def log_joint(self, rows: Tensor) -> Tensor:
        """Return log pi_k + log p(x_n | k), shape (n, k), up to ``offset``; scratch memory."""
        return self.family.log_likelihood(self.params, rows) + self.log_weights

    def statistics(self, rows: Tensor, code: Code, weights: Tensor | None) -> S:
        """Return the block's sums; a soft code is scratch and may be overwritten."""
        return self.family.statistics(self.params, rows, code, weights)

    def row_offset(self, rows: Tensor) -> Tensor | None:
        """Return what ``log_joint`` leaves out of each row, shape (n,); ``None`` for nothing."""
        del rows
        return None

    def offset(self, pooled: Tensor | None) -> Tensor | None:
        """Return what ``log_joint`` leaves out, summed over all rows, shape (g,); ``None`` for nothing.

        Parameters
        ----------
        pooled : Tensor, shape (g, p) or (1, p), optional
            The family's sums that no code weighs.
        """
        del pooled
        return None


def _numel(value: Any) -> int:
    if isinstance(value, tuple):
        return sum(_numel(part) for part in value)
    if isinstance(value, Params):
        return sum(_numel(getattr(value, field.name)) for field in fields(value))
    return int(value.numel())


def n_components_of(code: Code) -> int:
    """Return K of a code."""
    return code.n_components if isinstance(code, HardCode) else int(code.shape[1])


def decode_means(means: Tensor, code: Code) -> Tensor:
    """Return sum_k u_nk a_k, shape (n, d): a look-up for hard codes, a product for soft ones."""
    if isinstance(code, HardCode):
        return means[code.index]
    return code @ means.to(code.dtype)
