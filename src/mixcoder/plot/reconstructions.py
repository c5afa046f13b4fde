"""Rows that are images, and what is left of them after encoding and decoding."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils import _safe_indexing

from mixcoder.plot import _ask, _style
from mixcoder.plot.prototypes import tiles


class ReconstructionDisplay:
    """Images, their reconstructions, and the differences, one below the other.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    originals, reconstructions : ndarray, shape (m, height, width)

    Attributes
    ----------
    axes_ : ndarray of Axes, shape (3, m)
    ax_, figure_
        The axes that hold them all, and the figure.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from mixcoder.plot import ReconstructionDisplay
    >>> images = np.random.default_rng(0).random((5, 4, 4))
    >>> ReconstructionDisplay(originals=images, reconstructions=images.round()).plot().axes_.shape
    (3, 5)
    """

    def __init__(self, *, originals: Any, reconstructions: Any) -> None:
        self.originals, self.reconstructions = np.asarray(originals), np.asarray(reconstructions)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 10,
        shape: tuple[int, int] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw rows and decode(encode(rows)) of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of mixcoder
        X : array-like, shape (n_samples, n_features)
        n_images : int, default=10
            Of more rows, evenly spread ones are drawn.
        shape : (int, int), optional
            Height and width; by default rows are square.
        ax : matplotlib Axes, optional
        """
        _ask.require_autoencoder(estimator, cls.__name__)
        height, width = _ask.image_shape(estimator.n_features_in_, shape)
        x = _ask.rows(estimator, X)
        shown = _style.thin(len(x), n_images)
        # The estimator's own: that of a mixture of planes is the nearest point of a plane, not the mean of a component.
        found = _ask.array(estimator.reconstruct(_safe_indexing(X, shown)))
        originals, reconstructions = (values.reshape(-1, height, width) for values in (x[shown], found))
        return cls(originals=originals, reconstructions=reconstructions).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        m, height, width = self.originals.shape
        ax, self.figure_ = _style.axes_of(ax, (0.7 * m + 1.1, 3 * 0.78 * height / width + 0.1))
        self.axes_ = tiles(ax, 3, m, 3 * m, left=1.1 / (0.7 * m + 1.1)).reshape(3, m)
        both = np.stack([self.originals, self.reconstructions])
        left = self.reconstructions - self.originals
        far = float(np.abs(left).max()) or 1.0
        for j in range(m):
            for i in (0, 1):
                self.axes_[i, j].imshow(both[i, j], cmap=_style.ramp(), vmin=both.min(), vmax=both.max())
            self.axes_[2, j].imshow(left[j], cmap="PuOr", vmin=-far, vmax=far)
        error = float((left**2).sum((1, 2)).mean())
        for i, name in enumerate(("original", "reconstruction", f"difference,\nsquared:\n{error:.4g}")):
            ax.text(0, 1 - (i + 0.56) / 3, name, fontsize=8, va="center", color=_style.INK)
        self.ax_ = ax
        return self


__all__ = ["ReconstructionDisplay"]
