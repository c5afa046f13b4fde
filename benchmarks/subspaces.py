"""Mixtures of planes: how much of a fit is its start, and how large it may be.

The rows of every data set lie near a few planes. The floor is the squared error of principal component analysis of each
true group; a fit reaches it if its own is at most a tenth larger.

    python benchmarks/subspaces.py --write         # both tables, about three minutes, into RESULTS.md
    python benchmarks/subspaces.py --part starts   # one of them: starts or faces
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import resource
import time
import warnings
from collections.abc import Callable

import numpy as np
from results import write_sections

import mixcoder

# Rows, planes, features, dimension of the planes, noise, spread of their centres.
CASES = {
    "4 planes in 6-D": (1000, 4, 6, 2, 0.05, 1.0),
    "4 planes in 6-D that cross": (1000, 4, 6, 2, 0.05, 0.0),
    "8 lines in 3-D": (1600, 8, 3, 1, 0.02, 1.0),
    "8 spaces of rank 3 in 10-D": (2400, 8, 10, 3, 0.05, 0.5),
    "6 planes in 6-D": (1500, 6, 6, 2, 0.03, 0.2),
    "5 spaces of rank 4 in 200-D": (2000, 5, 200, 4, 0.05, 0.1),
}
STUDY = "4 planes in 6-D"
N_DATA, N_STARTS, N_SEEDS = 3, 40, 20
REACHED = 1.1


def rows(case: str, seed: int) -> tuple[np.ndarray, float]:
    """Return rows near planes, and the floor."""
    n, k, d, q, noise, spread = CASES[case]
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    left = 0.0
    for _ in range(k):
        basis = np.linalg.qr(rng.normal(size=(d, q)))[0]
        part = spread * rng.normal(size=d) + rng.normal(size=(n // k, q)) @ basis.T
        parts.append(part + noise * rng.normal(size=part.shape))
        left += (np.linalg.svd(parts[-1] - parts[-1].mean(0), compute_uv=False)[q:] ** 2).sum()
    return np.vstack(parts), left / n


def shared_latent(x: np.ndarray, k: int, q: int, rng: np.random.Generator, passes: int = 100) -> float:
    """Return the squared error of the note's alternation: a row takes its z along when it chooses another component.

    a_k, W_k are the regression of x on (1, z) over its rows; then z is fitted to the row's component, and the component
    is chosen with that z.
    """
    n, d = x.shape
    labels = rng.integers(k, size=n)
    z = rng.normal(size=(n, q))
    best = np.inf
    for _ in range(passes):
        models: list[np.ndarray] = []
        for j in range(k):
            own = labels == j
            design = np.c_[np.ones(own.sum()), z[own]]
            models.append(
                np.linalg.lstsq(design, x[own], rcond=None)[0] if own.any() else np.zeros((q + 1, d))
            )
        for j, model in enumerate(models):
            own = labels == j
            z[own] = np.linalg.lstsq(model[1:].T, (x[own] - model[0]).T, rcond=None)[0].T
        gaps = np.stack([((x - np.c_[np.ones(n), z] @ model) ** 2).sum(1) for model in models], 1)
        labels, error = gaps.argmin(1), float(gaps.min(1).mean())
        if error >= best * (1 - 1e-9):
            break
        best = error
    return best


def per_component_latent(x: np.ndarray, k: int, q: int, rng: np.random.Generator) -> float:
    """Return the squared error of K-subspaces from random labels: every component is judged by its own best z."""
    labels = rng.integers(k, size=len(x))
    return mixcoder.SubspaceMixture(k, q, init=labels, tol=1e-9, max_iter=200).fit(x).distortion(x)


def starts() -> list[str]:
    """Return the lines on starts."""
    n, k, d, q, noise, _ = CASES[STUDY]
    lines = [
        "## Planes: how many starts reach the floor",
        "",
        (
            f"Written by `python benchmarks/subspaces.py`. {STUDY}: {n} rows, noise {noise}, {N_DATA} data "
            f"sets, {N_STARTS} random starts each, from random labels. Shared z: a row takes its z along when it "
            "chooses another component; per-component z: each component is judged by its own best z."
        ),
        "",
        "| alternation, one random start | starts at the floor | median error / floor |",
        "|---|---|---|",
    ]
    alternations: dict[str, Callable[..., float]] = {
        "shared z": shared_latent,
        "per-component z (`SubspaceMixture`, `init=` random labels)": per_component_latent,
    }
    for name, alternation in alternations.items():
        ratios = [
            alternation(x, k, q, np.random.default_rng(1000 + seed)) / floor
            for x, floor in (rows(STUDY, data) for data in range(N_DATA))
            for seed in range(N_STARTS)
        ]
        reached = sum(ratio <= REACHED for ratio in ratios)
        lines.append(f"| {name} | {reached} of {len(ratios)} | {np.median(ratios):.2f} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"One default fit, {N_DATA} data sets and {N_SEEDS} seeds each ({N_SEEDS // 4} in 200-D):",
        "",
        "| rows near | `SubspaceMixture` | s a fit | `PPCAMixture` | s a fit |",
        "|---|---|---|---|---|",
    ]
    for case, (_, k, d, q, _, _) in CASES.items():
        cells: list[str] = []
        n_seeds = N_SEEDS if d < 100 else N_SEEDS // 4
        for kind in (mixcoder.SubspaceMixture, mixcoder.PPCAMixture):
            reached, seconds = 0, 0.0
            for data in range(N_DATA):
                x, floor = rows(case, data)
                for seed in range(n_seeds):
                    began = time.perf_counter()
                    model = kind(k, q, random_state=seed).fit(x)
                    seconds += time.perf_counter() - began
                    reached += model.distortion(x) <= REACHED * floor
            total = N_DATA * n_seeds
            cells.append(f"{reached} of {total} | {seconds / total:.3f}")
        lines.append(f"| {case} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def faces(n: int = 6000, side: int = 64, k: int = 100, q: int = 10) -> list[str]:
    """Return the lines on a mixture as large as one of photographs of faces: 64 x 64 pixels of three colours.

    The rows are drawn, smooth in the plane like images: Fourier modes whose size falls with the frequency.
    """
    rng = np.random.default_rng(0)
    modes = 12
    grid = np.arange(side) / side
    waves = np.cos(np.pi * np.outer(np.arange(modes), grid + 0.5 / side)) / (1 + np.arange(modes))[:, None]
    d = 3 * side * side
    x = np.empty((n, d), np.float32)
    for begin in range(0, n, 500):
        size = min(500, n - begin)
        amplitudes = rng.normal(size=(size, 3, modes, modes)).astype(np.float32)
        smooth = np.einsum("ncij,ia,jb->ncab", amplitudes, waves, waves, optimize=True)
        x[begin : begin + size] = smooth.reshape(size, d) + 0.05 * rng.standard_normal((size, d), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    model = mixcoder.PPCAMixture(
        k, q, temperature=0.0, min_variance=1e-2, tol=0.0, max_iter=5, random_state=0
    )
    model.fit(x)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = k * d * (q + 1)
    row = (
        f"| {n}, {d}, {k}, {q} | {x.nbytes / 2**20:.0f} | {8 * numbers / 2**20:.0f} | {peak - before:.0f} | "
        f"{seconds:.0f} | {(x - x.mean(0)).var() * d:.1f} | {model.distortion(x[:1000]):.1f} |"
    )
    print(row, flush=True)
    return [
        "",
        "`PPCAMixture`, hard codes, five passes, float32 rows like images of faces (64 x 64 pixels, three colours):",
        "",
        (
            "| N, D, K, q | rows, MB | parameters, MB | peak above the rows, MB | seconds | squared error of the mean "
            "| squared error |"
        ),
        "|---|---|---|---|---|---|---|",
        row,
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("starts", "faces"))
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = {"starts": starts, "faces": faces}
    for name, part in parts.items():
        if options.part in (None, name):
            lines = part()
            if options.write:
                write_sections({f"subspaces-{name}": "\n".join(lines)})


if __name__ == "__main__":
    main()
