"""benchmarks/RESULTS.md: sections stand once and in order, and every row belongs to the table above it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def order() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("results", BENCHMARKS / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ORDER


def n_cells(row: str) -> int:
    return row.strip().strip("|").count("|") + 1


def strays(text: str) -> list[str]:
    """Return rows that no header stands over or that have other cells than it, and lines of capitals alone."""
    found, header = [], ""
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if not line.startswith("|"):
            header = ""
            if line.isupper() and line.isalpha():
                found.append(line)
        elif re.match(r"\|( ?:?-+:? ?\|)+$", line):
            header = lines[place - 1]
        elif header:
            if n_cells(line) != n_cells(header):
                found.append(line)
        elif place + 1 == len(lines) or not re.match(r"\|( ?:?-+:? ?\|)+$", lines[place + 1]):
            found.append(line)
    return found


def test_rows_belong_to_the_table_above_them() -> None:
    assert strays((BENCHMARKS / "RESULTS.md").read_text()) == []


@pytest.mark.parametrize(
    "text", ["| a | b |\n|---|---|\n| 1 |", "| a |\n|---|\n| 1 |\n\n| 2 |", "| a |\n|---|\nTODO"]
)
def test_a_stray_row_is_seen(text: str) -> None:
    assert len(strays(text)) == 1


def test_sections_are_known_and_stand_once_in_order() -> None:
    names = re.findall(r"<!-- section (\S+) -->", (BENCHMARKS / "RESULTS.md").read_text())
    places = [order().index(name) for name in names]
    assert places == sorted(set(places))
