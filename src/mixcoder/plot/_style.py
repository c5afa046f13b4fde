"""How every picture looks: one palette, one set of markers and line styles, one ramp; colour alone tells nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

INK, FAINT, RULE, PAPER = "#1a1a1a", "#6b6b6b", "#c9c9c9", "#ffffff"

# Of Okabe & Ito (2008) and Tol (2021), such that any two are told apart by every common kind of colour vision, in an
# order in which neighbours also differ in lightness, so that a grey print keeps them apart.
PALETTE = ("#0072B2", "#E69F00", "#882255", "#56B4E9", "#4B1F6F", "#D55E00", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))

FEW = 8
"""As many components a legend can name."""


class Look(NamedTuple):
    """What one component is drawn with; the lengths of the three lists have no common factor."""

    color: str
    marker: str
    line: Any


def look(k: int) -> Look:
    """Return the look of component k: 7 colours, 8 markers and 5 line styles make 280 different ones."""
    return Look(PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)], LINES[k % len(LINES)])


def ramp(name: str = "ink") -> Any:
    """Return the colour map from paper to ink, which reads the same in grey."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, ["#f4f4f4", INK])


def shades() -> Any:
    """Return the colour map of densities, from paper to a light grey on which marks stay visible."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("density", [PAPER, "#b5b5b5"])


def axes_of(ax: Any, size: tuple[float, float] = (5.2, 4.0)) -> tuple[Any, Any]:
    """Return the axes to draw on and their figure: those given, or new ones."""
    from matplotlib.axes import Axes

    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=size, layout="constrained")
    if not isinstance(ax, Axes):
        several = f" of shape {ax.shape}: give one of them" if isinstance(ax, np.ndarray) else ""
        raise TypeError(f"ax is the one matplotlib Axes to draw on, got {type(ax).__name__}{several}.")
    return ax, ax.figure


def tidy(ax: Any) -> None:
    """Take away what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(which="both", labelsize=8, color=RULE, labelcolor=FAINT)
    ax.spines[["left", "bottom"]].set_color(RULE)


def legend(ax: Any, n: int, **style: Any) -> None:
    """Name what is drawn, where it is few enough to be read."""
    if n <= FEW and ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize=8, **style)


def thin(n: int, most: int) -> np.ndarray:
    """Return at most ``most`` of the numbers 0..n-1, evenly spread.

    Examples
    --------
    >>> thin(3, 10).tolist(), thin(100, 5).tolist()
    ([0, 1, 2], [0, 25, 50, 74, 99])
    """
    return np.arange(n) if n <= most else np.round(np.linspace(0, n - 1, most)).astype(np.int64)
