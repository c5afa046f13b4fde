"""The demo's one picture: what the components generate, and what each method makes of images it has not seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["arrange", "draw", "mosaic", "one_of_each"]

INK, FAINT, BLANK, PAPER = "#141414", "#666666", "#f1f1f1", "#ffffff"
GAP = 0.12  # between images, as a share of one image


def arrange(prototypes: np.ndarray) -> np.ndarray:
    """An order of the prototypes (k d) in which neighbours look alike: the leaves of a Ward tree, best turned."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(prototypes) < 3:
        return np.arange(len(prototypes))
    return leaves_list(linkage(prototypes, "ward", optimal_ordering=True))


def mosaic(images: np.ndarray, columns: int, ink: float) -> np.ndarray:
    """Images (n h w) side by side in rows of ``columns``, 0 as background and ``ink`` as full ink; gaps are NaN."""
    n, h, w = images.shape
    gap = max(1, round(GAP * h))
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), np.nan)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w] = np.clip(image / ink, 0.0, 1.0)
    return canvas


def one_of_each(labels: np.ndarray, n: int) -> np.ndarray:
    """Positions of n images: the first of each label, then the second of each, and so on; by label.

    Examples
    --------
    >>> one_of_each(np.array([1, 1, 0, 1, 0]), 3)
    array([2, 4, 0])
    """
    # How many of the same label came before each image: all the firsts, then all the seconds, ...
    earlier = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    chosen = np.lexsort((labels, earlier))[:n]
    return chosen[np.lexsort((earlier[chosen], labels[chosen]))]


def draw(
    path: Path,
    *,
    title: str,
    subtitle: str,
    prototypes: np.ndarray,
    prototypes_title: str,
    rows: Sequence[tuple[str, str, np.ndarray]],
    rows_title: str,
    ink: float,
) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    path : Path
    title, subtitle : str
        One line each.
    prototypes : ndarray, shape (k, h, w)
        Drawn as a grid on top.
    rows : sequence of (name, remark, images)
        One line of images (m, h, w) each, below one another, with the name and the remark on their left.
    prototypes_title, rows_title : str
        Over the two parts.
    ink : float
        The value of full ink.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    h, w = prototypes.shape[1:]
    shown, per_line = len(rows[0][2]), min(16, len(prototypes))
    # Inches. The grid is as wide as the labels and the rows of images together.
    margin, head, part, between, label, tile = 0.5, 1.42, 0.75, 0.13, 2.35, 0.45
    inner = label + shown * tile
    grid_tile = inner / per_line
    grid_height = -(-len(prototypes) // per_line) * grid_tile * h / w
    row_height = tile * h / w + between
    width = inner + 2 * margin
    height = head + grid_height + part + len(rows) * row_height + margin - between

    # A figure of its own, not pyplot's: no global state, no display needed.
    figure = Figure(figsize=(width, height), dpi=160, facecolor=PAPER)
    FigureCanvasAgg(figure)
    ramp = LinearSegmentedColormap.from_list("ink", [BLANK, INK])

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, **{"color": INK, "va": "baseline", **style})

    def panel(x: float, y: float, images: np.ndarray, columns: int, wide: float) -> None:
        tiles = mosaic(images, columns, ink)
        tall = wide * tiles.shape[0] / tiles.shape[1]
        axes = figure.add_axes((x / width, 1 - (y + tall) / height, wide / width, tall / height))
        # Cells rather than pixels of an image: their edges stay sharp at any size.
        axes.pcolormesh(np.ma.masked_invalid(tiles[::-1]), cmap=ramp, vmin=0, vmax=1, edgecolors="none")
        axes.set_axis_off()

    text(margin, 0.62, title, fontsize=16, fontweight="bold")
    text(margin, 0.87, subtitle, fontsize=9, color=FAINT)
    text(margin, head - 0.12, prototypes_title, fontsize=10, fontweight="bold")
    panel(margin, head, prototypes, per_line, inner)
    top = head + grid_height + part
    text(margin, top - 0.14, rows_title, fontsize=10, fontweight="bold")
    for i, (name, remark, images) in enumerate(rows):
        y = top + i * row_height
        middle = y + 0.5 * tile * h / w
        text(margin, middle - 0.03, name, fontsize=10)
        text(margin, middle + 0.13, remark, fontsize=8, color=FAINT)
        panel(margin + label, y, images, shown, inner - label)
    figure.savefig(path, format="png", facecolor=PAPER, metadata={"Software": "mixcoder"})
