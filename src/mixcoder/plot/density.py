"""A mixture on one axis: its density, that of each component, and the rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _planes, _style


class DensityDisplay:
    r"""The density of a mixture along one feature, :math:`p(y) = \sum_k \pi_k p(y | k)`, over a histogram.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    grid : ndarray, shape (m,)
    densities : ndarray, shape (m, n_components)
        Weighted densities of the components; their sum is that of the mixture.
    rows : ndarray, shape (n_samples,), optional
    name : str
        What the axis is called.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    lines_ : list
        The mixture's line, then those of the components.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import DensityDisplay
    >>> model = GaussianMixture.from_parameters([0.3, 0.7], [[0.0], [4.0]], [[[1.0]], [[2.0]]])
    >>> display = DensityDisplay.from_estimator(model)
    >>> round(float(np.trapezoid(display.densities.sum(1), display.grid)), 3)
    1.0
    """

    def __init__(self, *, grid: Any, densities: Any, rows: Any = None, name: str = "x") -> None:
        self.grid, self.densities, self.rows, self.name = grid, densities, rows, name

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, feature: Any = 0, grid_size: int = 400, ax: Any = None
    ) -> Self:
        """Draw a fitted mixture of Gaussian, low rank or Student t components along one of its features.

        Parameters
        ----------
        estimator : fitted mixture
        X : array-like, shape (n_samples, n_features), optional
            Rows for the histogram; those that miss the feature are left out.
        feature : int or str, default=0
        grid_size : int, default=400
        ax : matplotlib Axes, optional
        """
        _ask.require_density(estimator, cls.__name__)
        grid_size = _ask.grid_points(grid_size, cls.__name__)
        columns = _ask.columns_of(estimator, feature)
        plane = _planes.on_columns(estimator, columns)
        mixture = _planes.project(estimator.model_, plane)
        rows = None if X is None else plane.coordinates(_planes.rows_on(estimator, X, columns)[0])
        (low,), (high,) = mixture.limits(rows)
        grid = np.linspace(low, high, grid_size)
        # A component much narrower than the picture falls between the points of an even grid.
        stds = np.sqrt(mixture.spreads[:, 0, 0])
        near = mixture.means + stds[:, None] * np.linspace(-4, 4, 41)
        grid = np.unique(np.concatenate([grid, near.ravel()]).clip(low, high))
        shown = None if rows is None else rows[:, 0]
        display = cls(grid=grid, densities=mixture.densities(grid[:, None]), rows=shown, name=plane.names[0])
        return display.plot(ax=ax)

    def plot(self, ax: Any = None, *, components: bool = True, bins: Any = "auto") -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        components : bool, default=True
            Whether each component has a line of its own.
        bins : int or str, default="auto"
            Of the histogram, as for :func:`numpy.histogram_bin_edges`; "auto" takes more bins than NumPy does.
        """
        ax, self.figure_ = _style.axes_of(ax)
        if self.rows is not None and len(self.rows):
            ax.hist(
                self.rows, self._edges(bins), density=True, color="#e4e4e4", edgecolor="white", linewidth=0.5
            )
        total = self.densities.sum(1)
        self.lines_ = ax.plot(self.grid, total, color=_style.INK, linewidth=2.0, label="mixture")
        for k in range(self.densities.shape[1] if components else 0):
            look = _style.look(k)
            part = self.densities[:, k]
            self.lines_ += ax.plot(
                self.grid, part, color=look.color, linestyle=look.line, linewidth=1.3, label=f"component {k}"
            )
        ax.set_xlabel(self.name, fontsize=9)
        ax.set_ylabel("density", fontsize=9)
        ax.margins(y=0.05)
        ax.autoscale(axis="y")
        ax.set_ylim(bottom=0)
        _style.tidy(ax)
        _style.legend(ax, len(self.lines_))
        self.ax_ = ax
        return self

    def _edges(self, bins: Any) -> np.ndarray:
        """Return the edges of the histogram's bins."""
        edges = np.histogram_bin_edges(self.rows, bins)
        if isinstance(bins, str) and bins == "auto":
            # NumPy's rules are for one peak: where there are several they smear each over its neighbours.
            fewest = min(60, int(2 * np.sqrt(len(self.rows))))
            edges = np.histogram_bin_edges(self.rows, min(100, max(fewest, len(edges) - 1)))
        return edges


__all__ = ["DensityDisplay"]
