"""Links to HTML files that come along open them.

A link to a file that is no page of the documentation is a download to Sphinx. Files in `html_extra_path` lie in the
site under their own names, so a link to one of them leads there.
"""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference


def open_extra_files(app, doctree):
    extra = {(Path(app.confdir) / name).resolve() for name in app.config.html_extra_path}
    page = Path(app.env.doc2path(app.env.docname))
    up = "../" * app.env.docname.count("/")
    for link in list(doctree.findall(download_reference)):
        target = (page.parent / link["reftarget"]).resolve()
        if target in extra:
            link.replace_self(nodes.reference("", "", *link.children, refuri=up + target.name))


def setup(app):
    # Before Sphinx collects what is to be downloaded, which it does at 500.
    app.connect("doctree-read", open_extra_files, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
