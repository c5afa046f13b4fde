"""Shared type names. Axes are written ``n k d e``: rows, components, features, latent axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

SoftCode: TypeAlias = Tensor
"""A point of the simplex per row, shape (n, k)."""


@dataclass(frozen=True)
class HardCode:
    """One component per row: never expanded to a dense (n, k) array.

    Parameters
    ----------
    index : Tensor, shape (n,)
        Component of each row, int64.
    n_components : int
        How many components there are; ``index`` is below it.
    """

    index: Tensor
    n_components: int

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the same code as one-hot rows, shape (n, k)."""
        shape = (*self.index.shape, self.n_components)
        code = torch.zeros(shape, dtype=dtype, device=self.index.device)
        return code.scatter_(-1, self.index[..., None], 1.0)


Code: TypeAlias = Tensor | HardCode

__all__ = ["Code", "HardCode", "SoftCode", "Tensor"]
