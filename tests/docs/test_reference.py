"""The documentation is complete: every public name is on a page of the API reference, and an example of it runs.

That examples do run is held by the tests (docstrings) and by the build of the pages (their cells).
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import mixcoder
from mixcoder import components, errors
from mixcoder.checks import discover

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md"))}
MODULES = (
    "mixcoder",
    "mixcoder.checks",
    "mixcoder.components",
    "mixcoder.encoders",
    "mixcoder.engines",
    "mixcoder.errors",
    "mixcoder.modelfile",
    "mixcoder.objectives",
    "mixcoder.ops.embedding",
    "mixcoder.plot",
    "mixcoder.priors",
    "mixcoder.selection",
    "mixcoder.sensing",
    "mixcoder.sources",
    "mixcoder.statistics",
)
# What takes a cluster or a later version of the library to happen: their tests make it happen.
ELSEWHERE = {
    "EngineLostError": "tests/engines/test_faults.py",
    "EngineStalledError": "tests/engines/test_faults.py",
    "UnsupportedVersionError": "tests/test_modelfile.py",
}


def public_names(module):
    """The names that one imports from a module: its ``__all__``, or what it defines without an underscore."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None)
    if names is None:
        names = [n for n, v in vars(found).items() if getattr(v, "__module__", "") == module and n[0] != "_"]
    return [n for n in names if n != "__version__" and not inspect.ismodule(getattr(found, n))]


def documented(text):
    """The (module, name) pairs that a page of the reference lists."""
    module, pairs = None, []
    for line in text.splitlines():
        if said := re.match(r"\.\. (?:module|currentmodule):: (\S+)", line):
            module = said[1]
        elif said := re.match(r"(?:\.\. autodata:: |   )([A-Za-z]\S*)$", line):
            pairs.append((module, said[1]))
    return pairs


ENTRIES = [pair for text in PAGES.values() for pair in documented(text)]


def looked_up(module, name):
    value = importlib.import_module(module)
    for part in name.split("."):
        if inspect.ismodule(value) and not hasattr(value, part):
            value = importlib.import_module(f"{value.__name__}.{part}")
        else:
            value = getattr(value, part)
    return value


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_page(module):
    missing = set(public_names(module)) - {name for home, name in ENTRIES if home == module}
    assert not missing, f"add to the page of {module} in docs/api: {sorted(missing)}"


def test_every_public_module_has_a_page_in_the_contents():
    contents = set(re.search(r"```\{toctree\}\n(.*?)```", PAGES["index"], re.DOTALL)[1].split())
    assert contents - {":maxdepth:", "1"} == set(PAGES) - {"index"}
    modules = {name for name in mixcoder.__all__ if inspect.ismodule(getattr(mixcoder, name))}
    assert modules - {"estimators"} <= {module.removeprefix("mixcoder.") for module in MODULES}
    assert set(public_names("mixcoder.estimators")) <= set(public_names("mixcoder"))


def test_no_name_is_listed_twice():
    assert len(ENTRIES) == len(set(ENTRIES)) > 150


@pytest.mark.parametrize(("module", "name"), ENTRIES, ids=str)
def test_every_public_name_has_an_example(module, name):
    value = looked_up(module, name)
    if module == "mixcoder.errors":
        page = (DOCS / "bad-input.md").read_text(encoding="utf-8")
        shown = {n for n in errors.__all__ if f"(errors.{n}, " in page or f"errors.{n},\n" in page}
        if name in ELSEWHERE:
            assert name in (DOCS.parent / ELSEWHERE[name]).read_text(encoding="utf-8")
        else:
            assert any(issubclass(getattr(errors, n), value) for n in (*shown, *ELSEWHERE)), name
    elif module == "mixcoder.components" and "." in name:
        families = discover(components, components.Family)  # parameters of a family: it makes some itself
        assert any(isinstance(params, value) for family in families for _, params in family.examples())
    elif inspect.isclass(value) or inspect.isroutine(value):
        assert ">>>" in (inspect.getdoc(value) or ""), f"{module}.{name} has no Examples"
        assert "Examples\n--------" in inspect.getdoc(value)


def test_every_python_block_of_the_pages_runs():
    """Python is in cells, which the build runs; a block that only looks like code would not be checked."""
    for page in DOCS.rglob("*.md"):
        if "_build" not in page.parts:
            text = page.read_text(encoding="utf-8")
            assert not re.search(r"^```(python|py|ipython3?|pycon)\b", text, re.MULTILINE), page
