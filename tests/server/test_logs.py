"""Lines of the server where nobody can take them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import structlog
from engine import logs
logs.configure(process="test")
structlog.get_logger().error("a line", number=1)
logs.say("everopen: serving", sys.stdout)
"""


def run(stdout: int, stderr: int) -> int:
    return subprocess.run([sys.executable, "-c", PROGRAM], stdout=stdout, stderr=stderr, check=False).returncode


@pytest.mark.parametrize("kind", ["full", "gone"])
def test_line_that_cannot_be_written_ends_nobody(kind: str) -> None:
    if kind == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, end = os.pipe()
        os.close(reader)
    try:
        assert run(end, end) == 0
    finally:
        os.close(end)


def test_lines_go_where_they_belong(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        assert run(out.fileno(), err.fileno()) == 0
    assert (tmp_path / "out").read_text() == "everopen: serving\n"
    assert '"event":"a line"' in (tmp_path / "err").read_text()
