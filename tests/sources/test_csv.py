"""CSV: what a line says, where a row begins, and errors that name file and line."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mixcoder
from mixcoder.cli.tables import open_table
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources import csv as csv_module
from mixcoder.sources import open_blocks


def written(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_in(path, **options):
    source = open_blocks(path, **options)
    return torch.cat([block.x for block in source.blocks(3)]).numpy()


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "1.0,2\n3,4",
        "\ufeffa,b\r\n1,2\r\n\r\n3,4\r\n",
        '"a","b"\n"1","2"\n3,4\n',
        '"a\nand more",b\n1,2\n\n3,4\n',
        " a , b \n 1 , 2 \n 3 , 4 \n",
        "a,b\n1,2\n   \n3,4\n\n\n",
    ],
)
def test_ways_to_write_the_same_table(tmp_path, text):
    assert rows_in(written(tmp_path, text)).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_missing_cells_are_nan_and_text_is_left_out_by_name(tmp_path):
    path = written(tmp_path, 'id,"x, y",z\nu,1,NA\n"v ""w""\nu",,-1e-3\n')
    assert np.array_equal(
        rows_in(path, columns=["z", "x, y"]), [[np.nan, 1.0], [-1e-3, np.nan]], equal_nan=True
    )
    with pytest.raises(DataTypeError, match=r"Line 2, column 'id' of .*t\.csv: 'u' is not a number"):
        open_blocks(path)


def test_the_first_line_is_judged_or_asked_about(tmp_path):
    for text in ("a,1\n2,3\n", "0,1\n2,3\n"):
        path = written(tmp_path, text)
        with pytest.raises(DataError, match="header=True"):
            open_blocks(path)
        assert len(rows_in(path, header=True)) == 1
    assert len(rows_in(path, header=False)) == 2
    assert open_blocks(path, header=False).names is None
    with pytest.raises(DataError, match="no named columns"):
        open_blocks(path, header=False, columns=["a"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b\n1,2\n1\n", "Line 3 of .* has 1 cells, expected 2"),
        ("a,b\n1,2\n\n1,2,3\n", "Line 4 of .* has 3 cells, expected 2"),
        ("a,b\n1,2\n3,4x\n", "Line 3, column 'b' of .*: '4x' is not a number"),
        ("1.5,2\n3,one\n", "Line 2, column 1 of"),
        ("a,b\n1,1_0\n", "'1_0' is not a number"),
        ("a;b\n1;2\n", "Line 2, column 'a;b' of .*: '1;2' is not a number"),
        ('a,b\n1,2\n3,"4\n', "Line 3 of .* is not CSV"),
        (b"a,b\n1,2\n3,\xff\n", "Line 3 of .* is not UTF-8 text .byte 0xff"),
        ("a,a\n1,2\n", "several columns 'a'"),
        (",a\n1,2\n", "no name"),
        ("a,b\n", "no rows"),
        ("\n\n", "no rows"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line_before_a_fit(tmp_path, text, match):
    with pytest.raises(DataError, match=match) as caught:
        open_blocks(written(tmp_path, text))
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_chunks_end_where_rows_end(tmp_path, seed, monkeypatch):
    """Any size of a chunk gives the rows that one parse of the whole gives."""
    rng = np.random.default_rng(seed)
    x, lines = rng.normal(size=(300, 3)), ["a,note,b,c"]
    for row in x.tolist():
        note = ['"two\nlines"', '"a ""quote"""', "plain", '"a, comma"'][rng.integers(4)]
        lines.extend([""] * int(rng.integers(3)))
        lines.append(f"{row[0]!r},{note},{row[1]!r},{row[2]!r}")
    path = written(tmp_path, "\n".join(lines) + "\n")
    for size in (1, 7, 64, 1000, 10**6):
        monkeypatch.setattr(csv_module, "_CHUNK_BYTES", size)
        source = open_blocks(path, columns=["a", "b", "c"])
        assert torch.equal(torch.cat([block.x for block in source.blocks(11)]), torch.from_numpy(x))
        (part,) = source.parts
        text = path.read_bytes()
        for row in (0, 1, 150, 299):
            line = int(part.place(row).rpartition("line ")[2].rstrip(")"))
            assert repr(float(x[row, 2])) in text.decode().split("\n")[line - 1]


@given(
    st.lists(st.lists(st.floats(allow_infinity=False), min_size=2, max_size=2), min_size=1, max_size=20),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=60, deadline=None)
def test_numbers_are_read_to_the_last_bit_and_as_by_the_program(tmp_path_factory, rows, end):
    folder = tmp_path_factory.mktemp("csv")
    path = written(folder, "a,b" + end + end.join(",".join(map(repr, row)) for row in rows))
    expected = np.array(rows)
    assert np.array_equal(rows_in(path), expected, equal_nan=True)
    assert np.array_equal(open_table(str(path)).read().values, expected, equal_nan=True)


def test_a_quote_that_does_not_close_is_not_read_to_the_end_of_the_world(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_module, "_MAX_ROW_BYTES", 1 << 10)
    monkeypatch.setattr(csv_module, "_CHUNK_BYTES", 1 << 8)
    with pytest.raises(DataError, match="a quote that does not close"):
        open_blocks(written(tmp_path, 'a,b\n1,2\n3,"4\n' + "5,6\n" * 10_000))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = written(tmp_path, "a,b\n" + "1.25,2.5\n" * 40_000)
    blocks = open_blocks(path).blocks(100)
    next(blocks)
    os.truncate(path, 70_000)
    with pytest.raises(DataChangedError, match="ended after line"):
        list(blocks)


def test_gzip_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataTypeError, match="gunzip"):
        open_blocks(written(tmp_path, b"\x1f\x8b", "t.csv.gz"))


def test_a_model_knows_the_names_of_the_columns(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 2))
    path = written(tmp_path, "u,v\n" + "\n".join(f"{a!r},{b!r}" for a, b in x.tolist()))
    model = mixcoder.GaussianMixture(2, random_state=0).fit(open_blocks(path))
    assert model.feature_names_in_.tolist() == ["u", "v"]
