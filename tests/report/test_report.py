"""The page has its sections, loads nothing, says what the model says, and escapes what the table says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits, load_iris

import mixcoder
from mixcoder.cli import main
from mixcoder.cli.tables import write_table
from mixcoder.errors import DataError
from mixcoder.report import analyse
from mixcoder.report.analysis import effect_sizes
from mixcoder.report.page import _distinct

SECTIONS = ["health", "model", "map", "clusters", "outliers", "code"]
NAMES = ["sepal length", "sepal <b>width</b>", "petal length", "petal & width"]


class Page(HTMLParser):
    """What a reader and a browser see: text, sections, tables, and everything that would be loaded or run."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.images, self.tags, self.links = [], [], [], set(), []
        self.words, self.cells = [], []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(attrs["id"])
        if tag == "img":
            self.images.append(attrs)
        self.links += [
            value for name, value in attrs.items() if name in ("href", "src", "action", "data", "srcset")
        ]
        assert not any(name.startswith("on") for name in attrs), "no event handlers"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            if self.open[-1] == "td":
                self.cells.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def run(*words):
    result = CliRunner().invoke(main, ["report", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    """The JSON record and the page of iris, with a constant column."""
    directory = tmp_path_factory.mktemp("report")
    rows = np.column_stack([load_iris().data, np.full(150, 7.0)])
    write_table(str(directory / "iris.csv"), rows, [*NAMES, "same"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        record = json.loads(run("iris.csv", "-o", "iris.html", "--most", "4", "--json"))
        return record, Path("iris.html").read_text(encoding="utf-8"), directory


def test_the_page_has_its_sections_and_its_pictures(iris):
    page = Page(iris[1])
    assert page.sections == SECTIONS
    assert len(page.images) == 2
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in page.images)


def test_the_page_loads_nothing_and_runs_nothing(iris):
    page = Page(iris[1])
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    without_images = re.sub(r"base64,[A-Za-z0-9+/=]+", "", iris[1])
    assert "://" not in without_images
    assert "url(" not in without_images
    assert "@import" not in without_images
    assert "default-src 'none'" in without_images


def test_names_from_the_table_are_text_and_never_markup(iris):
    page = Page(iris[1])
    assert "b" not in page.tags
    assert "sepal <b>width</b>" in page.text
    assert "petal & width" in page.text


def test_numbers_are_those_of_the_model(iris):
    record, text, _ = iris
    x = load_iris().data
    best = min((c for c in record["candidates"] if c["failure"] is None), key=lambda c: c["bic"])
    assert (record["covariance"], record["components"], record["bic"]) == (
        best["covariance"],
        best["components"],
        best["bic"],
    )
    model = analyse(x, NAMES, most_components=4).model
    assert record["bic"] == pytest.approx(model.bic(x), rel=1e-9)
    assert record["mean_log_density"] == pytest.approx(model.score(x), rel=1e-9)
    labels = model.predict(x)
    for cluster in record["clusters"]:
        own = labels == cluster["component"]
        assert cluster["rows"] == own.sum()
        assert cluster["certainty"] == pytest.approx(model.predict_proba(x)[own].max(1).mean())
        for feature in cluster["features"]:
            j = NAMES.index(feature["name"])
            assert feature["mean"] == pytest.approx(x[own, j].mean())
            assert feature["mean_elsewhere"] == pytest.approx(x[~own, j].mean())
        effects = [abs(feature["effect"]) for feature in cluster["features"]]
        assert effects == sorted(effects, reverse=True)
    assert [o["row"] for o in record["outliers"]] == np.argsort(model.score_samples(x), kind="stable")[
        :10
    ].tolist()
    page = Page(text)
    assert f"{record['bic']:.5g}" in page.cells
    assert all(str(o["row"]) in page.cells for o in record["outliers"])
    assert record["constant_columns"] == ["same"]
    assert "the same in every row: same" in page.text


def test_the_code_on_the_page_makes_the_same_model(iris):
    record, text, directory = iris
    words = "".join(Page(text).words)
    code = words[words.index("import numpy as np") :].partition("Made by mixcoder")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        names = {}
        exec(code, names)
    assert names["model"].bic(names["X"]) == pytest.approx(record["bic"], rel=1e-9)
    assert names["odd"].tolist() == [o["row"] for o in record["outliers"]]
    assert "mixcoder report iris.csv --out iris.html --most 4 --seed 0" in words


def test_images_are_shown_with_their_reconstructions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", load_digits().data[:300])
    record = json.loads(run("digits.npy", "--most", "4", "--covariance", "tied_spherical", "--json"))
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert record["image"] == [8, 8]
    assert page.sections == [*SECTIONS[:-1], "images", "code"]
    alternatives = [image["alt"] for image in page.images]
    for cluster in record["clusters"]:  # pixels are looked at
        told = f"Cluster {cluster['component']}: its mean, how it differs, and some of its rows"
        assert alternatives.count(told) == 1
    assert len(alternatives) == 5 + len(record["clusters"])
    assert "an image of 8 x 8 pixels, from 0 to 16" in page.text
    first = record["clusters"][0]["features"][0]
    place = divmod(int(first["name"].removeprefix("x")), 8)
    assert f"Farthest apart at line {place[0]}, column {place[1]} ({first['effect']:+.2f})" in page.text
    x = load_digits().data[:300]
    model = analyse(x, [f"x{j}" for j in range(64)], covariances=["tied_spherical"], most_components=4).model
    kept = x[:, np.ptp(x, axis=0) > 0]
    assert f"{model.rate(kept):.2f} bits a row" in page.text
    wrong = CliRunner().invoke(main, ["report", "digits.npy", "--force", "--image", "4x4"])
    assert (wrong.exit_code, "16 pixels" in wrong.stderr) == (2, True)


def test_one_cloud_and_one_column_have_pages_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_table("line.csv", np.r_[rng.normal(size=60), rng.normal(size=60) + 9][:, None], ["height"])
    assert json.loads(run("line.csv", "--json"))["components"] == 2
    write_table("cloud.csv", rng.normal(size=(80, 2)), ["a", "b"])
    record = json.loads(run("cloud.csv", "--force", "--most", "3", "--json"))
    assert record["components"] == 1
    text = Page(Path("report.html").read_text(encoding="utf-8")).text
    assert "they fall into no clusters" in text
    assert "there is nothing to compare it with" in text


def test_many_rows_are_compared_on_some_and_fitted_on_all(monkeypatch):
    monkeypatch.setattr("mixcoder.report.analysis.SELECTION_ROWS", 100)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 8])
    found = analyse(rows, ["a", "b"], most_components=3)
    assert found.n_selection_rows == 100
    assert len(found.labels) == 300
    direct = mixcoder.GaussianMixture(random_state=0, n_init=3, **found.selection.best.settings).fit(rows)
    assert found.model.score(rows) == direct.score(rows)


def test_more_components_are_tried_while_they_are_better():
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(4.0) * 20] * 2), -1).reshape(-1, 2)[:14]
    rows = np.concatenate([place + rng.normal(size=(30, 2)) for place in places])
    found = analyse(rows, ["a", "b"], covariances=["tied_spherical"])
    tried = {c.n_components for c in found.selection.candidates}
    assert tried == {*range(1, 10), 12, 16, 20}
    assert found.selection.best.n_components == 16  # of these, the nearest to 14 that is enough
    few = analyse(rows[:90], ["a", "b"], covariances=["tied_spherical"])
    assert (few.selection.best.n_components, len(few.selection.candidates)) == (3, 9)
    told = analyse(rows, ["a", "b"], covariances=["tied_spherical"], most_components=9)
    assert len(told.selection.candidates) == 9


def test_effect_sizes_are_cohens():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) * [1.0, 1000.0]
    x[:1000] += [0.8, 0.0]
    effects = effect_sizes(x, np.arange(4000) < 1000)
    np.testing.assert_allclose(effects, [0.8, 0.0], atol=0.08)
    np.testing.assert_allclose(effect_sizes(x * 7 + 3, np.arange(4000) < 1000), effects, rtol=1e-9)
    assert effect_sizes(np.array([[0.0], [1.0]]), np.array([True, False])).tolist() == [-np.inf]
    assert effect_sizes(x, np.ones(4000, dtype=bool)).tolist() == [0, 0]
    holes = x.copy()
    holes[::7, 0] = np.nan
    seen = np.arange(4000)[~np.isnan(holes[:, 0])]
    assert effect_sizes(holes, np.arange(4000) < 1000)[0] == pytest.approx(
        effect_sizes(x[seen], seen < 1000)[0]
    )
    assert effect_sizes(holes, np.arange(4000) < 1000)[1] == pytest.approx(effects[1])


def two_clouds(rng):
    return np.r_[rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 9]


def test_columns_that_are_no_numbers_are_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = two_clouds(np.random.default_rng(0))
    lines = [f"{a},2020-01-{1 + i % 28:02},,Köln,{b}" for i, (a, b) in enumerate(rows.tolist())]
    Path("mixed.csv").write_text("\n".join(["größe,when,nothing,город,b", *lines]) + "\n", encoding="utf-8")
    record = json.loads(run("mixed.csv", "--most", "3", "--json"))
    assert record["left_out_columns"] == ["when", "nothing", "город"]
    assert (record["n_columns"], record["components"]) == (2, 2)
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert all(name in page.cells for name in ("größe", "when", "nothing", "город"))
    assert "2 columns (when, город); the first, 'when', has 80 cells that are not numbers" in page.text
    assert "holds no value at all: left out" in page.text
    assert "left out" in run("mixed.csv", "--most", "2", "--force")
    words = "".join(page.words)
    names = {}
    exec(words[words.index("import numpy as np") :].partition("Made by mixcoder")[0], names)
    assert names["X"].shape == (80, 2)
    assert names["model"].bic(names["X"]) == pytest.approx(record["bic"], rel=1e-9)
    # What is asked for by name is not left out in silence.
    asked = CliRunner().invoke(main, ["report", "mixed.csv", "--force", "--columns", "b,when"])
    assert (asked.exit_code, "not a number" in asked.stderr) == (3, True)


@pytest.mark.parametrize("names", [["身高"], ["身高", "<b>重量</b>"]])
def test_names_in_any_script_stand_in_the_page_where_a_picture_cannot_draw_them(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    write_table("two.csv", two_clouds(np.random.default_rng(0))[:, : len(names)], names)
    result = CliRunner().invoke(main, ["report", "two.csv", "-k", "2", "--covariance", "full"])
    assert result.exit_code == 0, result.output
    assert "Glyph" not in result.stderr
    text = Page(Path("report.html").read_text(encoding="utf-8")).text
    assert {1: "along 身高.", 2: "身高 across, <b>重量</b> upwards."}[len(names)] in text


def test_missing_cells_are_integrated_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = np.column_stack([two_clouds(rng), rng.normal(size=80)])
    rows[[3, 50, 60], [1, 0, 2]] = np.nan
    rows[70] = np.nan  # of which nothing is known
    write_table("hole.csv", rows, ["a", "b", "c"])
    record = json.loads(run("hole.csv", "--most", "3", "--json"))
    assert record["components"] == 2
    direct = analyse(rows, ["a", "b", "c"], most_components=3)
    assert record["bic"] == pytest.approx(direct.model.bic(rows), rel=1e-9)
    for cluster in record["clusters"]:
        own = direct.labels == cluster["component"]
        for feature in cluster["features"]:
            j = "abc".index(feature["name"])
            assert feature["mean"] == pytest.approx(np.nanmean(rows[own, j]))
            assert feature["mean_elsewhere"] == pytest.approx(np.nanmean(rows[~own, j]))
    assert np.isfinite([o.deviation for o in direct.outliers]).all()
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert "6 cells of the columns fitted, 2.5 %, are missing" in page.text
    assert "the density of those that are there" in page.text
    assert "1 row holds no value at all: the fit leaves it out" in page.text
    assert "nan" not in page.cells


def test_images_with_missing_pixels_have_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = load_digits().data[:200].copy()
    rows[np.random.default_rng(0).random(rows.shape) < 0.02] = np.nan
    np.save("digits.npy", rows)
    record = json.loads(run("digits.npy", "-k", "3", "--covariance", "spherical", "--json"))
    assert record["image"] == [8, 8]
    assert len(record["clusters"]) == 3


def test_what_a_report_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("infinite.csv").write_text("a,b\n1,2\n3,inf\n5,6\n", encoding="utf-8")
    Path("text.csv").write_text("a,b\nu,v\nw,x\ny,z\n", encoding="utf-8")
    Path("typos.csv").write_text("a,b\n1,v\nw,2\n", encoding="utf-8")
    refused = {
        "infinite.csv": "is inf",
        "text.csv": "no column holds numbers (a, b)",
        "typos.csv": "line 2, column 'b': 'v' is not a number",
    }
    for name, told in refused.items():
        result = CliRunner().invoke(main, ["report", name])
        assert result.exit_code == 3
        assert told in result.stderr
    assert not Path("report.html").exists()
    with pytest.raises(DataError, match="Every column is constant"):
        analyse(np.ones((5, 2)), ["a", "b"])
    write_table("ok.csv", np.arange(12.0).reshape(6, 2), ["a", "b"])
    assert CliRunner().invoke(main, ["report", "ok.csv", "-k", "7"]).exit_code == 3
    assert CliRunner().invoke(main, ["report", "ok.csv", "-o", "-"]).exit_code == 2
    assert CliRunner().invoke(main, ["report", "ok.csv", "--image", "wide"]).exit_code == 2
    Path("there.html").write_text("mine", encoding="utf-8")
    assert CliRunner().invoke(main, ["report", "ok.csv", "-o", "there.html"]).exit_code == 2
    assert Path("there.html").read_text(encoding="utf-8") == "mine"


def test_one_model_under_several_names_is_no_evidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table("cloud.csv", np.random.default_rng(0).normal(size=(60, 1)), ["x"])
    record = json.loads(run("cloud.csv", "--most", "2", "--json"))
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert record["components"] == 1
    assert "covariances it is the same model. The next best, 2 components" in page.text
    one = next(cell for cell in page.cells if " = " in cell)
    assert set(one.split(" = ")) == {"full", "tied", "diag", "spherical"}


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("k", [1, 2])
def test_models_that_are_the_same_have_the_same_parameters_and_likelihood(d, k):
    x = np.random.default_rng(0).normal(size=(40, d)) + 9 * (np.arange(40)[:, None] % 2)
    kinds = ["full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"]
    chosen = mixcoder.select(
        mixcoder.GaussianMixture(random_state=0, tol=1e-12, max_iter=1000),
        x,
        {"covariance_type": kinds, "n_components": [k]},
    )
    groups = _distinct(chosen.candidates, d)
    for group in groups:
        assert len({c.n_parameters for c in group}) == 1
        np.testing.assert_allclose([c.log_likelihood for c in group], group[0].log_likelihood, rtol=1e-9)
    firsts = np.sort([group[0].log_likelihood for group in groups])
    assert len(groups) == {(1, 1): 1, (1, 2): 2, (3, 1): 3, (3, 2): 6}[d, k]
    assert (np.diff(firsts) > 1e-6).all()
