"""What a code costs against what it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import clone

from mixcoder.plot import _ask, _style


class RateDistortionDisplay:
    """Bits per row against squared error per row, a line for each kind of estimator.

    Use :meth:`from_estimator` or :meth:`from_estimators`.

    Parameters
    ----------
    curves : dict of str to ndarray, shape (m, 2)
        Rate and distortion of each estimator, by the name of the line.
    labels : dict of str to sequence of str, optional
        Written beside the points.

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    lines_ : list of Line2D
    """

    def __init__(
        self, *, curves: Mapping[str, Any], labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.curves = {name: np.asarray(points, dtype=np.float64) for name, points in curves.items()}
        self.labels = dict(labels or {})

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, n_components: Sequence[int], ax: Any = None) -> Self:
        """Fit clones of an estimator with each number of components, and draw the curve that they make.

        Parameters
        ----------
        estimator : estimator of mixcoder
            Fitted or not; it is left as it is.
        X : array-like, shape (n_samples, n_features)
        n_components : sequence of int
        ax : matplotlib Axes, optional
        """
        parameters = getattr(estimator, "get_params", dict)()
        name = "n_clusters" if "n_clusters" in parameters else "n_components"
        if name not in parameters or not hasattr(estimator, "distortion"):
            raise TypeError(
                f"{cls.__name__} fits an estimator of mixcoder for each number of components, got "
                f"{type(estimator).__name__}; give it a KMeans or a mixture."
            )
        fresh: list[Any] = [clone(estimator) for _ in n_components]
        fitted = [
            model.set_params(**{name: int(k)}).fit(X) for model, k in zip(fresh, n_components, strict=True)
        ]
        return cls.from_estimators({type(estimator).__name__: fitted}, X, ax=ax)

    @classmethod
    def from_estimators(cls, estimators: Mapping[str, Sequence[Any]], X: Any, *, ax: Any = None) -> Self:
        """Draw ``rate`` and ``distortion`` of fitted estimators, in lines by name.

        Parameters
        ----------
        estimators : dict of str to sequence of fitted estimators
        X : array-like, shape (n_samples, n_features)
            Best rows that no fit has seen.
        ax : matplotlib Axes, optional
        """
        curves, labels = {}, {}
        for name, models in estimators.items():
            for model in models:
                _ask.require_autoencoder(model, cls.__name__)
            points = np.array([(model.rate(X), model.distortion(X)) for model in models])
            order = np.argsort(points[:, 0], kind="stable")
            curves[name] = points[order]
            labels[name] = [str(models[i].model_.n_components) for i in order]
        return cls(curves=curves, labels=labels).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        ax, self.figure_ = _style.axes_of(ax)
        self.lines_: list[Any] = []
        for place, (name, points) in enumerate(self.curves.items()):
            look = _style.look(place)
            self.lines_ += ax.plot(
                *points.T, color=look.color, marker=look.marker, linestyle=look.line, markersize=5, label=name
            )
            # Curves that lie close keep their numbers on different sides.
            side = {"xytext": (4, 4)} if place % 2 == 0 else {"xytext": (-4, -10), "ha": "right"}
            for point, label in zip(points, self.labels.get(name, ()), strict=False):
                ax.annotate(label, point, textcoords="offset points", fontsize=7, color=_style.FAINT, **side)
        ax.set_xlabel("rate, bits per row", fontsize=9)
        ax.set_ylabel("distortion, squared error per row", fontsize=9)
        ax.set_ylim(bottom=0)
        _style.tidy(ax)
        _style.legend(ax, len(self.lines_))
        self.ax_ = ax
        return self


__all__ = ["RateDistortionDisplay"]
