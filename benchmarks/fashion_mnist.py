"""Twenty numbers for an image: Fashion-MNIST reconstructed from small codes, against published and trained peers.

28 x 28 pixels of 0..255, each image less its own mean; squared error averaged over the 784 pixels of the 10 000
test images. A code is 20 numbers, and for mixtures the number of a component, counted in bits beside them. Settings
were chosen on the last 10 000 training images (--tune); the test images are looked at once, by the table.

    python benchmarks/fashion_mnist.py              # the table, one seed, into RESULTS.md
    python benchmarks/fashion_mnist.py --seeds 5    # means and spreads over five seeds
    python benchmarks/fashion_mnist.py --networks   # with autoencoders trained here (minutes)
    python benchmarks/fashion_mnist.py --tune       # errors on held-out training images
    python benchmarks/fashion_mnist.py --likelihood all  # how likely test images are; or one row, by number

The data are those of Debian's package dataset-fashion-mnist, or of the folder in FASHION_MNIST.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gzip
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from results import section, write_sections
from sklearn.decomposition import PCA, FactorAnalysis

import mixcoder

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
N_LATENT = 20
N_HELD_OUT = 10_000

# Components, passes over the rows, least noise as a share of the overall variance: chosen by --tune. Codes are hard;
# with a floor of one all components have the same noise, as in K-subspaces.
MIXTURES = [(11, 25, 1.0), (50, 20, 0.3), (100, 20, 0.1), (200, 20, 0.1), (300, 15, 0.1)]

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


def mixture(k: int, passes: int, floor: float, seed: int) -> mixcoder.PPCAMixture:
    """Return the model of the table."""
    return mixcoder.PPCAMixture(
        k, N_LATENT, temperature=0.0, min_variance=floor, tol=0.0, max_iter=passes, random_state=seed
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


def table(seeds: int, networks: bool, epochs: int) -> list[str]:
    """Return the lines of the table."""
    x, test = images("train"), images("t10k")
    lines = [
        "## Fashion-MNIST: reconstruction from a code of 20 numbers",
        "",
        (
            "Written by `python benchmarks/fashion_mnist.py`; squared error per pixel of the 10 000 test images. "
            f"Bits are those of the component's number with an entropy coder. {seeds} seed(s), mean and half the range."
        ),
        "",
        "| model | test error | bits beside the 20 numbers | seconds to fit |",
        "|---|---|---|---|",
        *(f"| {name} (published) | {value} | 0 | |" for name, value in PUBLISHED),
    ]

    def add(name: str, errors: list[float], bits: list[float], seconds: list[float]) -> None:
        lines.append(f"| {name} | **{spread(errors, 1)}** | {spread(bits, 2)} | {spread(seconds, 1)} |")
        print(lines[-1], flush=True)

    began = time.perf_counter()
    pca = PCA(N_LATENT, random_state=0).fit(x)
    seconds = time.perf_counter() - began
    add("scikit-learn PCA", [error(test, pca.inverse_transform(pca.transform(test)))], [0.0], [seconds])
    for k, passes, floor in MIXTURES:
        errors: list[float] = []
        bits: list[float] = []
        times: list[float] = []
        for seed in range(seeds):
            began = time.perf_counter()
            model = mixture(k, passes, floor, seed).fit(x)
            times.append(time.perf_counter() - began)
            errors.append(model.distortion(test, rule="nearest") / 784)
            bits.append(model.rate(test))
        add(f"`PPCAMixture({k}, 20)`, {passes} passes", errors, bits, times)
    if networks:
        for name, convolutional in (
            ("MLP autoencoder 784-512-256-20", False),
            ("convolutional autoencoder", True),
        ):
            errors, times = [], []
            for seed in range(seeds):
                began = time.perf_counter()
                reconstruct = trained(convolutional, x, epochs, seed)
                times.append(time.perf_counter() - began)
                errors.append(error(test, reconstruct(test)))
            add(f"{name}, trained here for {epochs} epochs", errors, [0.0], times)
    return lines


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


def tune() -> None:
    """Print errors on held-out training images."""
    x = images("train")
    train, held_out = x[:-N_HELD_OUT], x[-N_HELD_OUT:]
    for k, passes in ((11, 25), (200, 12)):
        for floor in (0.1, 0.2, 0.4, 1.0):
            model = mixture(k, passes, floor, 0).fit(train)
            print(f"K={k} floor={floor}: {model.distortion(held_out, rule='nearest') / 784:.1f}", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--networks", action="store_true")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--likelihood", metavar="ROW", help="all, or numbers of rows: 0,3")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not FOLDER.exists():
        sys.exit(f"{FOLDER} is not there: install Debian's dataset-fashion-mnist, or set FASHION_MNIST.")
    if options.tune:
        tune()
        return
    if options.likelihood:
        every = options.likelihood == "all"
        places = range(len(DENSITIES)) if every else map(int, options.likelihood.split(","))
        write_sections({"fashion-likelihood": "\n".join(likelihood(list(places)))})
        return
    lines = table(options.seeds, options.networks, options.epochs)
    write_sections({"fashion": "\n".join(lines)})


if __name__ == "__main__":
    main()
