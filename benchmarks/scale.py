"""Rows that memory does not hold, workers, and crashes: measured. ``python benchmarks/scale.py [--only NAME]``."""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_sections

import mixcoder
from mixcoder.autoencoder import block_rows

N_FEATURES, N_COMPONENTS = 16, 64
CHUNK = 100_000


def write_rows(path: Path, n_rows: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(N_COMPONENTS, N_FEATURES)) * 3
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, N_FEATURES)}
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(n_rows // CHUNK):
            rows = centres[rng.integers(N_COMPONENTS, size=CHUNK)] + rng.normal(size=(CHUNK, N_FEATURES))
            stream.write(rows.astype("<f4").tobytes())
    os.sync()  # so that no pass is timed while the disk still writes


def model(max_iter: int) -> mixcoder.GaussianMixture:
    return mixcoder.GaussianMixture(
        N_COMPONENTS, covariance_type="diag", random_state=0, tol=0, max_iter=max_iter, acceleration="none"
    )


def seconds_a_pass(rows: object) -> float:
    """Return the time of one pass: what four more iterations take, which leaves start and scan out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.diff(model(5).fit(rows).history_["seconds"]).min())


def _peak() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def capped(path: str, small: str, cap_mb: str) -> None:
    """In a process of its own: fit a small file, cap the address space, fit the large one."""
    seconds_a_pass(mixcoder.open_blocks(small))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + (int(cap_mb) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    per_pass = seconds_a_pass(mixcoder.open_blocks(path))
    print(per_pass, _peak() - before)


def memory(folder: Path) -> str:
    n_large, n_small, cap = 4_000_000, 500_000, 61
    write_rows(folder / "large.npy", n_large)
    write_rows(folder / "small.npy", n_small)
    arguments = [
        sys.executable,
        __file__,
        "--capped",
        *map(str, (folder / "large.npy", folder / "small.npy", cap)),
    ]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    from_file, peak = float(out[0]) / n_large, float(out[1])
    in_memory = seconds_a_pass(np.load(folder / "small.npy")) / n_small
    uncapped = seconds_a_pass(mixcoder.open_blocks(folder / "small.npy")) / n_small
    size = (folder / "large.npy").stat().st_size / 2**20
    return (
        f"A file of {size:.0f} MB ({n_large} rows of {N_FEATURES} float32, K={N_COMPONENTS}, diagonal), address space "
        f"capped (RLIMIT_AS) at {cap} MB above that of a process that has fitted a small file: the file is "
        f"**{size / cap:.1f}x** the cap. Resident memory rose by **{peak:.0f} MB**.\n\n"
        f"| a pass | ns a row |\n|---|---|\n| file, capped | {from_file * 1e9:.1f} |\n"
        f"| file of {n_small} rows, no cap | {uncapped * 1e9:.1f} |\n"
        f"| {n_small} of the rows in memory | {in_memory * 1e9:.1f} |\n| ratio (target 1.3) | "
        f"**{from_file / in_memory:.2f}** |\n"
    )


# What the libraries keep for themselves once products are large, and what they and the allocator keep for each further
# thread.
LIBRARIES, A_THREAD = 8 << 20, 24 << 20

KINDS = ("full", "tied", "diag", "spherical", "kmeans")


def _of_kind(kind: str, n_components: int) -> Any:
    options: dict[str, Any] = {"random_state": 0, "max_iter": 3, "tol": 0}
    if kind == "kmeans":
        return mixcoder.KMeans(n_components, **options)
    return mixcoder.GaussianMixture(n_components, covariance_type=kind, acceleration="none", **options)


def formula(kind: str, n_rows: int, d: int, k: int, n_threads: int) -> dict[str, float]:
    """Return what docs/scale.md says that a fit of float32 rows from a file needs, in bytes."""
    f = {"full": 1 + d + d * (d + 1) // 2, "diag": 1 + 2 * d, "spherical": 2 + d}.get(kind, 1 + d)
    rows = block_rows(k, f, 4)
    runs = min(64, -(-n_rows // rows))
    kept = LIBRARIES + A_THREAD * (n_threads - 1)
    threads = n_threads * rows * (f + k + 2 * d) * 4 + 8 * k * f * (math.log2(runs) + 2)
    sample = min(50_000, max(2000, 50 * k, min(8 * f // d * k, int(1.5e9) // (k * d))))
    if kind == "kmeans":
        starts = max(1, min(4, int(1e9 / (sample * k * d))))
        settling = min(n_rows // 4, (32 << 20) // (4 * d))
        seeding = 8 * sample * (3 * d + starts * (k + d + 8))
        start = max(seeding, 40 * sample * d + settling * (4 * d + 64) + threads)
        return {"pass": threads + 8 * n_rows + kept, "start": start + kept}
    starts = max(
        1, min(6, int(max(2e8 / (k * f), 12.0 * n_rows) / (80.0 * sample)), (32 << 20) // (8 * k * f))
    )
    written = min(sample, max(2000, (64 << 20) // (8 * f)))
    copies = 6 if kind in ("full", "tied") else 5
    numbers = copies * sample * d + sample * starts * k + written * (f + starts * k)
    numbers += 6 * starts * k * (d * d if kind == "full" else f)
    return {"pass": threads + kept, "start": 8 * numbers + kept}


def measured(kind: str, path: str, tiny: str, k: str, n_threads: str) -> None:
    """In a process of its own: how far the resident memory of a fit rises above that of a tiny one."""
    torch.set_num_threads(int(n_threads))
    warnings.simplefilter("ignore")
    _of_kind(kind, 2).fit(mixcoder.open_blocks(tiny))
    status = Path("/proc/self/status").read_text()
    before = int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1]) / 1024
    Path("/proc/self/clear_refs").write_text("5")
    _of_kind(kind, int(k)).fit(mixcoder.open_blocks(path))
    print(_peak() - before)


def peaks(folder: Path) -> str:
    """Compare the peak memory of fits with what the documentation says."""
    rng = np.random.default_rng(0)
    np.save(folder / "tiny.npy", rng.normal(size=(300, 2)).astype("f4"))
    lines = ["| D | K | threads | kind | formula, MB | measured, MB | measured / formula |", "|" + "---|" * 7]
    worst = 1.0
    for d, k, n_threads in ((64, 64, 1), (64, 256, 1), (64, 256, 2)):
        n_rows = 300_000
        rows = rng.normal(size=(k, d))[rng.integers(k, size=n_rows)] * 3 + rng.normal(size=(n_rows, d))
        np.save(folder / "rows.npy", rows.astype("f4"))
        for kind in KINDS:
            words = [kind, folder / "rows.npy", folder / "tiny.npy", k, n_threads]
            run = [sys.executable, __file__, "--measured", *map(str, words)]
            out = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
            told = formula(kind, n_rows, d, k, n_threads)
            need = max(told.values()) / 2**20
            worst = max(worst, out / need, need / out)
            which = max(told, key=told.__getitem__)
            lines.append(
                f"| {d} | {k} | {n_threads} | {kind} | {need:.0f} ({which}) | {out:.0f} | {out / need:.2f} |"
            )
    return (
        "Peak of the resident memory of a fit of 300000 rows of float32 from a file, above that of a tiny fit in the "
        "same process, and the formula of `docs/scale.md`, within a factor of "
        f"**{worst:.2f}** (target 1.25).\n\n" + "\n".join(lines) + "\n"
    )


def workers(folder: Path) -> str:
    import distributed

    write_rows(folder / "rows.npy", 2_000_000)
    rows = mixcoder.open_blocks(folder / "rows.npy")
    lines, means = ["| engine | s a pass | efficiency |", "|---|---|---|"], []
    with mixcoder.engine("serial"):
        serial = seconds_a_pass(rows)
    lines.append(f"| serial | {serial:.3f} | 1.00 |")
    threads = seconds_a_pass(rows)
    lines.append(
        f"| {torch.get_num_threads()} threads | {threads:.3f} | {serial / threads / torch.get_num_threads():.2f} |"
    )
    for n_workers in (1, 2):
        with (
            distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=50,
            ) as cluster,
            distributed.Client(cluster) as client,
            mixcoder.engine("dask", client=client),
        ):
            took = seconds_a_pass(rows)
            means.append(_means(rows))
        lines.append(f"| Dask, {n_workers} worker(s) | {took:.3f} | **{serial / took / n_workers:.2f}** |")
    same = np.array_equal(means[0], means[1]) and np.array_equal(means[0], _means(rows))
    return (
        "\n".join(lines)
        + f"\n\nThe means on one worker, two workers and threads have the same bits: {same}.\n"
    )


def _means(rows: object) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(3).fit(rows).means_


_KILLED = """
import sys, warnings
import mixcoder
warnings.simplefilter("ignore")
fit = mixcoder.GaussianMixture(8, random_state=0, tol=0, max_iter=60)
rows = mixcoder.open_blocks(sys.argv[1])
print("ready", flush=True)
fit.fit(rows, checkpoint=sys.argv[2], checkpoint_every=0, resume=True).save(sys.argv[3])
"""


def kills(folder: Path, n_runs: int) -> str:
    """Kill fits at random moments, go on until they end, and compare bits."""
    chance, digests, n_killed = random.Random(0), set(), 0
    rng = np.random.default_rng(0)
    np.save(
        folder / "x.npy", rng.normal(size=(8, 6))[rng.integers(8, size=40_000)] + rng.normal(size=(40_000, 6))
    )
    for run in range(-1, n_runs):  # the first is left alone
        state, saved = folder / f"state-{run}", folder / f"model-{run}"
        arguments = [sys.executable, "-c", _KILLED, str(folder / "x.npy"), str(state), str(saved)]
        killed = 0
        while not saved.exists():
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                process.stdout.readline()
                if run >= 0 and killed < 2:
                    time.sleep(chance.uniform(0.05, 0.7))
                    process.kill()
                    killed += process.wait() == -signal.SIGKILL
                elif process.wait(120) != 0:
                    raise RuntimeError(f"run {run} ended with {process.returncode}")
        n_killed += killed
        params = mixcoder.load(saved).model_.params
        digests.add(
            b"".join(value.numpy().tobytes() for value in vars(params).values() if torch.is_tensor(value))
        )
    return (
        f"{n_runs} fits, killed by SIGKILL {n_killed} times at random moments and resumed from their checkpoints, and "
        f"one left alone: **{len(digests)}** different set(s) of parameters.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["memory", "peaks", "workers", "kills"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--capped", nargs=3)
    parser.add_argument("--measured", nargs=5)
    given = parser.parse_args()
    if given.capped:
        capped(*given.capped)
        return
    if given.measured:
        measured(*given.measured)
        return
    parts = {
        "memory": memory,
        "peaks": peaks,
        "workers": workers,
        "kills": lambda folder: kills(folder, given.kills),
    }
    for name in [given.only] if given.only else list(parts):
        with tempfile.TemporaryDirectory() as folder:
            text = parts[name](Path(folder))
        print(text)
        title = {
            "memory": "## Larger than memory",
            "peaks": "## Peak memory",
            "workers": "## Workers",
            "kills": "## Crashes",
        }[name]
        write_sections({f"scale-{name}": f"{title}\n\n{text}"})


if __name__ == "__main__":
    main()
