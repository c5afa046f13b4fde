"""Linear operators: how an observation y = H x + e sees a row x."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Self, final

import torch
from torch import Tensor

from mixcoder.sensing.given import as_rows, as_tensor


class Operator(ABC):
    """A linear map H from rows of d features to m measurements.

    A concrete operator is frozen and says ``shape``, ``apply`` and ``adjoint``; the answers come in the dtype and
    on the device of the argument.

    Examples
    --------
    >>> operator = as_operator([[1.0, 2.0]])
    >>> operator.shape, operator.apply(torch.tensor([[3.0, 4.0]])), operator.adjoint(torch.tensor([[1.0]]))
    ((1, 2), tensor([[11.]]), tensor([[1., 2.]]))
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, m)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d)."""

    @property
    def n_measurements(self) -> int:
        """Number of measurements, m."""
        return self.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features, d."""
        return self.shape[1]

    def matrix(self, like: Tensor | None = None) -> Tensor:
        """Return H, shape (m, d), in the dtype and on the device of ``like`` (default: float64 on the CPU)."""
        dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
        return self.apply(torch.eye(self.n_features, dtype=dtype, device=device)).T

    def adjoint_test(self, generator: torch.Generator, n_pairs: int = 4) -> float:
        r"""Return how far ``adjoint`` is from the adjoint of ``apply``: rounding where they fit together.

        .. math:: \max \frac{|\langle Hx, y\rangle - \langle x, H'y\rangle|}{|Hx|\,|y| + |x|\,|H'y|}

        over pairs of standard normal x and y, drawn in float64.

        Examples
        --------
        >>> operator = Rows.of([2, 0], n_features=3)
        >>> operator.adjoint_test(torch.Generator().manual_seed(0)) < 1e-12
        True
        """
        x = torch.randn(n_pairs, self.n_features, generator=generator, dtype=torch.float64)
        y = torch.randn(n_pairs, self.n_measurements, generator=generator, dtype=torch.float64)
        seen, back = self.apply(x), self.adjoint(y)
        gap = ((seen * y).sum(1) - (x * back).sum(1)).abs()
        size = seen.norm(dim=1) * y.norm(dim=1) + x.norm(dim=1) * back.norm(dim=1)
        return float((gap / size.clamp_min(torch.finfo(torch.float64).tiny)).max())


@final
@dataclass(frozen=True)
class Matrix(Operator):
    """An operator given by its matrix.

    Parameters
    ----------
    values : Tensor, shape (m, d)

    Examples
    --------
    >>> Matrix(torch.tensor([[1.0, 1.0]])).apply(torch.tensor([[2.0, 3.0]]))
    tensor([[5.]])
    """

    values: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_tensor("An operator's matrix", self.values))
        if self.values.ndim != 2 or 0 in self.values.shape:
            raise ValueError(
                f"An operator's matrix has shape (n_measurements, n_features), got {tuple(self.values.shape)}."
            )
        if not bool(torch.isfinite(self.values).all()):
            raise ValueError("An operator's matrix must be finite, got NaN or infinity; replace them.")

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, m)."""
        x = as_rows(x, self.n_features)
        return x @ self.values.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d)."""
        y = as_rows(y, self.n_measurements)
        return y @ self.values.to(y)

    def matrix(self, like: Tensor | None = None) -> Tensor:
        """Return H, shape (m, d)."""
        return self.values.to(torch.float64) if like is None else self.values.to(like)


@final
@dataclass(frozen=True)
class GaussianRandom(Operator):
    r"""A random operator, known by its seed: independent entries :math:`H_{md} \sim N(0, \mathrm{scale}^2)`.

    Parameters
    ----------
    n_rows : int
        Number of measurements, m.
    n_columns : int
        Number of features, d.
    seed : int
        The same seed gives the same matrix, whatever the device it is used on.
    scale : float
        Standard deviation of the entries; 1/sqrt(m) keeps lengths on average.

    Examples
    --------
    >>> GaussianRandom(2, 5, seed=0).apply(torch.ones(3, 5)).shape
    torch.Size([3, 2])
    """

    n_rows: int
    n_columns: int
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.n_rows < 1 or self.n_columns < 1:
            raise ValueError(
                f"An operator has at least one measurement and one feature, got {self.n_rows} and {self.n_columns}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        return self.n_rows, self.n_columns

    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, m)."""
        x = as_rows(x, self.n_features)
        return x @ self.matrix(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d)."""
        y = as_rows(y, self.n_measurements)
        return y @ self.matrix(y)

    def matrix(self, like: Tensor | None = None) -> Tensor:
        """Return H, shape (m, d)."""
        generator = torch.Generator().manual_seed(self.seed)
        values = self.scale * torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return values if like is None else values.to(like)


@final
@dataclass(frozen=True)
class Rows(Operator):
    """A choice of rows of the identity: some features are seen, the others are missing.

    Parameters
    ----------
    columns : Tensor, shape (m,)
        Features that are seen, int64; one may be seen twice.
    n_columns : int
        Number of features, d.

    Examples
    --------
    >>> Rows.observed(torch.tensor([True, False, True])).apply(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 3.]])
    """

    columns: Tensor
    n_columns: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", as_tensor("columns", self.columns))
        if self.columns.ndim != 1 or self.columns.dtype != torch.int64:
            raise ValueError(
                f"columns must be int64 of shape (m,), got {self.columns.dtype} of shape "
                f"{tuple(self.columns.shape)}; Rows.of takes a list, Rows.observed a mask."
            )
        outside = (self.columns < 0) | (self.columns >= self.n_columns)
        if bool(outside.any()):
            raise ValueError(
                f"columns must be in 0..{self.n_columns - 1}, got {int(self.columns[outside][0])}."
            )

    @classmethod
    def of(cls, columns: list[int], n_features: int) -> Self:
        """Return the operator that sees the listed columns, in this order."""
        return cls(torch.tensor(columns, dtype=torch.int64), n_features)

    @classmethod
    def observed(cls, mask: Any) -> Self:
        """Return the operator that sees the columns where ``mask``, shape (d,) bool, is true."""
        mask = as_tensor("A mask", mask)
        if mask.ndim != 1 or mask.dtype != torch.bool:
            raise ValueError(
                f"A mask of features is bool of shape (d,), got {mask.dtype} of shape {tuple(mask.shape)}; RowMasks "
                "takes a mask a row, inpainting one of an image."
            )
        return cls(mask.nonzero()[:, 0], int(mask.shape[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        return int(self.columns.shape[0]), self.n_columns

    def apply(self, x: Tensor) -> Tensor:
        """Return the seen columns, shape (n, m)."""
        return as_rows(x, self.n_features)[:, self.columns.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the measurements in their columns, zeros elsewhere, shape (n, d)."""
        y = as_rows(y, self.n_measurements)
        zeros = torch.zeros(y.shape[0], self.n_columns, dtype=y.dtype, device=y.device)
        return zeros.index_add_(1, self.columns.to(y.device), y)


@final
@dataclass(frozen=True)
class Physics(Operator):
    """Anything with deepinv's ``A`` and ``A_adjoint``, on rows: each row is one signal, flattened.

    Parameters
    ----------
    physics : object
        ``A(x)`` takes signals of shape ``(n, *signal_shape)``, ``A_adjoint(y)`` measurements. It must be linear,
        without noise of its own.
    signal_shape : tuple of int
        Shape of one signal, for example (channels, height, width).
    measured_shape : tuple of int
        Shape of one measurement; :meth:`of` finds it.

    Examples
    --------
    >>> class Halves:  # anything with these two methods, such as a physics of deepinv
    ...     def A(self, x):
    ...         return x[..., ::2]
    ...
    ...     def A_adjoint(self, y):
    ...         return torch.stack([y, torch.zeros_like(y)], -1).flatten(-2)
    >>> operator = Physics.of(Halves(), signal_shape=(1, 4))
    >>> operator.shape, operator.adjoint_test(torch.Generator().manual_seed(0)) < 1e-12
    ((2, 4), True)
    """

    physics: Any
    signal_shape: tuple[int, ...]
    measured_shape: tuple[int, ...]

    @classmethod
    def of(cls, physics: Any, signal_shape: tuple[int, ...]) -> Self:
        """Return the operator; one signal of zeros is measured to learn the shape of a measurement."""
        measured: Tensor = physics.A(torch.zeros(1, *signal_shape))
        return cls(physics, tuple(signal_shape), tuple(measured.shape[1:]))

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        return prod(self.measured_shape), prod(self.signal_shape)

    def apply(self, x: Tensor) -> Tensor:
        """Return A of each row, shape (n, m)."""
        return self._through(self.physics.A, as_rows(x, self.n_features), self.signal_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the adjoint of A of each row, shape (n, d)."""
        return self._through(self.physics.A_adjoint, as_rows(y, self.n_measurements), self.measured_shape)

    @staticmethod
    def _through(function: Callable[[Tensor], Tensor], rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return function(rows.reshape(len(rows), *shape)).reshape(len(rows), -1).to(rows)


@final
@dataclass(frozen=True)
class SciPyOperator(Operator):
    """A :class:`scipy.sparse.linalg.LinearOperator`, or a sparse matrix made one by ``aslinearoperator``.

    Parameters
    ----------
    linear : LinearOperator, shape (m, d)
        With ``matmat`` and ``rmatmat``; works on the CPU.

    Examples
    --------
    >>> from scipy.sparse.linalg import aslinearoperator
    >>> import numpy as np
    >>> SciPyOperator(aslinearoperator(np.array([[1.0, 2.0]]))).apply(torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """

    linear: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Measurements and features, (m, d)."""
        m, d = self.linear.shape
        return int(m), int(d)

    def apply(self, x: Tensor) -> Tensor:
        """Return H x of each row, shape (n, m)."""
        return self._through(self.linear.matmat, as_rows(x, self.n_features))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return H' y of each row, shape (n, d)."""
        return self._through(self.linear.rmatmat, as_rows(y, self.n_measurements))

    @staticmethod
    def _through(function: Callable[[Any], Any], rows: Tensor) -> Tensor:
        return torch.as_tensor(function(rows.numpy(force=True).T)).T.to(rows)


def as_operator(value: Any) -> Operator:
    """Return a value as an operator: one of ours, a matrix, dense or sparse, or a SciPy ``LinearOperator``.

    deepinv's physics do not say the shape of a signal: wrap them with :meth:`Physics.of`.

    Examples
    --------
    >>> as_operator([[1.0, 0.0, 2.0]]).shape
    (1, 3)
    """
    if isinstance(value, Operator):
        return value
    if hasattr(value, "patterns"):  # RowMasks, which know this module
        raise TypeError(
            "RowMasks is an operator a row, and only posterior takes it; elsewhere take the rows of each mask by "
            "themselves, with Rows.observed(mask)."
        )
    if hasattr(value, "A_adjoint"):
        raise TypeError(
            "A physics does not say the shape of its signals; pass Physics.of(physics, signal_shape) instead."
        )
    if hasattr(value, "rmatmat"):
        return SciPyOperator(value)
    if hasattr(value, "tocsr"):
        return _of_sparse(value.tocsr())
    if isinstance(value, Tensor):
        return Matrix(value.detach())
    try:
        matrix = as_tensor("An operator's matrix", value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"An operator is one of mixcoder.sensing, a matrix of shape (n_measurements, n_features) or a SciPy "
            f"LinearOperator, got {type(value).__name__}: {error}"
        ) from error
    return Matrix(matrix.double())


def _of_sparse(matrix: Any) -> SciPyOperator:
    from scipy.sparse.linalg import aslinearoperator

    if not bool(torch.isfinite(as_tensor("A sparse matrix", matrix.data)).all()):
        raise ValueError("An operator's matrix must be finite, got NaN or infinity; replace them.")
    return SciPyOperator(aslinearoperator(matrix))


__all__ = ["GaussianRandom", "Matrix", "Operator", "Physics", "Rows", "SciPyOperator", "as_operator"]
