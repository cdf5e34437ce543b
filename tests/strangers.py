"""A process of another user, which tries to talk to somebody's unix sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65_534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")

# Everything is loaded before it is nobody, who may not be allowed to read it.
PROGRAM = """
import os, socket, sys
path, kind, said = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX, kind) as end:
    end.settimeout(60)
    try:
        end.connect(path)
    except OSError as error:
        raise SystemExit(f"no connection: {error.strerror}")
    heard = b""
    try:
        end.sendall(said)
        while piece := end.recv(65536):
            heard += piece
    except OSError:
        pass
    os.write(1, heard)
"""


def answer_to_nobody(path: Path, said: bytes, kind: int) -> bytes:
    """What a process of nobody hears until the connection ends. Raises AssertionError if it gets no connection."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(kind), said.hex()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def let_everybody_in(folder: Path) -> None:
    """As somebody does by mistake."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o666)
