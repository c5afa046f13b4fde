"""``mixcoder impute``: missing cells in tables of every kind."""

from pathlib import Path

import numpy as np
import pytest

from mixcoder import load
from mixcoder.cli.tables import open_table, write_table

# The program hands arrays to models that know names.
pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")


@pytest.fixture
def holed(gaussian, clouds):
    """The clouds with a tenth of the cells missing, and one row of nothing."""
    rows = clouds.copy()
    rows[np.random.default_rng(1).random(rows.shape) < 0.1] = np.nan
    rows[7] = np.nan
    return rows


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_missing_cells_are_filled_and_the_others_kept(ask, gaussian, holed, kind):
    write_table(f"holes.{kind}", holed, ["height", "width"])
    record = ask(f"impute holes.{kind} -m model.mixcoder -o whole.{kind}")
    table = open_table(f"whole.{kind}").read()
    np.testing.assert_allclose(table.values, gaussian.impute(holed), rtol=1e-12)
    seen = ~np.isnan(holed)
    np.testing.assert_array_equal(table.values[seen], holed[seen])
    assert table.columns == (("x0", "x1") if kind == "npy" else ("height", "width"))
    assert record["missing"] == (~seen).sum()
    assert record["incomplete_rows"] == (~seen).any(1).sum()
    assert record["empty_rows"] == (~seen).all(1).sum() >= 1
    assert (record["rule"], record["seed"]) == ("mean", None)


def test_draws_have_a_seed(ask, mixcoder, gaussian, holed):
    write_table("holes.csv", holed, ["height", "width"])
    assert ask("impute holes.csv -m model.mixcoder --rule sample --seed 3 -o a.npy")["seed"] == 3
    mixcoder("impute holes.csv -m model.mixcoder --rule sample --seed 3 -o b.npy")
    mixcoder("impute holes.csv -m model.mixcoder --rule sample --seed 4 -o c.npy")
    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    np.testing.assert_array_equal(a, b)
    gone = np.isnan(holed)
    assert (a[gone] != c[gone]).all()
    np.testing.assert_array_equal(a[~gone], holed[~gone])


def test_empty_fields_pass_through_pipes(mixcoder, gaussian):
    shown = mixcoder("impute - -m model.mixcoder -o -", stdin="width,height\n1,\n,10\n0.5,0.5\n").stdout
    lines = shown.splitlines()
    assert lines[0] == "height,width"  # the model's order
    assert lines[3] == "0.5,0.5"
    assert all(cell for line in lines for cell in line.split(","))


def test_a_table_with_holes_is_fitted_and_fills_itself(ask, mixcoder, holed):
    rows = holed[~np.isnan(holed).all(1)]
    write_table("holes.csv", rows, ["height", "width"])
    record = ask("fit holes.csv -k 3 --n-init 4 -o own.mixcoder")
    assert record["converged"]
    mixcoder("impute holes.csv -m own.mixcoder -o whole.npy")
    np.testing.assert_allclose(np.load("whole.npy"), load("own.mixcoder").impute(rows))
    for command in ("encode", "score"):
        mixcoder(f"{command} own.mixcoder holes.csv -o {command}.npy")
        assert np.isfinite(np.load(f"{command}.npy")).all()


def test_impute_refuses(mixcoder, kmeans):
    assert "no rule for missing" in mixcoder("impute rows.csv -m model.mixcoder -o a.csv", code=2).stderr
    assert "--model" in mixcoder("impute rows.csv -o a.csv", code=2).stderr
    assert "--rule" in mixcoder("impute rows.csv -m model.mixcoder -o a.csv --rule median", code=2).stderr
    assert not Path("a.csv").exists()


def test_infinite_cells_stay_an_error(mixcoder, gaussian):
    Path("t.csv").write_text("height,width\n1,\ninf,2\n")
    assert (
        "row 1 (from 0), column 'height' is inf"
        in mixcoder("impute t.csv -m model.mixcoder -o a.csv", code=3).stderr
    )
