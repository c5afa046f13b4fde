"""What the bootstrap says of clusters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor

# Hennig's thumb rules for the mean Jaccard similarity over bootstrap samples.
STABLE, DISSOLVED = 0.75, 0.5

_VERDICTS = ("stable", "doubtful", "dissolved", "no rows")


@dataclass(frozen=True)
class Stability:
    """How well the clusters of a fit are found again in bootstrap samples of its rows.

    Parameters
    ----------
    rand : Tensor, shape (n_bootstraps,)
        Adjusted Rand index between the clusters and those of each bootstrap fit, on the rows drawn.
    jaccard : Tensor, shape (n_bootstraps, n_components)
        Similarity of each cluster to the most similar one of each bootstrap fit; NaN where none of its rows was drawn.
    failures : tuple of str
        What the bootstrap fits that failed said.

    References
    ----------
    Hennig (2007), "Cluster-wise assessment of cluster stability".

    Examples
    --------
    >>> import torch
    >>> found = Stability(rand=torch.tensor([0.9, 0.8]), jaccard=torch.tensor([[1.0, 0.5], [0.9, 0.3]]))
    >>> found.verdicts
    ['stable', 'dissolved']
    >>> found
    Stability of 2 clusters over 2 bootstrap samples: 1 stable, 1 dissolved
    """

    rand: Tensor
    jaccard: Tensor
    failures: tuple[str, ...] = ()

    @property
    def mean_jaccard(self) -> Tensor:
        """Mean similarity of each cluster over the samples that hold rows of it, shape (n_components,)."""
        return self.jaccard.nanmean(0)

    @property
    def verdicts(self) -> list[str]:
        """Return for each cluster "stable" (at least 0.75), "doubtful", "dissolved" (below 0.5) or "no rows"."""
        return [
            "no rows"
            if m != m
            else "stable"
            if m >= STABLE
            else "doubtful"
            if m >= DISSOLVED
            else "dissolved"
            for m in self.mean_jaccard.tolist()
        ]

    def __repr__(self) -> str:
        counts = Counter(self.verdicts)
        told = ", ".join(f"{counts[word]} {word}" for word in _VERDICTS if counts[word])
        return (
            f"Stability of {self.jaccard.shape[1]} clusters over {len(self.rand)} bootstrap samples: {told}"
        )

    def __str__(self) -> str:
        lines = [f"adjusted Rand index {float(self.rand.mean()):.3f} over {len(self.rand)} bootstrap samples"]
        for k, (mean, verdict) in enumerate(zip(self.mean_jaccard.tolist(), self.verdicts, strict=True)):
            lines.append(f"cluster {k}: Jaccard {mean:.3f}, {verdict}")
        return "\n".join(lines + [f"failed: {failure}" for failure in self.failures])


__all__ = ["DISSOLVED", "STABLE", "Stability"]
