"""Every page under docs/tutorials and docs/migrate runs, as a notebook would run it, and what it draws is a picture.

The cells of a page run in order, in one namespace and in an empty directory. As in a notebook, the last expression of
a cell is shown, and figures are drawn and closed at the end of the cell that made them. Warnings are errors here: a
page that warns its reader shows the warning, or says how to do without.

    PAGE_FIGURES=DIR pytest tests/docs                 # keeps the figures, to look at
    PAGES_BUILT=docs/_build/html pytest tests/docs     # does not run again what the build of the site has just run

The build of the site runs the same cells and takes a cell that fails or warns for an error. Where PAGES_BUILT names its
folder, each page must be there, younger than its source and the library, with every cell and no blank picture.
"""

from __future__ import annotations

import ast
import io
import json
import linecache
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    page
    for folder in ("tutorials", "migrate")
    for page in (DOCS / folder).glob("*.md")
    if page.stem != "index"
)

# Pages of more than about ten seconds.
SLOW = {
    "migrate/scikit-learn",
    "tutorials/05-few-measurements",
    "tutorials/08-larger-than-memory",
    "tutorials/09-on-a-cluster",
}

FRONT_MATTER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""

_FENCE = re.compile(r"^(```+)\{code-cell\}[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def cells(text):
    """Return (line number, code) of the code cells of a page, without their options."""
    found = []
    for fence in _FENCE.finditer(text):
        lines = fence[2].split("\n")
        options = 0
        while lines[options].startswith(":"):
            options += 1
        start = text.count("\n", 0, fence.start(2)) + options
        found.append((start, "\n".join(lines[options:])))
    return found


def show(value):
    """Return what a notebook shows of a value."""
    rich = getattr(value, "_repr_html_", None)
    return "" if value is None else rich() if rich is not None else repr(value)


def run(code, namespace, name):
    """Run a cell, and show the value of its last expression, unless a semicolon hides it."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for tracebacks
    body = ast.parse(code, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        if not code.rstrip().endswith(";"):
            show(value)


def figures():
    """Return the open figures as PNG, and close them."""
    from matplotlib import pyplot as plt

    drawn = []
    for number in plt.get_fignums():
        stream = io.BytesIO()
        plt.figure(number).savefig(stream, format="png", dpi=100, bbox_inches="tight")
        drawn.append(stream.getvalue())
    plt.close("all")
    return drawn


def notebook(codes):
    """Return a notebook of code cells, as ruff reads one."""
    made = [
        {"cell_type": "code", "id": f"cell{place}", "metadata": {}, "outputs": [], "execution_count": None}
        | {"source": code.rstrip("\n").splitlines(keepends=True)}
        for place, code in enumerate(codes)
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def ruff(command, path, codes):
    """Return what ruff says to the cells of a page, by the project's rules for docs."""
    name = str(path.with_suffix(".ipynb").relative_to(DOCS.parent))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
        input=notebook(codes),
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def page_id(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(autouse=True)
def _headless():
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")


def not_blank(png, what):
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert pixels.std() > 1, f"{what} is blank"


def sources_of(path):
    """Return what a built page must be younger than: its text and the library."""
    return [path, *(DOCS.parent / "src").rglob("*.py")]


def assert_built(path, site):
    """Hold a page that the build of the site has run: whole, no older than what it shows, no picture blank."""
    built = site / path.relative_to(DOCS).with_suffix(".html")
    assert built.is_file(), f"{site} has no {page_id(path)}"
    late = [source for source in sources_of(path) if source.stat().st_mtime > built.stat().st_mtime]
    assert not late, f"{built} is older than {late[0]}: build the site again"
    html = built.read_text(encoding="utf-8")
    shown = len(re.findall(r'class="cell_input ', html)) + html.count('class="cell_input"')
    assert shown == len(cells(path.read_text(encoding="utf-8")))
    for source in re.findall(r'<img [^>]*src="([^":]+\.png)"', html):
        not_blank((built.parent / source).read_bytes(), source)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=page_id(p), marks=[pytest.mark.slow] * (page_id(p) in SLOW)) for p in PAGES],
)
def test_a_page_runs_and_draws(path, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(FRONT_MATTER)
    if "PAGES_BUILT" in os.environ:
        assert_built(path, Path(os.environ["PAGES_BUILT"]).absolute())
        return
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__page__"}
    folder = os.environ.get("PAGE_FIGURES")
    for place, (line, code) in enumerate(cells(text)):
        run("\n" * line + code, namespace, f"{path}#cell{place}")
        for number, png in enumerate(figures()):
            not_blank(png, f"{path.name}: figure {number} of cell {place}")
            if folder is not None:
                target = Path(folder) / f"{path.stem}-{place}-{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(png)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_fence_of_code_is_a_cell_or_says_why_not(path):
    # A block in another language, or ```text, is not run; a ```python one would look as if it were.
    text = path.read_text(encoding="utf-8")
    assert "```python" not in text
    assert len(cells(text)) == text.count("{code-cell}")


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_cells_are_written_as_the_library_is(path):
    codes = [code for _, code in cells(path.read_text(encoding="utf-8"))]
    # B905: a row of pictures ends where its axes do.
    failed, told = ruff(["check", "--no-cache", "--ignore", "B905"], path, codes)
    assert not failed, told
    failed, formatted = ruff(["format", "--no-cache"], path, codes)
    assert not failed, formatted
    assert ["".join(cell["source"]) for cell in json.loads(formatted)["cells"]] == [
        c.rstrip("\n") for c in codes
    ]


def test_cells_are_found_with_their_lines_and_without_their_options():
    text = "a\n```{code-cell} ipython3\n:tags: [hide-input]\nx = 1\nx\n```\nb\n````{code-cell}\ny\n````\n"
    assert cells(text) == [(3, "x = 1\nx\n"), (8, "y\n")]


@pytest.mark.parametrize(
    ("code", "error"),
    [("x = 1\n1 / 0", ZeroDivisionError), ("import warnings\nwarnings.warn('w')", UserWarning)],
)
def test_a_cell_that_fails_or_warns_is_an_error(code, error):
    with pytest.raises(error):
        run(code, {}, "page")
