"""One thread, and one small mixture of each Gaussian family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mixcoder import GaussianMixture
from mixcoder.autoencoder import MixtureAutoencoder

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")

K, D = 3, 5


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """A mixture, and the same as dense arrays, written down before the library saw them."""

    estimator: GaussianMixture
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def model(self) -> MixtureAutoencoder:
        return self.estimator.model_

    @property
    def dense(self):
        return list(zip(self.weights, self.means, self.covariances, strict=True))


def make_case(kind: str, seed: int = 0, *, offset: float = 30.0, weights=(0.5, 0.3, 0.2)) -> Case:
    rng = np.random.default_rng(seed)
    means = offset + 2 * rng.standard_normal((K, D))
    units = (
        np.array([1.0, 1.0, 1.0, 1.0, 1.0]) if "spherical" in kind else np.array([1.0, 9.0, 0.1, 3.0, 1.0])
    )
    means = means * units
    factors = rng.standard_normal((K, D, D))
    full = (factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(D)) * units[:, None] * units
    variances = rng.uniform(0.3, 2.0, (K, D)) * units**2
    rounds = rng.uniform(0.3, 2.0, K)
    given, dense = {
        "full": (full, full),
        "tied": (full[0], np.stack([full[0]] * K)),
        "diag": (variances, np.stack([np.diag(v) for v in variances])),
        "spherical": (rounds, np.stack([v * np.eye(D) for v in rounds])),
        "tied_diag": (variances[0], np.stack([np.diag(variances[0])] * K)),
        "tied_spherical": (rounds[0], np.stack([rounds[0] * np.eye(D)] * K)),
    }[kind]
    weights = np.asarray(weights)
    return Case(GaussianMixture.from_parameters(weights, means, given, kind), weights, means, dense)


@pytest.fixture(params=COVARIANCE_TYPES)
def case(request) -> Case:
    return make_case(request.param)
