"""What each component generates, where rows are images."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class PrototypeDisplay:
    """The expected row of each component as a picture, the most used first.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    prototypes : ndarray, shape (n_components, height, width)
    weights : ndarray, shape (n_components,), optional
        Written under the pictures.

    Attributes
    ----------
    axes_ : ndarray of Axes
        One a component drawn.
    ax_, figure_
        The axes that hold them all, and the figure.
    order_ : ndarray
        The components drawn, in order.
    """

    def __init__(self, *, prototypes: Any, weights: Any = None) -> None:
        self.prototypes, self.weights = np.asarray(prototypes), weights

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, shape: tuple[int, int] | None = None, ax: Any = None
    ) -> Self:
        """Draw the components of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of mixcoder
        X : ignored
            Components need no rows.
        shape : (int, int), optional
            Height and width; by default rows are square.
        ax : matplotlib Axes, optional
        """
        del X
        _ask.require_autoencoder(estimator, cls.__name__)
        height, width = _ask.image_shape(estimator.n_features_in_, shape)
        prototypes = estimator.model_.prototypes().numpy(force=True).reshape(-1, height, width)
        return cls(prototypes=prototypes, weights=_ask.array(estimator.weights_)).plot(ax=ax)

    def plot(self, ax: Any = None, *, n_columns: int = 10, most: int = 100) -> Self:
        """Draw on given axes, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        n_columns : int, default=10
        most : int, default=100
            Largest number of components drawn.
        """
        k, height, width = self.prototypes.shape
        order = np.arange(k) if self.weights is None else np.argsort(-np.asarray(self.weights), kind="stable")
        self.order_ = order[:most]
        columns = min(n_columns, len(self.order_))
        lines = -(-len(self.order_) // columns)
        ax, self.figure_ = _style.axes_of(ax, (0.75 * columns + 0.2, 0.95 * lines * height / width + 0.3))
        low, high = float(self.prototypes.min()), float(self.prototypes.max())
        self.axes_ = tiles(ax, lines, columns, len(self.order_))
        for tile, component in zip(self.axes_, self.order_.tolist(), strict=True):
            tile.imshow(
                self.prototypes[component], cmap=_style.ramp(), vmin=low, vmax=high, interpolation="none"
            )
            if self.weights is not None:
                tile.set_title(
                    f"{component}: {100 * self.weights[component]:.1f} %",
                    fontsize=6,
                    color=_style.FAINT,
                    pad=2,
                )
        self.ax_ = ax
        return self


def tiles(ax: Any, lines: int, columns: int, n: int, *, left: float = 0.0) -> np.ndarray:
    """Return n small axes in a grid within ``ax``, which becomes their empty frame; ``left`` is kept free for names."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    step_x, step_y = (1 - left) / columns, 1 / lines
    made: list[Any] = []
    for place in range(n):
        i, j = divmod(place, columns)
        box = (left + step_x * (j + 0.05), 1 - step_y * (i + 0.97), 0.9 * step_x, 0.82 * step_y)
        tile = ax.inset_axes(box)
        tile.set(xticks=[], yticks=[])
        tile.spines[:].set_visible(False)
        made.append(tile)
    return np.array(made, dtype=object)


__all__ = ["PrototypeDisplay"]
