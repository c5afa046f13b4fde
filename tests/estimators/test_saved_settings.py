"""What a model file keeps of the settings, and what killed writers have left beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

import mixcoder
from mixcoder import GaussianMixture, KMeans
from mixcoder._drafts import draft_beside, remove_stale_drafts
from mixcoder.errors import DataTypeError

X = load_iris().data


def test_functions_and_random_states_have_their_default_after_load(tmp_path):
    def centres(x, k, random_state):
        return x[random_state.choice(len(x), k, replace=False)]

    model = KMeans(3, init=centres, n_init=2, random_state=np.random.RandomState(0)).fit(X)
    model.save(tmp_path / "m")
    loaded, fresh = mixcoder.load(tmp_path / "m"), KMeans()
    assert (loaded.init, loaded.random_state) == (fresh.init, fresh.random_state)
    assert loaded.n_init == 2
    np.testing.assert_array_equal(loaded.cluster_centers_, model.cluster_centers_)
    assert "default" in mixcoder.KMeans.save.__doc__


def test_a_save_removes_what_killed_writers_left_and_nothing_else(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from mixcoder._drafts import draft_beside;"
        "draft_beside(Path(sys.argv[1]) / 'm').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ran.returncode == -9
    (killed,) = tmp_path.iterdir()
    ours = draft_beside(tmp_path / "m")
    unknown, old, other = (tmp_path / f".mixcoder-{c * 16}.tmp" for c in "abc")
    elsewhere = tmp_path / f".mixcoder-{'0' * 8}-1-{'d' * 16}.tmp"
    theirs = tmp_path / ".mixcoder-mine.tmp"
    for path in (ours, unknown, old, elsewhere, theirs):
        path.write_bytes(b"half")
    other.mkdir()
    os.utime(old, (time.time() - 1e5,) * 2)
    os.utime(other, (time.time() - 1e5,) * 2)
    GaussianMixture(1).fit(X).save(tmp_path / "m")
    assert not killed.exists()
    assert not old.exists()
    assert {ours, unknown, elsewhere, theirs, other, tmp_path / "m"} == set(tmp_path.iterdir())
    remove_stale_drafts(tmp_path / "absent")  # says nothing


@pytest.mark.parametrize("estimator", [GaussianMixture(2), KMeans(2)])
def test_rows_without_numbers_are_refused(estimator):
    with pytest.raises(DataTypeError, match="meta"):
        estimator.fit(torch.empty(10, 3, device="meta"))
