"""What the tests of fitting share: one thread, some clouds, and a problem made of any rows."""

from __future__ import annotations

import pytest
import torch

from mixcoder.fitting.fit import prepare
from mixcoder.fitting.scan import scan_range
from mixcoder.sources import TensorSource


@pytest.fixture(autouse=True)
def one_thread():
    # A few hundred rows are no work for two threads. Tests about threads set their own number.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def clouds():
    """Three clouds in the plane, 200 rows each, of different shapes; ``clouds(n)`` for n rows each."""

    def draw(n_each: int = 200, seed: int = 0) -> torch.Tensor:
        rows = torch.randn(3, n_each, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        factors = torch.tensor([[[1.0, 0], [0.6, 0.5]], [[0.3, 0], [0, 1.4]], [[0.8, 0], [0, 0.8]]]).double()
        centres = torch.tensor([[0.0, 0.0], [6.0, 1.0], [-2.0, 5.0]], dtype=torch.float64)
        return (rows @ factors.mT + centres[:, None]).flatten(0, 1)

    return draw


@pytest.fixture(scope="session")
def problem_of():
    """``problem_of(family, x, weights)``: the rows as a fit reads them."""

    def make(family, x, weights=None, **keywords):
        source = TensorSource(x, weights)
        return prepare(source, family, scan_range(source), **keywords)[0]

    return make
