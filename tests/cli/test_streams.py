"""Several files are read block by block: the same model, the same codes, on every engine, and after a crash."""

from __future__ import annotations

import numpy as np
import pytest

import mixcoder as library
from mixcoder.cli.stored import SUFFIXES
from mixcoder.cli.tables import open_table, write_table
from mixcoder.sources.opening import FORMATS


@pytest.fixture
def days(here, clouds):
    """The clouds in three files of each kind, and in one."""
    rows = clouds[np.random.default_rng(0).permutation(len(clouds))]
    for i, piece in enumerate(np.split(rows, [10, 100])):
        write_table(f"day-{i}.npy", piece)
        write_table(f"day-{i}.parquet", piece, ["height", "width"])
    write_table("all.npy", rows)
    return rows


FIT = "-k 3 --seed 0 --quiet"

# The seconds that iterations took, and the digits that these have in the file.
UNEVEN = {"seconds": 0, "bytes": 0}


@pytest.mark.parametrize("files", ["day-*.npy", "day-*.parquet", "day-0.npy day-1.npy day-2.npy"])
@pytest.mark.parametrize("model", ["gaussian", "poisson", "kmeans"])
def test_files_give_the_model_of_one_file(ask, days, files, model):
    if model == "poisson":
        for i, piece in enumerate(np.split(np.abs(days).round(), [10, 100])):
            write_table(f"day-{i}.npy", piece)
            write_table(f"day-{i}.parquet", piece, ["height", "width"])
        write_table("all.npy", np.abs(days).round())
    one = ask(f"fit all.npy {FIT} --model {model} -o one.mixcoder")
    several = ask(f"fit {files} {FIT} --model {model} -o several.mixcoder")
    assert several["rows"] == one["rows"] == 180
    assert several["iterations"] == one["iterations"]
    assert several["weights"] == pytest.approx(one["weights"], rel=1e-12)
    assert several["distortion"] == pytest.approx(one["distortion"], rel=1e-9)
    fitted = library.load("several.mixcoder")
    named = getattr(fitted, "feature_names_in_", None)
    assert (named is None) == files.endswith("npy")


@pytest.mark.parametrize("out", ["codes.npy", "codes.parquet", "codes.csv", "codes.tsv.gz"])
@pytest.mark.parametrize("soft", ["", "--soft"])
def test_codes_of_files_are_those_of_one_file(ask, days, out, soft):
    ask(f"fit all.npy {FIT} -o m.mixcoder")
    one = ask(f"encode m.mixcoder all.npy {soft} --quiet -o one-{out}")
    several = ask(f"encode m.mixcoder day-*.parquet {soft} --quiet -o {out}")
    assert {**several, "data": 0, "out": 0, "rate_bits": 0} == {**one, "data": 0, "out": 0, "rate_bits": 0}
    assert several["rate_bits"] == pytest.approx(one["rate_bits"], rel=1e-12)
    first, second = (open_table(name, vector=True).read() for name in (f"one-{out}", out))
    assert np.array_equal(first.values, second.values)
    assert first.columns == second.columns


def test_every_engine_is_one_option(ask, days):
    one = ask(f"fit day-*.npy {FIT} -o m.mixcoder")
    for engine in ("serial", "processes --workers 1"):
        again = ask(f"fit day-*.npy {FIT} --engine {engine} -o m.mixcoder --force")
        assert {**again, **UNEVEN} == {**one, **UNEVEN}


def test_a_fit_goes_on_from_its_checkpoint(ask, mixcoder, days):
    words = f"fit day-*.npy {FIT} --tol 0 --max-iter 6 --checkpoint run.checkpoint"
    whole = ask(f"{words} --checkpoint-every 0 -o m.mixcoder")
    again = ask(f"{words} --resume -o m.mixcoder --force")
    assert {**again, **UNEVEN} == {**whole, **UNEVEN}
    mixcoder(f"fit all.npy {FIT} --seed 3 --checkpoint run.checkpoint --resume -o other.mixcoder", code=4)


def test_options_that_do_not_go_together(mixcoder, days):
    for words, code in (
        ("--resume", 2),
        ("--engine dask", 2),
        ("--scheduler tcp://localhost:1", 2),
        ("--workers 2", 2),
        ("--weights height", 2),
        ("--key rows", 3),
        ("--checkpoint absent/run", 2),
    ):
        mixcoder(f"fit day-*.npy {FIT} {words}", code=code)
    mixcoder(f"fit night-*.npy {FIT}", code=3)
    mixcoder(f"fit day-0.npy night.npy {FIT}", code=3)
    mixcoder(f"fit day-0.npy day-1.parquet {FIT}", code=3)
    mixcoder(f"fit day-*.npy {FIT} -o m.mixcoder")
    mixcoder("encode m.mixcoder day-*.npy -o -", code=2)
    mixcoder("encode m.mixcoder day-*.npy -o codes.npz", code=2)


@pytest.mark.parametrize("kind", ["csv", "feather", "h5", "zarr"])
def test_every_format_that_is_streamed_gives_the_model_of_the_array(ask, mixcoder, here, clouds, kind):
    for i, piece in enumerate(np.split(clouds, [70])):
        write_kind(f"day-{i}.{kind}", piece)
        write_table(f"day-{i}.npy", piece)
    array = ask(f"fit day-*.npy {FIT} -o m.mixcoder")
    again = ask(f"fit day-*.{kind} {FIT} -o m.mixcoder --force")
    for name in ("weights", "iterations", "distortion", "rows"):
        assert again[name] == array[name]
    codes = [ask(f"encode m.mixcoder day-*.{k} -o {k}.npy --quiet") for k in ("npy", kind)]
    assert codes[0]["rate_bits"] == codes[1]["rate_bits"]
    assert np.array_equal(np.load("npy.npy"), np.load(f"{kind}.npy"))
    told, array = ask(f"check day-1.{kind}"), ask("check day-1.npy")
    assert told["ok"]
    assert [c["std"] for c in told["columns"]] == [c["std"] for c in array["columns"]]
    assert ask(f"inspect day-1.{kind}")["rows"] == len(clouds) - 70
    assert ask(f"encode m.mixcoder day-1.{kind} -o one.npy --quiet --force")["rows"] == len(clouds) - 70
    mixcoder(f"fit night.{kind} {FIT} -o n.mixcoder", code=3)
    mixcoder(f"check night.{kind}", code=3)


def test_a_table_in_a_file_of_several_is_named(ask, mixcoder, here, clouds):
    h5py = pytest.importorskip("h5py")
    with h5py.File("x.h5", "w") as file:
        file["u"], file["v/w"] = clouds, clouds[:50]
    assert ask(f"fit x.h5::/v/w {FIT} -o a.mixcoder")["rows"] == 50
    assert ask(f"fit x.h5 --key u {FIT} -o b.mixcoder")["rows"] == len(clouds)
    assert ask("check x.h5 --key v/w")["rows"] == 50
    mixcoder(f"fit x.h5 {FIT} -o c.mixcoder", code=3)
    mixcoder(f"fit x.h5::/absent {FIT} -o c.mixcoder", code=3)
    mixcoder("check x.h5 --header", code=3)


def test_the_suffixes_that_the_program_knows_are_those_of_the_library():
    assert set(FORMATS) == {*SUFFIXES, ".npy", ".parquet", ".csv", ".tsv"}


def write_kind(path, x):
    match path.rpartition(".")[2]:
        case "h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file["rows"] = x
        case "zarr":
            pytest.importorskip("zarr").save_array(path, x)
        case "feather":
            feather, pa = pytest.importorskip("pyarrow.feather"), pytest.importorskip("pyarrow")
            feather.write_feather(pa.table({"height": x[:, 0], "width": x[:, 1]}), path)
        case _:
            write_table(path, x, ["height", "width"])
