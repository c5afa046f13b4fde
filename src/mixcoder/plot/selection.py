"""The criterion by which a model was chosen, against the number of components."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixcoder.plot import _ask, _style
from mixcoder.selection import CRITERIA, Selection

_NAMES = {"bic": "BIC", "icl": "ICL", "aic": "AIC", "held_out": "held-out log-density, nats per row"}


class SelectionDisplay:
    """A line a combination of the other settings; a ring around the best; crosses for what is not to be chosen.

    Use :meth:`from_estimator` or :meth:`from_selection`.

    Parameters
    ----------
    selection : Selection
    criterion : str
        One of :data:`mixcoder.selection.CRITERIA`.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    lines_ : dict of str to Line2D
        By the settings other than ``n_components``.
    best_ : Line2D or None
        The ring.
    failed_ : Line2D or None
        The crosses, on the lower edge.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import SelectionDisplay
    >>> X = load_iris().data
    >>> from mixcoder import select
    >>> chosen = select(GaussianMixture(random_state=0), X, {"n_components": [1, 2, 3]})
    >>> display = SelectionDisplay.from_selection(chosen)
    >>> display.criterion, len(display.lines_)
    ('bic', 1)
    """

    def __init__(self, *, selection: Selection, criterion: str) -> None:
        self.selection = selection
        self.criterion = Selection((), criterion).criterion  # which refuses an unknown one

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, criterion: str = "bic", ax: Any = None) -> Self:
        """Draw how a mixture fitted with ``n_components="auto"`` found its number of components.

        Parameters
        ----------
        estimator : fitted mixture
        X : ignored
            What was tried is in ``selection_``.
        criterion : {"bic", "icl", "aic"}, default="bic"
        ax : matplotlib Axes, optional
        """
        del X
        _ask.require_density(estimator, cls.__name__)
        check_is_fitted(estimator)
        if not hasattr(estimator, "selection_"):
            raise TypeError(
                f"{cls.__name__} draws a mixture that chose: fit {type(estimator).__name__}(n_components='auto'), or "
                "give the result of mixcoder.select to from_selection."
            )
        return cls.from_selection(estimator.selection_, criterion=criterion, ax=ax)

    @classmethod
    def from_selection(cls, selection: Selection, *, criterion: str | None = None, ax: Any = None) -> Self:
        """Draw what :func:`mixcoder.select` tried, by its own criterion or another one.

        Raises
        ------
        ValueError
            If no fit that succeeded has the criterion, as held-out likelihoods that were not asked for.
        """
        asked = criterion or selection.criterion
        made = [c for c in selection.candidates if c.failure is None]
        if asked in CRITERIA and made and all(np.isnan(getattr(c, asked)) for c in made):
            raise ValueError(
                f"No candidate has {asked!r}, which takes fits of its own: ask for it in the selection, "
                f"mixcoder.select(estimator, X, grid, criterion={asked!r}), and give its result to from_selection."
            )
        return cls(selection=selection, criterion=criterion or selection.criterion).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        ax, self.figure_ = _style.axes_of(ax)
        paths: dict[str, list[Any]] = {}
        for candidate in self.selection.candidates:
            paths.setdefault(candidate.label("n_components"), []).append(candidate)
        self.lines_: dict[str, Any] = {}
        failed: list[int] = []
        for place, (label, path) in enumerate(paths.items()):
            look = _style.look(place)
            told = [c for c in path if np.isfinite(c.loss(self.criterion))]
            failed += [c.n_components for c in path if c not in told]
            told.sort(key=lambda c: c.n_components)
            (self.lines_[label],) = ax.plot(
                [c.n_components for c in told],
                [getattr(c, self.criterion) for c in told],
                color=look.color,
                marker=look.marker,
                linestyle=look.line,
                markersize=5,
                linewidth=1.3,
                label=label or None,
            )
        self.best_ = self._ring(ax)
        ax.set_xlabel("number of components", fontsize=9)
        better = "more" if self.criterion == "held_out" else "less"
        ax.set_ylabel(f"{_NAMES[self.criterion]} ({better} is better)", fontsize=9)
        ax.xaxis.get_major_locator().set_params(integer=True)
        self.failed_ = None
        if failed:
            # On the lower edge, whatever the criterion's range.
            (self.failed_,) = ax.plot(
                sorted(set(failed)), [0.0] * len(set(failed)), "x", color=_style.FAINT, markersize=5, clip_on=False,
                transform=ax.get_xaxis_transform(), label="a fit not to be chosen",
            )  # fmt: skip
        _style.tidy(ax)
        _style.legend(ax, len(self.lines_))
        self.ax_ = ax
        return self

    def _ring(self, ax: Any) -> Any:
        best = min(self.selection.candidates, key=lambda c: c.loss(self.criterion), default=None)
        if best is None or not np.isfinite(best.loss(self.criterion)):
            return None
        (ring,) = ax.plot(
            best.n_components, getattr(best, self.criterion), "o", markersize=13, markerfacecolor="none",
            markeredgecolor=_style.INK, markeredgewidth=1.5, label=f"best: {best.label() or best.n_components}",
        )  # fmt: skip
        return ring


__all__ = ["SelectionDisplay"]
