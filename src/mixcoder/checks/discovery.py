"""Which classes there are: found in the files of a package, and compared with what the package exports."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def discover(package: ModuleType, base: type[T]) -> list[type[T]]:
    """Return every concrete class below ``base`` that a file of the package defines, in order of name.

    Parameters
    ----------
    package : module
        A package; the files in its folder are imported.
    base : type
        Abstract classes, private ones and ``base`` itself are left out.

    Raises
    ------
    AssertionError
        A class is missing from the package's ``__all__``, or there is no class at all.

    Examples
    --------
    >>> from mixcoder import encoders
    >>> [found.__name__ for found in discover(encoders, encoders.Encoder)]
    ['Annealed', 'Argmax', 'Posterior', 'Tempered', 'Truncated']
    """
    found = [
        entry
        for module in _modules(package)
        for name, entry in vars(module).items()
        if inspect.isclass(entry)
        and issubclass(entry, base)
        and entry.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.isabstract(entry)
    ]
    exported = set(getattr(package, "__all__", ()))
    missing = sorted(entry.__name__ for entry in found if entry.__name__ not in exported)
    if missing:
        raise AssertionError(f"add to {package.__name__}.__init__: {missing}")
    if not found:
        raise AssertionError(f"{package.__name__} has no concrete {base.__name__}: nothing to check.")
    return sorted(found, key=lambda entry: entry.__name__)


def _modules(package: ModuleType) -> list[ModuleType]:
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [package, *(importlib.import_module(f"{package.__name__}.{name}") for name in names)]
