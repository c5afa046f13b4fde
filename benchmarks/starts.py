"""How good is a default start? Log-likelihood and seconds of one default fit, against scikit-learn's.

Cells are real data sets of scikit-learn, covariance types and numbers of components. The best known
log-likelihood of a cell is the best of everything that ran in this script, many restarts of both libraries
included. Every fit is judged by the log-likelihood of its final parameters.

    python benchmarks/starts.py --write    # the table, about five minutes, into RESULTS.md
    python benchmarks/starts.py --quick    # one seed
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from results import write_sections
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Peer

import mixcoder

COVARIANCES = ("full", "tied", "diag", "spherical")
FOUND = 0.5  # nats in all


def tables() -> dict[str, np.ndarray]:
    """Return the data sets by name."""
    digits = datasets.load_digits().data
    return {
        "iris": datasets.load_iris().data,
        "wine": datasets.load_wine().data,
        "wine, 4 columns": datasets.load_wine().data[:, [0, 6, 9, 12]],
        "breast cancer, 5 columns": datasets.load_breast_cancer().data[:, [0, 1, 4, 7, 9]],
        "diabetes": datasets.load_diabetes().data[:, [0, 2, 3, 4, 5, 6, 7, 8, 9]],
        "digits, PCA 6": PCA(6, random_state=0).fit_transform(digits),
        "iris petals": datasets.load_iris().data[:, 2:],
    }


def fits(seed: int) -> dict[str, object]:
    """Return the contenders."""
    common = {"random_state": seed, "reg_covar": 1e-6}
    return {
        "scikit-learn": lambda k, c: Peer(k, covariance_type=c, **common),
        "scikit-learn n_init=10": lambda k, c: Peer(k, covariance_type=c, n_init=10, **common),
        "mixcoder": lambda k, c: mixcoder.GaussianMixture(k, covariance_type=c, **common),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--cells", action="store_true", help="print every cell")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(1 if options.quick else options.seeds)
    gaps: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    found: dict[str, int] = {}
    n_cells = 0
    for name, x in tables().items():
        for covariance in COVARIANCES:
            for k in (2, 3, 5):
                scores: dict[str, list[float]] = {}
                for seed in seeds:
                    for contender, make in fits(seed).items():
                        began = time.perf_counter()
                        model = make(k, covariance).fit(x)
                        seconds[contender] = seconds.get(contender, 0.0) + time.perf_counter() - began
                        scores.setdefault(contender, []).append(model.score(x))
                best = max(max(values) for values in scores.values())
                for seed in range(2):
                    peer = Peer(
                        k,
                        covariance_type=covariance,
                        n_init=20,
                        tol=1e-6,
                        max_iter=1000,
                        random_state=100 + seed,
                    )
                    ours = mixcoder.GaussianMixture(
                        k,
                        covariance_type=covariance,
                        n_init=5,
                        tol=1e-7,
                        max_iter=1000,
                        random_state=seed,
                        reg_covar=1e-6,
                    )
                    best = max(best, peer.fit(x).score(x), ours.fit(x).score(x))
                n_cells += 1
                for contender, values in scores.items():
                    below = [best - value for value in values]
                    gaps.setdefault(contender, []).extend(below)
                    found[contender] = found.get(contender, 0) + sum(gap * len(x) < FOUND for gap in below)
                if options.cells:
                    shown = "  ".join(f"{c}: {1e3 * (best - np.mean(v)):8.1f}" for c, v in scores.items())
                    print(f"{name:26s} {covariance:10s} K={k}  {shown}", flush=True)
    total = n_cells * len(seeds)
    lines = [
        "## Starts",
        "",
        (
            f"{n_cells} cells (seven tables of scikit-learn, four covariance types, K = 2, 3, 5), {len(seeds)} seeds, "
            "one default fit each with the same `reg_covar`. Found: within 0.5 nats in all of the best log-likelihood "
            "known to the script."
        ),
        "",
        "| one fit by | found | mean gap, 1e-3 nats a row | seconds for all cells |",
        "|---|---|---|---|",
    ]
    for contender, values in gaps.items():
        lines.append(
            f"| {contender} | {100 * found[contender] / total:.0f} % | {1e3 * np.mean(values):.1f} | "
            f"{seconds[contender] / len(seeds):.2f} |"
        )
    print("\n".join(lines))
    if options.write:
        write_sections({"starts": "\n".join(lines)})


if __name__ == "__main__":
    main()
