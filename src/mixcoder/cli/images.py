"""Real images for the demo: scikit-learn's digits, which it bundles, and Fashion-MNIST, which Debian packages."""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixcoder.errors import DataError

__all__ = ["FASHION_DIRECTORY", "Images", "digits", "fashion_mnist", "read_idx"]

FASHION_DIRECTORY = "/usr/share/datasets/fashion-mnist"
FASHION_PACKAGE = "dataset-fashion-mnist"

# Enough to show the method, few enough to fit while one watches.
FASHION_FIT, FASHION_TEST = 5_000, 1_000


@dataclass(frozen=True)
class Images:
    """Flattened grey images (n d), to fit and to test; ``labels`` say what the test images show.

    Pixels are 0 where there is nothing and ``ink`` at most. ``starts`` is how often it is worth while to start a fit.
    """

    name: str
    height: int
    width: int
    ink: float
    starts: int
    fit: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def digits(seed: int) -> Images:
    """1797 handwritten digits, 8 x 8 pixels from 0 to 16; a fifth of them, drawn by the seed, is held out.

    References
    ----------
    Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.data))
    test, fit = np.split(order, [len(order) // 5])
    return Images("digits", 8, 8, 16.0, 3, bunch.data[fit], bunch.data[test], bunch.target[test])


def fashion_mnist(directory: str, seed: int) -> Images:
    """Articles of clothing, 28 x 28 pixels from 0 to 1: a sample of the training and of the test images.

    References
    ----------
    Xiao, Rasul & Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.

    Raises
    ------
    DataError
        If the files are missing or damaged.
    """
    fit = read_idx(_find(directory, "train-images-idx3-ubyte"))
    test = read_idx(_find(directory, "t10k-images-idx3-ubyte"))
    labels = read_idx(_find(directory, "t10k-labels-idx1-ubyte"))
    for images, ndim in ((fit, 3), (test, 3), (labels, 1)):
        if images.ndim != ndim or not images.size:
            raise DataError(f"{directory}: an array of {ndim} dimensions was expected, not {images.shape}.")
    if fit.shape[1:] != test.shape[1:] or len(labels) != len(test):
        raise DataError(
            f"{directory}: images {fit.shape}, {test.shape} and labels {labels.shape} do not belong together."
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(fit))[:FASHION_FIT]
    held_out = rng.permutation(len(test))[:FASHION_TEST]
    height, width = fit.shape[1:]
    flat = [part.reshape(len(part), -1) / np.float32(255) for part in (fit[chosen], test[held_out])]
    return Images("fashion-mnist", height, width, 1.0, 1, flat[0], flat[1], labels[held_out])


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an IDX file, gzipped or not.

    Raises
    ------
    DataError
        If it is damaged, or does not hold bytes.

    References
    ----------
    LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "file formats".
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): install it again.") from error
    ndim = content[3] if len(content) > 3 else 0
    start = 4 + 4 * ndim
    if len(content) < start or content[:3] != b"\x00\x00\x08" or not ndim:
        raise DataError(f"{path} is not an IDX file of bytes: install it again.")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, 4))
    if math.prod(shape) != len(content) - start:
        raise DataError(
            f"{path} says that it holds {' x '.join(map(str, shape))} bytes, but holds {len(content) - start}: "
            "install it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(directory: str, name: str) -> Path:
    for candidate in (Path(directory, name), Path(directory, name + ".gz")):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{directory} has no {name}(.gz): on Debian, apt-get install {FASHION_PACKAGE}; "
        "elsewhere, say with --fashion-dir where the files are."
    )
