"""References by any name of a public object: the one it is documented under is where the link goes.

A docstring names a class as its module does (`Poisson`, `mixcoder.sensing.posterior.Posterior`), a page by the name
that one imports (`mixcoder.components.Poisson`). Both are one object; a name that leads to no documented object stays
unresolved, which is a warning.
"""

import inspect
from importlib import import_module

from sphinx.util.nodes import make_refnode


def found(name):
    """The object of a dotted name, or None."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            value = (
                inspect.getattr_static(value, part, None)
                if inspect.isclass(value)
                else getattr(value, part, None)
            )
        return value
    return None


def candidates(node):
    """The dotted names that a reference may mean, nearest first."""
    target = node.get("reftarget", "")
    yield target
    for key in ("py:class", "py:module"):
        if node.get(key):
            yield f"{node[key]}.{target}"
    if node.get("py:module") and node.get("py:class"):
        # The module that defines the class knows names that its package does not export.
        home = found(f"{node['py:module']}.{node['py:class']}")
        yield f"{getattr(home, '__module__', '')}.{target}"
        yield f"{node['py:module']}.{node['py:class']}.{target}"


def resolve(app, env, node, content):
    if node.get("refdomain") != "py":
        return None
    domain = env.domains["py"]
    wanted = [value for name in candidates(node) if (value := found(name.strip("."))) is not None]
    for value in wanted:
        if not isinstance(value, property) and not callable(value) and not inspect.ismodule(value):
            continue
        for name, entry in domain.objects.items():
            if not entry.aliased and name.startswith("mixcoder") and found(name) is value:
                return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return None


def setup(app):
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
