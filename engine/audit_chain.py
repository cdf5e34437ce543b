"""`everopen audit --trail`: whether the lines of the audit trail follow one another as they were written.

What is looked for is a line that was changed, put in or taken away. Nobody can tell from the files alone whether the
last lines are missing, or all were written anew: for that, note the last digest elsewhere, and look for it later.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from engine.audit_trail import AUDIT_TRAIL, digest_of, full_files
from engine.errors import EveropenError


class TrailBroken(EveropenError):
    """A line does not follow the one before it."""


@dataclass
class Trail:
    files: int = 0
    lines: int = 0
    # Left by a machine that died, or a full disk.
    torn: int = 0
    # Written by a program that did not chain them yet.
    unchained: int = 0
    # What the first line says of the one before it; empty: there was none.
    before: str = ""
    last: str = ""


def verify(data_dir: Path) -> Trail:
    """Also beside a running engine. Raises TrailBroken, OSError."""
    found = Trail()
    chained = False
    for name, number, line in _lines(data_dir, found):
        fields = _fields(line)
        if fields is None:
            found.torn += 1
        elif "previous" not in fields:
            if chained:
                raise TrailBroken(f"{name}: line {number} names no line before it")
            found.unchained += 1
        else:
            if not found.lines:
                found.before = str(fields["previous"])
            elif fields["previous"] != found.last:
                raise TrailBroken(f"{name}: line {number} does not follow the line before it")
            chained = True
        found.lines += 1
        found.last = digest_of(line)
    return found


def _lines(data_dir: Path, found: Trail) -> Iterator[tuple[str, int, bytes]]:
    """File, number and text of each line, oldest first."""
    current = _current(data_dir)
    with current or nullcontext():
        # While it is locked no line is half written, and no other file begins.
        full, size = full_files(data_dir), 0
        if current is not None:
            size = os.fstat(current.fileno()).st_size
            fcntl.flock(current, fcntl.LOCK_UN)
        found.files = len(full) + (current is not None)
        for path in full:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield path.name, number, line.removesuffix(b"\n")
        for number, line in enumerate(current or (), 1):
            if size <= 0:
                return
            size -= len(line)
            yield AUDIT_TRAIL, number, line.removesuffix(b"\n")


def _current(data_dir: Path) -> BinaryIO | None:
    """Locked, and the one that has the name now."""
    path = data_dir / AUDIT_TRAIL
    while True:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), os.fstat(file.fileno())):
                return file
        file.close()


def _fields(line: bytes) -> dict[str, object] | None:
    """None: it is none that was written whole."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
