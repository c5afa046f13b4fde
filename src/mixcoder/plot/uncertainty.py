"""Where a mixture is in doubt about which component a row belongs to."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _planes, _style


class UncertaintyDisplay:
    r"""Rows on a plane; the larger and darker a mark, the less sure its component, :math:`1 - \max_k r_{nk}`.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    rows : ndarray, shape (n_samples, 2)
    uncertainty : ndarray, shape (n_samples,)
        Between 0 and 1 - 1/K.
    labels : ndarray, shape (n_samples,)
    names : tuple of two str

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    doubtful_ : PathCollection
        The marks of rows that are in doubt.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import UncertaintyDisplay
    >>> X = load_iris().data
    >>> model = GaussianMixture(3, random_state=0).fit(X)
    >>> display = UncertaintyDisplay.from_estimator(model, X)
    >>> bool((display.uncertainty >= 0).all()), display.rows.shape
    (True, (150, 2))
    """

    def __init__(self, *, rows: Any, uncertainty: Any, labels: Any, names: tuple[str, ...]) -> None:
        self.rows, self.uncertainty, self.labels, self.names = rows, uncertainty, labels, names

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, features: Any = None, ax: Any = None) -> Self:
        """Draw rows with the doubt of a fitted mixture, of any family.

        Parameters
        ----------
        estimator : fitted mixture
        X : array-like, shape (n_samples, n_features), of two features or more
            Of rows with missing cells those are drawn that have both features; on the plane along which rows spread
            most, at what the model expects of them.
        features : pair of int or str, optional
            By default the plane along which the rows spread most.
        ax : matplotlib Axes, optional
        """
        _ask.require_density(estimator, cls.__name__)
        if estimator.n_features_in_ < 2:
            raise ValueError("One feature makes no plane: use ResponsibilityDisplay.")
        columns = None if features is None else _ask.columns_of(estimator, features)
        if columns is not None and len(columns) != 2:
            raise ValueError(f"A plane has two features, got {len(columns)}: {features!r}.")
        x, there = _planes.rows_on(estimator, X, columns)
        plane = _planes.chosen(estimator, x, columns)
        code = _ask.array(estimator.predict_proba(X)).astype(np.float64)[there]
        display = cls(
            rows=plane.coordinates(x), uncertainty=1 - code.max(1), labels=code.argmax(1), names=plane.names
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None, *, threshold: float = 0.05) -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        threshold : float, default=0.05
            Uncertainty above which a row is drawn as doubtful, on top of the others.
        """
        ax, self.figure_ = _style.axes_of(ax)
        most = float(self.uncertainty.max(initial=0.0))
        sure = self.uncertainty <= threshold
        for k in np.unique(self.labels):
            look = _style.look(int(k))
            part = self.rows[sure & (self.labels == k)]
            ax.scatter(*part.T, s=14, c=look.color, marker=look.marker, alpha=0.55, linewidths=0)
        doubtful = np.flatnonzero(~sure)
        doubtful = doubtful[np.argsort(self.uncertainty[doubtful])]
        share = self.uncertainty[doubtful] / max(most, 1e-12)
        self.doubtful_ = ax.scatter(
            *self.rows[doubtful].T,
            s=12 + 60 * share,
            c=self.uncertainty[doubtful],
            cmap=_doubt(),
            vmin=0,
            vmax=max(0.5, most),
            edgecolors=_style.INK,
            linewidths=0.6,
            label=f"in doubt (> {threshold:g}): {len(doubtful)} of {len(self.rows)}",
        )
        bar = self.figure_.colorbar(self.doubtful_, ax=ax, shrink=0.6, pad=0.02)
        bar.set_label("1 - largest responsibility", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        ax.set_xlabel(self.names[0], fontsize=9)
        ax.set_ylabel(self.names[1], fontsize=9)
        ax.legend(frameon=False, fontsize=8)
        _style.tidy(ax)
        self.ax_ = ax
        return self


def _doubt() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("doubt", [_style.PAPER, _style.INK])


__all__ = ["UncertaintyDisplay"]
