"""A new user's path, timed: clone, the first set-up command of the README, a report on digits and on Fashion-MNIST.

    python benchmarks/newcomer.py                  # into RESULTS.md
    python benchmarks/newcomer.py --keep FOLDER    # and leave the clone and the pages there, to look at

The clone has what is committed, and the packages are those that pip finds: the time of the set-up command is mostly
that of their download. Fashion-MNIST is that of Debian's package dataset-fashion-mnist, or of the folder in
FASHION_MNIST; where there is none, the table says so.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from results import write_sections
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # a fresh machine has none of them


def first_command(readme: str) -> str:
    """Return the README's first set-up command."""
    found = re.search(r"<!-- ci: install -->\n```sh\n(.*?)\n```", readme, re.DOTALL)
    if found is None:
        raise SystemExit("README.md has no fenced block after <!-- ci: install -->.")
    return found[1]


def timed(command: str, folder: Path) -> tuple[float, str]:
    """Run a command line as a user would; return its seconds and what it printed."""
    print("$", command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def write_digits(path: Path) -> str:
    rows = load_digits()
    np.savetxt(path, rows.data, fmt="%g", delimiter=",", header=",".join(rows.feature_names), comments="")
    return "1797 images of 8 x 8 pixels, CSV"


def write_fashion(path: Path) -> str:
    with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as stream:
        rows = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784)
    np.save(path, rows)
    return "60 000 images of 28 x 28 pixels, NPY"


def walk(folder: Path) -> str:
    """Go the path in an empty folder; return its table."""
    steps: list[tuple[str, str, float]] = []
    seconds, _ = timed(f"git clone -q {ROOT} mixcoder", folder)
    steps.append(("`git clone`", "from a local repository", seconds))
    clone = folder / "mixcoder"
    command = first_command((clone / "README.md").read_text(encoding="utf-8"))
    seconds, _ = timed(command, clone)
    steps.append(("the README's first command", "a virtual environment, packages, `mixcoder demo`", seconds))
    skipped = ""
    for name, write in (("digits.csv", write_digits), ("fashion.npy", write_fashion)):
        if write is write_fashion and not FASHION.is_dir():
            skipped = f"\nNo Fashion-MNIST here: {FASHION} is not a folder.\n"
            continue
        what = write(clone / name)
        page = Path(name).with_suffix(".html")
        seconds, told = timed(f".venv/bin/mixcoder report {name} -o {page}", clone)
        model = next(line for line in told.splitlines() if line.startswith("model"))
        what = f"{what}; {model.removeprefix('model').strip()}"
        steps.append((f"`mixcoder report {name} -o {page}`", what, seconds))
    lines = ["| step | what | s |", "|---|---|---|"]
    lines += [f"| {step} | {what} | {seconds:.1f} |" for step, what, seconds in steps]
    return "\n".join(lines) + f"\n| in all | | **{sum(s for *_, s in steps):.1f}** |\n{skipped}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="an empty or new folder for clone and pages"
    )
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        text = walk(given.keep)
    else:
        with tempfile.TemporaryDirectory() as folder:
            text = walk(Path(folder))
    print(text)
    write_sections(
        {"newcomer": f"## A new user's path\n\nFrom nothing to two reports, in seconds.\n\n{text}"}
    )


if __name__ == "__main__":
    main()
