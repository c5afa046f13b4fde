"""What a CSV says of truth and of semicolons is the same on the command line and in a source of files."""

from __future__ import annotations

import numpy as np
import pytest

from mixcoder._cells import header_of, number_in
from mixcoder.cli.tables import open_table
from mixcoder.errors import DataError
from mixcoder.sources.csv import CsvPart


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_truth_is_one(word):
    assert number_in(f" {word} ") == 1.0
    assert number_in({"t": "false", "T": "False"}[word[0]]) == 0.0
    assert number_in(word + "s") is None


@pytest.mark.parametrize(
    ("first", "named"), [(["flag", "x"], True), (["True", "1.5"], False), (["1", "2.5"], False)]
)
def test_truth_in_the_first_line_is_a_row(first, named):
    assert header_of(first) == (named, None)


def test_a_first_line_of_truth_alone_is_asked_about():
    assert "truth values alone" in str(header_of(["False", "True"])[1])


def test_booleans_are_the_same_from_every_file(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "flag": [True, False, True]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    wanted = frame.to_numpy(dtype=np.float64)
    for name in ("a.csv", "a.parquet"):
        table = open_table(str(tmp_path / name))
        np.testing.assert_array_equal(table.read().values, wanted)
        assert not table.survey().text
    np.testing.assert_array_equal(_read(tmp_path / "a.csv"), wanted)


@pytest.mark.parametrize("text", ["x;y\n1,5;2,5\n3,5;4,5\n", "x;y\n1.5;2.5\n", "1,5;2,5\n2,5;3,5\n"])
def test_semicolons_are_seen(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"semicolons .* points as decimal marks"):
        open_table(str(path)).survey()
    with pytest.raises(DataError, match=r"semicolons .* points as decimal marks"):
        _read(path)


def _read(path):
    """Read the only chunk of a file, which is closed whatever it holds."""
    reader = CsvPart.open(path, None, None).reader()
    try:
        return reader.read_group(0)
    finally:
        reader.close()
