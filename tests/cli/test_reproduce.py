"""The note, recomputed: the verdicts stand, whatever is drawn, and a wrong number is not passed over."""

import dataclasses
import math

import pytest

from mixcoder.cli import claims as claims_module
from mixcoder.cli.claims import HEADINGS, VERDICTS, claims, judge

KEYS = "because claim confirmed heading id meaning number section verdict"


@pytest.fixture(scope="module")
def findings():
    return dict(judge(claims(), 0))


def test_every_claim_is_judged_and_confirmed(findings):
    assert len(findings) == len(claims()) >= 60
    for finding in findings.values():
        assert finding.verdict in VERDICTS
        assert finding.section in HEADINGS
        assert finding.confirmed, finding
        assert math.isfinite(finding.number)
        assert finding.because or finding.verdict == "holds", (
            finding
        )  # a condition and a failure have a reason
    assert {finding.section for finding in findings.values()} == set(HEADINGS)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_draws_change_no_verdict(findings, seed):
    for name, finding in judge(claims(), seed):
        assert finding.confirmed, finding
        assert (finding.claim, finding.verdict) == (findings[name].claim, findings[name].verdict)


def test_the_numbers_of_the_note(findings):
    assert findings["worked_example"].number == pytest.approx(0.135290, abs=1e-6)
    assert "q = 0.431415" in findings["worked_example"].because
    assert findings["pictured_example"].number == pytest.approx(0.563233, abs=1e-6)
    assert "q = 0.36140" in findings["pictured_example"].because
    assert findings["denominator"].number < 1e-14
    assert findings["ceiling_of_the_growing_absorber"].number < 1e-8
    assert findings["log_odds_are_a_line"].number == pytest.approx(4)
    assert 0.40 < findings["eol_below_unscaled_loe"].number < 0.50


@pytest.mark.parametrize(
    ("first", "second", "v", "q"), [(0, -1, 0.13529, 0.431415), (1, -1, 0.563233, 0.361396)]
)
def test_the_worked_examples_are_the_maximum_of_the_formula_of_the_note(first, second, v, q):
    """u_1 as the note writes it, on a grid: nothing of this package is used."""
    best, at = max(
        (1 / (1 + math.exp(t * t + (t - first) ** 2) + math.exp((t - first) ** 2 - (t - second) ** 2)), t)
        for t in (step / 10_000 for step in range(-20_000, 20_000))
    )
    assert best == pytest.approx(q, abs=1e-6)
    assert at == pytest.approx(v, abs=1e-4)


def test_reproduce_prints_what_it_found_in_both_forms(ask, mixcoder):
    record = ask("reproduce")
    assert " ".join(sorted(record)) == "findings not_confirmed note ok schema seconds seed"
    assert record["ok"]
    shown = mixcoder("reproduce").stdout
    assert shown.isascii()
    for finding in record["findings"]:
        assert " ".join(sorted(finding)) == KEYS
        assert finding["claim"] in shown
    assert shown.endswith("ok: every number is what its verdict needs\n")


def test_a_number_that_is_not_what_the_verdict_needs_is_an_error(ask, mixcoder, monkeypatch):
    one = claims()[0]
    monkeypatch.setattr(
        claims_module, "claims", lambda: [lambda g: dataclasses.replace(one(g), confirmed=False)]
    )
    record = ask("reproduce", code=6)
    assert not record["ok"]
    assert record["not_confirmed"] == [record["findings"][0]["claim"]]
    assert "NOT CONFIRMED" in mixcoder("reproduce", code=6).stdout


def test_a_claim_alone_has_the_number_that_it_has_among_the_others(findings, ask, mixcoder):
    for name in ("eol_below_unscaled_loe", "raw_iteration", "averaged_models"):
        (alone,) = ask("reproduce", "--claim", name)["findings"]
        assert alone.items() >= vars(findings[name]).items()
        assert alone["id"] == name
    two = ask("reproduce", "--claim", "worked_example", "--claim", "denominator")
    assert [finding["id"] for finding in two["findings"]] == ["denominator", "worked_example"]
    told = mixcoder("reproduce --claim worked_exampel", code=2).stderr
    assert "worked_example" in told
