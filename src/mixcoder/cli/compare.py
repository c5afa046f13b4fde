"""Codes of the same size, compared: prototypes (mixture, k-means) against quantised principal components.

Every method turns an image into a few whole numbers and those back into an image, and is charged for the numbers:

    flat      log2 of how many values the code can take: what it costs without any modelling
    entropy   the mean of -log2 q(code) over the test images, q counted on the training images: what it costs with
              an entropy coder that knows how often each value comes

The decoder itself (prototypes, principal axes) is not charged to anyone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["QuantisedPCA", "Result", "entropy_bits", "judge", "quantised_pca", "square_error"]


@dataclass(frozen=True)
class Result:
    """What one method makes of images: the size of its code in bits, and the mean squared error per image."""

    name: str
    code: str
    flat_bits: float
    entropy_bits: float
    distortion_fit: float
    distortion: float
    reconstruct: Any  # rows (n d) -> rows (n d)


def square_error(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the rows of |x - y|^2.

    Examples
    --------
    >>> square_error(np.zeros((2, 3)), np.ones((2, 3)))
    3.0
    """
    difference = np.asarray(x, dtype=np.float64) - y
    return float((difference * difference).sum(axis=1).mean())


def entropy_bits(fit: np.ndarray, test: np.ndarray, n_values: int) -> float:
    """Bits per row that an entropy coder pays for ``test``, knowing the frequencies of each column of ``fit``.

    One is added to every count, so that a value that never came costs much, not infinitely much. Columns are coded
    one by one.

    Parameters
    ----------
    fit, test : ndarray of int, shape (n, q)
        Values from 0 to n_values - 1.

    Examples
    --------
    >>> even = np.arange(4).repeat(100).reshape(-1, 1)
    >>> entropy_bits(even, even, 4)
    2.0
    """
    bits = 0.0
    for column_fit, column_test in zip(fit.T, test.T, strict=True):
        counts = np.bincount(column_fit, minlength=n_values) + 1.0
        bits += float(-np.log2(counts / counts.sum())[column_test].mean())
    return bits


def judge(
    name: str, code: str, n_values: int, q: int, encode: Any, decode: Any, fit: np.ndarray, test: np.ndarray
) -> Result:
    """The result of a method given by its two halves: encode rows (n d) -> codes (n q), decode codes -> rows."""
    codes_fit, codes_test = encode(fit), encode(test)
    return Result(
        name,
        code,
        q * math.log2(n_values),
        entropy_bits(codes_fit, codes_test, n_values),
        square_error(fit, decode(codes_fit)),
        square_error(test, decode(codes_test)),
        lambda rows: decode(encode(rows)),
    )


@dataclass(frozen=True)
class QuantisedPCA:
    """q principal coefficients, each cut into 2^b equal cells of its range and decoded to the middle of its cell."""

    mean: np.ndarray
    axes: np.ndarray  # (q, d)
    low: np.ndarray
    high: np.ndarray
    b: int

    @property
    def step(self) -> np.ndarray:
        return (self.high - self.low) / 2**self.b

    def encode(self, x: np.ndarray) -> np.ndarray:
        """The cells (n q); what lies outside the range goes to the last cell on its side."""
        z = (np.asarray(x, dtype=np.float64) - self.mean) @ self.axes.T
        return np.clip(np.floor((z - self.low) / self.step), 0, 2**self.b - 1).astype(np.int64)

    def decode(self, cells: np.ndarray) -> np.ndarray:
        return self.mean + (self.low + (cells + 0.5) * self.step) @ self.axes


def quantised_pca(fit: np.ndarray, bits: int) -> QuantisedPCA:
    """The best quantised PCA with q b <= bits: every split is tried, and the training rows decide."""
    from sklearn.decomposition import PCA

    limit = min(bits, *fit.shape)
    pca: Any = PCA(n_components=limit, random_state=0).fit(np.asarray(fit, dtype=np.float64))
    z = pca.transform(np.asarray(fit, dtype=np.float64))
    tried: list[tuple[float, QuantisedPCA]] = []
    for q, b in _splits(bits, limit):
        coder = QuantisedPCA(pca.mean_, pca.components_[:q], z[:, :q].min(axis=0), z[:, :q].max(axis=0), b)
        tried.append((square_error(fit, coder.decode(coder.encode(fit))), coder))
    return min(tried, key=lambda pair: pair[0])[1]


def _splits(bits: int, limit: int) -> Sequence[tuple[int, int]]:
    """All (q, b) with q b <= bits and q <= limit."""
    return [(q, b) for q in range(1, limit + 1) for b in range(1, bits // q + 1)]
