"""The program starts at once: nothing heavy is imported before a command needs it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "numpy", "scipy", "matplotlib", "pandas", "pyarrow", "rich")

SCRIPT = """
import sys
from mixcoder.cli import main
try:
    main(sys.argv[1:])
finally:
    print(sorted(set(m.partition(".")[0] for m in sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["fit", "--help"],
        ["demo", "--help"],
        ["check", "--nonsense"],
        ["fit", "rows.csv", "-k", "0"],
        ["fit", "rows.csv", "-k", "2", "-o", "/nowhere/at/all/model.mixcoder"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_for(words):
    ran = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
    imported = ran.stderr.strip().splitlines()[-1]
    assert "'click'" in imported
    assert [name for name in HEAVY if f"'{name}'" in imported] == []


def test_python_m_is_the_same_program():
    ran = subprocess.run(
        [sys.executable, "-m", "mixcoder", "--version"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("mixcoder ")
