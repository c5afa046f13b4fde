"""What the tests of the command line share: the program, some tables and some fitted models."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from mixcoder.cli import main
from mixcoder.cli.tables import write_table


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mixcoder(here):
    """Run the program, expecting an exit code: ``mixcoder("fit x.csv -k 2", code=0)`` returns click's result."""
    del here

    def run(*words, code=0, stdin=None):
        arguments = [word for part in words for word in (part.split() if isinstance(part, str) else part)]
        result = CliRunner().invoke(main, arguments, input=stdin)
        assert result.exit_code == code, f"exit {result.exit_code}: {result.output}"
        errors = [line for line in result.stderr.splitlines() if line.startswith("mixcoder: error: ")]
        assert len(errors) == (code not in (0, 130, 141, 143) and not result.stdout), result.stderr
        return result

    return run


@pytest.fixture
def ask(mixcoder):
    """Run the program with --json and return the object it prints."""

    def run(*words, code=0, stdin=None):
        printed = mixcoder(*words, "--json", code=code, stdin=stdin).stdout
        record = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert list(record) == sorted(record)
        return record

    return run


@pytest.fixture(scope="session")
def clouds():
    """Three round clouds in the plane, 60 rows each, ten standard deviations apart."""
    rows = np.random.default_rng(0).standard_normal((180, 2))
    rows += np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], 60, axis=0)
    return rows


@pytest.fixture
def data(here, clouds):
    """The clouds as rows.csv, columns ``height`` and ``width``."""
    write_table("rows.csv", clouds, ["height", "width"])
    return here / "rows.csv"


@pytest.fixture(scope="session")
def _models(tmp_path_factory, clouds):
    """Model files fitted once for all tests."""
    directory = tmp_path_factory.mktemp("models")
    write_table(directory / "rows.csv", clouds, ["height", "width"])
    for kind in ("gaussian", "kmeans"):
        words = f"fit {directory}/rows.csv -k 3 --n-init 4 --model {kind} -o {directory}/{kind}.mixcoder"
        result = CliRunner().invoke(main, words.split())
        assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(params=["gaussian", "kmeans"])
def model(request, data, _models):
    """A fitted model.mixcoder beside rows.csv: each test runs for a mixture and for k-means."""
    del data
    return _copy(_models, request.param)


@pytest.fixture
def gaussian(data, _models):
    """As ``model``, a Gaussian mixture only."""
    del data
    return _copy(_models, "gaussian")


@pytest.fixture
def kmeans(data, _models):
    """As ``model``, k-means only."""
    del data
    return _copy(_models, "kmeans")


def _copy(models, kind):
    from pathlib import Path

    import mixcoder

    Path("model.mixcoder").write_bytes((models / f"{kind}.mixcoder").read_bytes())
    return mixcoder.load("model.mixcoder")
