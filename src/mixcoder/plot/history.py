"""How a fit went: the bound, the inverse temperature, and the repairs; or the way through the temperatures."""

from __future__ import annotations

import re
from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class HistoryDisplay:
    """The bound after each iteration, repairs of components as dotted lines, and beta where it changed.

    The bound is that at the iteration's own beta: while beta rises it is a different one each time, and may fall.

    Of an annealed fit, the way there: against beta, on a logarithmic axis, the free energy, the components alive, and
    how many of them share a row, the exponential of the mean entropy of the codes.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    bound : array-like, shape (n_iter,)
        Nats per row.
    beta : array-like, shape (n_iter,), optional
        Inverse temperature; drawn on a second axis if it is not the same throughout.
    events : sequence of (int, str), default=()
        Iteration, counted from 1, and what happened.
    annealing : mapping of str to array-like, optional
        beta, free_energy, n_components and entropy, one entry a temperature; drawn in place of the bound.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    beta_ax_ : Axes or None
        Of beta.
    components_ax_ : Axes or None
        Of the components of an annealed fit.
    line_ : Line2D
        Of the bound, or of the free energy.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import HistoryDisplay
    >>> X = load_iris().data
    >>> model = GaussianMixture(3, random_state=0).fit(X)
    >>> display = HistoryDisplay.from_estimator(model)
    >>> bool((np.diff(display.bound) > -1e-9).all())
    True
    """

    def __init__(self, *, bound: Any, beta: Any = None, events: Any = (), annealing: Any = None) -> None:
        self.bound = np.asarray(bound, dtype=np.float64)
        self.beta = None if beta is None else np.asarray(beta, dtype=np.float64)
        self.events = list(events)
        self.annealing = (
            {name: np.asarray(values, dtype=np.float64) for name, values in annealing.items()}
            if annealing
            else None
        )

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, annealing: bool = True, ax: Any = None) -> Self:
        """Draw the ``history_`` of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of mixcoder
        X : ignored
            A history needs no rows.
        annealing : bool, default=True
            Of an annealed fit, draw the way through the temperatures; False draws the iterations at the last one.
        ax : matplotlib Axes, optional
        """
        del X
        _ask.require_autoencoder(estimator, cls.__name__)
        history = estimator.history_
        if not history.get("bound"):
            raise ValueError(
                f"This {type(estimator).__name__} has no history: it was made from parameters, not fitted. Fit it."
            )
        events = [
            (int(found[1]), text)
            for text in history.get("events", ())
            if (found := re.match(r"iteration (\d+)", text))
        ]
        beta = history.get("beta")
        trace = history.get("annealing") if annealing else None
        if trace is not None and not trace["beta"]:  # interrupted at the first temperature
            trace = None
        return cls(bound=history["bound"], beta=beta or None, events=events, annealing=trace).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        self.ax_, self.figure_ = _style.axes_of(ax)
        self.beta_ax_ = self.components_ax_ = None
        if self.annealing is None:
            more = self._draw_iterations()
        else:
            more = self._draw_annealing(self.annealing)
        # An offset on top ("1e-5 - 1.2012") would have to be added to every tick in the head, and a factor
        # would have to be multiplied; it is the shorter way for long numbers alone.
        self.ax_.ticklabel_format(axis="y", useOffset=False)
        if np.abs(self.line_.get_ydata()).max() < 1e9:
            self.ax_.ticklabel_format(axis="y", style="plain")
        _style.tidy(self.ax_)
        handles = [*self.ax_.get_legend_handles_labels()[0], *more]
        if len(handles) > 1:
            labels = [handle.get_label() for handle in handles]
            self.ax_.legend(
                handles, labels, frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
            )
        return self

    def _draw_iterations(self) -> list[Any]:
        """Draw bound and repairs; return what the legend needs of other axes."""
        ax, steps = self.ax_, np.arange(1, len(self.bound) + 1)
        blue, orange = _style.look(0), _style.look(5)
        marker = "o" if len(steps) <= 60 else ""
        (self.line_,) = ax.plot(
            steps, self.bound, color=blue.color, marker=marker, markersize=3.5, label="bound"
        )
        ax.set_xlabel("iteration", fontsize=9)
        ax.set_ylabel("bound, nats per row", fontsize=9)
        ax.xaxis.get_major_locator().set_params(integer=True)
        for place, (iteration, _) in enumerate(self.events):
            label = f"{len(self.events)} repair{'s' * (len(self.events) > 1)}" if place == 0 else None
            ax.axvline(iteration, color=_style.FAINT, linestyle=":", linewidth=1.0, zorder=0, label=label)
        if self.beta is None or not np.isfinite(self.beta).all() or len(np.unique(self.beta)) < 2:
            return []
        self.beta_ax_ = _right(ax, "beta")
        return self.beta_ax_.plot(
            steps, self.beta, color=orange.color, linestyle="--", drawstyle="steps-mid", label="beta (right)"
        )

    def _draw_annealing(self, trace: dict[str, np.ndarray]) -> list[Any]:
        """Draw free energy, components alive and components a row; return what the legend needs of other axes."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        ax, beta = self.ax_, trace["beta"]
        blue, orange, purple = _style.look(0), _style.look(5), _style.look(2)
        (self.line_,) = ax.plot(
            beta, trace["free_energy"], color=blue.color, marker="o", markersize=3.5, label="free energy"
        )
        ax.set_xscale("log")
        decades = np.log10(beta.max() / beta.min())
        told = (1, 2, 3, 4, 5, 7) if decades < 1 else (1, 2, 5) if decades < 3 else (1,)
        ax.xaxis.set_major_locator(LogLocator(subs=told))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("beta, the inverse temperature", fontsize=9)
        ax.set_ylabel("free energy per row", fontsize=9)
        self.components_ax_ = _right(ax, "components")
        self.components_ax_.yaxis.get_major_locator().set_params(integer=True)
        alive = self.components_ax_.plot(
            beta, trace["n_components"], color=orange.color, linestyle="--", drawstyle="steps-post",
            label="alive (right)",
        )  # fmt: skip
        shared = self.components_ax_.plot(
            beta, np.exp(trace["entropy"]), color=purple.color, linestyle=":", marker="^", markersize=3.5,
            label="sharing a row (right)",
        )  # fmt: skip
        self.components_ax_.set_ylim(bottom=0)
        return [*alive, *shared]


def _right(ax: Any, name: str) -> Any:
    """Return axes on the same x whose y is on the right."""
    right = ax.twinx()
    right.set_ylabel(name, fontsize=9)
    right.tick_params(labelsize=8, color=_style.RULE, labelcolor=_style.FAINT)
    right.spines[["top", "left", "bottom"]].set_visible(False)
    right.spines["right"].set_color(_style.RULE)
    return right


__all__ = ["HistoryDisplay"]
