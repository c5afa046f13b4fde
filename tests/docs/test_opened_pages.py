"""A link to an HTML file that comes along opens it; other files are downloads, as Sphinx has them."""

import re
import sys

import pytest

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "opened_pages"]
html_extra_path = ["note/live.html"]
html_theme = "basic"
"""


@pytest.fixture
def site(docs, tmp_path):
    from sphinx.application import Sphinx

    here, there = tmp_path / "docs", tmp_path / "site"
    (here / "note").mkdir(parents=True)
    (here / "conf.py").write_text(CONF.format(extensions=str(docs / "_extensions")), encoding="utf-8")
    (here / "index.md").write_text(
        "# T\n\n[live](note/live.html)\n\n```{toctree}\nnote/page\n```\n", encoding="utf-8"
    )
    (here / "note" / "page.md").write_text(
        "# P\n\n[live](live.html) and [![picture](dot.png)](live.html) and [data](rows.csv)\n",
        encoding="utf-8",
    )
    (here / "note" / "live.html").write_text("<p>alive</p>", encoding="utf-8")
    (here / "note" / "rows.csv").write_text("a\n1\n", encoding="utf-8")
    (here / "note" / "dot.png").write_bytes((docs / "images" / "codebook.png").read_bytes())
    before = list(sys.path)
    Sphinx(
        str(here), str(here), str(there), str(tmp_path / "trees"), "html", status=None, warning=None
    ).build()
    sys.path[:] = before
    return there


def test_a_link_to_a_page_that_comes_along_opens_it(site):
    for name, links in (("index.html", 1), ("note/page.html", 2)):
        found = re.findall(
            r'<a class="([^"]*)" href="([^"]*live\.html)"', (site / name).read_text(encoding="utf-8")
        )
        assert len(found) == links
        for look, target in found:
            assert "download" not in look
            assert ((site / name).parent / target).resolve().read_text(encoding="utf-8") == "<p>alive</p>"


def test_other_files_stay_downloads(site):
    page = (site / "note" / "page.html").read_text(encoding="utf-8")
    assert re.search(r'download="" href="\.\./_downloads/[0-9a-f]+/rows\.csv"', page)


def test_the_documentation_brings_its_page(docs):
    assert 'html_extra_path = ["note/push-away.html"]' in (docs / "conf.py").read_text(encoding="utf-8")
    assert '"opened_pages"' in (docs / "conf.py").read_text(encoding="utf-8")
