"""Photographs with a mixture of patches, against scikit-image's methods; a section of sensing.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import skimage.data
import torch
from skimage.restoration import (
    denoise_nl_means,
    denoise_tv_chambolle,
    denoise_wavelet,
    inpaint_biharmonic,
)

from mixcoder import fit_patches
from mixcoder.estimators.patches import PATCH_PRIOR
from mixcoder.sensing import EPLL

SIGMA = 25 / 255
SIDE = 128
TEST = ("camera", "coffee", "coins", "moon")  # none of them is among those that fit_patches takes


def photograph(name: str) -> np.ndarray:
    """Return the middle of a grey photograph at half its size, in [0, 1]."""
    image = getattr(skimage.data, name)().astype(float) / 255
    if image.ndim == 3:
        image = image[:, :, :3] @ np.array([0.2125, 0.7154, 0.0721])
    height, width = (size // 2 * 2 for size in image.shape)
    small = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    i, j = (small.shape[0] - SIDE) // 2, (small.shape[1] - SIDE) // 2
    return small[i : i + SIDE, j : j + SIDE]


def psnr(estimate: np.ndarray, image: np.ndarray) -> float:
    """Return the peak signal to noise ratio in decibels, of the estimate cut to [0, 1]."""
    return -10 * math.log10(float(np.mean((np.clip(estimate, 0, 1) - image) ** 2)))


def denoisers() -> dict[str, list[Callable[[np.ndarray], np.ndarray]]]:
    """Return the peers, each with the settings to choose from."""
    peers: dict[str, list[Callable[[np.ndarray], np.ndarray]]] = {
        "TV": [lambda y, w=w: denoise_tv_chambolle(y, weight=w) for w in (0.06, 0.08, 0.1, 0.12, 0.15)],
        "NL means": [
            lambda y, h=h, p=p: denoise_nl_means(
                y, h=h * SIGMA, sigma=SIGMA, patch_size=p, patch_distance=9, fast_mode=True
            )
            for h in (0.5, 0.6, 0.7, 0.8)
            for p in (5, 7)
        ],
    }
    if find_spec("pywt"):
        peers["wavelet"] = [
            lambda y, m=m: denoise_wavelet(y, sigma=SIGMA, method=m, mode="soft", rescale_sigma=True)
            for m in ("BayesShrink", "VisuShrink")
        ]
    if find_spec("bm3d"):
        import bm3d

        peers["BM3D"] = [lambda y: bm3d.bm3d(y, SIGMA)]
    return peers


def section_images() -> list[str]:
    """Measure denoising and inpainting."""
    began = time.perf_counter()
    mixture = fit_patches(**PATCH_PRIOR)
    fitted = time.perf_counter() - began
    restorer = EPLL.of(mixture.model_)
    images = {name: photograph(name) for name in TEST}
    rng = np.random.default_rng(0)
    noisy = {name: image + SIGMA * rng.standard_normal(image.shape) for name, image in images.items()}
    lines = [
        "## Photographs",
        "",
        (
            f"Grey photographs of scikit-image at half their size, the middle {SIDE} x {SIDE} pixels; PSNR in decibels"
            f". The prior is made like the one that comes along (`load_patch_prior`), of other photographs, in "
            f"{fitted:.0f} s. "
            "TV, NL means and wavelets show, image by image, the best of several settings, chosen on the test image "
            "itself; EPLL has one setting."
        ),
        "",
        "| sigma = 25 | " + " | ".join(TEST) + " | mean | s an image |",
        "|---" * (len(TEST) + 3) + "|",
        row("noisy", [psnr(noisy[name], images[name]) for name in TEST], 0.0),
    ]
    for peer, settings in denoisers().items():
        values, seconds = [], []
        for name in TEST:
            began = time.perf_counter()
            values.append(max(psnr(setting(noisy[name]), images[name]) for setting in settings))
            seconds.append((time.perf_counter() - began) / len(settings))
        lines.append(row(peer, values, float(np.mean(seconds))))
    values, seconds = [], []
    for name in TEST:
        began = time.perf_counter()
        restored = restorer.denoise(torch.as_tensor(noisy[name]).float(), SIGMA).numpy()
        seconds.append(time.perf_counter() - began)
        values.append(psnr(restored, images[name]))
    lines.append(row("**mixcoder EPLL**", values, float(np.mean(seconds))))
    lines += [
        "",
        "| inpainting | " + " | ".join(TEST) + " | mean | s an image |",
        "|---" * (len(TEST) + 3) + "|",
    ]
    for share in (0.5, 0.2):
        masks = {name: rng.random((SIDE, SIDE)) < share for name in TEST}
        methods: dict[str, Callable[[str], np.ndarray]] = {
            "biharmonic": lambda name, masks=masks: inpaint_biharmonic(
                np.where(masks[name], images[name], 0.0), ~masks[name]
            ),
            "**mixcoder EPLL**": lambda name, masks=masks: restorer.inpaint(
                torch.as_tensor(images[name]).float(), torch.as_tensor(masks[name])
            ).numpy(),
        }
        for method, fill in methods.items():
            began = time.perf_counter()
            values = [psnr(fill(name), images[name]) for name in TEST]
            lines.append(
                row(f"{share:.0%} kept, {method}", values, (time.perf_counter() - began) / len(TEST))
            )
    return lines


def row(name: str, values: list[float], seconds: float) -> str:
    """Return one line of a table."""
    cells = [f"{value:.2f}" for value in (*values, float(np.mean(values)))]
    return f"| {name} | " + " | ".join(cells) + f" | {seconds:.2f} |"
