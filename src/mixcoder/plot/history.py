"""How a fit went: the bound, the inverse temperature, and the repairs."""

from __future__ import annotations

import re
from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class HistoryDisplay:
    """The bound after each iteration, repairs of components as dotted lines, and beta where it changed.

    The bound is that at the iteration's own beta: while beta rises it is a different one each time, and may fall.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    bound : array-like, shape (n_iter,)
        Nats per row.
    beta : array-like, shape (n_iter,), optional
        Inverse temperature; drawn on a second axis if it is not the same throughout.
    events : sequence of (int, str), default=()
        Iteration, counted from 1, and what happened.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    beta_ax_ : Axes or None
        Of beta.
    line_ : Line2D
        Of the bound.
    """

    def __init__(self, *, bound: Any, beta: Any = None, events: Any = ()) -> None:
        self.bound = np.asarray(bound, dtype=np.float64)
        self.beta = None if beta is None else np.asarray(beta, dtype=np.float64)
        self.events = list(events)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, ax: Any = None) -> Self:
        """Draw the ``history_`` of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of mixcoder
        X : ignored
            A history needs no rows.
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
        return cls(bound=history["bound"], beta=beta or None, events=events).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        ax, self.figure_ = _style.axes_of(ax)
        steps = np.arange(1, len(self.bound) + 1)
        blue, orange = _style.look(0), _style.look(5)
        marker = "o" if len(steps) <= 60 else ""
        (self.line_,) = ax.plot(
            steps, self.bound, color=blue.color, marker=marker, markersize=3.5, label="bound"
        )
        ax.set_xlabel("iteration", fontsize=9)
        ax.set_ylabel("bound, nats per row", fontsize=9)
        _style.tidy(ax)
        ax.xaxis.get_major_locator().set_params(integer=True)
        for place, (iteration, _) in enumerate(self.events):
            label = f"{len(self.events)} repair{'s' * (len(self.events) > 1)}" if place == 0 else None
            ax.axvline(iteration, color=_style.FAINT, linestyle=":", linewidth=1.0, zorder=0, label=label)
        self.beta_ax_ = None
        handles, labels = ax.get_legend_handles_labels()
        if self.beta is not None and np.isfinite(self.beta).all() and len(np.unique(self.beta)) > 1:
            self.beta_ax_ = ax.twinx()
            (line,) = self.beta_ax_.plot(
                steps,
                self.beta,
                color=orange.color,
                linestyle="--",
                drawstyle="steps-mid",
                label="beta (right)",
            )
            self.beta_ax_.set_ylabel("beta", fontsize=9)
            self.beta_ax_.tick_params(labelsize=8, color=_style.RULE, labelcolor=_style.FAINT)
            self.beta_ax_.spines[["top", "left", "bottom"]].set_visible(False)
            self.beta_ax_.spines["right"].set_color(_style.RULE)
            handles, labels = [*handles, line], [*labels, "beta (right)"]
        if len(handles) > 1:
            ax.legend(
                handles, labels, frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
            )
        self.ax_ = ax
        return self


__all__ = ["HistoryDisplay"]
