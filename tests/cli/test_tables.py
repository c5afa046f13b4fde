"""Tables: what is written reads back exactly, and whatever is wrong with a file is said in one sentence."""

import gzip
import io
import math
import os
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixcoder._cells import MISSING
from mixcoder.cli.tables import (
    EXTENSIONS,
    bytes_text,
    extension,
    open_table,
    require_finite,
    write_table,
)
from mixcoder.errors import DataError, PrecisionWarning


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(here, text, name="t.csv"):
    (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def refused(*words, path, columns=None, **options):
    """The message with which a file is refused; it is one line, names the file, and contains all the words."""
    with pytest.raises(DataError) as caught:
        open_table(str(path), **options).read(columns)
    message = str(caught.value)
    assert "\n" not in message
    assert os.path.basename(str(path)) in message
    for word in words:
        assert word in message, message
    return message


# ------------------------------------------------------------------------------------------------------- both ways


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("name", ["rows", "Röws 数 ✓", "a.b", "UPPER"])
def test_what_is_written_reads_back_exactly(here, kind, name):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).standard_normal((50, 3)) * np.array([1e-300, 1.0, 1e300])
    x[:4, 1] = [0.1 + 0.2, -0.0, 5e-324, np.nextafter(1, 2)]
    path = name + (kind.upper() if name == "UPPER" else kind)
    write_table(path, x, ["α", "b, c", 'd"'])
    table = open_table(path).read()
    assert table.values.dtype == np.float64
    np.testing.assert_array_equal(table.values.view(np.int64), x.view(np.int64))  # -0.0 is not 0.0
    named = kind not in (".npy", ".npz")
    assert table.named == named
    assert table.columns == (("α", "b, c", 'd"') if named else ("x0", "x1", "x2"))


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(
        st.sampled_from([np.float64, np.float32]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements={"allow_nan": True, "allow_infinity": True},
    )
)
def test_every_float_survives_csv(x, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("csv") / "x.csv")
    write_table(path, x)
    np.testing.assert_array_equal(open_table(path).read().values, x.astype(np.float64))


@pytest.mark.parametrize("kind", [".npy", ".npz", ".parquet"])
def test_float32_stays_float32(here, kind):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    write_table("x" + kind, x)
    back = open_table("x" + kind).read().values
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, x)


def test_whole_numbers_are_written_without_a_point(here):
    write_table("codes.csv", np.array([2, 0, 1]), ["component"])
    assert (here / "codes.csv").read_text() == "component\n2\n0\n1\n"
    write_table("codes.npy", np.array([2, 0, 1]))
    assert np.load("codes.npy").dtype == np.int64
    assert np.load("codes.npy").shape == (3,)


def test_the_same_rows_give_the_same_gzip_bytes(here):
    for name in ("a.csv.gz", "b.csv.gz"):
        write_table(name, np.ones((3, 2)))
    assert (here / "a.csv.gz").read_bytes() == (here / "b.csv.gz").read_bytes()


def test_an_npz_names_its_array(here):
    write_table("codes.npz", np.arange(3), key="codes")
    with np.load("codes.npz") as archive:
        assert archive.files == ["codes"]


@pytest.mark.parametrize(
    "dtype",
    ["bool", "i1", "u1", "i2", "<u4", ">i4", ">i8", "f2", "<f4", ">f4", ">f8", "longdouble"],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_numeric_dtype_and_order_is_read_by_value(here, dtype, order):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype, order=order)
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        table = open_table(name).read()
        assert table.values.flags.c_contiguous
        assert table.values.dtype.isnative
        np.testing.assert_array_equal(table.values, x.astype(float))


def test_whole_numbers_beyond_float64_are_warned_of(here):
    np.save("big.npy", np.array([[2**53 + 1], [0]]))
    with pytest.warns(PrecisionWarning, match="rounded"):
        open_table("big.npy").read()


def test_columns_are_taken_by_name_in_the_order_named(here):
    path = csv(here, "a,b,c\n1,2,3\n4,5,6\n")
    table = open_table(path).read(["c", "a"])
    assert table.columns == ("c", "a")
    np.testing.assert_array_equal(table.values, [[3, 1], [6, 4]])
    np.save("x.npy", np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(open_table("x.npy").read(["x2", "x0"]).values, [[2, 0], [5, 3]])


def test_a_single_column_and_a_single_row_stay_tables(here):
    assert open_table(csv(here, "a\n1\n2\n")).read().values.shape == (2, 1)
    assert open_table(csv(here, "1,2,4\n")).read().values.shape == (1, 3)
    assert open_table(csv(here, "a,b\n1,x\n")).read(["a"]).values.shape == (1, 1)


# --------------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("1.5,2\n3,4\n", ("x0", "x1"), [[1.5, 2], [3, 4]]),
        ("a,b\n1,2", ("a", "b"), [[1, 2]]),
        ("\ufeffa,b\r\n1,2\r\n", ("a", "b"), [[1, 2]]),
        ("\n\na,b\n\n1,2\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]]),
        ('"a","b\nb"\n"1"," 2 "\n', ("a", "b\nb"), [[1, 2]]),
        (" a , b \n 1 , 2 \n", ("a", "b"), [[1, 2]]),
        ("a,b\n1e3,-.5\n+1.,0x\n".replace("0x", "00"), ("a", "b"), [[1000, -0.5], [1, 0]]),
        ("a,b\nnan,inf\n-Infinity,1e400\n", ("a", "b"), [[math.nan, math.inf], [-math.inf, math.inf]]),
        ("a,b\n,NA\n1,null\n", ("a", "b"), [[math.nan, math.nan], [1, math.nan]]),
        ("a,b\n,\n1,2\n", ("a", "b"), [[math.nan, math.nan], [1, 2]]),
        ('a\n1\n""\n2\n', ("a",), [[1], [math.nan], [2]]),
        ("#a,b\n1,2\n", ("#a", "b"), [[1, 2]]),
        ("a,b\r1,2\r", ("a", "b"), [[1, 2]]),
    ],
)
def test_csv_dialects(here, text, columns, values):
    table = open_table(csv(here, text)).read()
    assert table.columns == columns
    np.testing.assert_array_equal(table.values, values)


@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_for_missing_are_missing(here, word):
    values = open_table(csv(here, f"a,b\n{word},2\n")).read().values
    np.testing.assert_array_equal(values, [[math.nan, 2]])


def test_tabs_in_a_tsv(here):
    table = open_table(csv(here, "a b\tc\n1\t2\n", "t.tsv")).read()
    assert table.columns == ("a b", "c")


def test_the_slow_reader_reads_what_the_fast_one_does(here):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)) * 10.0 ** rng.integers(-300, 300, (200, 3))
    write_table("x.csv", x, ["a", "b", "c"])
    source = open_table("x.csv")
    fast = source._fast([0, 1, 2])
    slow, text = source._slow([0, 1, 2], strict=True)
    assert not text
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(source._fast([2, 0]), slow[:, [2, 0]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\n \n", ["empty"]),
        ("a,b\n", ["header but no rows"]),
        ("a,b\n\n", ["header but no rows"]),
        ("a,b\n1,2\n3\n", ["line 3 has 1 cells", "line 1 has 2"]),
        ("a,b\n1,2\n\n3,4,5\n", ["line 4 has 3 cells"]),
        ("1.5,2\n3\n", ["line 2 has 1 cells"]),
        ("a,b\n1,2\n3,four\n", ["line 3", "'b'", "'four'", "--columns"]),
        ("a,b\n1,1_000\n", ["line 2", "'1_000'"]),
        ("a,b\n1,\u0661\n", ["line 2", "'b'"]),
        ("a,b\n1,0x10\n", ["'0x10'"]),
        ("a,b\n1,2023-01-01\n", ["'2023-01-01'"]),
        ("a,b\n1," + "y" * 1000 + "\n", ["yyy..."]),
        ("a,b,a\n1,2,3\n", ["columns 1 and 3", "'a'"]),
        (",a,b\n0,1,2\n1,3,4\n", ["column 1 has no name", "--columns"]),
        ("a;b\n1;2\n", ["line 2", "semicolons"]),
        ("5.1,setosa\n4.9,setosa\n", ["line 1", "both text", "--header", "--no-header"]),
        ("0,1,2\n5,6,7\n", ["line 1 counts", "--header"]),
        ("1,2,3\n5,6,7\n", ["line 1 counts"]),
        ('a,b\n1,"2\n', ["not CSV"]),
        ('a,b\n1,"2"3\n', ["line 2", "not CSV"]),
        (b"a,b\n1,\xff\n", ["UTF-8", "0xff"]),
        (b"\xff\xfea\x00,\x00b\x00", ["UTF-8"]),
        (b"a,b\n1,2\x003\n", ["t.csv line 2"]),
    ],
)
def test_csv_is_refused_with_the_place_and_a_remedy(here, text, words):
    refused(*words, path=csv(here, text))


@pytest.mark.parametrize("text", ["a,b\n1,2\n3\n", "a,b\n1,2\n3,4,x\n", "a,b\n1,2\n3,4,5\n"])
def test_a_ragged_line_is_found_whichever_columns_are_read(here, text):
    refused("line 3 has", path=csv(here, text), columns=["a"])


def test_a_header_of_numbers_is_what_the_user_says(here):
    path = csv(here, "0,1\n5,6\n")
    table = open_table(path, header=True).read()
    assert (table.columns, table.values.tolist()) == (("0", "1"), [[5, 6]])
    assert open_table(path, header=False).read().values.tolist() == [[0, 1], [5, 6]]
    assert open_table(csv(here, "2019,x\n5,6\n"), header=True).columns == ("2019", "x")


def test_text_columns_do_not_disturb_others(here):
    path = csv(here, 'a,who,b\n1,"Doe, Jane",2\n3,"multi\nline",4\n')
    np.testing.assert_array_equal(open_table(path).read(["a", "b"]).values, [[1, 2], [3, 4]])
    refused("line 2", "'who'", "Doe, Jane", path=path)
    # Two lines that a reader without quotes takes for two rows, and that are one.
    path = csv(here, 'a,who,b\n1,"x,2\n3,y",4\n')
    np.testing.assert_array_equal(open_table(path).read(["a", "b"]).values, [[1, 4]])


def test_unknown_and_repeated_columns(here):
    path = csv(here, "a,b\n1,2\n")
    refused("no column 'z'", "a, b", path=path, columns=["a", "z"])
    with pytest.raises(DataError, match="asked for twice"):
        open_table(path).read(["a", "a"])
    refused("it names none", path=csv(here, "1.5,2\n"), columns=["a"])


def test_a_survey_counts_text_cells_instead_of_refusing_them(here):
    survey = open_table(csv(here, "a,b\n1,x\n,y\n3,4\n")).survey()
    assert survey.dtypes == ("float64", "text")
    seen = survey.text["b"]
    assert (seen.count, seen.row, seen.line, seen.example) == (2, 0, 2, "x")
    assert set(survey.text) == {"b"}
    np.testing.assert_array_equal(survey.table.values, [[1, math.nan], [math.nan, math.nan], [3, 4]])


def test_gzip_damage(here):
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 5000)
    (here / "x.csv.gz").write_bytes(whole)
    assert open_table("x.csv.gz").read().values.shape == (5000, 2)
    for broken in (whole[:-9], whole[: len(whole) // 2], b"a,b\n1,2\n", whole[:-8] + bytes(8)):
        (here / "x.csv.gz").write_bytes(broken)
        refused("not a whole gzip file", path="x.csv.gz")


def test_a_pipe_is_read_once(here):
    import threading

    os.mkfifo("pipe.csv")
    writer = threading.Thread(target=lambda: (here / "pipe.csv").write_text("a,b\n1,2\n"))
    writer.start()
    table = open_table("pipe.csv").read()
    writer.join()
    assert table.values.tolist() == [[1, 2]]


def test_stdin_and_stdout(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n")))
    table = open_table("-").read()
    assert (table.path, table.values.tolist()) == ("standard input", [[1, 2]])
    write_table("-", table.values, table.columns)
    assert capsys.readouterr().out == "a,b\n1.0,2.0\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DataError, match="standard input is empty"):
        open_table("-")


# -------------------------------------------------------------------------------------------------------------- files


def test_files_that_are_not_there_or_not_files(here):
    refused("no such file", path="nowhere.csv")
    (here / "folder.csv").mkdir()
    refused("directory", path="folder.csv")
    for kind in EXTENSIONS:
        (here / f"empty{kind}").write_bytes(b"")
        refused("empty", path=f"empty{kind}")
    refused(".parquet", path="rows.xlsx")
    refused("--key", path=csv(here, "a\n1\n"), key="x")
    np.save("x.npy", np.ones((2, 2)))
    refused("--header", path="x.npy", header=True)
    if os.geteuid():
        (here / "secret.csv").write_text("a\n1\n")
        (here / "secret.csv").chmod(0)
        refused("may not be read", path="secret.csv")


def test_a_path_that_is_not_utf8_can_be_named(here):
    path = os.fsdecode(b"r\xf6ws.csv")
    with pytest.raises(DataError) as caught:
        open_table(path)
    str(caught.value).encode()


# ---------------------------------------------------------------------------------------------------------- NPY, NPZ


def npy(shape, descr="<f8", data=b"", fortran=False):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return out.getvalue() + data


def both(here, content):
    """The same array as a file and as a member of an archive."""
    (here / "x.npy").write_bytes(content)
    with zipfile.ZipFile(here / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return ("x.npy", "x.npz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((10, 4), data=bytes(319)), ["320 bytes", "319 bytes"]),
        (npy((10, 4), data=bytes(321)), ["320 bytes", "321 bytes"]),
        (npy((2**40, 8)), ["64 TiB", "0 bytes"]),
        (npy((2**62, 2**62)), ["EiB"]),
        (npy((0, 3)), ["0 rows", "3 columns"]),
        (npy((3, 0)), ["3 rows", "0 columns"]),
        (npy((), data=bytes(8)), ["0 dimensions"]),
        (npy((4,), data=bytes(32)), ["one dimension", "reshape(-1, 1)"]),
        (npy((2, 2, 2), data=bytes(64)), ["3 dimensions"]),
        (npy((2, 2), "|O", bytes(32)), ["unpickled", "astype(float)"]),
        (npy((2, 2), "<c16", bytes(64)), ["complex"]),
        (npy((2, 2), "<M8[s]", bytes(32)), ["dates"]),
        (npy((2, 2), "<m8[s]", bytes(32)), ["differences"]),
        (npy((2, 2), "<U3", bytes(48)), ["text"]),
        (npy((2, 2), "|S3", bytes(12)), ["text"]),
        (npy((2,), [("a", "<f8")], bytes(16)), ["named fields"]),
        (npy((2,), [("a", "|O")], bytes(16)), ["unpickled"]),
        (b"\x93NUMPY", ["not an NPY file"]),
        (b"\x93NUMPY\x09\x00" + bytes(100), ["NPY"]),
        (b"not numpy at all, but long enough to look at", ["not an NPY file"]),
        (
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': __import__('os').system('true')".ljust(118),
            ["header is damaged"],
        ),
    ],
)
def test_arrays_are_refused_before_they_are_allocated(here, content, words):
    for path in both(here, content):
        refused(*words, path=path)


def test_an_npy_file_cut_anywhere_is_refused(here):
    whole = npy((3, 2), data=np.arange(6.0).tobytes())
    for size in range(len(whole)):
        (here / "x.npy").write_bytes(whole[:size])
        refused(path="x.npy")


def test_an_array_larger_than_memory_is_refused(here, monkeypatch):
    np.save("x.npy", np.ones((100, 10)))
    monkeypatch.setattr("mixcoder.cli.tables.physical_memory", lambda: 7999)
    refused("7.81 KiB", "this machine has", path="x.npy")


def test_objects_are_never_unpickled(here):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.save("x.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    np.savez("x.npz", x=np.array([[Bomb()]], dtype=object))
    for path in ("x.npy", "x.npz"):
        refused("never are", path=path)


def test_one_of_several_arrays_is_chosen_by_key(here):
    np.savez("many.npz", a=np.zeros((2, 2)), b=np.ones((3, 2)))
    refused("2 arrays", "--key", "a, b", path="many.npz")
    refused("no array 'c'", "a, b", path="many.npz", key="c")
    table = open_table("many.npz", key="b").read()
    assert table.values.shape == (3, 2)
    assert table.path == "many.npz[b]"
    np.savez("one.npz", a=np.zeros((2, 2)))
    assert open_table("one.npz").read().values.shape == (2, 2)
    np.savez("none.npz")
    refused("no arrays", path="none.npz")


def test_vectors_are_columns_only_where_they_are_expected(here):
    for path in both(here, npy((4,), "<i8", np.arange(4).tobytes())):
        assert open_table(path, vector=True).read().values.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_refused_or_reads_the_same(here, save):
    x = np.random.default_rng(0).standard_normal((40, 3))
    save("x.npz", x=x)
    whole = (here / "x.npz").read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(whole), 150):
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(8))
        (here / "x.npz").write_bytes(broken)
        try:
            back = open_table("x.npz").read().values
        except DataError:
            continue
        np.testing.assert_array_equal(back, x)  # a time stamp or an attribute, not the data
    (here / "x.npz").write_bytes(whole[:-30])
    refused("not a whole NPZ file", path="x.npz")


# ------------------------------------------------------------------------------------------------------------ Parquet


def test_parquet_types_become_floats(here):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    import decimal

    columns = {
        "i": pa.array([1, None, 3], pa.int32()),
        "f": pa.array([0.1, 0.2, None], pa.float32()),
        "b": pa.array([True, False, None]),
        "d": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]),
        "h": pa.array(np.array([1, 2, 3], np.float16)),
    }
    pq.write_table(pa.table(columns), "t.parquet", row_group_size=2)
    table = open_table("t.parquet").read()
    np.testing.assert_array_equal(
        table.values,
        [
            [1, np.float32(0.1), 1, 1.5, 1],
            [math.nan, np.float32(0.2), 0, math.nan, 2],
            [3, math.nan, math.nan, 2.5, 3],
        ],
    )
    with pytest.raises(DataError, match=r"t\.parquet row 1 .from 0., column 'i' is a missing value"):
        require_finite(table)


def test_parquet_columns_that_are_no_numbers(here):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    import datetime as dt

    columns = {
        "a": [1.0, 2.0],
        "who": ["x", "y"],
        "when": [dt.date(2020, 1, 1)] * 2,
        "kind": pa.array(["u", "v"]).dictionary_encode(),
        "many": [[1], [2]],
    }
    pq.write_table(pa.table(columns), "t.parquet")
    refused("column 'who' is string", "--columns", path="t.parquet")
    for name in ("when", "kind", "many"):
        refused(f"column {name!r} is", path="t.parquet", columns=[name])
    assert open_table("t.parquet").read(["a"]).values.tolist() == [[1], [2]]
    survey = open_table("t.parquet").survey()
    assert set(survey.text) == {"who", "when", "kind", "many"}
    assert survey.dtypes[:2] == ("double", "string")


def test_the_index_of_pandas_is_no_column(here):
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index([7, 8], name="id")).to_parquet("t.parquet")
    table = open_table("t.parquet").read()
    assert (table.columns, table.values.tolist()) == (("a",), [[1], [2]])


def test_damaged_parquet_is_refused(here):
    pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).standard_normal((500, 3))
    write_table("t.parquet", x, ["a", "b", "c"])
    whole = (here / "t.parquet").read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], whole[:4], b"PAR1" + bytes(50) + b"PAR1"):
        (here / "t.parquet").write_bytes(broken)
        refused("not a whole Parquet file", path="t.parquet")
    data = (
        len(whole) // 2
    )  # within the pages: the checksum, which pyarrow neither writes nor checks by itself
    (here / "t.parquet").write_bytes(whole[:data] + bytes([whole[data] ^ 1]) + whole[data + 1 :])
    refused("not a whole Parquet file", path="t.parquet")


def test_empty_and_double_parquet(here):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), "t.parquet")
    refused("0 rows", path="t.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"]), "t.parquet")
    refused("'a'", path="t.parquet")


def test_parquet_without_pyarrow_names_the_extra(here, monkeypatch):
    (here / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("pip install 'mixcoder[io]'", path="t.parquet")
    with pytest.raises(DataError, match=r"mixcoder\[io\]"):
        write_table("u.parquet", np.ones((2, 2)))
    # Everything else does without.
    write_table("u.csv", np.ones((2, 2)))
    assert open_table("u.csv").read().values.shape == (2, 2)


# ------------------------------------------------------------------------------------------------------------ helpers


def test_require_finite_counts_and_names_the_first(here):
    table = open_table(csv(here, "a,b\n1,2\n3,inf\nnan,4\n")).read()
    with pytest.raises(DataError, match=r"row 1 .from 0., column 'b' is inf; 2 such cells in 2 columns"):
        require_finite(table)
    with pytest.raises(DataError, match="column 'b' is inf:"):
        require_finite(table, allow_missing=True)
    require_finite(open_table(csv(here, "a\n1\n")).read())


def test_writing_checks_what_it_is_given(here):
    with pytest.raises(DataError, match="1 column names for 2 columns"):
        write_table("x.csv", np.ones((2, 2)), ["a"])
    with pytest.raises(DataError, match="extension"):
        write_table("x.txt", np.ones((2, 2)))


def test_sizes_are_readable():
    assert [bytes_text(n) for n in (0, 1023, 1024, 1536, 2**30, 2**80)] == [
        "0 bytes",
        "1023 bytes",
        "1 KiB",
        "1.5 KiB",
        "1 GiB",
        "1.05e+06 EiB",
    ]
    assert extension("x.parquet") == ".parquet"
