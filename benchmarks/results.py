"""RESULTS.md: one section a script, each replaced whole, the others left as they are."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import sklearn
import torch

TARGET = Path(__file__).parent / "RESULTS.md"
ORDER = (
    "newcomer",
    "em",
    "fit",
    "bayes",
    "kmeans",
    "starts",
    "selection",
    "annealing",
    "annealing-fashion",
    "annealing-em",
    "memory",
    "scale-memory",
    "scale-peaks",
    "scale-workers",
    "scale-kills",
    "subspaces-starts",
    "subspaces-faces",
    "fashion",
    "fashion-likelihood",
    "embedding",
    "missing",
    "sensing",
    "sensing-csgm",
    "sensing-low-rank",
    "sensing-speed",
    "sensing-images",
)


def write_sections(written: dict[str, str]) -> None:
    """Put sections, by name, into RESULTS.md."""
    old = TARGET.read_text() if TARGET.exists() else ""
    parts = dict(part.split(" -->\n", 1) for part in old.split("<!-- section ")[1:])
    parts.update(written)
    head = (
        "# Measured\n\n"
        "Written by the scripts beside this file. "
        f"Python {platform.python_version()}, torch {torch.__version__}, scikit-learn {sklearn.__version__}, "
        f"NumPy {np.__version__}, {torch.get_num_threads()} threads on {processor()}. Ratios above one are in "
        "our favour; absolute times move by 10-30 % with the load of a shared machine.\n\n"
    )
    body = "".join(f"<!-- section {name} -->\n{parts[name].strip()}\n\n" for name in ORDER if name in parts)
    TARGET.write_text(head + body.rstrip() + "\n")


def section(name: str) -> str:
    """Return a section as it stands, empty where there is none."""
    old = TARGET.read_text() if TARGET.exists() else ""
    parts = dict(part.split(" -->\n", 1) for part in old.split("<!-- section ")[1:])
    return parts.get(name, "")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "an unnamed processor"
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "a processor"
    )
