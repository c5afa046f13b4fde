"""Standard streams that are closed, as cron and daemons leave them: what needs none works, the rest says so."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import mixcoder as library

PROGRAM = f"{sys.executable} -m mixcoder"


def run(words, closed):
    """Exit code, stdout and stderr of the program with some streams closed by the shell."""
    redirect = " ".join({"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}[name] for name in closed)
    ran = subprocess.run(
        ["sh", "-c", f"{PROGRAM} {words} {redirect}"], capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdin", "stdout", "stderr")])
def test_what_needs_no_stream_works_without(gaussian, clouds, closed):
    code, _, errors = run("fit rows.csv -k 3 -o q.mixcoder", closed)
    assert (code, errors) == (0, "")
    assert library.load("q.mixcoder").means_.shape == (3, 2)
    code, _, errors = run("score model.mixcoder rows.csv -o scores.npy", closed)
    assert (code, errors) == (0, "")
    bare = library.GaussianMixture.from_parameters(gaussian.weights_, gaussian.means_, gaussian.covariances_)
    np.testing.assert_allclose(np.load("scores.npy").ravel(), bare.score_samples(clouds), rtol=1e-9)


@pytest.mark.parametrize(
    ("words", "closed", "expected", "told"),
    [
        ("check -", ("stdin",), 3, "standard input is empty, or closed"),
        ("encode model.mixcoder rows.csv -o -", ("stdout",), 2, "stdout, which is closed"),
        ("sample model.mixcoder -n 5 -o -", ("stdout",), 2, "stdout, which is closed"),
        ("score model.mixcoder absent.csv", ("stdout",), 3, "absent.csv"),
        ("score model.mixcoder absent.csv", ("stderr",), 3, ""),
    ],
)
@pytest.mark.usefixtures("gaussian")
def test_what_needs_one_says_so_in_a_line(words, closed, expected, told):
    code, _, errors = run(words, closed)
    assert code == expected
    assert told in errors
    assert "internal error" not in errors
    assert len(errors.splitlines()) == (1 if told else 0)


def test_nothing_meant_for_stderr_ends_in_a_file(here):
    """A file must not get the descriptor of a stream that is closed."""
    script = (
        "import os, sys; from mixcoder.cli.console import open_standard_streams; open_standard_streams();"
        "file = os.open('kept', os.O_CREAT | os.O_WRONLY); print('x', file=sys.stderr); assert file > 2;"
        "os.write(2, b'noise')"
    )
    ran = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "{script}" 2>&-'], capture_output=True, check=False
    )
    assert ran.returncode == 0
    assert os.path.getsize(here / "kept") == 0
