"""Rows that are images are looked at: what the page shows of them in place of the names of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from mixcoder import plot
from mixcoder.plot import _style
from mixcoder.plot.prototypes import tiles
from mixcoder.report.analysis import Analysis, Cluster
from mixcoder.report.pieces import figure, number

# Rows shown of a cluster, and of all.
_OF_A_CLUSTER, _OF_ALL = 8, 12

# Standard deviations at which a difference of means has its full colour.
_FAR = 3.0


class Images:
    """The rows of an analysis as pictures.

    Parameters
    ----------
    analysis : Analysis
    values : ndarray, shape (n, d)
        All columns of the table, also those that were left out of the fit.
    shape : (int, int)
        Height and width.
    """

    def __init__(self, analysis: Analysis, values: np.ndarray, shape: tuple[int, int]) -> None:
        self._analysis, self._values, self._shape = analysis, values, shape

    def told(self) -> str:
        """Return a sentence on what the rows are."""
        height, width = self._shape
        low, high = (number(float(value)) for value in (np.nanmin(self._values), np.nanmax(self._values)))
        return f"Each row is an image of {height} x {width} pixels, from {low} to {high}."

    def cluster(self, cluster: Cluster) -> str:
        """Return the mean image of a cluster, how it differs from all others, and some of its rows."""
        analysis = self._analysis
        own = np.flatnonzero(analysis.labels == cluster.number)
        typical = own[np.argsort(-analysis.log_density[own], kind="stable")]
        shown = typical[_style.thin(len(typical), _OF_A_CLUSTER)]
        mean = self._whole(analysis.filled[own].mean(0)[None])
        differs = self._spread(np.nan_to_num(cluster.effects, posinf=_FAR, neginf=-_FAR)[None])
        titles = ["mean", "difference", *("" for _ in shown)]
        made = _Row(np.concatenate([mean, differs, self._rows(shown)]), titles, signed=1)
        most = ", ".join(f"{self._place(f.name)} ({f.effect:+.2f})" for f in cluster.features[:3])
        return figure(
            made,
            f"Cluster {cluster.number}: its mean, how it differs, and some of its rows",
            f"Farthest apart at {most}.",
        )

    def outliers(self) -> str:
        """Return the oddest rows."""
        odd = self._analysis.outliers
        made = _Row(self._rows([o.row for o in odd]), [str(o.row) for o in odd])
        return figure(
            made, "The rows of lowest log-density", "The oddest first, with the numbers of their rows."
        )

    def reconstructions(self) -> str:
        """Return what components generate, and rows beside what their codes generate."""
        analysis, model = self._analysis, self._analysis.model
        prototypes = plot.PrototypeDisplay(
            prototypes=self._whole(model.means_), weights=np.asarray(model.weights_)
        ).plot()
        chosen = _style.thin(len(self._values), _OF_ALL)
        found = self._whole(model.reconstruct(analysis.filled[chosen]))
        left = plot.ReconstructionDisplay(originals=self._rows(chosen), reconstructions=found).plot()
        rate, distortion = model.rate(analysis.filled), model.distortion(analysis.filled)
        text = f"A code takes {rate:.2f} bits a row and leaves a squared error of {number(distortion)} a row."
        return (
            f"<p>{escape(text)}</p>\n"
            + figure(
                prototypes,
                "The mean image of each component",
                "What each component generates, the heaviest first.",
            )
            + figure(
                left,
                "Images and their reconstructions",
                "Some rows, what is left of them, and the difference.",
            )
        )

    def _rows(self, rows: Any) -> np.ndarray:
        return self._values[rows].astype(np.float64).reshape(-1, *self._shape)

    def _whole(self, fitted: Any) -> np.ndarray:
        """Return images of columns fitted, with those that were left out, which are the same everywhere."""
        full = np.tile(np.fmax.reduce(self._values).astype(np.float64), (len(fitted), 1))
        full[:, self._analysis.kept] = fitted
        return full.reshape(-1, *self._shape)

    def _spread(self, fitted: np.ndarray) -> np.ndarray:
        """Return images of something said of columns fitted: nothing is said of the others."""
        full = np.zeros((len(fitted), self._values.shape[1]))
        full[:, self._analysis.kept] = fitted
        return full.reshape(-1, *self._shape)

    def _place(self, name: str) -> str:
        """Return where the pixel of a column is."""
        kept = np.flatnonzero(self._analysis.kept)
        row, column = divmod(int(kept[self._analysis.columns.index(name)]), self._shape[1])
        return f"line {row}, column {column}"


class _Row:
    """Pictures side by side; the one at ``signed`` is a difference."""

    def __init__(self, images: np.ndarray, titles: Sequence[str], signed: int | None = None) -> None:
        n, height, width = images.shape
        columns = max(n, 10)
        ax, self.figure_ = _style.axes_of(None, (0.75 * columns, 0.85 * height / width))
        plain = np.delete(images, [] if signed is None else [signed], axis=0)
        for j, tile in enumerate(tiles(ax, 1, columns, n)):
            if j == signed:
                tile.imshow(images[j], cmap="PuOr_r", vmin=-_FAR, vmax=_FAR, interpolation="none")
            else:
                tile.imshow(
                    images[j],
                    cmap=_style.ramp(),
                    vmin=np.nanmin(plain),
                    vmax=np.nanmax(plain),
                    interpolation="none",
                )
            tile.set_title(titles[j], fontsize=6, color=_style.FAINT, pad=2)


__all__ = ["Images"]
