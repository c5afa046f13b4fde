"""Which components explain which rows, all at once."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class ResponsibilityDisplay:
    """Responsibilities as shades: a line a row, a column a component; rows by component, the surest first.

    A clear staircase means clusters that stand apart; grey beside it, components that share rows.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    responsibilities : ndarray, shape (n_samples, n_components)
        Rows sum to one.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    order_ : ndarray
        The rows drawn, from top to bottom.
    image_ : AxesImage
    """

    def __init__(self, *, responsibilities: Any) -> None:
        self.responsibilities = np.asarray(responsibilities)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, ax: Any = None) -> Self:
        """Draw the responsibilities of a fitted mixture for rows.

        Parameters
        ----------
        estimator : fitted mixture
        X : array-like, shape (n_samples, n_features)
        ax : matplotlib Axes, optional
        """
        _ask.require_density(estimator, cls.__name__)
        return cls(responsibilities=_ask.array(estimator.predict_proba(X))).plot(ax=ax)

    def plot(self, ax: Any = None, *, max_rows: int = 1000) -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        max_rows : int, default=1000
            Of more rows, evenly spread ones are drawn.
        """
        ax, self.figure_ = _style.axes_of(ax, (4.6, 4.4))
        n, k = self.responsibilities.shape
        order = np.lexsort((-self.responsibilities.max(1), self.responsibilities.argmax(1)))
        self.order_ = order[_style.thin(n, max_rows)]
        drawn = self.responsibilities[self.order_]
        self.image_ = ax.imshow(
            drawn,
            aspect="auto",
            cmap=_style.ramp(),
            vmin=0,
            vmax=1,
            interpolation="none",
            extent=(-0.5, k - 0.5, n, 0),
        )
        if k <= 20:
            ax.set_xticks(range(k))
        ax.set_xlabel("component", fontsize=9)
        ax.set_ylabel("rows, by component, the surest first", fontsize=9)
        bar = self.figure_.colorbar(self.image_, ax=ax, shrink=0.6, pad=0.02)
        bar.set_label("responsibility", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        _style.tidy(ax)
        self.ax_ = ax
        return self


__all__ = ["ResponsibilityDisplay"]
