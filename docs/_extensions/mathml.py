r"""Formulas as MathML, made at build: every browser draws it, no script and no network is needed.

TeX that cannot be converted is a warning, and so an error of the build; a script in the reader's browser would show it
red.
"""

import re

from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def markup(node, *, as_block):
    """The MathML of a node."""
    code = re.sub(
        r"(?<!\\)\\\n", r"\\ ", node.astext().strip()
    )  # a backslash at the end of a line is a space
    if as_block and r"\\" in code and r"\begin" not in code:
        code = rf"\begin{{aligned}}{code}\end{{aligned}}"
    try:
        return converter.convert_with_local_state(code, displaystyle=as_block)
    except LatexError as error:
        logger.warning("TeX that is no MathML (%s): %s", error, code, location=node, type="mathml")
        return ""


def visit_inline(self, node):
    self.body.append(markup(node, as_block=False))
    raise SkipNode


def visit_block(self, node):
    name = f' id="equation-{node["label"]}"' if node.get("label") else ""
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    self.body.append(f'<div class="math"{name}>{number}{markup(node, as_block=True)}</div>\n')
    raise SkipNode


def depart(self, node):
    """Nothing is left to write: the visitors skip the text of the node."""


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, depart), (visit_block, depart))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
