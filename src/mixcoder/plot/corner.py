"""A mixture on every pair of some features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style
from mixcoder.plot.density import DensityDisplay
from mixcoder.plot.ellipses import EllipseDisplay

_MOST = 5


class CornerDisplay:
    """Densities of single features on the diagonal, ellipses of pairs below it.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    densities : list of DensityDisplay
        One a feature.
    pairs : dict of (int, int) to EllipseDisplay
        By row and column of the picture, column < row.

    Attributes
    ----------
    axes_ : ndarray of Axes, shape (m, m)
    ax_ : Axes
        The first on the diagonal.
    figure_

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import CornerDisplay
    >>> X = load_iris().data
    >>> model = GaussianMixture(3, random_state=0).fit(X)
    >>> display = CornerDisplay.from_estimator(model, X, features=[0, 2, 3])
    >>> display.axes_.shape, len(display.pairs)
    ((3, 3), 3)
    """

    def __init__(
        self, *, densities: list[DensityDisplay], pairs: dict[tuple[int, int], EllipseDisplay]
    ) -> None:
        self.densities, self.pairs = densities, pairs

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        features: Any = None,
        mass: float = 0.9,
        grid_size: int = 80,
        ax: Any = None,
    ) -> Self:
        """Draw a fitted mixture of Gaussian, low rank or Student t components.

        Parameters
        ----------
        estimator : fitted mixture
        X : array-like, shape (n_samples, n_features), optional
            A row is drawn wherever it has the features shown.
        features : sequence of int or str, optional
            By default all, but of more than five those whose means differ most between components, relative to the
            spread within them.
        mass : float, default=0.9
        grid_size : int, default=80
        ax : ndarray of Axes, shape (m, m), optional
        """
        from matplotlib import pyplot as plt

        _ask.require_density(estimator, cls.__name__)
        grid_size = _ask.grid_points(grid_size, cls.__name__)
        columns = _telling(estimator) if features is None else _ask.columns_of(estimator, features)
        if len(columns) < 2:
            raise ValueError("A corner has two features or more: use DensityDisplay for one.")
        m = len(columns)
        if ax is None:
            _, ax = plt.subplots(m, m, figsize=(1.7 * m + 0.8, 1.7 * m + 0.3), layout="constrained")
        ax = _grid(ax, m)
        densities = [
            DensityDisplay.from_estimator(estimator, X, feature=column, ax=ax[i, i])
            for i, column in enumerate(columns)
        ]
        pairs = {
            (i, j): EllipseDisplay.from_estimator(
                estimator, X, features=(columns[j], columns[i]), mass=mass, grid_size=grid_size, ax=ax[i, j]
            )
            for i in range(m)
            for j in range(i)
        }
        return cls(densities=densities, pairs=pairs).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on a grid of axes, or on a new figure.

        Parameters
        ----------
        ax : ndarray of Axes, shape (m, m), optional
            m features; what is there is cleared.
        """
        from matplotlib import pyplot as plt

        m = len(self.densities)
        if ax is None:
            _, ax = plt.subplots(m, m, figsize=(1.7 * m + 0.8, 1.7 * m + 0.3), layout="constrained")
        ax = _grid(ax, m)
        for i in range(m):
            for j in range(m):
                ax[i, j].clear()
                if j > i:
                    ax[i, j].set_axis_off()
                    continue
                if i == j:
                    self.densities[i].plot(ax[i, i])
                    ax[i, i].set(yticks=[], ylabel="")
                    ax[i, i].spines["left"].set_visible(False)
                    if legend := ax[i, i].get_legend():
                        legend.remove()
                else:
                    pair = self.pairs[i, j].plot(ax[i, j], names=False, max_rows=1000)
                    ax[i, j].set(xlabel=pair.names[0], ylabel=pair.names[1])
                _only_outer_labels(ax[i, j], i, j, m)
        grids = [density.ax_ for density in self.densities]
        for i, j in self.pairs:  # the same limits along a column
            grids[j].set_xlim(ax[i, j].get_xlim())
        self.axes_, self.ax_, self.figure_ = ax, ax[0, 0], ax[0, 0].figure
        return self


def _grid(ax: Any, m: int) -> np.ndarray:
    axes = np.asarray(ax, dtype=object)
    if axes.shape != (m, m):
        raise ValueError(f"{m} features need axes of shape ({m}, {m}), got {axes.shape}.")
    for one in axes.flat:
        _style.axes_of(one)  # which refuses what is none
    return axes


def _only_outer_labels(ax: Any, i: int, j: int, m: int) -> None:
    ax.xaxis.label.set_size(8)
    ax.yaxis.label.set_size(8)
    ax.tick_params(labelsize=7)
    if i < m - 1:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
    if j > 0:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)


def _telling(estimator: Any) -> list[int]:
    """Return the features that tell components apart best, at most five, in their order."""
    from mixcoder.plot._planes import moments

    d = estimator.n_features_in_
    if d <= _MOST:
        return list(range(d))
    mixture = moments(estimator.model_)
    within = mixture.weights @ np.diagonal(mixture.spreads, axis1=1, axis2=2)
    between = mixture.weights @ (mixture.means - mixture.weights @ mixture.means) ** 2
    return sorted(np.argsort(between / within)[::-1][:_MOST].tolist())


__all__ = ["CornerDisplay"]
