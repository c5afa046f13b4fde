"""docs/command-line.md: every example runs, prints what the page says, and every key of every JSON object is named.

An example is a ``console`` block; its ``$`` lines run in order, all in one directory. In the output shown, ``...``
stands for anything, as in doctest, and a number with a point for any other: those depend on the machine.
"""

import doctest
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mixcoder.cli import main
from mixcoder.cli.program import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
LAX = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples():
    """The (command, output shown) pairs of the page, in order."""
    for block in re.findall(
        r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            # A command goes on after a backslash, and while a quotation is open.
            lines = part.splitlines()
            taken = 1
            while lines[taken - 1].endswith("\\") or "\n".join(lines[:taken]).count('"') % 2:
                taken += 1
            yield "\n".join(lines[:taken]).replace("\\\n", " "), "\n".join(lines[taken:])


def masked(text):
    return re.sub(r"-?\d+\.\d+(e[+-]\d+)?", "#", text)


def run(command):
    """Run a line in this process, pipes and ``echo $?`` included; return what a terminal would show."""
    command, asks, _ = command.partition("; echo $?")
    piped, shown, code = "", "", 0
    for part in command.split(" | "):
        words = shlex.split(part)
        if words[0] == "python":
            ran = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
            piped = ran.stdout
        elif words[0] == "cat":
            piped = "".join(Path(word).read_text() for word in words[1:])
        else:
            assert words[0] == "mixcoder", part
            result = CliRunner().invoke(main, words[1:], input=piped)
            piped, code = result.stdout, result.exit_code
            shown += result.stderr
    if not asks:
        assert code == 0, shown
    return shown + piped + (f"{code}\n" if asks else "")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Every example of the page, run once: (command, shown in the page, printed)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return [(command, shown, run(command)) for command, shown in examples()]


def test_every_example_prints_what_the_page_shows(outputs):
    check = doctest.OutputChecker()
    assert len(outputs) > 10
    for command, shown, printed in outputs:
        if shown.strip():
            assert check.check_output(masked(shown) + "\n", masked(printed), LAX), f"$ {command}\n{printed}"


def test_every_command_has_an_example_and_a_section(outputs):
    text = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert re.search(rf"^## `{name}`", text, re.MULTILINE), name
        assert any(re.match(rf"(.*\| )?mixcoder {name}\b", command) for command, _, _ in outputs), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name):
    section = re.search(
        rf"^## `{name}`(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    shared = re.search(
        r"^## Common options(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section is not None
    assert shared is not None
    command = main.get_command(None, name)
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"`{option}" in section[1] + shared[1], option


def test_every_key_of_the_json_objects_is_documented(outputs):
    text = PAGE.read_text(encoding="utf-8")
    seen = set()
    for command, _, printed in outputs:
        if "--json" not in command:
            continue
        record = json.loads(printed[printed.index("{") :].rpartition("}")[0] + "}")
        schema = record["schema"]
        section = re.search(rf"^`{re.escape(schema)}`:(.*?)(\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"{schema} has no paragraph"
        keys = set(record) - {"schema"}
        named = set(re.findall(r"`(\w+)`", section[1]))
        assert keys <= named, f"{schema}: {sorted(keys - named)}"
        seen.add(schema.partition("/")[0].split(".")[1])
    assert seen == set(COMMANDS)
