"""How the documentation is built: sphinx-build -n -W --keep-going docs docs/_build/html.

Every code cell of every page runs at build, every reference is resolved, every warning is an error, and the pages load
nothing from elsewhere: fonts are the reader's own, and formulas are MathML.
"""

import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
os.environ["MIXCODER_DOCS"] = str(HERE.resolve())  # pages run in folders of their own
sys.path.insert(0, str(HERE / "_extensions"))
# Cells run in processes of their own, which inherit this. One thread gives the same digits on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

import mixcoder  # noqa: E402  (the environment comes first: torch reads it when it is imported)

# A folder of pages may be empty; Sphinx gives that warning no name to suppress it by.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(
    lambda record: "glob pattern" not in str(record.msg)
)

project = "mixcoder"
author = "The mixcoder developers"
copyright = f"2026, {author}"  # noqa: A001  (Sphinx's name)
version = release = mixcoder.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "api_names",
    "mathml",
    "opened_pages",
]
exclude_patterns = ["_build", "_extensions", "_templates", "examples", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"  # docstrings write names in single backticks

# ------------------------------------------------------------------------------------------------------------- pages

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "force"
nb_execution_in_temp = True  # what pages write stays out of the checkout
nb_execution_raise_on_error = (
    False  # a cell that fails is a warning with its trace: under -W an error, and every page is tried
)
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, in what a cell displays
nb_output_stderr = "warn"  # a warning that no page means to show is an error of the build

# --------------------------------------------------------------------------------------------------------------- API

autosummary_generate = True
# A page beside that of `Posterior`, also where file names have no case.
autosummary_filename_map = {"mixcoder.sensing.posterior": "mixcoder.sensing.posterior_function"}
autodoc_typehints = "none"  # shapes, domains and units are in the docstrings; annotations would say "Tensor"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "set_fit_request, set_partial_fit_request, set_score_request"}
autoclass_content = "class"
numpydoc_show_class_members = False  # the templates list them
numpydoc_xref_param_type = False

nitpicky = True
nitpick_ignore_regex = [
    # Third parties; no inventory is fetched, so that the build needs no network.
    (
        r"py:.*",
        r"(torch|numpy|np|scipy|sklearn|pandas|polars|pyarrow|matplotlib|dask|distributed|concurrent)\b.*",
    ),
    (r"py:.*", r"(abc|typing|collections|enum|builtins|contextlib)\..*"),
    (
        r"py:(class|exc|obj)",
        r"(ABC|Generic|Exception|ValueError|TypeError|OSError|RuntimeError|UserWarning|Warning)",
    ),
]

# -------------------------------------------------------------------------------------------------------------- look

html_theme = "furo"
html_title = "mixcoder"
html_static_path = ["_static"]
html_extra_path = ["note/push-away.html"]  # a page of its own: links to it open it
html_css_files = ["mixcoder.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8dd", "color-brand-content": "#7fb8dd"},
}
