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


def photograph(name: str, side: int | None = SIDE) -> np.ndarray:
    """Return a grey photograph at half its size, in [0, 1], or its middle."""
    image = getattr(skimage.data, name)().astype(float) / 255
    if image.ndim == 3:
        image = image[:, :, :3] @ np.array([0.2125, 0.7154, 0.0721])
    height, width = (size // 2 * 2 for size in image.shape)
    small = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    if side is None:
        return small
    i, j = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    return small[i : i + side, j : j + side]


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
    lines = [
        "## Photographs",
        "",
        (
            "Grey photographs of scikit-image at half their size; PSNR in decibels. The prior is made like the one "
            f"that comes along (`load_patch_prior`), of other photographs, in {fitted:.0f} s. TV, NL means and "
            "wavelets show, image by image, the best of several settings, chosen on the test image itself; mixcoder "
            "has one, chosen on parts of chelsea, stereo_motorcycle, retina, brick and immunohistochemistry."
        ),
    ]
    for side in (SIDE, None):
        images = {name: photograph(name, side) for name in TEST}
        lines += ["", *denoising(restorer, images, f"the middle {side} x {side} pixels" if side else "whole")]
    images = {name: photograph(name) for name in TEST}
    return [*lines, "", *inpainting(restorer, images)]


def denoising(restorer: EPLL, images: dict[str, np.ndarray], which: str) -> list[str]:
    """Compare denoisers."""
    rng = np.random.default_rng(0)
    noisy = {name: image + SIGMA * rng.standard_normal(image.shape) for name, image in images.items()}
    lines = [
        f"| sigma = 25, {which} | " + " | ".join(TEST) + " | mean | s an image |",
        "|---" * (len(TEST) + 3) + "|",
        row("noisy", [psnr(noisy[name], images[name]) for name in TEST], 0.0),
    ]
    methods = denoisers()
    for label, settings in {
        "mixcoder, prior as it is": {"n_adaptations": 0},
        "**mixcoder** (`EPLL.denoise`)": {},
    }.items():
        methods[label] = [
            lambda y, settings=settings: restorer.denoise(
                torch.as_tensor(y).float(), SIGMA, **settings
            ).numpy()
        ]
    for method, choices in methods.items():
        values, seconds = [], []
        for name in TEST:
            began = time.perf_counter()
            values.append(max(psnr(choice(noisy[name]), images[name]) for choice in choices))
            seconds.append((time.perf_counter() - began) / len(choices))
        lines.append(row(method, values, float(np.mean(seconds))))
    return lines


def inpainting(restorer: EPLL, images: dict[str, np.ndarray]) -> list[str]:
    """Compare methods that fill in missing pixels."""
    rng = np.random.default_rng(0)
    lines = [
        f"| inpainting, the middle {SIDE} x {SIDE} pixels | " + " | ".join(TEST) + " | mean | s an image |",
        "|---" * (len(TEST) + 3) + "|",
    ]
    for share in (0.5, 0.2):
        masks = {name: rng.random((SIDE, SIDE)) < share for name in TEST}
        methods: dict[str, Callable[[str], np.ndarray]] = {
            "biharmonic": lambda name, masks=masks: inpaint_biharmonic(
                np.where(masks[name], images[name], 0.0), ~masks[name]
            ),
            "**mixcoder** (`EPLL.inpaint`)": lambda name, masks=masks: restorer.inpaint(
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
