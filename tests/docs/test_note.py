"""docs/note/checked.md and checked.zh.md: their tables are what ``mixcoder reproduce`` computes."""

import json
import math
import re

import pytest
from click.testing import CliRunner

from mixcoder.cli import main
from mixcoder.cli.claims import HEADINGS

ROUNDING = 1e-6
"""A smaller number is an error of rounding, and another on another machine."""


@pytest.fixture(scope="module")
def findings():
    """What the command prints."""
    printed = CliRunner().invoke(main, ["reproduce", "--json", "--quiet"])
    assert printed.exit_code == 0, printed.output
    return json.loads(printed.stdout)["findings"]


def same(shown, computed):
    """Whether two cells say the same: the same words, and numbers that agree but for rounding."""
    try:
        one, two = float(shown), float(computed)
    except ValueError:
        return shown == computed
    return max(abs(one), abs(two)) < ROUNDING or math.isclose(one, two, rel_tol=0.01)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tables_are_what_the_command_computes(make, findings, language):
    text = make.PAGES[language].read_text(encoding="utf-8")
    shown, computed = text.splitlines(), make.filled(text, findings, language).splitlines()
    assert len(shown) == len(computed)
    rows = 0
    for one, two in zip(shown, computed, strict=True):
        if one != two:
            cells = [re.split(r"(?<!\\)\|", line) for line in (one, two)]
            assert len(cells[0]) == len(cells[1]), f"run docs/note/make.py\n{one}\n{two}"
            assert all(same(*pair) for pair in zip(*cells, strict=True)), (
                f"run docs/note/make.py\n{one}\n{two}"
            )
        rows += one.startswith("|") and one.rstrip().endswith("` |") and "--claim" not in one
    assert rows == len(findings) >= 60


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_section_has_its_table(make, language):
    assert make.sections(make.PAGES[language].read_text(encoding="utf-8")) == list(HEADINGS)


def test_a_wrong_number_and_a_wrong_verdict_are_seen(make, findings):
    text = make.PAGES["en"].read_text(encoding="utf-8")
    other = [dict(finding) for finding in findings]
    other[next(i for i, f in enumerate(other) if f["id"] == "worked_example")]["number"] = 0.14
    wrong = make.filled(text, other, "en")
    assert "| 0.14 |" in wrong
    assert not same("0.13529", "0.14")
    assert not same("**holds**", "**fails**")
    assert same(" 3.5e-15 ", " 1.1e-14 ")


def test_the_chinese_words_are_of_these_claims_and_tell_the_same_numbers(make, findings):
    told = json.loads((make.HERE / "zh.json").read_text(encoding="utf-8"))
    assert set(told) == {finding["id"] for finding in findings}
    for finding in findings:
        words = told[finding["id"]]
        assert set(words) <= {"claim", "because", "meaning"}
        assert bool(words.get("because")) == bool(finding["because"]), finding["id"]
        for key in words:
            numbers = re.findall(r"\d+\.\d+", finding[key])
            assert set(numbers) <= set(re.findall(r"\d+\.\d+", words[key])), (finding["id"], key)
            bare = re.sub(r"\\[\\|]", "", words[key])
            assert "|" not in bare, f"{finding['id']}: a bar would end the cell"
            assert words[key].count("$") % 2 == 0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_page_shows_is_there(make, language):
    text = make.PAGES[language].read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert {"push-away.html", "figure.svg"} <= set(links)
    for link in links:
        assert (make.HERE / link).exists(), link


def test_the_figure_is_the_formula_of_the_note(make):
    """Without the absorber the log-odds are the note's line; with it they are its f(v), summit marked."""
    drawing = make.draw()
    for ax, w1 in zip(drawing.axes, (0.0, 1.0), strict=True):
        plain, third, _, summit = ax.lines[:4]
        for v, f in zip(*plain.get_data(), strict=True):
            assert f == pytest.approx((w1 + 1) * (2 * v - w1 + 1), abs=1e-12)
        for v, f in zip(*third.get_data(), strict=True):
            known = -math.log(math.exp(v * v + (v - w1) ** 2) + math.exp((v - w1) ** 2 - (v + 1) ** 2))
            assert f == pytest.approx(known, abs=1e-11)
        assert float(summit.get_ydata()[0]) >= max(third.get_ydata()) - 1e-12
