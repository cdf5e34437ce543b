"""What the texts promise: the first order of README.md runs and prints what it says, commands and files exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import Server, everopen

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = sorted(
    path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md"))
)
# `path/to/file.ext` in the text; a word in capitals stands for a name to be chosen.
NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|pyx|pxi|pyi|md|proto|txt|sh))`")
LINKED = re.compile(r"\]\((?!https?://)([^)#]+)\)")


def first_order() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(block)


@pytest.mark.native
def test_first_order_of_the_readme_prints_what_it_says_also_after_a_crash(tmp_path: Path) -> None:
    (promised,) = re.findall(r"It prints `([^`]+)`", README)
    assert len([line for line in first_order().splitlines() if line]) <= 10, "it is said to be short"
    for _ in ("first", "again"):
        with Server(tmp_path / "data") as server:
            script = first_order().replace("127.0.0.1:7400", server.address)
            assert script != first_order()
            run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert (run.returncode, run.stdout, run.stderr) == (0, f"{promised}\n", "")
            server.kill()


def test_commands_of_the_readme_exist() -> None:
    commands = set(re.findall(r"everopen (serve|audit|snapshot|backup|restore|replay|journal \w+|demo) ", README))
    assert len(commands) >= 8
    for command in commands:
        assert everopen(*command.split(), "--help").returncode == 0, command


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_files_that_a_text_names_exist(text: Path) -> None:
    content = (ROOT / text).read_text(encoding="utf-8")
    named = {name for name in NAMED.findall(content) if not (ROOT / name).exists() and "NAME" not in name}
    linked = {name for name in LINKED.findall(content) if not ((ROOT / text).parent / name).exists()}
    assert not named | linked
