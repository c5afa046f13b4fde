"""What the tests of the documentation share: its scripts as modules, and a browser."""

import importlib.util
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def docs():
    return DOCS


@pytest.fixture(scope="session")
def make():
    """docs/note/make.py."""
    return load(DOCS / "note" / "make.py")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """An empty page of a headless browser."""
    module = load(Path(__file__).parent / "browser.py")
    program = module.find()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(module.NAMES)}, and BROWSER_FOR_TESTS names none")
    folder = tmp_path_factory.mktemp("browser")
    opened = module.Browser(program, folder)
    yield opened
    opened.close()
    shutil.rmtree(folder, ignore_errors=True)
