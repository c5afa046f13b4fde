"""A model file is whole or refused; a save is all or nothing; reading never runs code."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcoder import modelfile
from mixcoder.errors import CorruptModelError, ModelFileError, UnsupportedVersionError

posix = pytest.mark.skipif(os.name != "posix", reason="signals, forks and limits of POSIX")

DTYPES = ["float64", "float32", "int64", "int32", "uint8", "bool"]
OLD = {"means": np.arange(6.0).reshape(2, 3)}
NEW = {"means": np.arange(6.0).reshape(2, 3) + 1}


def small(path):
    """One array of each width, an empty one, and metadata with every kind of value."""
    arrays = {
        "means": np.arange(6.0).reshape(3, 2).T,
        "labels": np.array([1, 0], np.int32),
        "on": np.array([True, False, True]),
        "none": np.empty((0, 3)),
    }
    metadata = {"tol": math.inf, "names": ["é", None], "n_iter": 7, "ok": True, "scale": 0.1}
    return modelfile.write(path, "demo", arrays, metadata)


def same(a, b):
    """Equality that tells 1 from 1.0 and True, 0.0 from -0.0, and lets NaN equal NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def whole(path):
    """Return the first mean in the file, which says which version it is; nothing else may lie beside it."""
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return modelfile.read(path).arrays["means"].flat[0]


def in_subprocess(script, *arguments):
    source = Path(modelfile.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------- what is read was written


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        np.asfortranarray,
        lambda x: x.T,
        lambda x: x[::-1, ::2],
        lambda x: x[:, None, :, None].transpose(3, 2, 0, 1),
        lambda x: np.broadcast_to(x[0], (5, 6)),
        lambda x: x[:0],
        lambda x: x[:, :0].T,
        lambda x: x[1, 2, ...],
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: x.astype(x.dtype.newbyteorder(">")).T,
    ],
)
def test_arrays_come_back_whatever_their_order_in_memory(tmp_path, dtype, layout):
    array = layout(np.arange(24).reshape(4, 6).astype(dtype))
    before = array.copy()
    modelfile.write(tmp_path / "m", "demo", {"x": array}, {})
    found = modelfile.read(tmp_path / "m").arrays["x"]
    assert found.dtype == np.dtype(dtype)
    assert found.shape == array.shape
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.flags.aligned
    np.testing.assert_array_equal(found, before)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "m")["x"], before)


def test_every_bit_of_a_float_comes_back(tmp_path):
    x = np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324, 0.1]).view(np.int64) ^ np.array([1, 0, 0, 0, 0, 0])
    modelfile.write(tmp_path / "m", "demo", {"x": x.view(np.float64)}, {})
    np.testing.assert_array_equal(modelfile.read(tmp_path / "m").arrays["x"].view(np.int64), x)


def test_a_boolean_made_by_a_view_becomes_0_or_1(tmp_path):
    modelfile.write(tmp_path / "m", "demo", {"x": np.array([0, 2, 255], np.uint8).view(bool)}, {})
    assert modelfile.read(tmp_path / "m").arrays["x"].view(np.uint8).tolist() == [0, 1, 1]


def test_arrays_of_one_file_are_independent(tmp_path):
    modelfile.write(tmp_path / "m", "demo", {"a": np.zeros(3), "b": np.zeros(3)}, {})
    arrays = modelfile.read(tmp_path / "m").arrays
    arrays["a"][:] = 1
    assert arrays["b"].tolist() == [0, 0, 0]


FLOATS = [math.inf, -math.inf, math.nan, -0.0, 0.1, 1e308, 5e-324, 1e16, 1.0]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"floats": FLOATS},
        {"$float": "inf", "$": 1, "$$x": {"$float": "nan"}},
        {"x": {"$float": math.inf}, "y": [{"$$float": "inf"}]},
        {"ints": [0, -1, 2**63, -(2**127), 2**2047], "bools": [True, False]},
        {"Ünï": '日本 😀 \u2028 \x00 \n " \\ \ud800', "": None},
        {"nested": [[[{"a": [{}, []]}]]]},
    ],
)
def test_metadata_come_back_with_their_types(tmp_path, metadata):
    modelfile.write(tmp_path / "m", "demo", {}, metadata)
    assert same(modelfile.read(tmp_path / "m").metadata, metadata)


def test_names_may_be_any_text(tmp_path):
    arrays = {"μ 😀": np.ones(1), "a/b\n": np.zeros(2), '"': np.ones(3), "../../x": np.ones(4)}
    modelfile.write(tmp_path / "m", "mélange", arrays, {})
    found = modelfile.read(tmp_path / "m")
    assert found.kind == "mélange"
    assert {name: x.size for name, x in found.arrays.items()} == {name: x.size for name, x in arrays.items()}


KEYS = st.text(max_size=6) | st.sampled_from(["$float", "$", "$$float"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ARRAYS = st.sampled_from([np.dtype(name).newbyteorder(order) for name in DTYPES for order in "<>"]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_write_then_read_is_the_identity(tmp_path_factory, arrays, metadata, transposed):
    path = tmp_path_factory.mktemp("identity") / "m"
    arrays = {name: x.T if transposed else x for name, x in arrays.items()}
    digest = modelfile.write(path, "demo", arrays, metadata)
    found = modelfile.read(path, expected_sha256=digest.upper())
    assert same(dict(found.metadata), metadata)
    assert found.arrays.keys() == arrays.keys()
    for name, x in arrays.items():
        assert found.arrays[name].dtype == x.dtype.newbyteorder("=")
        assert found.arrays[name].tobytes() == x.astype(x.dtype.newbyteorder("=")).tobytes()
    assert safetensors.numpy.load(path.read_bytes()).keys() == arrays.keys()


def test_the_digest_depends_on_the_content_only(tmp_path):
    x, y = np.arange(6.0).reshape(2, 3), np.arange(3)
    digests = {
        modelfile.write(tmp_path / "a", "demo", {"x": x, "y": y}, {"a": 1, "b": 2}),
        modelfile.write(tmp_path / "b", "demo", {"y": y, "x": np.asfortranarray(x)}, {"b": 2, "a": 1}),
        modelfile.write(
            tmp_path / "c", "demo", {"y": y.astype(">i8"), "x": x.astype(">f8")}, {"b": 2, "a": 1}
        ),
    }
    assert len(digests) == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert modelfile.read(tmp_path / "a") == modelfile.read(tmp_path / "b")
    others = {
        modelfile.write(tmp_path / "d", "Demo", {"x": x, "y": y}, {"a": 1, "b": 2}),
        modelfile.write(tmp_path / "d", "demo", {"y": x, "x": y}, {"a": 1, "b": 2}),
        modelfile.write(tmp_path / "d", "demo", {"x": x.reshape(3, 2), "y": y}, {"a": 1, "b": 2}),
        modelfile.write(tmp_path / "d", "demo", {"x": x.view(np.int64), "y": y}, {"a": 1, "b": 2}),
        modelfile.write(tmp_path / "d", "demo", {"x": x, "y": y}, {"a": 1.0, "b": 2}),
    }
    assert len(others - digests) == 5


def test_inspect_tells_without_the_arrays(tmp_path):
    digest = small(tmp_path / "m")
    about = modelfile.inspect(tmp_path / "m")
    assert about["arrays"] == {
        "labels": {"dtype": "int32", "shape": (2,)},
        "means": {"dtype": "float64", "shape": (2, 3)},
        "none": {"dtype": "float64", "shape": (0, 3)},
        "on": {"dtype": "bool", "shape": (3,)},
    }
    assert about["sha256"] == digest
    assert about["kind"] == "demo"
    assert about["format_version"] == modelfile.FORMAT_VERSION
    assert about["library_version"]
    assert about["n_bytes"] == (tmp_path / "m").stat().st_size
    assert about["metadata"]["tol"] == math.inf


# Written by the first version of the format. If this test fails, files of users can no longer be read.
GOLDEN = (
    b"\xb8\x01\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"format":"mixcoder","format_version":"1","kind":"demo","library_version":"0.1.0'
    b'","metadata":"{\\"$$key\\":[1,0.5,null],\\"name\\":\\"\\\\u00e9\\",\\"tol\\":{\\"$float\\":\\"inf\\"}}","sha25'
    b'6":"c7a1d5a66313df7af42890abb48e847521ce37d08a75bb931957ed788fa9bf1c"},"labels":{"data_offsets":'
    b'[32,40],"dtype":"I32","shape":[2]},"means":{"data_offsets":[0,32],"dtype":"F64","shape":[2,2]},"'
    b'on":{"data_offsets":[40,43],"dtype":"BOOL","shape":[3]}}'
) + bytes.fromhex("000000000000f03f00000000000000400000000000000840000000000000104007000000f9ffffff010001")


def test_a_file_of_format_version_1_can_still_be_read(tmp_path):
    (tmp_path / "m").write_bytes(GOLDEN)
    found = modelfile.read(tmp_path / "m")
    assert found.kind == "demo"
    assert same(dict(found.metadata), {"$key": [1, 0.5, None], "name": "é", "tol": math.inf})
    assert found.arrays["means"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.arrays["labels"].tolist() == [7, -7]
    assert found.arrays["on"].tolist() == [True, False, True]


# ----------------------------------------------------------------------------------------- damage is always found


def test_every_flipped_bit_is_found(tmp_path):
    small(tmp_path / "m")
    data = bytearray((tmp_path / "m").read_bytes())
    damaged = tmp_path / "damaged"
    for i in range(8 * len(data)):
        data[i // 8] ^= 1 << i % 8
        damaged.write_bytes(data)
        with pytest.raises(CorruptModelError, match="damaged"):
            modelfile.read(damaged)
        data[i // 8] ^= 1 << i % 8
    damaged.write_bytes(data)
    modelfile.read(damaged)


def test_every_truncation_and_every_addition_is_found(tmp_path):
    small(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    for n in range(len(data)):
        (tmp_path / "m").write_bytes(data[:n])
        with pytest.raises(CorruptModelError, match="damaged"):
            modelfile.read(tmp_path / "m")
    for more in [b"\0", b" ", b"\0" * 8, data]:
        (tmp_path / "m").write_bytes(data + more)
        with pytest.raises(CorruptModelError, match="damaged"):
            modelfile.inspect(tmp_path / "m")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_splice_is_found(tmp_path_factory, data):
    directory = tmp_path_factory.getbasetemp()
    original = directory / "splice"
    if not original.exists():
        small(original)
    whole = original.read_bytes()
    places = st.integers(0, len(whole))
    i, j, k, m = (data.draw(places) for _ in range(4))
    middle = data.draw(st.binary(max_size=16) | st.just(whole[min(k, m) : max(k, m)]))
    damaged = whole[: min(i, j)] + middle + whole[max(i, j) :]
    (directory / "spliced").write_bytes(damaged)
    if damaged == whole:
        modelfile.read(directory / "spliced")
    else:
        with pytest.raises(CorruptModelError):
            modelfile.read(directory / "spliced")


def forged(*, arrays=None, data=b"", edit=None, **envelope):
    """Return a file with a true digest, whose header text ``edit`` may still change; None removes a key."""
    about = {
        "format": "mixcoder",
        "format_version": "1",
        "kind": "demo",
        "library_version": "9.9",
        "metadata": "{}",
        **envelope,
    }
    about = {key: value for key, value in about.items() if value is not None}
    arrays = arrays or {}
    digest = hashlib.sha256(canonical(about))
    for name in sorted(arrays):
        entry = arrays[name]
        start, end = entry["data_offsets"]
        digest.update(b"\n" + canonical([name, entry["dtype"], entry["shape"]]) + b"\n" + data[start:end])
    header = canonical({"__metadata__": {**about, "sha256": digest.hexdigest()}, **arrays})
    header = edit(header) if edit else header
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def entry(dtype="F64", shape=(1,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_forger_of_these_tests_can_forge(tmp_path):
    """A digest is no signature: whoever follows the documented format makes a valid file."""
    arrays = {"b": entry("U8", (3,), (8, 11)), "a": entry(offsets=(0, 8))}
    (tmp_path / "m").write_bytes(forged(arrays=arrays, data=bytes(8) + b"abc", metadata='{"x":1}'))
    found = modelfile.read(tmp_path / "m")
    assert (found.kind, dict(found.metadata)) == ("demo", {"x": 1})
    assert found.arrays["b"].tobytes() == b"abc"


HOSTILE = {
    "empty": b"",
    "zeros": bytes(64),
    "text": b"a,b\n1,2\n" * 8,
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "zip": b"PK\x03\x04" + bytes(60),
    "foreign safetensors": safetensors.numpy.save({"x": np.zeros(2)}),
    "foreign safetensors with metadata": safetensors.numpy.save({"x": np.zeros(2)}, {"format": "pt"}),
    "length 2**60": (2**60).to_bytes(8, "little") + forged()[8:],
    "length 2**64-1": (2**64 - 1).to_bytes(8, "little") + forged()[8:],
    "length 0": bytes(8) + forged()[8:],
    "header is a list": (8).to_bytes(8, "little") + b"[1,2,3] ",
    "header is a number": (8).to_bytes(8, "little") + b"1234567 ",
    "header is NaN": (8).to_bytes(8, "little") + b"NaN     ",
    "header nested": (80_000).to_bytes(8, "little") + b"[" * 80_000,
    "number of 8000 digits": forged(edit=lambda text: text.replace(b'"1"', b"1" * 8000)),
    "no metadata": (8).to_bytes(8, "little") + b"{}      ",
    "metadata is a list": forged(edit=lambda _: b'{"__metadata__":[]}'),
    "metadata is a number": forged(format_version=1),
    "huge shape": forged(arrays={"x": entry(shape=(2**62,), offsets=(0, 2**65))}),
    "huge shape, little data": forged(arrays={"x": entry(shape=(2**62,))}, data=bytes(8)),
    "shape that overflows to 8 bytes": forged(arrays={"x": entry(shape=(2**63, 2, 1))}, data=bytes(8)),
    "shape of 2**64": forged(arrays={"x": entry("U8", (0, 2**64), (0, 0))}),
    "shape of many axes": forged(arrays={"x": entry("U8", (1,) * 5000, (0, 1))}, data=bytes(1)),
    "negative shape": forged(arrays={"x": entry(shape=(-1, -1))}, data=bytes(8)),
    "float shape": forged(arrays={"x": entry(shape=(1.0,))}, data=bytes(8)),
    "boolean shape": forged(arrays={"x": entry(shape=(True,))}, data=bytes(8)),
    "text shape": forged(arrays={"x": entry(shape="1")}, data=bytes(8)),
    "null shape": forged(
        arrays={"x": entry()}, data=bytes(8), edit=lambda t: t.replace(b'"shape":[1]', b'"shape":null')
    ),
    "half precision": forged(arrays={"x": entry("F16", (4,))}, data=bytes(8)),
    "object dtype": forged(arrays={"x": entry("|O8", (1,))}, data=bytes(8)),
    "dtype is a list": forged(
        arrays={"x": {"dtype": [], "shape": [1], "data_offsets": [0, 8]}}, data=bytes(8)
    ),
    "other dtype of the same width": forged(
        arrays={"x": entry()}, data=bytes(8), edit=lambda t: t.replace(b"F64", b"I64")
    ),
    "overlap": forged(arrays={"x": entry(), "y": entry()}, data=bytes(8)),
    "hole": forged(arrays={"x": entry(offsets=(8, 16))}, data=bytes(16)),
    "offsets beyond the end": forged(arrays={"x": entry(offsets=(8, 16))}, data=bytes(8)),
    "negative offsets": forged(arrays={"x": entry(offsets=(-8, 0))}, data=bytes(8)),
    "other order": forged(arrays={"a": entry(offsets=(8, 16)), "b": entry(offsets=(0, 8))}, data=bytes(16)),
    "trailing bytes": forged(arrays={"x": entry()}, data=bytes(16)),
    "extra key of an array": forged(arrays={"x": {**entry(), "y": 1}}, data=bytes(8)),
    "array is a list": forged(edit=lambda text: text[:-1] + b',"x":[]}'),
    "repeated array": forged(
        arrays={"x": entry()},
        data=bytes(8),
        edit=lambda text: text[:-1] + b',"x":{"data_offsets":[0,8],"dtype":"F64","shape":[1]}}',
    ),
    "repeated metadata": forged(edit=lambda text: text.replace(b'"kind"', b'"kind":"evil","kind"')),
    "white space": forged(edit=lambda text: text.replace(b",", b", ")),
    "leading space": forged(edit=lambda text: b" " * 8 + text),
    "more padding": forged(edit=lambda text: text + b" " * 16),
    "escaped letter": forged(edit=lambda text: text.replace(b'"demo"', b'"\\u0064emo"')),
    "utf-8 instead of escapes": forged(kind="é", edit=lambda text: text.replace(b"\\u00e9", "é".encode())),
    "keys in another order": forged(
        edit=lambda t: t.replace(b'{"format":"mixcoder",', b"{")[:-2] + b',"format":"mixcoder"}}'
    ),
    "no kind": forged(kind=None),
    "no digest": forged(edit=lambda text: text.replace(b'"sha256"', b'"sha257"')),
    "an extra key": forged(module="os"),
    "format version 0": forged(format_version="0"),
    "format version -1": forged(format_version="-1"),
    "format version 01": forged(format_version="01"),
    "format version 1.0": forged(format_version="1.0"),
    "format version in other digits": forged(format_version="\u0661"),
    "format version of 5000 digits": forged(format_version="9" * 5000),
    "metadata with a space": forged(metadata='{"a": 1}'),
    "metadata with NaN": forged(metadata='{"a":NaN}'),
    "metadata with repeated keys": forged(metadata='{"a":1,"a":2}'),
    "metadata is a list ": forged(metadata="[]"),
    "metadata is a number ": forged(metadata='{"$float":"nan"}'),
    "metadata with an unknown escape": forged(metadata='{"x":{"$float":"1.5"}}'),
    "metadata with a key not escaped": forged(metadata='{"$x":1}'),
    "metadata nested": forged(metadata='{"a":' + "[" * 70 + "]" * 70 + "}"),
    "metadata nested deeply": forged(metadata="[" * 50_000),
    "boolean 2": forged(arrays={"x": entry("BOOL", (1,), (0, 1))}, data=b"\x02"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_little_memory(tmp_path, what):
    path = tmp_path / "hostile.mixcoder"
    path.write_bytes(HOSTILE[what])
    tracemalloc.start()
    try:
        with pytest.raises(CorruptModelError) as caught:
            modelfile.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000 + len(str(path))
    with pytest.raises(CorruptModelError):
        modelfile.inspect(path)


def test_a_large_file_is_refused_before_memory_is_asked_for(tmp_path):
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="max_bytes=4294967296"):
            modelfile.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    small(path)
    size = path.stat().st_size
    modelfile.read(path, max_bytes=size)
    with pytest.raises(ModelFileError, match=f"has {size} bytes, more than max_bytes={size - 1}"):
        modelfile.inspect(path, max_bytes=size - 1)


def test_a_file_that_changes_its_size_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m"
    small(path)
    for change in [-8, 8]:
        size = path.stat().st_size + change
        monkeypatch.setattr(modelfile.os, "fstat", lambda _, size=size: SimpleNamespace(st_size=size))
        with pytest.raises(CorruptModelError, match="changed its size"):
            modelfile.read(path)


def test_another_file_than_the_expected_one_is_refused(tmp_path):
    digest = small(tmp_path / "m")
    modelfile.read(tmp_path / "m", expected_sha256=digest)
    with pytest.raises(CorruptModelError, match=f"digest is {digest} and 0{{64}} was expected"):
        modelfile.read(tmp_path / "m", expected_sha256="0" * 64)


def test_a_file_that_cannot_be_opened_says_so_itself(tmp_path):
    with pytest.raises(FileNotFoundError):
        modelfile.read(tmp_path / "missing")
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        modelfile.read(tmp_path)


@posix
def test_devices_and_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in [tmp_path / "pipe", Path(os.devnull)]:
        with pytest.raises(CorruptModelError, match="device, pipe or socket"):
            modelfile.read(path)
        with pytest.raises(ModelFileError, match="device, pipe or socket"):
            modelfile.write(path, "demo", OLD, {})
        assert not stat.S_ISREG(path.stat().st_mode)


# ------------------------------------------------------------------------------------------------------- versions


def test_a_newer_format_is_told_from_damage(tmp_path, monkeypatch):
    path = tmp_path / "m"
    with monkeypatch.context() as future:
        future.setattr(modelfile, "FORMAT_VERSION", 3)
        future.setattr(modelfile, "library_version", lambda: "2.7")
        modelfile.write(path, "demo", NEW, {})
    with pytest.raises(UnsupportedVersionError, match=r"format version 3.*reads up to 1.*mixcoder '2\.7'"):
        modelfile.read(path)
    with pytest.raises(UnsupportedVersionError):
        modelfile.inspect(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(CorruptModelError):
        modelfile.read(path)
    path.write_bytes(forged(format_version="2", invented_later="yes"))
    with pytest.raises(UnsupportedVersionError, match=r"mixcoder '9\.9'"):
        modelfile.read(path)


def test_an_older_format_is_migrated_step_by_step(tmp_path, monkeypatch):
    digest = modelfile.write(tmp_path / "m", "demo", OLD, {"a": 1})

    def step(name):
        return lambda model: modelfile.replace(model, metadata={**model.metadata, name: len(model.metadata)})

    monkeypatch.setattr(modelfile, "FORMAT_VERSION", 3)
    monkeypatch.setattr(modelfile, "MIGRATIONS", {1: step("b"), 2: step("c")})
    found = modelfile.read(tmp_path / "m", expected_sha256=digest)
    assert found.metadata == {"a": 1, "b": 1, "c": 2}
    assert found.sha256 == digest
    assert modelfile.inspect(tmp_path / "m")["format_version"] == 1


def test_there_is_a_migration_from_every_older_format():
    assert set(modelfile.MIGRATIONS) == set(range(1, modelfile.FORMAT_VERSION))


# ------------------------------------------------------------------------------------ what cannot be stored is named


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "match"),
    [
        ({}, {"a": {"b": [1, (2,)]}}, TypeError, r"metadata\['a'\]\['b'\]\[1\] is a tuple"),
        ({}, {"tol": np.float64(1)}, TypeError, r"metadata\['tol'\] is a float64.*\.item\(\)"),
        ({}, {"x": np.ones(2)}, TypeError, r"metadata\['x'\] is a ndarray.*`arrays`"),
        ({}, {"x": b"1"}, TypeError, r"metadata\['x'\] is a bytes"),
        ({}, {"x": 1j}, TypeError, r"metadata\['x'\] is a complex"),
        ({}, {"x": {1: 2}}, TypeError, r"metadata\['x'\] has the key 1 of type int"),
        ({}, {1: 2}, TypeError, r"metadata has the key 1"),
        ({}, {"x": 2**2048}, ValueError, r"metadata\['x'\] is an integer of 2049 bits"),
        ({"x": [1.0]}, {}, TypeError, r"arrays\['x'\] is a list"),
        ({"x": np.float64(1)}, {}, TypeError, r"arrays\['x'\] is a float64"),
        ({"x": np.ma.masked_array([1.0], [True])}, {}, TypeError, r"arrays\['x'\] is a MaskedArray"),
        ({"x": np.array([None])}, {}, TypeError, r"arrays\['x'\] has dtype object"),
        (
            {"x": np.zeros(1, np.float16)},
            {},
            TypeError,
            r"arrays\['x'\] has dtype float16; .*float64, float32",
        ),
        ({"x": np.zeros(1, complex)}, {}, TypeError, r"arrays\['x'\] has dtype complex128"),
        ({"x": np.zeros(1, "M8[s]")}, {}, TypeError, r"arrays\['x'\] has dtype datetime64"),
        ({"x": np.zeros(1, "f8,f8")}, {}, TypeError, r"arrays\['x'\] has dtype \[\("),
        ({"x": np.zeros((1,) * 33)}, {}, ValueError, r"arrays\['x'\] has 33 axes"),
        ({"": np.zeros(1)}, {}, ValueError, "array name ''"),
        ({"__metadata__": np.zeros(1)}, {}, ValueError, "array name '__metadata__'"),
        ({"\ud800": np.zeros(1)}, {}, ValueError, "half a character"),
        ({1: np.zeros(1)}, {}, TypeError, "array name 1 is a int"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, arrays, metadata, error, match):
    with pytest.raises(error, match=match):
        modelfile.write(tmp_path / "m", "demo", arrays, metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "error"), [("", ValueError), (None, TypeError), (int, TypeError)])
def test_a_kind_is_a_name(tmp_path, kind, error):
    with pytest.raises(error, match="kind"):
        modelfile.write(tmp_path / "m", kind, {}, {})


def test_metadata_that_contain_themselves_are_refused(tmp_path):
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="contains itself"):
        modelfile.write(tmp_path / "m", "demo", {}, {"circle": circle})


def test_metadata_that_outgrow_the_header_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(modelfile, "_MAX_HEADER", 1000)
    with pytest.raises(ValueError, match="store long lists as arrays"):
        modelfile.write(tmp_path / "m", "demo", {}, {"history": [0.0] * 1000})


# ------------------------------------------------------------------------------------------ a save is all or nothing


@posix
@pytest.mark.parametrize("room", [0, 1, 8, 300, 4096, 50_000])
def test_a_full_disk_leaves_the_old_file(tmp_path, room):
    resource = pytest.importorskip("resource")
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match=r"while saving \d+ bytes") as caught:
            modelfile.write(path, "demo", {"means": np.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert whole(path) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, code, exists):
    path = tmp_path / "m"
    if exists:
        modelfile.write(path, "demo", OLD, {})

    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(modelfile.os, "fsync", fsync)
    with pytest.raises(OSError, match="unharmed") as caught:
        modelfile.write(path, "demo", NEW, {})
    assert caught.value.errno == code
    if exists:
        assert whole(path) == 0
    else:
        assert not list(tmp_path.iterdir())


@posix
def test_a_disk_that_gives_back_other_bytes_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {})
    monkeypatch.setattr(modelfile.os, "fsync", lambda descriptor: os.pwrite(descriptor, b"!", 100))
    with pytest.raises(CorruptModelError, match="does not hold the bytes"):
        modelfile.write(path, "demo", NEW, {})
    assert whole(path) == 0


@pytest.mark.parametrize("damage", [lambda x: x + 1, np.float32, lambda x: x.T])
def test_the_second_opinion_of_safetensors_is_asked(tmp_path, monkeypatch, damage):
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {})
    load = safetensors.numpy.load
    monkeypatch.setattr(
        safetensors.numpy, "load", lambda data: {name: damage(x) for name, x in load(data).items()}
    )
    with pytest.raises(CorruptModelError, match="does not hold the arrays"):
        modelfile.write(path, "demo", NEW, {})
    assert whole(path) == 0


@posix
def test_the_renaming_is_flushed_too(tmp_path, monkeypatch):
    path = tmp_path / "m"
    synced = []
    fsync = os.fsync

    def recording(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(modelfile.os, "fsync", recording)
    modelfile.write(path, "demo", OLD, {})
    assert synced == [False, True]


@posix
@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_directory_that_cannot_be_flushed(tmp_path, monkeypatch, code, raises):
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {})
    fsync = os.fsync

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(modelfile.os, "fsync", failing)
    if raises:
        with pytest.raises(OSError, match="error"):
            modelfile.write(path, "demo", NEW, {})
    else:
        modelfile.write(path, "demo", NEW, {})
    assert whole(path) == 1


DISK = {"write", "_replaceable", "_verify", "_bytes", "_rename", "_sync_directory"}


# An interruption between the end of a `with` block and its exit leaves the closing to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*mixcoder-:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("overwrite", [True, False])
def test_an_interruption_at_any_line_leaves_one_whole_file(tmp_path, overwrite):
    path = tmp_path / "m"
    outcomes = []

    def interrupt_at(n):
        count = 0

        def trace(frame, event, _):
            nonlocal count
            code = frame.f_code
            if code.co_filename != modelfile.__file__ or code.co_name not in DISK:
                return None
            if event == "line":
                count += 1
                if count == n:
                    raise KeyboardInterrupt
            return trace

        return trace

    for n in range(1, 1000):
        if overwrite:
            modelfile.write(path, "demo", OLD, {})
        else:
            path.unlink(missing_ok=True)
        before = sys.gettrace()
        sys.settrace(interrupt_at(n))
        try:
            modelfile.write(path, "demo", NEW, {}, overwrite=overwrite)
        except KeyboardInterrupt:
            sys.settrace(before)
            outcomes.append(whole(path) if path.exists() else None)
            assert [entry for entry in tmp_path.iterdir() if entry != path] == []
        else:
            sys.settrace(before)
            break
    old = 0 if overwrite else None
    assert outcomes.count(old) > 20
    assert outcomes.count(1) > 3
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome == 1)
    assert whole(path) == 1


KILLS = """
    import os, random, signal, sys, time
    from pathlib import Path
    import numpy as np
    import safetensors.numpy
    from mixcoder import modelfile

    path, names = Path(sys.argv[1]), set(sys.argv[2].split())
    models = [{"means": np.full(100_000, float(k))} for k in range(2)]
    modelfile.write(path, "demo", models[0], {})

    def child(body):
        process = os.fork()
        if process == 0:
            body()
            os._exit(0)
        return process

    def check():
        means = modelfile.read(path).arrays["means"]  # verifies every bit
        assert means.shape == (100_000,) and means.min() == means.max()
        for entry in path.parent.iterdir():
            assert entry == path or entry.match(".mixcoder-*.tmp"), entry
            if entry != path:
                entry.unlink()
        return int(means[0])

    def killed_at(n):
        def trace(frame, event, _):
            if frame.f_code.co_filename != modelfile.__file__ or frame.f_code.co_name not in names:
                return None
            if event == "line":
                trace.count += 1
                if trace.count == n:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        trace.count = 0
        sys.settrace(trace)
        modelfile.write(path, "demo", models[1], {})

    seen = []
    for n in range(1, 1000):
        modelfile.write(path, "demo", models[0], {})
        _, status = os.waitpid(child(lambda: killed_at(n)), 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        seen.append(check())
    assert check() == 1
    assert seen == sorted(seen) and seen.count(0) > 20 and seen.count(1) > 2, seen

    def forever():
        while True:
            for arrays in models:
                modelfile.write(path, "demo", arrays, {})

    chance = random.Random(0)
    for _ in range(15):
        process = child(forever)
        time.sleep(chance.uniform(0.002, 0.06))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        check()
    print(len(seen) + 15)
"""


@posix
def test_a_process_killed_at_any_line_leaves_one_whole_file(tmp_path):
    assert int(in_subprocess(KILLS, tmp_path / "m", " ".join(DISK))) > 35


READ_ONLY = """
    import os, sys, tempfile
    from pathlib import Path
    import numpy as np
    import safetensors.numpy
    from mixcoder import modelfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "m")
        digest = modelfile.write(path, "demo", {"x": np.ones(3)}, {})
        os.chmod(directory, 0o555)
        if os.fork() == 0:
            if os.geteuid() == 0:
                os.setuid(65534)  # permissions do not bind the super-user
            for target in [path, Path(directory, "other")]:
                try:
                    modelfile.write(target, "demo", {"x": np.zeros(3)}, {})
                except PermissionError as error:
                    assert error.filename == str(target), error
                else:
                    os._exit(1)
            modelfile.read(path, expected_sha256=digest)
            os._exit(0)
        assert os.wait()[1] == 0
        os.chmod(directory, 0o755)
        assert os.listdir(directory) == ["m"]
        modelfile.read(path, expected_sha256=digest)
"""


@posix
def test_a_read_only_directory_is_a_permission_error():
    in_subprocess(READ_ONLY)


def test_a_place_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="while saving") as caught:
        modelfile.write(tmp_path / "missing" / "m", "demo", OLD, {})
    assert caught.value.filename == str(tmp_path / "missing" / "m")
    with pytest.raises(IsADirectoryError):
        modelfile.write(tmp_path, "demo", OLD, {})
    assert not list(tmp_path.iterdir())


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {})
    monkeypatch.setattr(modelfile.os, "access", lambda *_: False)  # permissions do not bind the super-user
    with pytest.raises(PermissionError, match="write-protected"):
        modelfile.write(path, "demo", NEW, {})
    assert whole(path) == 0


@posix
def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path):
    path = tmp_path / "m"
    umask = os.umask(0o027)
    try:
        modelfile.write(path, "demo", OLD, {})
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    modelfile.write(path, "demo", NEW, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@posix
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "m")
    for arrays in [OLD, NEW]:
        modelfile.write(link, "demo", arrays, {})
    assert link.is_symlink()
    assert whole(tmp_path / "real" / "m") == 1


def test_overwrite_false_never_replaces(tmp_path, monkeypatch):
    path = tmp_path / "m"
    modelfile.write(path, "demo", OLD, {}, overwrite=False)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        modelfile.write(path, "demo", NEW, {}, overwrite=False)
    assert whole(path) == 0
    path.unlink()
    monkeypatch.setattr(modelfile, "_verify", lambda *_: path.write_text("came first"))
    with pytest.raises(FileExistsError):
        modelfile.write(path, "demo", NEW, {}, overwrite=False)
    assert path.read_text() == "came first"
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite_false_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def hardlink_to(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "m"
    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    modelfile.write(path, "demo", NEW, {}, overwrite=False)
    assert whole(path) == 1
    path.unlink()
    monkeypatch.setattr(modelfile, "_verify", lambda *_: path.write_text("came first"))
    with pytest.raises(FileExistsError):
        modelfile.write(path, "demo", NEW, {}, overwrite=False)
    assert path.read_text() == "came first"


# --------------------------------------------------------------------------------------------- reading runs no code


AUDIT = """
    import sys
    from pathlib import Path
    import numpy
    from mixcoder import modelfile
    from mixcoder.errors import ModelFileError

    paths, events, listening = sys.argv[1:], [], True
    sys.addaudithook(lambda event, arguments: listening and events.append((event, str(arguments[:1]))))
    before = set(sys.modules)
    for path in paths:
        for function in (modelfile.read, modelfile.inspect):
            try:
                function(path)
            except ModelFileError:
                pass
    listening = False
    assert set(sys.modules) == before, set(sys.modules) - before
    for event, arguments in sorted(set(events)):
        print(event, arguments)
"""


def test_reading_does_nothing_but_open_the_file(tmp_path):
    """No import (not even of safetensors or torch), exec, compile, unpickling, process or socket: only the file."""
    good, hostile = tmp_path / "good", [tmp_path / f"hostile-{i}" for i in range(len(HOSTILE))]
    small(good)
    for path, data in zip(hostile, HOSTILE.values(), strict=True):
        path.write_bytes(data)
    imports = tmp_path / "imports"
    modelfile.write(
        imports, "os.system", {"posix:system": np.zeros(1)}, {"kind": "subprocess.Popen", "$import": "os"}
    )
    heard = in_subprocess(AUDIT, good, imports, *hostile).splitlines()
    assert {line.split(" ", 1)[0] for line in heard} == {"open"}
    opened = {line.split(" ", 1)[1] for line in heard}
    assert opened == {str((str(path),)) for path in [good, imports, *hostile]}
