"""Every speed claim, measured against the peer in the same run; writes benchmarks/RESULTS.md.

    python benchmarks/run.py              # everything, about half an hour on two cores
    python benchmarks/run.py em kmeans    # some sections
    python benchmarks/run.py --quick      # smaller tables, for a look

Per-iteration times are differences of two fits of different length from one start, (t(T2) - t(T1)) / (T2 -
T1), the two libraries in turn, so that set-up does not count and a drift of the machine hits both. Each
length counts with the fastest of its repeats (large problems run once): a disturbed short fit cannot
flatter. Nothing else should run meanwhile.
"""

from __future__ import annotations

import os

# Threads of one library that spin while the other computes would slow both, up to 30 times (measured).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gzip
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_sections
from sklearn.cluster import KMeans as PeerKMeans
from sklearn.mixture import BayesianGaussianMixture as PeerBayes
from sklearn.mixture import GaussianMixture as PeerMixture

import mixcoder
from mixcoder.ops.products import product

FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
REPEATS = 3
HEAVY = 1e8  # N D K from which once must do


def blobs(n: int, d: int, k: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return overlapping Gaussian blobs (centres about three standard deviations apart), and the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0.0, 3.0 / math.sqrt(2.0 * d) * max(1.0, d**0.25), (k, d))
    x = np.empty((n, d), dtype=dtype)
    for at in range(0, n, 100_000):
        stop = min(at + 100_000, n)
        x[at:stop] = centres[rng.integers(k, size=stop - at)] + rng.normal(size=(stop - at, d))
    return x, centres.astype(dtype)


def fashion(dtype: str) -> np.ndarray | None:
    """Return the 60 000 training images, (60000, 784), or None where the package is not installed."""
    if not FASHION.exists():
        return None
    with gzip.open(FASHION, "rb") as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784).astype(dtype)


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def per_iteration(
    makers: list[Callable[[int], Callable[[], Any]]], lengths: list[tuple[int, int]], repeats: int
) -> list[float]:
    """Return seconds per iteration of each contender, taken in turn."""
    best = [[math.inf, math.inf] for _ in makers]  # of the short and of the long fit
    for _ in range(repeats):
        for i, (make, pair) in enumerate(zip(makers, lengths, strict=True)):
            for j, length in enumerate(pair):
                best[i][j] = min(best[i][j], seconds(make(length)))
    return [
        max((high - low) / (long - short), 1e-9)
        for (low, high), (short, long) in zip(best, lengths, strict=True)
    ]


def start_of(covariance: str, centres: np.ndarray) -> dict[str, np.ndarray]:
    """Return one start for both libraries: given centres, unit precisions, equal weights."""
    k, d = centres.shape
    eye = np.eye(d)
    precisions = {
        "full": np.broadcast_to(eye, (k, d, d)).copy(),
        "tied": eye,
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance]
    rng = np.random.default_rng(1)
    return {
        "means_init": centres + 0.3 * rng.normal(size=centres.shape).astype(centres.dtype),
        "weights_init": np.full(k, 1.0 / k),
        "precisions_init": precisions,
    }


def gemm_rate(dtype: torch.dtype, multiply: Callable[..., Any] = product) -> float:
    """Return the measured rate of a large matrix product, in GFLOP/s."""
    a = torch.randn(2048, 2048, dtype=dtype)
    out = torch.empty_like(a)
    multiply(a, a, out=out)
    return 2 * 2048**3 / min(seconds(lambda: multiply(a, a, out=out)) for _ in range(10)) / 1e9


def em_flops(covariance: str, n: int, d: int, k: int) -> float:
    """Return the operations of the two products of one pass."""
    width = {"full": 1 + d + d * (d + 1) // 2, "diag": 1 + 2 * d, "spherical": 2 + d, "tied": 1 + d}[
        covariance
    ]
    return 4.0 * n * k * width


EM_CASES = [  # covariance, n, d, k, dtype, target, (peer lengths), (our lengths)
    ("full", 100_000, 64, 64, "float32", 8, (1, 3), (2, 8)),
    ("full", 100_000, 64, 64, "float64", 8, (1, 3), (2, 6)),
    ("full", 1_000_000, 16, 64, "float32", 25, (1, 2), (2, 6)),
    ("full", 100_000, 2, 8, "float32", 12, (2, 22), (2, 102)),
    ("full", 100_000, 2, 8, "float64", 12, (2, 22), (2, 102)),
    ("diag", 100_000, 64, 64, "float32", 5, (2, 12), (2, 32)),
    ("diag", 1_000_000, 16, 64, "float32", 5, (1, 4), (2, 12)),
    ("diag", 60_000, 784, 100, "float32", 5, (1, 4), (2, 12)),
    ("spherical", 100_000, 64, 64, "float32", 5, (2, 12), (2, 32)),
    ("tied", 100_000, 64, 64, "float32", 50, (1, 3), (2, 42)),
    ("tied", 100_000, 64, 64, "float64", 50, (1, 3), (2, 32)),
]


def section_em(quick: bool) -> list[str]:
    """Time one EM iteration."""
    rates = {"float32": gemm_rate(torch.float32), "float64": gemm_rate(torch.float64)}
    lines = [
        "## One EM iteration, same start, same dtype",
        "",
        (
            f"Measured product rate (2048^3, all threads): {rates['float32']:.0f} GFLOP/s in float32 "
            f"({gemm_rate(torch.float32, torch.mm):.0f} by torch.mm), {rates['float64']:.0f} in float64. "
            "The floor of a pass is its two products, 4 N K F operations, with F the features of a row: "
            "1+D+D(D+1)/2 full, 1+2D diag, 2+D spherical, 1+D tied."
        ),
        "",
        "| covariance | N, D, K | dtype | scikit-learn ms | mixcoder ms | ratio | target | products, % of rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for covariance, n, d, k, dtype, target, peer_lengths, our_lengths in EM_CASES:
        if quick and n * d * k > 2e8:
            continue
        if d == 784:
            x = fashion(dtype)
            if x is None:
                lines.append(
                    f"| {covariance} | 60 000, 784, 100 | {dtype} | skipped: dataset-fashion-mnist absent |"
                )
                continue
            x = x / x.std().astype(dtype)
            centres = x[np.random.default_rng(2).choice(len(x), k, replace=False)]
        else:
            x, centres = blobs(n, d, k, dtype)
        start = start_of(covariance, centres)
        common = {"covariance_type": covariance, "tol": 0.0, "reg_covar": 1e-6 if d != 784 else 1e-2, **start}
        peer, ours = per_iteration(
            [
                lambda t, x=x, c=common, k=k: lambda: PeerMixture(k, max_iter=t, **c).fit(x),
                lambda t, x=x, c=common, k=k: lambda: mixcoder.GaussianMixture(k, max_iter=t, **c).fit(x),
            ],
            [peer_lengths, our_lengths],
            1 if n * d * k > HEAVY else REPEATS,
        )
        share = em_flops(covariance, n, d, k) / ours / 1e9 / rates[dtype]
        lines.append(
            f"| {covariance} | {n}, {d}, {k} | {dtype} | {1e3 * peer:.1f} | {1e3 * ours:.2f} | "
            f"**{peer / ours:.1f}x** | {target}x | {100 * share:.0f} % |"
        )
        print(lines[-1], flush=True)
    return lines


def section_fit(quick: bool) -> list[str]:
    """Time whole default fits."""
    lines = [
        "## A whole default fit",
        "",
        "Both libraries with their defaults but for `random_state`; log-likelihood per row of the result.",
        "",
        "| covariance | N, D, K | dtype | scikit-learn s (nats) | mixcoder s (nats) | ratio | target |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = [
        ("full", 1000, 2, 3, "float64", 1),
        ("diag", 1000, 2, 3, "float64", 1),
        ("tied", 1000, 2, 3, "float64", 1),
        ("spherical", 1000, 2, 3, "float64", 1),
        ("full", 100_000, 2, 8, "float64", 5),
        ("diag", 100_000, 64, 64, "float32", 5),
        ("spherical", 100_000, 64, 64, "float32", 5),
        ("full", 100_000, 64, 64, "float32", 5),
        ("tied", 100_000, 64, 64, "float32", 5),
    ]
    for covariance, n, d, k, dtype, target in cases:
        if quick and n * d * k > 1e8:
            continue
        x, _ = blobs(n, d, k, dtype)
        repeats = 15 if n <= 1000 else (3 if n * d * k < 1e7 else 1)
        best: dict[str, float] = {"peer": math.inf, "ours": math.inf}
        model: dict[str, Any] = {}
        for _ in range(repeats):
            for name, cls in (("peer", PeerMixture), ("ours", mixcoder.GaussianMixture)):
                estimator = cls(k, covariance_type=covariance, random_state=0)
                best[name] = min(best[name], seconds(lambda e=estimator, x=x: e.fit(x)))
                model[name] = estimator
        scores = {name: estimator.score(x[:200_000]) for name, estimator in model.items()}
        lines.append(
            f"| {covariance} | {n}, {d}, {k} | {dtype} | {best['peer']:.4f} ({scores['peer']:.4f}) | "
            f"{best['ours']:.4f} ({scores['ours']:.4f}) | **{best['peer'] / best['ours']:.1f}x** | {target}x |"
        )
        print(lines[-1], flush=True)
    return lines


BAYES_CASES = [  # covariance, n, d, k, dtype
    ("full", 1000, 2, 5, "float64"),
    ("full", 100_000, 2, 8, "float64"),
    ("full", 20_000, 16, 10, "float64"),
    ("full", 20_000, 16, 10, "float32"),
    ("diag", 50_000, 32, 16, "float32"),
    ("spherical", 50_000, 32, 16, "float32"),
    ("tied", 50_000, 16, 16, "float64"),
]


def section_bayes(quick: bool) -> list[str]:
    """Time whole variational fits of the same settings."""
    lines = [
        "## A whole fit of variational Bayes",
        "",
        (
            "Both libraries with `init_params='kmeans'`, `reg_covar=1e-6`, `max_iter=50`, `tol=1e-3`, "
            "`random_state=0`, a Dirichlet process of K components; in brackets iterations and `score` of the rows: "
            "the two k-means differ, so the fits begin elsewhere. Then one iteration from one start."
        ),
        "",
        "| covariance | N, D, K | dtype | scikit-learn s | mixcoder s | ratio | an iteration, ms | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for covariance, n, d, k, dtype in BAYES_CASES:
        if quick and n * d * k > 1e7:
            continue
        x, _ = blobs(n, d, k, dtype)
        common = {"n_components": k, "covariance_type": covariance, "reg_covar": 1e-6, "random_state": 0}
        best, model = {"peer": math.inf, "ours": math.inf}, {}
        for _ in range(7 if n <= 1000 else 2):
            for name, cls in (("peer", PeerBayes), ("ours", mixcoder.BayesianGaussianMixture)):
                estimator = cls(**common, init_params="kmeans", max_iter=50)
                best[name] = min(best[name], seconds(lambda e=estimator, x=x: e.fit(x)))
                model[name] = estimator
        labels = PeerKMeans(k, n_init=1, random_state=np.random.RandomState(0)).fit(x).labels_

        def peer(length: int, x: Any = x, common: Any = common) -> Callable[[], Any]:
            return lambda: PeerBayes(**common, max_iter=length, tol=1e-300).fit(x)

        def ours(length: int, x: Any = x, common: Any = common, labels: Any = labels) -> Callable[[], Any]:
            made = mixcoder.BayesianGaussianMixture(**common, max_iter=length, tol=0.0, init_params=labels)
            return lambda: made.fit(x)

        peer_step, our_step = per_iteration([peer, ours], [(2, 22), (2, 22)], 7 if n <= 1000 else 2)
        told = {
            name: f"{best[name]:.3f} ({m.n_iter_}, {m.score(x[:50_000]):.3f})" for name, m in model.items()
        }
        lines.append(
            f"| {covariance} | {n}, {d}, {k} | {dtype} | {told['peer']} | {told['ours']} | "
            f"**{best['peer'] / best['ours']:.1f}x** | {1e3 * peer_step:.2f}, {1e3 * our_step:.2f} | "
            f"**{peer_step / our_step:.1f}x** |"
        )
        print(lines[-1], flush=True)
    return lines


def section_kmeans(quick: bool) -> list[str]:
    """Time k-means: whole fits and single iterations."""
    lines = [
        "## k-means",
        "",
        "Whole fit with seeding, both libraries with their defaults, means over seeds 0 and 1:",
        "",
        "| data | N, D, K | scikit-learn s (inertia) | mixcoder s (inertia) | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    data: list[tuple[str, np.ndarray | None, int]] = [("Fashion-MNIST", fashion("float32"), 100)]
    if not quick:
        data.append(("blobs", blobs(1_000_000, 16, 64, "float32")[0], 64))
    for name, x, k in data:
        if x is None:
            lines.append(f"| {name} | skipped: Debian's package dataset-fashion-mnist is not installed |")
            continue
        total = {"peer": 0.0, "ours": 0.0}
        inertia = {"peer": 0.0, "ours": 0.0}
        seeds = range(1 if quick else 2)
        for seed in seeds:
            for which, cls in (("peer", PeerKMeans), ("ours", mixcoder.KMeans)):
                estimator = cls(k, random_state=seed)
                total[which] += seconds(lambda e=estimator, x=x: e.fit(x)) / len(seeds)
                inertia[which] += estimator.inertia_ / len(seeds)
        lines.append(
            f"| {name} | {x.shape[0]}, {x.shape[1]}, {k} | {total['peer']:.2f} ({inertia['peer']:.6g}) | "
            f"{total['ours']:.2f} ({inertia['ours']:.6g}) | **{total['peer'] / total['ours']:.1f}x** | 3x |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "One Lloyd iteration from the same centres (tol=0), float32:",
        "",
        "| N, D, K | scikit-learn ms | mixcoder ms | ratio | target |",
        "|---|---|---|---|---|",
    ]
    cases = [
        ("blobs", 100_000, 64, 64, (2, 22)),
        ("blobs", 1_000_000, 16, 64, (2, 12)),
        # What comes before the first iteration, over 188 MB, takes now more, now less: many iterations.
        ("fashion", 60_000, 784, 100, (2, 32)),
    ]
    for kind, n, d, k, lengths in cases:
        x = fashion("float32") if kind == "fashion" else blobs(n, d, k, "float32")[0]
        if x is None or (quick and n * d * k > 5e8):
            continue
        centres = x[np.random.default_rng(3).choice(len(x), k, replace=False)].copy()
        peer, ours = per_iteration(
            [
                lambda t, x=x, c=centres, k=k: (
                    lambda: PeerKMeans(k, init=c, n_init=1, max_iter=t, tol=0).fit(x)
                ),
                lambda t, x=x, c=centres, k=k: (
                    lambda: mixcoder.KMeans(k, init=c, n_init=1, max_iter=t, tol=0).fit(x)
                ),
            ],
            [lengths, lengths],
            REPEATS,
        )
        target = "parity" if d >= 64 else "none"
        lines.append(
            f"| {n}, {d}, {k} | {1e3 * peer:.1f} | {1e3 * ours:.1f} | **{peer / ours:.2f}x** | {target} |"
        )
        print(lines[-1], flush=True)
    return lines


_MEMORY_PROGRAM = """
import sys, resource, warnings
import numpy as np
warnings.simplefilter("ignore")
which, n = sys.argv[1], int(sys.argv[2])
if which == "peer":
    from sklearn.mixture import GaussianMixture
else:
    from mixcoder import GaussianMixture
rng = np.random.default_rng(0)
x = rng.normal(size=(n, 16)).astype(np.float32) + 3 * rng.integers(8, size=(n, 1)).astype(np.float32)
start = dict(means_init=x[:64].astype(np.float64), weights_init=np.full(64, 1 / 64), precisions_init=np.ones((64, 16)))
small = dict(covariance_type="diag", max_iter=1, **start)
GaussianMixture(64, **small).fit(x[:5000])  # libraries loaded, pools running
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")
before = peak()
model = GaussianMixture(64, **{**small, "max_iter": 3}).fit(x)
print(peak() - before, end=" ")
open("/proc/self/clear_refs", "w").write("5")
before = peak()
model.predict(x); model.score(x)
print(peak() - before)
"""


def section_memory(quick: bool) -> list[str]:
    """Measure peak extra memory of a fit, and of predict and score."""
    lines = [
        "## Peak extra memory",
        "",
        (
            "Resident memory above that before the call, three EM iterations, diagonal, D=16, K=64, float32, MB; "
            "then that of `predict` and `score` (N labels are the result)."
        ),
        "",
        "| N | scikit-learn fit | mixcoder fit | target | scikit-learn predict, score | mixcoder predict, score |",
        "|---|---|---|---|---|---|",
    ]
    for n in (100_000,) if quick else (100_000, 300_000, 1_000_000):
        found: dict[str, list[float]] = {}
        for which in ("peer", "ours"):
            run = subprocess.run(
                [sys.executable, "-c", _MEMORY_PROGRAM, which, str(n)],
                capture_output=True,
                text=True,
                check=True,
            )
            found[which] = [float(value) for value in run.stdout.split()]
        (peer_fit, peer_use), (our_fit, our_use) = found["peer"], found["ours"]
        lines.append(f"| {n} | {peer_fit:.0f} | **{our_fit:.0f}** | 100 | {peer_use:.0f} | {our_use:.0f} |")
        print(lines[-1], flush=True)
    return lines


SECTIONS = {
    "em": section_em,
    "fit": section_fit,
    "bayes": section_bayes,
    "kmeans": section_kmeans,
    "memory": section_memory,
}


def main() -> None:
    """Run the sections asked for and put their tables into RESULTS.md, the others left as they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="small tables only; RESULTS.md is not written")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    small, _ = blobs(5000, 8, 4, "float32")  # libraries loaded, thread pools running
    for cls in (PeerMixture, mixcoder.GaussianMixture):
        cls(4).fit(small)
    for cls in (PeerKMeans, mixcoder.KMeans):
        cls(4).fit(small)
    chosen = options.sections or list(SECTIONS)
    for name in chosen:
        table = "\n".join(SECTIONS[name](options.quick))
        if not options.quick:
            write_sections({name: table})  # each at once: an hour's figures do not hang on the last one


if __name__ == "__main__":
    main()
