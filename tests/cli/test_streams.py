"""Several files are read block by block: the same model, the same codes, on every engine, and after a crash."""

from __future__ import annotations

import numpy as np
import pytest

import mixcoder as library
from mixcoder.cli.tables import open_table, write_table


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
        ("--key rows", 2),
        ("--checkpoint absent/run", 1),
    ):
        mixcoder(f"fit day-*.npy {FIT} {words}", code=code)
    mixcoder(f"fit night-*.npy {FIT}", code=3)
    mixcoder(f"fit day-0.npy night.npy {FIT}", code=3)
    mixcoder(f"fit day-0.npy day-1.parquet {FIT}", code=3)
    mixcoder(f"fit day-*.npy {FIT} -o m.mixcoder")
    mixcoder("encode m.mixcoder day-*.npy -o -", code=2)
    mixcoder("encode m.mixcoder day-*.npy -o codes.npz", code=2)
