"""How often each entry of a codebook is used."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class CodebookDisplay:
    r"""Shares of the rows that each component takes, the largest first.

    The perplexity :math:`2^{H}` of the shares is the number of equally used entries that would cost as many bits.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    usage : array-like, shape (n_components,)
        Shares, summing to one.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    order_ : ndarray
        Components, from the left.
    entropy_bits_, perplexity_ : float
    n_unused_ : int
    bars_ : BarContainer

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from mixcoder.plot import CodebookDisplay
    >>> display = CodebookDisplay(usage=[0.25, 0.5, 0.25, 0.0]).plot()
    >>> display.entropy_bits_, display.n_unused_, display.order_.tolist()
    (1.5, 1, [1, 0, 2, 3])
    """

    def __init__(self, *, usage: Any) -> None:
        self.usage = np.asarray(usage, dtype=np.float64)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, ax: Any = None) -> Self:
        """Draw how often ``predict`` of a fitted estimator names each component.

        Parameters
        ----------
        estimator : fitted estimator of mixcoder
        X : array-like, shape (n_samples, n_features)
        ax : matplotlib Axes, optional
        """
        _ask.require_autoencoder(estimator, cls.__name__)
        labels = _ask.array(estimator.predict(X))
        counts = np.bincount(labels, minlength=estimator.model_.n_components)
        return cls(usage=counts / counts.sum()).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        ax, self.figure_ = _style.axes_of(ax, (5.2, 3.2))
        k = len(self.usage)
        self.order_ = np.argsort(-self.usage, kind="stable")
        used = self.usage[self.usage > 0]
        self.entropy_bits_ = float(-(used * np.log2(used)).sum()) + 0.0
        self.perplexity_ = float(2**self.entropy_bits_)
        self.n_unused_ = k - len(used)
        self.bars_ = ax.bar(range(k), 100 * self.usage[self.order_], width=0.86, color=_style.look(0).color)
        ax.axhline(100 / k, color=_style.INK, linestyle="--", linewidth=0.9, label="equal use")
        ax.set_ylabel("% of rows", fontsize=9)
        ax.set_xlabel("component" if k <= 30 else f"{k} components, most used first", fontsize=9)
        ax.set_xlim(-0.8, k - 0.2)
        if k <= 30:
            ax.set_xticks(range(k), [str(c) for c in self.order_])
        else:
            ax.set_xticks([])
        unused = f", {self.n_unused_} unused" if self.n_unused_ else ""
        ax.set_title(
            f"{self.entropy_bits_:.2f} of {np.log2(k):.2f} bits: perplexity {self.perplexity_:.1f} of {k}{unused}",
            fontsize=9,
            loc="left",
        )
        ax.legend(frameon=False, fontsize=8)
        _style.tidy(ax)
        self.ax_ = ax
        return self


__all__ = ["CodebookDisplay"]
