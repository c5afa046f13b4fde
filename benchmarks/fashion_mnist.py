"""Twenty numbers for an image: Fashion-MNIST reconstructed from small codes, against published and trained peers.

28 x 28 pixels of 0..255, each image less its own mean; squared error averaged over the 784 pixels of the 10 000
test images. A code is 20 numbers, and for mixtures the number of a component, counted in bits beside them. Settings
were chosen on the last 10 000 training images (--tune); the test images are looked at once, by the table.

    python benchmarks/fashion_mnist.py                      # every row, one seed, into RESULTS.md
    python benchmarks/fashion_mnist.py --seeds 5 --rows 1-5 # some rows, five seeds each; the others stay as they are
    python benchmarks/fashion_mnist.py --rows 7,8           # the autoencoders trained here (many minutes)
    python benchmarks/fashion_mnist.py --list               # rows by number
    python benchmarks/fashion_mnist.py --tune 400,8,0.1,6   # error on held-out training images of given settings
    python benchmarks/fashion_mnist.py --likelihood all  # how likely test images are; or one row, by number

The data are those of Debian's package dataset-fashion-mnist, or of the folder in FASHION_MNIST.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gzip
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import section, write_sections
from sklearn.decomposition import PCA, FactorAnalysis

import mixcoder

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
N_LATENT = 20
N_HELD_OUT = 10_000

# Components, passes over the rows, least noise as a share of the overall variance, planes that share an image: chosen
# by --tune. With one, codes are hard; with a floor of one all components have the same noise, as in K-subspaces.
MIXTURES = [
    (11, 25, 1.0, 1),
    (50, 20, 0.3, 1),
    (100, 20, 0.1, 1),
    (200, 8, 0.1, 3),
    (400, 8, 0.1, 6),
    (800, 8, 0.1, 8),
]
HOT = 1000.0  # the temperature at which planes share an image nearly evenly

PUBLISHED = [
    ("zero code", 7048.86),
    ("PCA-20", 1207.98),
    ("mixture of linear models, K=11, 540 epochs", 768.06),
    ("MLP autoencoder", 686.0),
    ("convolutional autoencoder", 530.0),
]


def images(which: str) -> np.ndarray:
    """Return images less their own means, float32, shape (n, 784)."""
    with gzip.open(FOLDER / f"{which}-images-idx3-ubyte.gz") as stream:
        x = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float32)
    return x - x.mean(1, keepdims=True)


def error(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Return the squared error per pixel."""
    return float(np.mean((x.astype(np.float64) - x_hat) ** 2))


def mixture(k: int, passes: int, floor: float, shared: int, seed: int) -> mixcoder.PPCAMixture:
    """Return the model of the table."""
    coding: dict[str, Any] = {"temperature": HOT, "n_active": shared} if shared > 1 else {"temperature": 0.0}
    return mixcoder.PPCAMixture(
        k,
        N_LATENT,
        min_variance=floor,
        tol=0.0,
        max_iter=passes,
        acceleration="none",
        random_state=seed,
        **coding,
    )


class Network(torch.nn.Module):
    """An autoencoder with a code of 20 numbers: fully connected, or convolutional."""

    def __init__(self, convolutional: bool) -> None:
        super().__init__()
        nn = torch.nn
        if convolutional:
            self.encode = nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.GELU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
                nn.Flatten(), nn.Linear(64 * 49, N_LATENT),
            )  # fmt: skip
            self.decode = nn.Sequential(
                nn.Linear(N_LATENT, 64 * 49), nn.GELU(), nn.Unflatten(1, (64, 7, 7)),
                nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.GELU(),
                nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Flatten(),
            )  # fmt: skip
        else:
            self.encode = nn.Sequential(
                nn.Linear(784, 512), nn.GELU(), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, N_LATENT)
            )
            self.decode = nn.Sequential(
                nn.Linear(N_LATENT, 256), nn.GELU(), nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 784)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstructions."""
        return self.decode(self.encode(x))


def trained(convolutional: bool, x: np.ndarray, epochs: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the reconstruction of a network trained with Adam and a cosine schedule."""
    torch.manual_seed(seed)  # noqa: TID251
    network, scale = Network(convolutional), float(x.std())
    rows = torch.from_numpy(x) / scale
    steps = epochs * (len(rows) // 256)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(rows), generator=generator).split(256)[: len(rows) // 256]:
            optimiser.zero_grad()
            loss = (network(rows[index]) - rows[index]).square().mean()
            loss.backward()
            optimiser.step()
            schedule.step()

    def reconstruct(t: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return (network(torch.from_numpy(t) / scale) * scale).numpy()

    return reconstruct


def spread(values: list[float], digits: int) -> str:
    """Return a mean, and half the range where there is one."""
    middle = f"{np.mean(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {(max(values) - min(values)) / 2:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, what is fitted to images and a seed, and the bits beside the numbers."""

    name: str
    fit: Callable[[np.ndarray, int], Callable[[np.ndarray], float]]
    bits: float = 0.0
    random: bool = True


def rows(epochs: int) -> list[Row]:
    """Return what there is in the table, apart from what was published."""

    def pca(x: np.ndarray, seed: int) -> Callable[[np.ndarray], float]:
        model = PCA(N_LATENT, random_state=seed).fit(x)
        return lambda t: error(t, model.inverse_transform(model.transform(t)))

    def planes(
        x: np.ndarray, seed: int, settings: tuple[int, int, float, int]
    ) -> Callable[[np.ndarray], float]:
        model = mixture(*settings, seed).fit(x)
        return lambda t: model.distortion(t, rule="nearest") / 784

    def network(x: np.ndarray, seed: int, convolutional: bool) -> Callable[[np.ndarray], float]:
        reconstruct = trained(convolutional, x, epochs, seed)
        return lambda t: error(t, reconstruct(t))

    found = [Row("scikit-learn PCA", pca, random=False)]
    for settings in MIXTURES:
        k, passes, _, shared = settings
        share = f", n_active={shared}" if shared > 1 else ""
        name = f"`PPCAMixture({k}, 20{share})`, {passes} passes"
        found.append(Row(name, partial(planes, settings=settings), math.log2(k)))
    found.append(
        Row(f"MLP autoencoder 784-512-256-20, {epochs} epochs here", partial(network, convolutional=False))
    )
    found.append(
        Row(f"convolutional autoencoder, {epochs} epochs here", partial(network, convolutional=True))
    )
    return found


def table(places: list[int], seeds: int, epochs: int) -> None:
    """Write the table into RESULTS.md, row by row; rows that are not run stay as they were."""
    x, test = images("train"), images("t10k")
    head = [
        "## Fashion-MNIST: reconstruction from a code of 20 numbers",
        "",
        (
            "Written by `python benchmarks/fashion_mnist.py`; squared error per pixel of the 10 000 test images, mean "
            "and half the range over seeds. Bits are those of the component's number, log2 K. `n_active`: so many "
            f"planes share an image in the fit, at temperature {HOT:g}."
        ),
        "",
        "| model | seeds | test error | bits beside the 20 numbers | seconds to fit |",
        "|---|---|---|---|---|",
        *(f"| {name} (published) | | {value} | 0 | |" for name, value in PUBLISHED),
    ]
    every = rows(epochs)
    lines = {
        row.name: line
        for row in every
        for line in section("fashion").splitlines()
        if line.startswith(f"| {row.name} |")
    }
    for place in places:
        row = every[place]
        errors: list[float] = []
        times: list[float] = []
        for seed in range(seeds if row.random else 1):
            began = time.perf_counter()
            error_of = row.fit(x, seed)
            times.append(time.perf_counter() - began)
            errors.append(error_of(test))
            print(f"{row.name}, seed {seed}: {errors[-1]:.1f} in {times[-1]:.1f} s", flush=True)
        lines[row.name] = (
            f"| {row.name} | {len(errors)} | **{spread(errors, 1)}** | {row.bits:.2f} | {spread(times, 1)} |"
        )
        # Each at once: an hour's figures do not hang on the last one.
        write_sections({"fashion": "\n".join([*head, *(lines[r.name] for r in every if r.name in lines)])})


def numbers(text: str, n: int) -> list[int]:
    """Return the numbers of rows that a text names: all, or as in 0,2-4."""
    if text == "all":
        return list(range(n))
    ends = [part.split("-") for part in text.split(",")]
    return [place for end in ends for place in range(int(end[0]), int(end[-1]) + 1)]


# Densities: images of which each is fitted to, and what is fitted. Passes are few where one takes seconds.
N_LIKELIHOOD = 20_000
DENSITIES: list[tuple[str, Callable[[], object]]] = [
    ("scikit-learn `PCA(20)`: PPCA, K=1", lambda: PCA(N_LATENT, svd_solver="covariance_eigh")),
    ("scikit-learn `FactorAnalysis(20)`", lambda: FactorAnalysis(N_LATENT, random_state=0)),
    ("`PPCAMixture(1, 20)`", lambda: mixcoder.PPCAMixture(1, N_LATENT, random_state=0)),
    ("`PPCAMixture(50, 20)`", lambda: mixcoder.PPCAMixture(50, N_LATENT, max_iter=30, random_state=0)),
    (
        "`PPCAMixture(50, 20, shrinkage=0.01)`",
        lambda: mixcoder.PPCAMixture(50, N_LATENT, shrinkage=0.01, max_iter=30, random_state=0),
    ),
    (
        "`FactorAnalyzerMixture(1, 20)`",
        lambda: mixcoder.FactorAnalyzerMixture(1, N_LATENT, tol=0.1, random_state=0),
    ),
    (
        "`FactorAnalyzerMixture(10, 20)`",
        lambda: mixcoder.FactorAnalyzerMixture(10, N_LATENT, max_iter=12, random_state=0),
    ),
    (
        "`FactorAnalyzerMixture(10, 20, shrinkage=0.01)`",
        lambda: mixcoder.FactorAnalyzerMixture(10, N_LATENT, shrinkage=0.01, max_iter=12, random_state=0),
    ),
    (
        '`FactorAnalyzerMixture(10, 20, noise="shared")`',
        lambda: mixcoder.FactorAnalyzerMixture(10, N_LATENT, noise="shared", max_iter=12, random_state=0),
    ),
    (
        "`GaussianMixture(10)`, full covariances",
        lambda: mixcoder.GaussianMixture(10, max_iter=6, random_state=0),
    ),
]


def likelihood(places: list[int]) -> list[str]:
    """Return the lines on how likely held-out images are; rows that are not run stay as they were."""
    rng = np.random.default_rng(0)
    x, test = (
        part + rng.uniform(-0.5, 0.5, part.shape).astype(np.float32)
        for part in (images("train")[:N_LIKELIHOOD], images("t10k"))
    )
    lines = [
        "## Fashion-MNIST: held-out likelihood",
        "",
        (
            f"Written by `python benchmarks/fashion_mnist.py --likelihood all`; fitted to the first {N_LIKELIHOOD} "
            "training images, each less its own mean; 10 000 test images. Uniform noise as wide as a grey level is "
            "added, so that no direction is without variance and densities are those of 8-bit pixels. One fit, seed 0."
        ),
        "",
        "| model | nats a test image | nats a training image | passes | seconds to fit |",
        "|---|---|---|---|---|",
    ]
    old = section("fashion-likelihood").splitlines()
    for place, (name, make) in enumerate(DENSITIES):
        if place not in places:
            lines += [line for line in old if line.startswith(f"| {name} |")]
            continue
        began = time.perf_counter()
        model = make().fit(x)
        seconds = time.perf_counter() - began
        passes = getattr(model, "n_iter_", "")
        lines.append(
            f"| {name} | **{model.score(test):.1f}** | {model.score(x):.1f} | {passes} | {seconds:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def tune(settings: str) -> None:
    """Print errors on held-out training images."""
    k, passes, floor, shared = settings.split(",")
    x = images("train")
    train, held_out = x[:-N_HELD_OUT], x[-N_HELD_OUT:]
    began = time.perf_counter()
    model = mixture(int(k), int(passes), float(floor), int(shared), 0).fit(train)
    seconds, left = time.perf_counter() - began, model.distortion(held_out, rule="nearest") / 784
    print(f"K={k}, {passes} passes, floor {floor}, {shared} share: {left:.1f} in {seconds:.1f} s", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", default="all", help="all, or numbers of rows of the table: 0,2-4")
    parser.add_argument("--list", action="store_true", help="print the numbers of the rows")
    parser.add_argument("--epochs", type=int, default=20, help="of the autoencoders")
    parser.add_argument("--tune", metavar="K,PASSES,FLOOR,SHARED", help="error on held-out training images")
    parser.add_argument("--likelihood", metavar="ROW", help="all, or numbers of rows: 0,3")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not FOLDER.exists():
        sys.exit(f"{FOLDER} is not there: install Debian's dataset-fashion-mnist, or set FASHION_MNIST.")
    every = rows(options.epochs)
    if options.list:
        print("\n".join(f"{place} {row.name}" for place, row in enumerate(every)))
        return
    if options.tune:
        tune(options.tune)
        return
    if options.likelihood:
        places = numbers(options.likelihood, len(DENSITIES))
        write_sections({"fashion-likelihood": "\n".join(likelihood(places))})
        return
    table(numbers(options.rows, len(every)), options.seeds, options.epochs)


if __name__ == "__main__":
    main()
