"""Choosing K and covariance by BIC: against mclust's published values and a loop over scikit-learn's mixtures.

    python benchmarks/selection.py --write    # both tables, about two minutes, into RESULTS.md
    python benchmarks/selection.py            # only printed

mclust's values are those that mclust 5.4 prints for ``mclustBIC(iris[, -5])`` and ``Mclust(faithful)``, their sign
changed: less is better, as everywhere here. Six of its fourteen covariance models exist in both libraries.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from results import write_sections
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Peer

import mixcoder
from mixcoder.cli.images import FASHION_DIRECTORY, read_idx

NAMES = {
    "tied_spherical": "EII",
    "spherical": "VII",
    "tied_diag": "EEI",
    "diag": "VVI",
    "tied": "EEE",
    "full": "VVV",
}

# mclustBIC(iris[, -5]), one to nine components.
IRIS = {
    "tied_spherical": [
        1804.0854,
        1123.4117,
        878.7650,
        893.6140,
        782.6441,
        715.7136,
        731.8821,
        725.0805,
        694.5205,
    ],
    "spherical": [1804.0854, 1012.2352, 853.8144, 812.6048, 742.6083, 705.7811, 698.5413, 701.4806, 700.0276],
    "tied_diag": [1522.1202, 1042.9679, 813.0504, 827.4036, 741.9185, 693.7908, 713.1823, 691.4133, 696.2607],
    "diag": [1522.1202, 857.5515, 744.6382, 751.0198, 711.4502, 707.2901, 766.6500, 764.1969, 755.8290],
    "tied": [829.9782, 688.0972, 632.9647, 646.0258, 604.8131, 609.8543, 632.4947, 639.2640, 653.0878],
    "full": [829.9782, 574.0178, 580.8396, 630.6000, 676.6061, 754.7938, 806.9277, 830.6373, 883.6931],
}
FAITHFUL = ("tied", 3, 2314.316)

SHARED = ("full", "tied", "diag", "spherical")
SIZES = range(1, 10)
PEER_COLUMNS = ("scikit-learn", "lower / as low / higher", "seconds")
EQUAL = 0.05  # what stopping rules leave


def tables() -> dict[str, np.ndarray]:
    """Return the data sets by name."""
    faithful = np.loadtxt(Path(__file__).parent / "data" / "faithful.csv", delimiter=",", skiprows=1)
    digits = datasets.load_digits().data
    return {
        "iris": datasets.load_iris().data,
        "Old Faithful": faithful,
        "wine, 4 columns": datasets.load_wine().data[:, [0, 6, 9, 12]],
        "breast cancer, 5 columns": datasets.load_breast_cancer().data[:, [0, 1, 4, 7, 9]],
        "digits, PCA 6": PCA(6, random_state=0).fit_transform(digits),
    }


def against_mclust() -> list[str]:
    """Return the table of iris, and the sentence on Old Faithful."""
    model = mixcoder.GaussianMixture(random_state=0, n_init=5, tol=1e-5, max_iter=1000)
    began = time.perf_counter()
    chosen = mixcoder.select(model, tables()["iris"], {"covariance_type": list(NAMES), "n_components": SIZES})
    seconds = time.perf_counter() - began
    lines = [
        (
            "**BIC of iris, ours less mclust's**, by covariance and number of components (negative: ours is better). "
            "(c): a component of ours collapsed, the fit is told and not chosen."
        ),
        "",
        "| | " + " | ".join(str(k) for k in SIZES) + " |",
        "| --- |" + " --- |" * len(SIZES),
    ]
    counts = {"better": 0, "equal": 0, "worse": 0, "collapsed": 0}
    for covariance, name in NAMES.items():
        cells: list[str] = []
        for k in SIZES:
            mine = next(
                c
                for c in chosen.candidates
                if c.settings == {"covariance_type": covariance, "n_components": k}
            )
            gap = mine.bic - IRIS[covariance][k - 1]
            if mine.failure is not None:
                counts["collapsed"] += 1
                cells.append("(c)")
                continue
            counts["equal" if abs(gap) <= EQUAL else "better" if gap < 0 else "worse"] += 1
            cells.append("=" if abs(gap) <= EQUAL else f"{gap:+.1f}")
        lines.append(f"| {covariance} ({name}) | " + " | ".join(cells) + " |")
    best = chosen.best
    lines += [
        "",
        (
            f"Of {len(chosen.candidates)} cells {counts['better']} are better, {counts['equal']} equal, "
            f"{counts['worse']} worse, "
            f"{counts['collapsed']} collapsed; {seconds:.1f} s for all, five starts each. Chosen: {best.label()}, "
            f"BIC {best.bic:.2f} (mclust's best of these models: VVV with 2, 574.02)."
        ),
    ]
    covariance, k, published = FAITHFUL
    faithful = mixcoder.select(
        model, tables()["Old Faithful"], {"covariance_type": list(NAMES), "n_components": SIZES}
    )
    same = next(
        c for c in faithful.candidates if c.settings == {"covariance_type": covariance, "n_components": k}
    )
    lines.append(
        f"Old Faithful: mclust chooses {NAMES[covariance]} with {k}, BIC {published:.2f}; ours is {same.bic:.2f}. "
        f"Chosen: {faithful.best.label()}, BIC {faithful.best.bic:.2f}."
    )
    return lines


def clothes(n_rows: int = 10_000) -> np.ndarray | None:
    """Return eight principal components of images of Fashion-MNIST, where that is installed."""
    try:
        images = read_idx(Path(FASHION_DIRECTORY, "train-images-idx3-ubyte.gz"))[:n_rows]
    except OSError:
        return None
    return PCA(8, random_state=0).fit_transform(images.reshape(n_rows, -1) / 255.0)


def peer_search(x: np.ndarray, n_init: int = 1) -> tuple[dict[tuple[str, int], tuple[float, bool]], float]:
    """Return BIC and whether a component collapsed of scikit-learn's fits, and the seconds of all of them."""
    began = time.perf_counter()
    fitted = {
        (c, k): Peer(k, covariance_type=c, random_state=0, n_init=n_init).fit(x)
        for c in SHARED
        for k in SIZES
    }
    bic = {cell: model.bic(x) for cell, model in fitted.items()}
    seconds = time.perf_counter() - began
    return {cell: (bic[cell], _collapsed(model, x)) for cell, model in fitted.items()}, seconds


def _collapsed(model: Peer, x: np.ndarray) -> bool:
    """Return whether a direction has less than two millionths of the variance of the data."""
    stds, d = x.std(0), x.shape[1]
    covariances = {
        "full": lambda: model.covariances_,
        "tied": lambda: model.covariances_[None],
        "diag": lambda: model.covariances_[:, :, None] * np.eye(d),
        "spherical": lambda: model.covariances_[:, None, None] * np.eye(d),
    }[model.covariance_type]()
    scaled = covariances / stds / stds[:, None]
    return bool(np.linalg.eigvalsh(scaled).min() < 2e-6)


def against_scikit_learn() -> list[str]:
    """Return the table of all data sets."""
    lines = [
        (
            f"**Searches over {', '.join(SHARED)} and 1 to 9 components** with a default fit a cell, against loops "
            "over scikit-learn's mixture with one start and with ten. Cells: how many of 36 end with a lower BIC (by "
            "more than 0.5) with us, as low, or with scikit-learn; collapsed fits on either side aside."
        ),
        "",
        _row(
            "table",
            "rows",
            "best BIC",
            "seconds",
            *PEER_COLUMNS,
            *(f"{name}, 10 starts" for name in PEER_COLUMNS),
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    every = tables()
    large = clothes()
    if large is not None:
        every["Fashion-MNIST, PCA 8"] = large
    for name, x in every.items():
        began = time.perf_counter()
        chosen = mixcoder.select(
            mixcoder.GaussianMixture(random_state=0), x, {"covariance_type": SHARED, "n_components": SIZES}
        )
        seconds = time.perf_counter() - began
        best = chosen.best
        told = f"{best.bic:.1f} ({best.settings['covariance_type']}, {best.n_components})"
        cells = [name, str(len(x)), told, f"{seconds:.1f}"]
        for n_init in (1, 10):
            if n_init == 10 and len(x) > 5_000:
                cells += ["-", "-", "-"]
                continue
            theirs, their_seconds = peer_search(x, n_init)
            found = min((bic, *cell) for cell, (bic, collapsed) in theirs.items() if not collapsed)
            cells += [
                f"{found[0]:.1f} ({found[1]}, {found[2]})",
                _compared(chosen, theirs),
                f"{their_seconds:.1f}",
            ]
        lines.append(_row(*cells))
        print(lines[-1], flush=True)
    return lines


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _compared(chosen: mixcoder.selection.Selection, theirs: dict[tuple[str, int], tuple[float, bool]]) -> str:
    lower = equal = higher = 0
    for c in chosen.candidates:
        bic, collapsed = theirs[c.settings["covariance_type"], c.settings["n_components"]]
        if c.failure is None and not collapsed:
            lower += c.bic < bic - 0.5
            equal += abs(c.bic - bic) <= 0.5
            higher += c.bic > bic + 0.5
    return f"{lower} / {equal} / {higher}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    mixcoder.GaussianMixture(2).fit(tables()["iris"])  # what a first fit loads
    lines = ["## Choosing K and covariance", "", *against_mclust(), "", *against_scikit_learn()]
    print("\n".join(lines))
    if options.write:
        write_sections({"selection": "\n".join(lines)})


if __name__ == "__main__":
    main()
