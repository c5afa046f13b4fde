from __future__ import annotations

import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def _headless():
    """No window, and every figure closed."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    yield
    plt.close("all")
