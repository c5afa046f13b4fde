"""How far two partitions of the same rows agree."""

from __future__ import annotations

import torch
from torch import Tensor


def contingency(a: Tensor, b: Tensor) -> Tensor:
    """Return how many rows each pair of groups shares, float64, shape (groups of a, groups of b).

    Parameters
    ----------
    a, b : Tensor of int, shape (n,)
        Group of each row, from 0.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"Two partitions of the same rows have one shape (n,), got {tuple(a.shape)}, {tuple(b.shape)}."
        )
    if not len(a) or int(torch.minimum(a, b).min()) < 0:
        raise ValueError("A partition gives every row the number of its group, from 0; there must be rows.")
    p, q = int(a.max()) + 1, int(b.max()) + 1
    return torch.bincount(a.long() * q + b.long(), minlength=p * q).view(p, q).double()


def adjusted_rand(a: Tensor, b: Tensor) -> float:
    r"""Return the Rand index, corrected so that independent partitions give 0 on average; 1 for equal ones.

    .. math:: \frac{\sum_{ij} \binom{n_{ij}}2 - E}{\frac12 (A + B) - E}, \quad
        A = \sum_i \binom{n_{i\cdot}}2,\ B = \sum_j \binom{n_{\cdot j}}2,\ E = \frac{A B}{\binom n2}

    References
    ----------
    Hubert & Arabie (1985), "Comparing partitions", equation 5.

    Examples
    --------
    >>> import torch
    >>> adjusted_rand(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0]))
    1.0
    """
    table = contingency(a, b)

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1)).sum()) / 2

    both, of_a, of_b, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    expected = of_a * of_b / every if every else 0.0
    most = (of_a + of_b) / 2
    # Two partitions into one group each, or into rows, are equal, and chance has nothing to add.
    return 1.0 if most == expected else (both - expected) / (most - expected)


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the similarity of each group of ``a`` to the most similar group of ``b``, shape (groups of a,).

    .. math:: \max_j \frac{|a_i \cap b_j|}{|a_i \cup b_j|}

    A group of ``a`` without rows has NaN.

    Examples
    --------
    >>> import torch
    >>> jaccard(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])).round(decimals=4).tolist()
    [0.6667, 0.5]
    """
    table = contingency(a, b)
    sizes = table.sum(1)
    union = sizes[:, None] + table.sum(0) - table
    return torch.where(sizes > 0, (table / union.clamp_min(1)).amax(1), torch.nan)


__all__ = ["adjusted_rand", "contingency", "jaccard"]
