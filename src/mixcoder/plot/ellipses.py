"""A mixture on two axes: rows, an ellipse a component, and contours of the density."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _planes, _style


class EllipseDisplay:
    r"""Components as ellipses that hold a stated share of their mass, over contours of the density.

    The ellipse of component k is :math:`(y-\mu_k)'\Sigma_k^{-1}(y-\mu_k) = \chi^2_2(\text{mass})`. The contours bound
    the smallest regions that hold 50, 90 and 99 % of the mixture.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    centres : ndarray, shape (n_components, 2)
    half_axes : ndarray, shape (n_components, 2)
        Longest first.
    directions : ndarray, shape (n_components, 2, 2)
        Unit vectors of the half axes, in columns.
    weights : ndarray, shape (n_components,)
    grid : tuple of ndarray, shapes (m,) and (l,)
    density : ndarray, shape (l, m)
    mass : float
        Share of its mass that an ellipse holds.
    rows : ndarray, shape (n_samples, 2), optional
    labels : ndarray, shape (n_samples,), optional
    names : tuple of two str

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    ellipses_ : list of matplotlib Ellipse
        Of the components with a weight.
    contours_ : matplotlib ContourSet or None

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import EllipseDisplay
    >>> X = load_iris().data
    >>> model = GaussianMixture(3, random_state=0).fit(X)
    >>> display = EllipseDisplay.from_estimator(model, X, features=[2, 3])
    >>> len(display.ellipses_), display.ax_.get_xlabel()
    (3, 'x2')
    """

    masses = (0.5, 0.9, 0.99)

    def __init__(
        self,
        *,
        centres: Any,
        half_axes: Any,
        directions: Any,
        weights: Any,
        grid: Any,
        density: Any,
        mass: float,
        rows: Any = None,
        labels: Any = None,
        names: tuple[str, str] = ("x0", "x1"),
    ) -> None:
        self.centres, self.half_axes, self.directions, self.weights = centres, half_axes, directions, weights
        self.grid, self.density, self.mass = grid, density, mass
        self.rows, self.labels, self.names = rows, labels, names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        features: Any = None,
        mass: float = 0.9,
        grid_size: int = 160,
        standardize: bool = True,
        ax: Any = None,
    ) -> Self:
        """Draw a fitted mixture of Gaussian, low rank or Student t components.

        Parameters
        ----------
        estimator : fitted mixture
        X : array-like, shape (n_samples, n_features), optional
            Rows to draw, each with the look of its most probable component. Of rows with missing cells those are drawn
            that have both features; on the plane along which rows spread most, at what the model expects of them.
        features : pair of int or str, optional
            Two features; by default both of two, else the plane along which the rows (or the mixture) spread most.
        mass : float, default=0.9
            Share of its mass that an ellipse holds.
        grid_size : int, default=160
            Points of the density along each axis.
        standardize : bool, default=True
            Whether that plane is found with each feature in units of its own standard deviation; False where all
            features have one unit, such as pixels.
        ax : matplotlib Axes, optional
        """
        _ask.require_density(estimator, cls.__name__)
        if not 0 < mass < 1:
            raise ValueError(f"mass is the share that an ellipse holds, between 0 and 1, got {mass}.")
        if estimator.n_features_in_ < 2:
            raise ValueError("One feature makes no plane: use DensityDisplay.")
        grid_size = _ask.grid_points(grid_size, cls.__name__)
        columns = cls._columns(estimator, features)
        x, there = (None, None) if X is None else _planes.rows_on(estimator, X, columns)
        plane = _planes.chosen(estimator, x, columns, standardize=standardize)
        mixture = _planes.project(estimator.model_, plane)
        points = None if x is None else plane.coordinates(x)
        low, high = mixture.limits(points)
        grid = tuple(np.linspace(low[i], high[i], grid_size) for i in (0, 1))
        mesh = np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, 2)
        half_axes, directions = mixture.ellipses(mass)
        display = cls(
            centres=mixture.means,
            half_axes=half_axes,
            directions=directions,
            weights=mixture.weights,
            grid=grid,
            density=mixture.densities(mesh).sum(1).reshape(grid_size, grid_size),
            mass=mass,
            rows=points,
            labels=None if X is None else _ask.array(estimator.predict(X))[there],
            names=plane.names[:2],  # type: ignore[arg-type]
        )
        return display.plot(ax=ax)

    @staticmethod
    def _columns(estimator: Any, features: Any) -> list[int] | None:
        columns = None if features is None else _ask.columns_of(estimator, features)
        if columns is not None and len(columns) != 2:
            raise ValueError(
                f"A plane has two features, got {len(columns)}: {features!r}; CornerDisplay draws more."
            )
        return columns

    def plot(
        self,
        ax: Any = None,
        *,
        contours: bool = True,
        ellipses: bool = True,
        max_rows: int = 3000,
        names: bool = True,
    ) -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        contours, ellipses : bool, default=True
            What to draw beside the rows.
        max_rows : int, default=3000
            Of more rows, evenly spread ones are drawn.
        names : bool, default=True
            Whether to name axes and components.
        """
        from matplotlib.patches import Ellipse

        ax, self.figure_ = _style.axes_of(ax)
        self.contours_ = self._contours(ax) if contours else None
        size = float(np.clip(60 / np.sqrt(1 if self.rows is None else max(len(self.rows), 1)) * 3, 5, 22))
        if self.rows is not None:
            shown = _style.thin(len(self.rows), max_rows)
            for k in np.unique(self.labels[shown]):
                look = _style.look(int(k))
                part = self.rows[shown][self.labels[shown] == k]
                ax.scatter(
                    *part.T,
                    s=size,
                    c=look.color,
                    marker=look.marker,
                    alpha=0.75,
                    linewidths=0.3,
                    edgecolors="white",
                )
        self.ellipses_: list[Any] = []
        for k in np.flatnonzero(self.weights > 0).tolist() if ellipses else []:
            look = _style.look(k)
            angle = np.degrees(np.arctan2(self.directions[k, 1, 0], self.directions[k, 0, 0]))
            width, height = 2 * self.half_axes[k]
            patch = Ellipse(
                tuple(self.centres[k]),
                width,
                height,
                angle=float(angle),
                fill=False,
                edgecolor=look.color,
                linestyle=look.line,
                linewidth=1.8,
                label=f"{k}: weight {self.weights[k]:.2f}",
            )
            self.ellipses_.append(ax.add_patch(patch))
            ax.plot(
                *self.centres[k], marker=look.marker, color=look.color, markersize=8, markeredgecolor=_style.PAPER,
                markeredgewidth=1.4,
            )  # fmt: skip
        (left, right), (bottom, top) = ((g[0], g[-1]) for g in self.grid)
        ax.set(xlim=(left, right), ylim=(bottom, top))
        if names:
            ax.set_xlabel(self.names[0], fontsize=9)
            ax.set_ylabel(self.names[1], fontsize=9)
            self._number(ax)
            _style.legend(ax, len(self.ellipses_), title=f"{100 * self.mass:g} % of each", title_fontsize=8)
        _style.tidy(ax)
        self.ax_ = ax
        return self

    def _number(self, ax: Any) -> None:
        """Write the numbers of components beside their centres, where a legend would be too long."""
        from matplotlib.patheffects import withStroke

        if len(self.ellipses_) <= _style.FEW:
            return
        for k in np.flatnonzero(self.weights > 0).tolist():
            ax.annotate(
                str(k), self.centres[k], (6, 4), textcoords="offset points", fontsize=9, color=_style.INK,
                path_effects=[withStroke(linewidth=2.5, foreground=_style.PAPER)],
            )  # fmt: skip

    def _contours(self, ax: Any) -> Any:
        levels = np.unique(_planes.mass_levels(self.density, self.masses))
        if len(levels) < len(self.masses) or levels[0] <= 0:
            return None  # a spike that the grid does not resolve: its ellipse tells more
        ax.contourf(
            *self.grid, self.density, levels=[*levels, self.density.max() * 1.001], cmap=_style.shades()
        )
        return ax.contour(*self.grid, self.density, levels=levels, colors="#9a9a9a", linewidths=0.6)


__all__ = ["EllipseDisplay"]
