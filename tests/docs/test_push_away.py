"""docs/note/push-away.html: its numbers are the library's, its words the library's diagnosis, and it loads nothing."""

import functools
import itertools
import json
import math
import re
import time

import mpmath
import pytest
import torch

from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded

F64 = torch.float64
NAMES = ("w1", "w2", "lambda", "alpha", "beta")
GRID = [
    dict(zip(NAMES, setting, strict=True))
    for setting in itertools.product(
        (0.0, 1.0, -2.37), (-1.0, 1.0, 2.5), (0.0, 0.01, 1.0), (-0.5, 0.0, 1.0, 3.0), (0.1, 1.0)
    )
]
# Reads what a person would: each slider is moved, then the numbers shown are taken with all of their digits.
READ = """
JSON.stringify(%s.map((setting) => {
  for (const [name, value] of Object.entries(setting)) {
    const slider = document.getElementById(name);
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const shown = Object.fromEntries(["v", "q1", "q2", "q0", "value", "ceiling"].map((id) => {
    const told = document.getElementById(id).dataset.value;
    return [id, told === "" ? null : Number(told)];
  }));
  return { ...shown, diagnosis: document.getElementById("message").dataset.diagnosis };
}))
"""


@pytest.fixture(scope="module")
def page(docs):
    return docs / "note" / "push-away.html"


@pytest.fixture(scope="module")
def shown(browser, page):
    """What the page shows at every setting of the grid."""
    browser.open(page, "#lang=en")
    found = json.loads(browser.run(READ % json.dumps(GRID)))
    assert len(found) == len(GRID) == 216
    return found


def library(setting):
    """Kernel, anchors and code as the library has them, or what it says against them."""
    return _library(*(setting[name] for name in NAMES))


@functools.cache
def _library(w1, w2, mass, alpha, beta):
    anchors = torch.tensor([[w1], [w2]], dtype=F64)
    try:
        kernel = EmbeddingKernel(absorber=mass, alpha=alpha, beta=beta)
        return kernel, anchors, encode_embedded(torch.tensor([[1.0, 0.0]], dtype=F64), anchors, kernel)
    except ValueError as error:
        return None, anchors, str(error)


def test_the_page_says_what_the_library_says_of_every_setting(shown):
    seen = set()
    for setting, told in zip(GRID, shown, strict=True):
        kernel, _, found = library(setting)
        if kernel is None:
            expected = "refused" if "Expected alpha + beta > 0" in found else None
            if "Expected anchors that span all 1 axes" in found:
                expected = "unidentified"
        else:
            expected = "exists" if bool(found.exists[0]) else "push-away"
        assert told["diagnosis"] == expected, setting
        assert (told["v"] is not None) == (expected == "exists")
        seen.add(expected)
    assert seen == {"exists", "push-away", "unidentified", "refused"}


def test_the_numbers_are_those_of_the_library(shown):
    compared = 0
    for setting, told in zip(GRID, shown, strict=True):
        if told["v"] is None:
            continue
        kernel, anchors, found = library(setting)
        log_q, log_q_0 = kernel.log_code(torch.tensor([[told["v"]]], dtype=F64), anchors)
        assert told["value"] == pytest.approx(log_q[0, 0].item(), rel=1e-12, abs=1e-13)
        for name, log_share in zip(("q1", "q2", "q0"), (log_q[0, 0], log_q[0, 1], log_q_0[0]), strict=True):
            assert told[name] == pytest.approx(log_share.exp().item(), rel=1e-11, abs=1e-15), setting
        assert told["q1"] + told["q2"] + told["q0"] == pytest.approx(1, abs=1e-12)
        # Nowhere is the page below the library's code, nor far from it where the objective is not all but flat.
        assert told["value"] >= found.value.item() - 1e-12
        bend = kernel.expand(found.codes, anchors, anchors[:1]).curvature.item()
        assert abs(told["v"] - found.codes.item()) <= 1e-9 + 1e-9 / bend, setting
        compared += 1
    assert compared > 100


def test_the_code_is_the_root_of_the_slope_to_many_digits(shown):
    """An oracle that shares nothing with either: the slope of the note's formula, in 40 digits."""
    for setting, told in list(zip(GRID, shown, strict=True))[::7]:
        if told["v"] is None:
            continue
        w1, w2, mass, alpha, beta = (mpmath.mpf(setting[name]) for name in NAMES)
        with mpmath.workdps(40):

            def slope(v, w1=w1, w2=w2, mass=mass, alpha=alpha, beta=beta):
                # Of -log(mass exp(alpha v^2 + beta (v - w1)^2) + exp(beta (v - w1)^2 - beta (v - w2)^2)).
                far = mass * mpmath.exp(alpha * v**2 + beta * (v - w1) ** 2)
                near = mpmath.exp(beta * (v - w1) ** 2 - beta * (v - w2) ** 2)
                pulls = far * (2 * alpha * v + 2 * beta * (v - w1)) + near * 2 * beta * (w2 - w1)
                return -pulls / (far + near)

            v = mpmath.mpf(told["v"])
            step = mpmath.mpf(10) ** -11 * (1 + abs(v))
            assert slope(v - step) > 0 > slope(v + step), setting


def test_the_ceiling_is_what_a_component_reaches_alone_and_no_code_exceeds(shown):
    for setting, told in zip(GRID, shown, strict=True):
        if told["diagnosis"] == "refused":
            assert told["ceiling"] is None
            continue
        if setting["lambda"] == 0:
            assert told["ceiling"] == 1
            continue
        kernel, anchors, _ = library(setting)
        alone = encode_embedded(torch.ones(1, 1, dtype=F64), anchors[:1], kernel).codes
        assert told["ceiling"] == pytest.approx(kernel.log_code(alone, anchors[:1])[0].exp().item(), rel=1e-9)
        assert told["q1"] <= told["ceiling"] * (1 + 1e-12)
        if (setting["alpha"], setting["beta"]) == (1, 1):
            known = 1 / (1 + setting["lambda"] * math.exp(setting["w1"] ** 2 / 2))
            assert told["ceiling"] == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize(
    ("button", "v", "q"), [("text", "0.135290", "0.431415"), ("figure", "0.563233", "0.361396")]
)
def test_the_examples_of_the_note_are_a_button_away(browser, page, button, v, q):
    browser.open(page, "#w1=2&lang=en")
    browser.run(f"document.querySelector('[data-say={button}]').click()")
    assert (
        browser.run(
            "document.getElementById('v').textContent + ' ' + document.getElementById('q1').textContent"
        )
        == f"{v} {q}"
    )
    assert v in browser.run("document.getElementById('plot').textContent")


def test_without_an_absorber_the_page_says_push_away_in_both_languages(browser, page):
    browser.open(page, "#w1=1&w2=-1&lambda=0&lang=en")
    message = "document.getElementById('message').textContent"
    assert "No maximiser: push-away." in browser.run(message)
    assert "v → +∞" in browser.run(message)
    browser.run("document.getElementById('language').click()")
    assert "最大值点不存在" in browser.run(message)
    assert browser.run("document.documentElement.lang") == "zh-Hans"
    assert browser.run("document.getElementById('v').textContent") == "不存在"


def test_both_languages_have_the_same_words(browser, page):
    browser.open(page)
    assert (
        browser.run("JSON.stringify(Object.keys(WORDS.en).sort() == '' + Object.keys(WORDS.zh).sort())")
        == "true"
    )
    for language in ("en", "zh"):
        browser.open(page, f"#lang={language}")
        shown = json.loads(
            browser.run(
                "JSON.stringify([...document.querySelectorAll('[data-say], button')].map((e) => e.textContent))"
            )
        )
        assert all(words.strip() and "undefined" not in words for words in shown)


def test_the_sliders_answer_to_keys(browser, page):
    browser.open(page, "#w1=0&w2=-1&lambda=1&alpha=1&beta=1&lang=en")
    at = "document.getElementById('{}').value"
    browser.run("document.getElementById('w1').focus()")
    browser.press("ArrowRight", 3)
    assert browser.run(at.format("w1")) == "0.03"
    assert browser.run("document.querySelector('output[for=w1]').textContent") == "0.03"
    browser.press("Tab")
    browser.press("Home")
    assert browser.run(at.format("w2")) == "-3"
    browser.press("Tab")
    browser.press("Home")
    assert browser.run(at.format("lambda")) == "0"
    assert browser.run("document.getElementById('message').dataset.diagnosis") == "push-away"
    # The address follows, so that a setting can be sent.
    time.sleep(0.1)
    assert "w2=-3" in browser.run("location.hash")


def test_light_and_dark_are_a_button_apart(browser, page):
    browser.open(page, "#theme=light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) != light == "rgb(255, 255, 255)"


def test_every_view_draws_finite_numbers_inside_the_picture(browser, page):
    extremes = [
        "w1=3&w2=-3&lambda=0.01&alpha=-0.09&beta=0.1",
        "w1=3&w2=3&lambda=3&alpha=3&beta=3",
        "w1=0&w2=0&lambda=0",
    ]
    for setting, view in itertools.product(extremes, ("odds", "log", "share")):
        browser.open(page, f"#{setting}&view={view}&lang=en")
        drawn = browser.run("document.getElementById('plot').innerHTML")
        assert not re.search(r"NaN|Infinity|undefined|null", drawn), (setting, view)
        assert drawn.count("<polyline") >= 1


@pytest.mark.parametrize(
    "fragment", ["#w1=much&lambda=-4&beta=0", "#lang=constructor&view=none&theme=1", "#%00&&=&w2"]
)
def test_an_address_that_makes_no_sense_leaves_a_page_that_does(browser, page, fragment):
    browser.open(page, fragment)
    kernel = json.loads(browser.run("JSON.stringify(kernel())"))
    assert all(math.isfinite(value) for value in kernel.values())
    assert kernel["lambda"] >= 0 < kernel["beta"]
    assert browser.run("document.getElementById('message').textContent").strip()


def test_nothing_was_complained_of_and_nothing_loaded(browser, page, shown):
    del shown
    browser.open(page)
    assert browser.complaints == []
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in without_namespace
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"<(?:script|img|iframe|object|embed)[^>]*\ssrc=", text)
