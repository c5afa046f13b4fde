"""Every command: what it writes is what the Python interface says, and what it refuses it refuses in one line."""

import gzip
import json
import math
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mixcoder as library
from mixcoder.cli import demo as demo_module
from mixcoder.cli import main, outputs
from mixcoder.cli.program import COMMANDS
from mixcoder.cli.tables import open_table, write_table
from mixcoder.fitting.em import Problem

# The files name their columns and the arrays beside them do not.
pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

# ---------------------------------------------------------------------------------------------------------------- help


def test_help_names_every_command(mixcoder):
    shown = mixcoder("--help").stdout
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_json_and_debug(mixcoder, command):
    shown = mixcoder(f"{command} --help").stdout
    assert "--json" in shown
    assert "--debug" in shown


# ----------------------------------------------------------------------------------------------------------------- fit

FIT = (
    "bic bound_per_row bytes columns components converged covariance data distortion estimator inertia_per_row "
    "iterations mean_log_density model n_columns out rate_bits rows schema seconds seed stop_reason weights"
)


@pytest.mark.parametrize("kind", ["gaussian", "kmeans"])
def test_fit_saves_the_model_that_python_fits(ask, data, clouds, kind):
    record = ask(f"fit rows.csv -k 3 --model {kind} --n-init 4 --seed 5 -o m.mixcoder")
    assert " ".join(sorted(record)) == FIT
    saved = library.load("m.mixcoder")
    if kind == "gaussian":
        fitted = library.GaussianMixture(3, n_init=4, random_state=5).fit(clouds)
        assert record["mean_log_density"] == pytest.approx(fitted.score(clouds), rel=1e-12)
        assert record["bound_per_row"] == pytest.approx(fitted.lower_bound_, rel=1e-12)
        np.testing.assert_array_equal(saved.means_, fitted.means_)
    else:
        fitted = library.KMeans(3, n_init=4, random_state=5).fit(clouds)
        assert record["inertia_per_row"] == pytest.approx(fitted.inertia_ / len(clouds), rel=1e-12)
        np.testing.assert_array_equal(saved.cluster_centers_, fitted.cluster_centers_)
    np.testing.assert_array_equal(saved.predict(clouds), fitted.predict(clouds))
    assert record["rate_bits"] == pytest.approx(fitted.rate(clouds))
    assert record["distortion"] == pytest.approx(fitted.distortion(clouds))
    assert record["weights"] == pytest.approx([1 / 3] * 3)
    assert record["converged"]
    assert record["columns"] == ["height", "width"]
    assert record["bytes"] == os.path.getsize("m.mixcoder")
    assert list(saved.feature_names_in_) == ["height", "width"]


def test_fit_is_reproducible(mixcoder, data):
    mixcoder("fit rows.csv -k 4 -o a.mixcoder")
    mixcoder("fit rows.csv -k 4 -o b.mixcoder")
    a, b = library.load("a.mixcoder"), library.load("b.mixcoder")
    np.testing.assert_array_equal(a.means_, b.means_)
    np.testing.assert_array_equal(a.covariances_, b.covariances_)


def test_fit_prints_a_summary_for_people(mixcoder, data):
    shown = mixcoder("fit rows.csv -k 3 --n-init 4").stdout
    for word in (
        "rows.csv: 180 rows, 2 columns",
        "3 components",
        "nats per row",
        "stopped:",
        "0.333 0.333 0.333",
    ):
        assert word in shown
    assert "model.mixcoder" in shown


def test_fit_passes_its_options_on(ask, data, clouds):
    record = ask("fit rows.csv -k 2 --covariance diag --max-iter 1 --tol 0 --temperature 0.5")
    assert (record["covariance"], record["iterations"], record["converged"]) == ("diag", 1, False)
    parameters = library.load("model.mixcoder").get_params()
    assert (parameters["temperature"], parameters["tol"], parameters["max_iter"]) == (0.5, 0.0, 1)


def test_fit_takes_any_family(ask, here):
    rng = np.random.default_rng(0)
    write_table("counts.csv", rng.poisson(np.repeat([[1, 9], [9, 1]], 50, axis=0)), ["a", "b"])
    record = ask("fit counts.csv -k 2 --model poisson")
    assert (record["estimator"], record["components"]) == ("Mixture", 2)
    assert record["mean_log_density"] < 0


def test_a_weight_of_two_is_a_row_twice(ask, here, clouds):
    weights = np.arange(len(clouds)) % 2 + 1
    write_table("weighted.csv", np.column_stack([clouds, weights]), ["a", "b", "times"])
    write_table("twice.csv", np.repeat(clouds, weights, axis=0), ["a", "b"])
    once = ask("fit weighted.csv -k 1 --weights times -o a.mixcoder")
    twice = ask("fit twice.csv -k 1 -o b.mixcoder")
    assert once["columns"] == ["a", "b"]
    assert once["bound_per_row"] == pytest.approx(twice["bound_per_row"], rel=1e-9)


def test_warnings_are_lines_on_stderr(mixcoder, data):
    result = mixcoder("fit rows.csv -k 3 --max-iter 1 --tol 0 --json")
    json.loads(result.stdout)
    assert re.search(r"^mixcoder: warning: \S", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert "line " not in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("fit", 2, "DATA"),
        ("fit rows.csv", 2, "--components"),
        ("fit rows.csv -k 0", 2, "-k"),
        ("fit rows.csv -k two", 2, "two"),
        ("fit rows.csv -k 2 --covariance round", 2, "round"),
        ("fit rows.csv -k 2 --model nonsense", 2, "nonsense"),
        (
            "fit rows.csv -k 2 --model kmeans --covariance full",
            2,
            "--covariance does not apply to --model kmeans",
        ),
        ("fit rows.csv -k 2 --model kmeans --temperature 2", 2, "--temperature does not apply"),
        ("fit rows.csv -k 2 --temperature=-1", 2, "--temperature"),
        ("fit rows.csv -k 2 --columns ,", 2, "--columns"),
        ("fit rows.csv -k 2 --columns height --weights height", 2, "--weights"),
        ("fit rows.csv -k 2 --out nowhere/m.mixcoder", 2, "nowhere"),
        ("fit rows.csv -k 2 --out rows.csv --force", 2, "the input itself"),
        ("fit rows.csv -k 2 --out .", 2, "not a plain file"),
        ("fit rows.csv -k 2 --out -", 2, "to a file"),
        ("fit rows.csv -k 2 --out /dev/null --force", 2, "not a plain file"),
        ("fit nothing.csv -k 2", 3, "no such file"),
        ("fit rows.csv -k 181", 3, "180 rows"),
        ("fit rows.csv -k 2 --columns height,depth", 3, "depth"),
        ("fit rows.csv -k 2 --weights depth", 3, "depth"),
        ("fit holes.csv -k 1 --model kmeans", 3, "row 1 (from 0), column 'b' is a missing value"),
        ("fit text.csv -k 1", 3, "line 3, column 'b'"),
        ("fit weights.csv -k 1 --weights w", 3, "row 1 (from 0), column 'w': -1.0"),
        ("fit one.csv -k 1", 3, "1 row"),
    ],
)
def test_fit_refuses(mixcoder, data, words, code, says):
    here = data.parent
    (here / "holes.csv").write_text("a,b\n1,2\n3,\n4,5\n")
    (here / "text.csv").write_text("a,b\n1,2\n3,x\n4,5\n")
    (here / "weights.csv").write_text("a,w\n1,2\n3,-1\n4,5\n")
    (here / "one.csv").write_text("a,b\n1,2\n")
    before = sorted(os.listdir())
    assert says in mixcoder(words, code=code).stderr
    assert sorted(os.listdir()) == before


# ------------------------------------------------------------------------------------------------- encode, decode, ...


def test_encode_writes_what_the_model_predicts(mixcoder, ask, model, clouds):
    record = ask("encode model.mixcoder rows.csv -o codes.csv")
    assert (record["rows"], record["components"], record["components_used"], record["code"]) == (
        180,
        3,
        3,
        "hard",
    )
    assert record["rate_bits"] == pytest.approx(np.log2(3), abs=1e-3)
    table = open_table("codes.csv").read()
    assert table.columns == ("component",)
    np.testing.assert_array_equal(table.values[:, 0], model.predict(clouds))
    mixcoder("encode model.mixcoder rows.csv -o codes.npy")
    assert np.load("codes.npy").dtype == np.int64
    assert mixcoder("encode model.mixcoder rows.csv -o -").stdout == Path("codes.csv").read_text()


def test_soft_codes_are_responsibilities(mixcoder, ask, gaussian, clouds):
    record = ask("encode model.mixcoder rows.csv --soft -o codes.csv")
    assert record["rate_bits"] == pytest.approx(gaussian.rate(clouds))
    table = open_table("codes.csv").read()
    assert table.columns == ("component_0", "component_1", "component_2")
    np.testing.assert_array_equal(table.values, gaussian.predict_proba(clouds))


def test_soft_codes_of_k_means_are_refused(mixcoder, kmeans):
    assert "are hard" in mixcoder("encode model.mixcoder rows.csv --soft -o codes.csv", code=2).stderr


@pytest.mark.parametrize("kind", ["csv", "tsv.gz", "npy", "npz", "parquet"])
def test_codes_decode_to_what_the_model_decodes(mixcoder, ask, model, clouds, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    mixcoder(f"encode model.mixcoder rows.csv -o codes.{kind}")
    record = ask(f"decode model.mixcoder codes.{kind} -o back.{kind}")
    assert (record["rows"], record["code"], record["columns"]) == (180, "hard", ["height", "width"])
    back = open_table(f"back.{kind}").read()
    np.testing.assert_array_equal(back.values, model.decode(model.predict(clouds)))
    if kind not in ("npy", "npz"):
        assert back.columns == ("height", "width")


def test_soft_codes_decode_to_reconstructions(mixcoder, gaussian, clouds):
    mixcoder("encode model.mixcoder rows.csv --soft -o codes.parquet")
    mixcoder("decode model.mixcoder codes.parquet -o back.csv")
    np.testing.assert_allclose(open_table("back.csv").read().values, gaussian.reconstruct(clouds), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("c\n0\n3\n", "row 1 (from 0): there is no component 3; they are numbered 0 to 2"),
        ("c\n-1\n", "no component -1"),
        ("c\n0.5\n", "no component 0.5"),
        ("a,b\n1,0\n", "2 columns, but a code of 3 components has 1"),
        ("a,b,c\n.5,.5,.5\n", "sum to 1.5"),
        ("a,b,c\n1,1,-1\n", "include -1"),
        ("a,b,c\n1,,0\n", "missing"),
        ("c\n", "no rows"),
    ],
)
def test_decode_refuses_what_is_no_code(mixcoder, gaussian, text, says):
    Path("codes.csv").write_text(text)
    assert says in mixcoder("decode model.mixcoder codes.csv -o back.csv", code=3).stderr
    assert not os.path.exists("back.csv")


def test_float32_goes_through(mixcoder, here):
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    np.save("rows.npy", rows)
    mixcoder("fit rows.npy -k 40 --covariance spherical --tol 0.1 -o m.mixcoder")
    mixcoder("encode m.mixcoder rows.npy --soft -o codes.npy")
    mixcoder("decode m.mixcoder codes.npy -o back.npy")
    assert np.load("codes.npy").dtype == np.load("back.npy").dtype == np.float32
    np.testing.assert_allclose(np.load("back.npy"), library.load("m.mixcoder").reconstruct(rows), atol=1e-5)


def test_codes_are_found_among_other_columns(mixcoder, gaussian):
    Path("codes.csv").write_text("who,component,note\nann,2,x\nbob,0,y\n")
    assert "3 columns, but a code of 3" not in mixcoder("decode model.mixcoder codes.csv -o -", code=3).stderr
    rows = mixcoder("decode model.mixcoder codes.csv --columns component -o back.csv")
    assert "2 rows, hard" in rows.stdout
    np.testing.assert_array_equal(open_table("back.csv").read().values, gaussian.decode([2, 0]))
    Path("codes.csv").write_text("who,component\nann,2\n")
    assert "--columns" in mixcoder("decode model.mixcoder codes.csv -o -", code=3).stderr


def test_columns_are_found_by_name(mixcoder, model, clouds):
    lines = [f"{w!r},id{i},{h!r}" for i, (h, w) in enumerate(clouds.tolist())]
    Path("other.csv").write_text("\n".join(["width,who,height", *lines]) + "\n")
    mixcoder("encode model.mixcoder other.csv -o a.npy")
    np.testing.assert_array_equal(np.load("a.npy"), model.predict(clouds))
    np.save("plain.npy", clouds)
    mixcoder("encode model.mixcoder plain.npy -o b.npy")
    np.testing.assert_array_equal(np.load("b.npy"), np.load("a.npy"))
    Path("renamed.csv").write_text("w,h\n1,2\n")
    says = mixcoder("encode model.mixcoder renamed.csv -o c.npy", code=3).stderr
    assert "no column 'height'" in says
    mixcoder("encode model.mixcoder renamed.csv --columns h,w -o c.npy")
    np.save("wide.npy", np.ones((3, 5)))
    assert "5 columns, but the model was fitted to 2 (height, width)" in (
        mixcoder("encode model.mixcoder wide.npy -o d.npy", code=3).stderr
    )


def test_score_is_the_models_score(ask, gaussian, clouds):
    record = ask("score model.mixcoder rows.csv -o scores.parquet")
    np.testing.assert_array_equal(
        open_table("scores.parquet").read().values[:, 0], gaussian.score_samples(clouds)
    )
    assert record["mean_log_density"] == pytest.approx(gaussian.score(clouds), rel=1e-12)
    assert record["worst_row"] == gaussian.score_samples(clouds).argmin()
    assert record["rate_bits"] == pytest.approx(gaussian.rate(clouds))
    assert record["distortion"] == pytest.approx(gaussian.distortion(clouds))


def test_score_of_k_means_is_its_squared_error(ask, mixcoder, kmeans, clouds):
    record = ask("score model.mixcoder rows.csv -o scores.npy")
    assert (record["score"], record["mean_log_density"]) == ("squared_error", None)
    assert np.load("scores.npy").mean() == pytest.approx(record["distortion"])
    assert record["distortion"] == pytest.approx(kmeans.inertia_ / len(clouds))
    assert "log-density" not in mixcoder("score model.mixcoder rows.csv").stdout


def test_blocks_change_nothing(ask, mixcoder, model, monkeypatch):
    whole = ask("score model.mixcoder rows.csv -o whole.npy")
    mixcoder("encode model.mixcoder rows.csv -o whole_codes.npy")
    monkeypatch.setattr("mixcoder.cli.models.blocks", lambda x: (x[i : i + 50] for i in range(0, len(x), 50)))
    parts = ask("score model.mixcoder rows.csv -o parts.npy")
    mixcoder("encode model.mixcoder rows.csv -o parts_codes.npy")
    np.testing.assert_allclose(np.load("parts.npy"), np.load("whole.npy"), rtol=1e-12)
    np.testing.assert_array_equal(np.load("parts_codes.npy"), np.load("whole_codes.npy"))
    for name in ("rate_bits", "distortion", "worst_score"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-12)
    assert parts["worst_row"] == whole["worst_row"]


def test_samples_come_from_the_model(ask, mixcoder, gaussian):
    record = ask("sample model.mixcoder -n 500 --seed 3 -o a.csv --codes a.npy")
    assert record["columns"] == ["height", "width"]
    rows = open_table("a.csv").read()
    assert rows.columns == ("height", "width")
    # The clouds are ten standard deviations apart: whoever generated a row also explains it.
    np.testing.assert_array_equal(gaussian.predict(rows.values), np.load("a.npy"))
    assert np.bincount(np.load("a.npy"), minlength=3) / 500 == pytest.approx([1 / 3] * 3, abs=0.08)
    mixcoder("sample model.mixcoder -n 500 --seed 3 -o b.csv")
    mixcoder("sample model.mixcoder -n 500 --seed 4 -o c.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text() != Path("c.csv").read_text()


def test_sample_refuses(mixcoder, kmeans):
    assert "no density" in mixcoder("sample model.mixcoder -o a.csv", code=2).stderr
    assert "same file" in mixcoder("sample model.mixcoder -o a.npy --codes a.npy", code=2).stderr
    assert "--codes" in mixcoder("sample model.mixcoder -o a.npy --codes -", code=2).stderr
    assert "-n" in mixcoder("sample model.mixcoder -n 0 -o a.npy", code=2).stderr


def test_commands_form_a_pipe(mixcoder, gaussian, clouds):
    codes = mixcoder("encode model.mixcoder - -o -", stdin=Path("rows.csv").read_text())
    back = mixcoder("decode model.mixcoder - -o -", stdin=codes.stdout)
    assert codes.stderr == back.stderr == ""
    Path("back.csv").write_text(back.stdout)
    np.testing.assert_array_equal(
        open_table("back.csv").read().values, gaussian.decode(gaussian.predict(clouds))
    )


# ------------------------------------------------------------------------------------------------------------- inspect


def test_inspect_a_model(ask, mixcoder, model):
    record = ask("inspect model.mixcoder")
    assert record["n_bytes"] == os.path.getsize("model.mixcoder")
    assert len(record["sha256"]) == 64
    assert record["arrays"]
    shown = mixcoder("inspect model.mixcoder").stdout
    assert record["sha256"] in shown
    assert all(name in shown for name in record["arrays"])


def test_inspect_a_table(ask, mixcoder, data):
    record = ask("inspect rows.csv")
    assert (record["rows"], record["n_columns"], record["named"]) == (180, 2, True)
    assert [c["name"] for c in record["columns"]] == ["height", "width"]
    assert "180 rows, 2 columns" in mixcoder("inspect rows.csv").stdout
    (data.parent / "mixed.csv").write_text("a,who\n1,x\n,y\n")
    shown = mixcoder("inspect mixed.csv").stdout
    assert "1 missing" in shown
    assert "text" in shown
    assert "for tables" in mixcoder("inspect model.mixcoder --columns a", code=2).stderr


@pytest.mark.parametrize("command", ["inspect FILE", "encode FILE rows.csv -o c.csv", "sample FILE -o s.csv"])
def test_bad_model_files(mixcoder, gaussian, command):
    whole = Path("model.mixcoder").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[:-1],
        "flipped": bytes(flipped),
    }.items():
        with open(f"{name}.mixcoder", "wb") as file:
            file.write(content)
        assert f"{name}.mixcoder" in mixcoder(command.replace("FILE", f"{name}.mixcoder"), code=5).stderr
    assert "no such file" in mixcoder(command.replace("FILE", "nowhere.mixcoder"), code=5).stderr
    assert (
        "folder"
        in (
            os.mkdir("folder.mixcoder") or mixcoder(command.replace("FILE", "folder.mixcoder"), code=5)
        ).stderr
    )


# --------------------------------------------------------------------------------------------------------------- check


def test_check_accepts_good_rows(ask, mixcoder, data):
    record = ask("check rows.csv -k 3")
    assert record["ok"]
    assert (record["problems"], record["duplicate_rows"], record["rows"]) == ([], 0, 180)
    assert set(record["memory_bytes"]) == {"rows", "parameters", "blocks", "total", "available"}
    assert "ok: a fit accepts these rows" in mixcoder("check rows.csv").stdout


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("a,b\n1,\n3,\n5,\n", "", "column 'b' holds no value at all"),
        ("a,b\n1,2\n3,-inf\n5,6\n", "", "column 'b' has 1 infinite cell, first at row 1"),
        ("a,b\n1,2\n3,x\n5,6\n", "", "column 'b' has 1 cell that is not a number ('x', first at line 3)"),
        ("a,b\n1,2\n3,4\n", "-k 3", "2 rows are too few for 3 components"),
        ("a,b,c\n1,,\n3,,\n", "", "2 columns (b, c); the first, 'b', holds no value at all"),
    ],
)
def test_check_finds_what_a_fit_refuses(ask, mixcoder, here, text, options, problem):
    (here / "t.csv").write_text(text)
    record = ask(f"check t.csv -k 2 {options}", code=3)
    assert problem in record["problems"]
    assert not record["ok"]
    shown = mixcoder(f"check t.csv -k 2 {options}", code=3).stdout
    assert f"problem: {problem}" in shown
    k = options.split()[-1] if options else "1"
    mixcoder(f"fit t.csv -k {k} -o m.mixcoder", code=3)


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"a": [1, 2, 3, 4], "b": [7, 7, 7, 7]}, "column 'b' is constant (7)"),
        ({"a": [0.1, 0.1, 0.1], "b": [1, 2, 3]}, "column 'a' is constant"),
        ({"a": [1.0, math.nan, math.nan], "b": [1, 2, 3]}, "column 'a' has 2 missing cells, first at row 1"),
        ({"a": [1e6 + 1, 1e6 + 2, 1e6 + 3]}, "float32 would lose its digits"),
        ({"a": [1e15 + 1, 1e15 + 2, 1e15 + 3]}, "float64 has lost its digits"),
        ({"a": [1e100, -1e100, 0]}, "above 1e18"),
        ({"a": [1e-160, 2e-160, 0]}, "whose square underflows float64"),
        ({"a": [1, 2, 3], "b": [1e5, 3e5, 2e5]}, "column 'b' spreads 1e+05 times as wide as 'a'"),
        ({"a": [1, 1, 1, 2], "b": [0, 0, -0.0, 0]}, "only 2 rows are distinct"),
    ],
)
def test_check_warns_of_what_a_fit_suffers_from(ask, here, columns, warning):
    write_table("t.csv", np.array(list(columns.values()), dtype=float).T, list(columns))
    record = ask("check t.csv -k 3")
    assert any(warning in line for line in record["warnings"]), record["warnings"]


@pytest.mark.parametrize(
    "values",
    [
        1e200 * np.arange(12.0).reshape(6, 2),
        np.arange(12.0).reshape(6, 2) * [1.0, 1e160],
        (1e25 * np.arange(12.0).reshape(6, 2)).astype(np.float32),
        (1e-40 * np.arange(12.0).reshape(6, 2)).astype(np.float32),
        (1e15 * np.arange(12.0).reshape(6, 2)).astype(np.float32),
        1e150 * np.arange(12.0).reshape(6, 2),
        np.arange(2.0)[None],
        np.arange(6.0).reshape(3, 2),
    ],
)
def test_check_and_fit_agree_on_what_can_be_fitted(ask, mixcoder, here, values):
    write_table("t.npy", values)
    ran = CliRunner().invoke(main, ["fit", "t.npy", "-k", "1", "-o", "m.mixcoder"])
    record = ask("check t.npy", code=ran.exit_code)
    assert ran.exit_code == (0 if record["ok"] else 3)
    assert record["ok"] == (not record["problems"])
    if not record["ok"] and len(values) > 1:
        assert "has a spread near" in record["problems"][0]
    if values.dtype == np.float32:
        assert not any("keep it in float64" in line for line in record["warnings"])


def test_check_names_a_cell_that_is_nowhere_near_the_others(ask, here):
    values = np.random.default_rng(0).normal(5.0, 1.0, (50, 2))
    values[7, 1] = -999999.0
    write_table("t.csv", values, ["a", "b"])
    record = ask("check t.csv")
    assert [
        line for line in record["warnings"] if "'b'" in line and "-999 999" in line and "at row 7" in line
    ]
    assert [column["far"] for column in record["columns"]] == [0, 1]
    values[7, 1] = 12.0  # seven standard deviations
    write_table("t.csv", values, ["a", "b"])
    assert [column["far"] for column in ask("check t.csv")["columns"]] == [0, 0]


def test_check_looks_at_the_columns_chosen_only(ask, here):
    (here / "t.csv").write_text("a,b,who\n1,,x\n3,4,y\n")
    assert ask("check t.csv -k 2 --columns a")["ok"]


def test_check_counts_duplicates(ask, here):
    write_table("t.npy", np.array([[1.0, 0.0], [1.0, -0.0], [np.nan, 1.0], [-np.nan, 1.0], [2.0, 2.0]]))
    record = ask("check t.npy -k 1")
    assert (record["distinct_rows"], record["duplicate_rows"]) == (3, 2)


# -------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_reports_and_tries_a_fit(ask, mixcoder):
    record = ask("doctor")
    assert record["ok"]
    assert record["trial"]["seconds"] > 0
    assert record["packages"]["torch"]
    assert {pool["user_api"] for pool in record["thread_pools"]} >= {"blas"}
    assert mixcoder("doctor").stdout.endswith("\nok\n")


def test_doctor_names_what_is_broken(ask, mixcoder, monkeypatch):
    def broken():
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("mixcoder.cli.doctor._torch", broken)
    record = ask("doctor", code=6)
    assert any("libgomp" in line for line in record["problems"])
    assert "something is broken" in mixcoder("doctor", code=6).stdout


# ---------------------------------------------------------------------------------------------------------------- demo


def test_demo_measures_the_mixture_against_the_others_on_real_images(ask, mixcoder, here):
    record = ask("demo")
    methods = {method["name"]: method for method in record["methods"]}
    assert list(methods) == ["mixture", "k-means", "k-means of scikit-learn", "PCA"]
    assert record["loaded_model_encodes_the_same"]
    assert record["images_fit"] + record["images_test"] == 1797
    for method in methods.values():
        assert method["flat_bits"] <= record["bits"]
        # An entropy coder that has seen the frequencies beats the flat code, also on images held out.
        assert method["entropy_bits"] < method["flat_bits"]
        assert method["distortion"] < record["distortion_of_mean"]
    # The same objective, the same data, the best of several starts each: within a few per cent of one another.
    assert methods["k-means"]["distortion"] == pytest.approx(
        methods["k-means of scikit-learn"]["distortion"], rel=0.05
    )
    assert methods["mixture"]["distortion"] == pytest.approx(methods["k-means"]["distortion"], rel=0.08)
    assert methods["PCA"]["distortion"] > 1.5 * methods["mixture"]["distortion"]
    from matplotlib.image import imread

    picture = imread(here / "mixcoder-demo" / "picture.png")
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1200
    assert 0.02 < (picture[..., :3].mean(axis=-1) < 0.5).mean() < 0.5  # ink, and not only ink
    assert library.load(record["model"]).n_features_in_ == 64


def test_demo_never_overwrites(mixcoder, ask, here, monkeypatch):
    monkeypatch.setattr(demo_module, "BITS", 2)
    assert "picture.png" in mixcoder("demo").stdout
    first = {path: path.read_bytes() for path in (here / "mixcoder-demo").iterdir()}
    assert {path.name for path in first} == {"model.mixcoder", "picture.png"}
    assert ask("demo --seed 1")["directory"] == "mixcoder-demo-2"
    assert {path: path.read_bytes() for path in first} == first
    assert "--force" in mixcoder("demo -o mixcoder-demo", code=2).stderr
    assert ask("demo --seed 1 --force")["directory"] == "mixcoder-demo"
    np.testing.assert_array_equal(
        library.load("mixcoder-demo/model.mixcoder").means_,
        library.load("mixcoder-demo-2/model.mixcoder").means_,
    )
    assert sorted(os.listdir()) == ["mixcoder-demo", "mixcoder-demo-2"]
    assert "cannot be made" in mixcoder("demo -o no/where", code=2).stderr


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


def test_demo_on_fashion_mnist_files(ask, mixcoder, here, monkeypatch):
    monkeypatch.setattr(demo_module, "BITS", 2)
    rng = np.random.default_rng(0)
    folder = here / "fashion"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx(rng.integers(0, 256, (60, 28, 28))))
    )
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (20, 28, 28))))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, 20)))
    record = ask("demo --data fashion-mnist --fashion-dir fashion")
    assert (record["data"], record["images_fit"], record["images_test"]) == ("fashion-mnist", 60, 20)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (20, 28, 28)))[:-1])
    assert "t10k-images" in mixcoder("demo --data fashion-mnist --fashion-dir fashion", code=3).stderr
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"hello")
    assert "IDX" in mixcoder("demo --data fashion-mnist --fashion-dir fashion", code=3).stderr
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"hello")
    assert "gzip" in mixcoder("demo --data fashion-mnist --fashion-dir fashion", code=3).stderr
    assert sorted(os.listdir()) == ["fashion", "mixcoder-demo"]


def test_demo_without_fashion_mnist_names_its_package(mixcoder, here):
    shown = mixcoder("demo --data fashion-mnist --fashion-dir nowhere", code=3).stderr
    assert "dataset-fashion-mnist" in shown
    assert os.listdir() == []
    assert "fashion-mnist" in mixcoder("demo --fashion-dir nowhere", code=2).stderr


# ------------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    "command",
    [
        "fit rows.csv -k 2 -o there.npy",
        "encode model.mixcoder rows.csv -o there.npy",
        "decode model.mixcoder codes.csv -o there.npy",
        "score model.mixcoder rows.csv -o there.npy",
        "impute rows.csv -m model.mixcoder -o there.npy",
        "restore image.npy --noise 0.1 -o there.npy",
        "sample model.mixcoder -o there.npy",
        "sample model.mixcoder -o other.npy --codes there.npy",
    ],
)
def test_nothing_is_overwritten_without_force(mixcoder, gaussian, command, monkeypatch):
    Path("codes.csv").write_text("c\n0\n1\n")
    np.save("image.npy", np.full((9, 10), 0.5))
    Path("there.npy").write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr("mixcoder.cli.tables.open_table", lambda *a, **k: pytest.fail("the work began"))
        patch.setattr("mixcoder.cli.models.load", lambda *a: pytest.fail("the work began"))
        assert "there.npy exists" in mixcoder(command, code=2).stderr
    assert Path("there.npy").read_text() == "precious"
    mixcoder(command, "--force")
    assert Path("there.npy").read_bytes() != b"precious"
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize(
    ("trouble", "code"), [(OSError(28, "No space left on device", "x"), 1), (KeyboardInterrupt(), 130)]
)
def test_an_output_that_fails_leaves_the_old_file_and_nothing_else(
    mixcoder, gaussian, monkeypatch, trouble, code
):
    Path("codes.csv").write_text("precious")
    before = sorted(os.listdir())

    def half(path, *args, **kwargs):
        with open(path, "w") as file:
            file.write("half of it")
        raise trouble

    monkeypatch.setattr("mixcoder.cli.tables.write_table", half)
    shown = mixcoder("encode model.mixcoder rows.csv -o codes.csv --force", code=code).stderr
    assert "No space left" in shown or "interrupted" in shown
    assert Path("codes.csv").read_text() == "precious"
    assert sorted(os.listdir()) == before


def test_a_file_that_appears_meanwhile_is_not_overwritten(here):
    import click

    target = outputs.claim("late.csv", force=False)

    def write():
        with outputs.replace_atomically(target, force=False) as draft:
            draft.write_text("ours")
            (here / "late.csv").write_text("theirs")

    with pytest.raises(click.UsageError, match="in the meantime"):
        write()
    assert (here / "late.csv").read_text() == "theirs"
    assert os.listdir() == ["late.csv"]


def test_outputs_get_the_permissions_that_the_user_asks_for(mixcoder, gaussian):
    before = os.umask(0o027)
    try:
        mixcoder("encode model.mixcoder rows.csv -o codes.csv")
        mixcoder("fit rows.csv -k 1 -o m.mixcoder")
    finally:
        os.umask(before)
    for name in ("codes.csv", "m.mixcoder"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o640


def test_a_link_is_written_through(mixcoder, gaussian):
    os.mkdir("far")
    os.symlink("far/codes.csv", "codes.csv")
    mixcoder("encode model.mixcoder rows.csv -o codes.csv")
    assert os.path.islink("codes.csv")
    assert Path("far/codes.csv").read_text().startswith("component\n")


def test_output_names_are_checked_first(mixcoder, gaussian, monkeypatch):
    assert ".parquet" in mixcoder("encode model.mixcoder rows.csv -o codes.xlsx", code=2).stderr
    assert "choose one" in mixcoder("encode model.mixcoder rows.csv -o - --json", code=2).stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "mixcoder[io]" in mixcoder("encode model.mixcoder rows.csv -o codes.parquet", code=2).stderr


def test_unicode_paths(mixcoder, data):
    os.mkdir("Ünïcode 数据")
    os.rename("rows.csv", "Ünïcode 数据/röws.csv")
    folder = "Ünïcode 数据"
    mixcoder(["fit", f"{folder}/röws.csv", "-k", "2", "-o", f"{folder}/mödel"])
    shown = mixcoder(["encode", f"{folder}/mödel", f"{folder}/röws.csv", "-o", f"{folder}/ç.csv"]).stdout
    assert "röws.csv" in shown


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_unforeseen_error_is_one_line_and_debug_shows_where(mixcoder, data, monkeypatch):
    def bug(*args, **kwargs):
        raise KeyError("k")

    monkeypatch.setattr("mixcoder.cli.tables.open_table", bug)
    shown = mixcoder("check rows.csv", code=1).stderr
    assert shown.count("\n") == 1
    assert "internal error, KeyError: 'k'" in shown
    for words in ("check rows.csv --debug", "--debug check rows.csv"):
        assert "Traceback" in mixcoder(words, code=1).stderr


def test_memory_errors_point_to_check(mixcoder, data, monkeypatch):
    def too_much(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("mixcoder.cli.tables.open_table", too_much)
    assert "mixcoder check" in mixcoder("fit rows.csv -k 2", code=1).stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [("DataError", 3), ("FitError", 4), ("ModelFileError", 5), ("EngineError", 6), ("MixcoderError", 1)],
)
def test_each_kind_of_error_has_its_code(mixcoder, data, monkeypatch, error, code):
    from mixcoder import errors

    def fail(self, *args, **kwargs):
        raise getattr(errors, error)("the first line\n  and the second")

    monkeypatch.setattr(library.GaussianMixture, "fit", fail)
    assert "the first line and the second" in mixcoder("fit rows.csv -k 2", code=code).stderr
    assert not os.path.exists("model.mixcoder")


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_end_the_program_with_their_code(here, signal, code):
    import signal as signals

    words = [sys.executable, "-m", "mixcoder", "check", "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        # More than a pipe holds: once it is written, the program is reading, and its handlers are in place.
        child.stdin.write("a,b\n" + "1,2\n" * 100_000)
        child.stdin.flush()
        child.send_signal(getattr(signals, signal))
        _, shown = child.communicate(timeout=60)
        assert child.returncode == code
    assert "Traceback" not in shown


def test_a_reader_that_goes_away_ends_the_program_quietly(gaussian):
    words = [sys.executable, "-m", "mixcoder", "sample", "model.mixcoder", "-n", "50000", "-o", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"height,width\n"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == 141


@pytest.mark.parametrize(
    ("words", "environment", "shows"),
    [
        ("score model.mixcoder rows.csv", {"NO_COLOR": "1"}, b"scoring"),
        ("fit rows.csv -k 3 --force", {"NO_COLOR": "1"}, b"fitting 3 components to 180 rows"),
        ("fit rows.csv -k 3 --force", {"NO_COLOR": "1"}, b", bound -"),
        ("fit rows.csv -k 3 --model kmeans --force", {"NO_COLOR": "1"}, b", mean squared distance"),
        ("score model.mixcoder rows.csv --quiet", {}, b""),
    ],
)
def test_progress_is_for_terminals(gaussian, words, environment, shows):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mixcoder", *words.split(), "--json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment}
    seen = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as child:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65536):  # all along: a terminal holds a few kilobytes only
                seen += chunk
        except OSError:  # the program has closed its end
            pass
        os.close(ours)
        json.loads(child.stdout.read())
    assert child.returncode == 0
    assert shows in seen
    assert shows or not seen
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", seen)  # no colours


def test_without_a_word_the_help_is_printed_as_it_is_with_help(mixcoder):
    bare, asked = mixcoder("", code=2), mixcoder("--help")
    assert bare.stdout == asked.stdout
    assert bare.stderr == ""
    assert "Commands:\n  fit" in bare.stdout


def test_a_range_of_components_is_no_integer(mixcoder, data):
    shown = mixcoder("fit rows.csv -k 2-4", code=2).stderr
    assert "'2-4' is not a valid integer." in shown
    assert "range" not in shown


def test_remedies_are_those_of_the_command_line(mixcoder, here):
    write_table("t.csv", np.eye(2), ["a", "b"])
    write_table("u.csv", np.eye(2), ["b", "a"])
    write_table("v.npy", np.eye(2))
    assert "in order: --columns A,B" in mixcoder("fit t.csv u.csv -k 1", code=3).stderr
    for words in ("t.csv v.npy", "v.npy t.csv"):
        shown = mixcoder(f"fit {words} -k 1", code=3).stderr
        assert "t.csv names its columns" in shown
        assert "None" not in shown
        assert "columns=" not in shown


def test_long_lists_of_components_are_cut_short(mixcoder, data):
    shown = mixcoder("fit rows.csv -k 180").stderr
    assert re.search(r"Components \[(\d+, ){9}\d+\] and \d+ more collapsed", shown)
    assert max(map(len, shown.splitlines())) < 400


def test_a_checkpoint_has_a_place_before_the_fit_begins(mixcoder, data):
    assert (
        "nowhere is not a directory" in mixcoder("fit rows.csv -k 2 --checkpoint nowhere/x.ck", code=2).stderr
    )
    assert "is the input itself" in mixcoder("fit rows.csv -k 2 --checkpoint rows.csv", code=2).stderr
    shown = mixcoder("fit rows.csv -k 2 -o m --checkpoint m", code=2).stderr
    assert "--out and --checkpoint" in shown


def test_an_interrupted_fit_says_what_goes_on_from_its_checkpoint(mixcoder, data, monkeypatch):
    real, calls = Problem.totals, []

    def totals(self, *args):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    words = "fit rows.csv -k 3 --tol 0 --max-iter 8 --checkpoint x.ck -o m.mixcoder"
    with monkeypatch.context() as patch:
        patch.setattr(Problem, "totals", totals)
        shown = mixcoder(words, code=130).stderr
    assert "kept in x.ck" in shown
    assert "--resume" in shown
    mixcoder(f"{words} --resume")
    whole = mixcoder("fit rows.csv -k 3 --tol 0 --max-iter 8 -o whole.mixcoder")
    assert whole.exit_code == 0
    np.testing.assert_array_equal(library.load("m.mixcoder").means_, library.load("whole.mixcoder").means_)
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Problem, "totals", totals)
        assert "kept" not in mixcoder("fit rows.csv -k 3 --tol 0 -o n.mixcoder", code=130).stderr


def test_files_of_different_columns_are_told_with_the_option_that_chooses_them(mixcoder, here):
    np.save("x.npy", np.zeros((4, 2)))
    for name, columns in {"a": ["u", "v"], "b": ["u", "w"]}.items():
        write_table(f"{name}.parquet", np.zeros((4, 2)), columns)
    assert "--columns A,B." in mixcoder("fit a.parquet b.parquet -k 1", code=3).stderr
    assert "leave --columns out" in mixcoder("fit x.npy a.parquet -k 1 --columns u,v", code=3).stderr
