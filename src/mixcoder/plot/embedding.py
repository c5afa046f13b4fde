"""The map of rows and components that a parametric embedding makes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from mixcoder.plot import _ask, _style


class EmbeddingDisplay:
    """Rows and anchors on the first two axes of an embedding, over the share that the absorber takes.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    codes : ndarray, shape (n_samples, 2)
    anchors : ndarray, shape (n_classes, 2)
    labels : ndarray, shape (n_samples,)
        The component nearest to each row.
    grid : tuple of ndarray, shapes (m,) and (l,), optional
    absorbed : ndarray, shape (l, m), optional
        Share q_0 of the absorber on the grid.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    anchors_ : list of Text
    contours_ : ContourSet or None
        Of the absorber's share.

    Examples
    --------
    >>> import matplotlib as mpl
    >>> mpl.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.plot import EmbeddingDisplay
    >>> X = load_iris().data
    >>> from mixcoder import ParametricEmbedding
    >>> model = GaussianMixture(3, random_state=0).fit(X)
    >>> map_of = ParametricEmbedding(2, model=model).fit(X)
    >>> display = EmbeddingDisplay.from_estimator(map_of)
    >>> display.codes.shape, display.anchors.shape
    ((150, 2), (3, 2))
    """

    def __init__(
        self, *, codes: Any, anchors: Any, labels: Any, grid: Any = None, absorbed: Any = None
    ) -> None:
        self.codes, self.anchors, self.labels = codes, anchors, labels
        self.grid, self.absorbed = grid, absorbed

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, grid_size: int = 120, ax: Any = None) -> Self:
        """Draw a fitted map: a :class:`~mixcoder.ParametricEmbedding` or :class:`~mixcoder.EmbeddedMixture`.

        Parameters
        ----------
        estimator : fitted ParametricEmbedding or EmbeddedMixture, of two axes or more
        X : array-like, optional
            Rows to place; by default those of the fit.
        grid_size : int, default=120
        ax : matplotlib Axes, optional
        """
        from mixcoder.estimators import EmbeddedMixture, ParametricEmbedding

        if not isinstance(estimator, ParametricEmbedding | EmbeddedMixture):
            raise TypeError(
                f"{cls.__name__} draws a fitted ParametricEmbedding or EmbeddedMixture, got "
                f"{type(estimator).__name__}."
            )
        check_is_fitted(estimator)
        grid_size = _ask.grid_points(grid_size, cls.__name__)
        anchors = _ask.array(estimator.anchors_).astype(np.float64)
        if anchors.shape[1] < 2:
            raise ValueError("An embedding of one axis makes no map: fit one with two axes.")
        codes = _ask.array(estimator.embedding_ if X is None else estimator.transform(X)).astype(np.float64)
        gaps = ((codes[:, None] - anchors) ** 2).sum(-1)
        display = cls(codes=codes[:, :2], anchors=anchors[:, :2], labels=gaps.argmin(1))
        if estimator.absorber > 0:
            everything = np.concatenate([display.codes, display.anchors])
            low, high = everything.min(0), everything.max(0)
            margin = 0.12 * (high - low)
            display.grid = tuple(
                np.linspace(low[i] - margin[i], high[i] + margin[i], grid_size) for i in (0, 1)
            )
            places = np.zeros((grid_size**2, anchors.shape[1]))
            places[:, :2] = np.stack(np.meshgrid(*display.grid), axis=-1).reshape(-1, 2)
            share = estimator._kernel().log_code(torch.from_numpy(places), torch.from_numpy(anchors))[1].exp()
            display.absorbed = share.numpy().reshape(grid_size, grid_size)
        return display.plot(ax=ax)

    def plot(self, ax: Any = None, *, max_rows: int = 3000) -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        max_rows : int, default=3000
            Of more rows, evenly spread ones are drawn.
        """
        ax, self.figure_ = _style.axes_of(ax, (5.4, 4.6))
        self.contours_ = None
        if self.absorbed is not None:
            self.contours_ = ax.contour(
                *self.grid,
                self.absorbed,
                levels=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9),
                colors="#9a9a9a",
                linewidths=0.7,
            )
            ax.clabel(self.contours_, fontsize=6, fmt=lambda share: f"{100 * share:.0f} % absorbed")
        shown = _style.thin(len(self.codes), max_rows)
        for k in np.unique(self.labels[shown]):
            look = _style.look(int(k))
            part = self.codes[shown][self.labels[shown] == k]
            ax.scatter(*part.T, s=9, c=look.color, marker=look.marker, alpha=0.55, linewidths=0)
        self.anchors_: list[Any] = []
        for k, place in enumerate(self.anchors):
            text = ax.text(
                *place, str(k), fontsize=9, fontweight="bold", ha="center", va="center", color=_style.INK,
                bbox={"boxstyle": "circle,pad=0.25", "fc": _style.PAPER, "ec": _style.look(k).color, "lw": 1.6},
            )  # fmt: skip
            self.anchors_.append(text)
        ax.set_xlabel("first axis", fontsize=9)
        ax.set_ylabel("second axis", fontsize=9)
        ax.set_aspect("equal", adjustable="datalim")
        ax.update_datalim(self.anchors)
        ax.autoscale_view()
        _style.tidy(ax)
        self.ax_ = ax
        return self


__all__ = ["EmbeddingDisplay"]
