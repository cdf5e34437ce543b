"""DIR/audit.jsonl: who changed something or was refused, one JSON object a line, in the order in which they came.

Several processes append to it: the control server, and the command line. Each line is one write to a file that is open
for appending, so lines never mix; it is synced before anybody is told that what it says has happened.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from engine.datadir import give_to_owner

AUDIT_TRAIL: Final = "audit.jsonl"
# What a caller chooses is cut to so many characters.
TEXT_MAX: Final = 256
FIELDS_MAX: Final = 32


class AuditTrail:
    """May be used by several threads. Opened by the first line: orders go on also where it cannot be written."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._fd = -1
        self._torn = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Raises OSError."""
        if self._fd >= 0:
            return
        self._fd = self._opened(self._data_dir / AUDIT_TRAIL)
        # A machine that died, or a full disk, may have left half a line: it stays, and the next one begins anew.
        size = os.fstat(self._fd).st_size
        self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def _opened(self, path: Path) -> int:
        """Root writes here too: what the engine's user may have put there instead must not be written to, or given."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            fd = os.open(path, flags)
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == self._data_dir.stat().st_uid:
                return fd
            os.close(fd)
            raise OSError(f"{path}: not a plain file of the data directory's owner") from None
        give_to_owner(fd, self._data_dir)
        return fd

    def write(
        self, caller: str, peer: str, method: str, code: str, summary: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Returns once the line is on the disk. Raises OSError."""
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "caller": caller[:TEXT_MAX],
            "peer": peer[:TEXT_MAX],
            "method": method[:TEXT_MAX],
            "summary": summary or {},
            "code": code,
            **more,
        }
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            self.open()
            text = b"\n" + text if self._torn else text
            self._torn = True
            written = os.write(self._fd, text)
            if written != len(text):
                raise OSError(f"{AUDIT_TRAIL}: {written} of {len(text)} bytes were written")
            self._torn = False
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def recorded(data_dir: Path, command: str, **summary: Any) -> Iterator[dict[str, Any]]:
    """A command of the command line; what it adds to the summary is in the line too. Raises OSError beforehand.

    A command whose line could not be written is not begun.
    """
    from engine.exits import Exit

    with AuditTrail(data_dir) as trail:
        trail.open()
        code = "OK"
        try:
            yield summary
        except BaseException as error:
            code = Exit.of(error).name if isinstance(error, Exception) else type(error).__name__
            raise
        finally:
            trail.write(f"uid:{os.getuid()}", "local", f"everopen {command}", code, summary)


def summary_of(message: Any) -> dict[str, Any]:
    """What a request asks for, without what may be personal: numbers as they are, of all else only how much."""
    summary: dict[str, Any] = {}
    for field, value in message.ListFields()[:FIELDS_MAX]:
        if isinstance(value, (bool, int)):
            summary[field.name] = value
        elif isinstance(value, (str, bytes)):
            summary[field.name] = f"{len(value)} {'characters' if isinstance(value, str) else 'bytes'}"
        elif hasattr(value, "ListFields"):
            summary[field.name] = summary_of(value)
        elif hasattr(value, "__len__"):
            summary[field.name] = f"{len(value)} items"
    return summary
