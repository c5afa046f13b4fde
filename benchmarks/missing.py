"""Missing pixels: how near do imputed ones come? Digits, against scikit-learn's imputers.

Pixels of the 1797 digits (8 x 8, grey levels 0 to 16, here divided by 16) are removed at random. Every method sees
the incomplete table only, learns from it and fills it in; the error is over the removed pixels. Number of components,
rank and noise floor of `PPCAMixture` are chosen on the incomplete table itself: a tenth of what is seen is hidden, and
the candidate that imputes it best is fitted again to all that is seen. Its seconds include that search.

    python benchmarks/missing.py --write           # five seeds, about ten minutes, into RESULTS.md
    python benchmarks/missing.py --seeds 1
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from results import write_sections
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes the next line possible)
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from mixcoder import PPCAMixture

SHARES = (0.3, 0.5, 0.8)
CANDIDATES = ((10, 8, 0.3), (10, 4, 0.5), (20, 6, 0.4))
"""Components, rank, noise floor as a share of the mean variance."""

Filler = Callable[[np.ndarray], tuple[np.ndarray, str]]


def mixture(seed: int) -> Filler:
    """Return the filler by a mixture of PPCA whose settings the incomplete rows choose."""

    def fitted(x: np.ndarray, setting: tuple[int, int, float]) -> PPCAMixture:
        k, q, floor = setting
        return PPCAMixture(k, q, min_variance=floor, random_state=seed, max_iter=30).fit(x)

    def fill(x: np.ndarray) -> tuple[np.ndarray, str]:
        hidden = ~np.isnan(x) & (np.random.default_rng(seed + 1000).random(x.shape) < 0.1)
        less = np.where(hidden, np.nan, x)
        errors = [error_at(fitted(less, setting).impute(less), x, hidden) for setting in CANDIDATES]
        best = CANDIDATES[int(np.argmin(errors))]
        return fitted(x, best).impute(x), "K={}, q={}, floor {}".format(*best)

    return fill


def peer(imputer: object) -> Filler:
    """Return the filler by an imputer of scikit-learn."""

    def fill(x: np.ndarray) -> tuple[np.ndarray, str]:
        # Columns of which nothing is seen are kept, as zeros.
        return imputer.set_params(keep_empty_features=True).fit_transform(x), ""  # type: ignore[attr-defined]

    return fill


def fillers(seed: int) -> dict[str, Filler]:
    """Return the contenders by name."""
    return {
        "mean": peer(SimpleImputer()),
        "scikit-learn `KNNImputer(10)`": peer(KNNImputer(n_neighbors=10)),
        "scikit-learn `IterativeImputer()`": peer(IterativeImputer(random_state=seed)),
        "`PPCAMixture`": mixture(seed),
    }


def error_at(guess: np.ndarray, x: np.ndarray, gone: np.ndarray) -> float:
    """Return the root mean squared error over the entries that were gone."""
    return float(np.sqrt(np.mean((guess - x)[gone] ** 2)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    x = load_digits().data / 16
    lines = [
        "## Missing pixels: digits",
        "",
        (
            "Written by `python benchmarks/missing.py`; root mean squared error of the removed pixels, grey levels "
            f"divided by 16; each method learns from the incomplete table alone. {options.seeds} seed(s), mean and "
            "standard deviation; seconds for learning, choosing settings and filling in."
        ),
        "",
        "| missing | method | error | seconds | chosen |",
        "|---|---|---|---|---|",
    ]
    for share in SHARES:
        errors: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        chosen: dict[str, list[str]] = {}
        for seed in range(options.seeds):
            gone = np.random.default_rng(seed).random(x.shape) < share
            holes = np.where(gone, np.nan, x)
            for name, fill in fillers(seed).items():
                begun = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    filled, setting = fill(holes)
                seconds.setdefault(name, []).append(time.perf_counter() - begun)
                errors.setdefault(name, []).append(error_at(filled, x, gone))
                chosen.setdefault(name, []).append(setting)
                print(f"{share:.0%} seed {seed} {name}: {errors[name][-1]:.4f} {setting}", flush=True)
        least = min(errors, key=lambda name: np.mean(errors[name]))
        for name, values in errors.items():
            mark = "**" if name == least else ""
            settings = "; ".join(dict.fromkeys(filter(None, chosen[name])))
            lines.append(
                f"| {share:.0%} | {name} | {mark}{np.mean(values):.4f} ± {np.std(values):.4f}{mark} | "
                f"{np.mean(seconds[name]):.1f} | {settings} |"
            )
    print("\n".join(lines))
    if options.write:
        write_sections({"missing": "\n".join(lines)})


if __name__ == "__main__":
    main()
