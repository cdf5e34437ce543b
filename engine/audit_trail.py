"""DIR/audit.jsonl: who changed something or was refused, one JSON object a line, in the order in which they came.

Several processes append to it: the supervisor, the control server, and the command line. Each line is one write to a
file that is open for appending and locked meanwhile, and names the SHA-256 of the line before it, so that one which is
changed or taken away shows. It is synced before anybody is told that what it says has happened; what changes something
has a line before it begins, too. A file that is full is renamed to audit-<UTC time>.jsonl, and never removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
import structlog

from engine.datadir import give_to_owner, sync_directory
from engine.limits import AUDIT_FILE_BYTES_MAX, AUDIT_LOCK_S_MAX

AUDIT_TRAIL: Final = "audit.jsonl"
# Code of a line for what is about to be done.
BEGUN: Final = "BEGUN"
# What a caller chooses is cut to so many characters.
TEXT_MAX: Final = 256
FIELDS_MAX: Final = 32
_FULL: Final = re.compile(r"audit-\d{8}T\d{6}\.\d{6}Z\.jsonl")
_FULL_TIME: Final = "audit-%Y%m%dT%H%M%S.%fZ.jsonl"
_POLL_S: Final = 0.005
_PIECE_BYTES: Final = 4_096

log = structlog.get_logger()


class AuditTrail:
    """May be used by several threads. Opened by the first line: orders go on also where it cannot be written."""

    def __init__(self, data_dir: Path, file_bytes_max: int = AUDIT_FILE_BYTES_MAX) -> None:
        self._data_dir = data_dir
        self._path = data_dir / AUDIT_TRAIL
        self._bytes_max = file_bytes_max
        self._fd = -1
        self._lock = threading.Lock()

    def write(
        self, caller: str, peer: str, method: str, code: str, summary: dict[str, Any] | None = None, **more: Any
    ) -> str:
        """Returns once the line is on the disk: its digest, which the next line has. Raises OSError."""
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "caller": caller[:TEXT_MAX],
            "peer": peer[:TEXT_MAX],
            "method": method[:TEXT_MAX],
            "summary": summary or {},
            "code": code,
            **more,
        }
        with self._lock, self._current():
            return self._append(line)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Holds the lock of the file that has the name now: somebody else may have begun the next one meanwhile."""
        until = time.monotonic() + AUDIT_LOCK_S_MAX
        while not self._try_lock():
            if time.monotonic() > until:
                raise OSError(f"{self._path}: another process has it locked")
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            # Without a next file there is none.
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        while True:
            if self._fd < 0:
                self._fd = self._opened()
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            try:
                if os.path.samestat(self._path.lstat(), os.fstat(self._fd)):
                    return True
            except FileNotFoundError:
                pass
            self.close()

    def _opened(self) -> int:
        """Root writes here too: what the engine's user may have put there instead must not be written to, or given."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            fd = os.open(self._path, flags)
            found = os.fstat(fd)
            # Root writes for the owner alone; anybody else also into what is its own, in a folder of somebody else.
            owners = {self._data_dir.stat().st_uid} | ({os.getuid()} - {0})
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid in owners:
                return fd
            os.close(fd)
            raise OSError(f"{self._path}: not a plain file of the data directory's owner") from None
        give_to_owner(fd, self._data_dir)
        sync_directory(self._data_dir)
        return fd

    def _append(self, line: dict[str, Any]) -> str:
        size = os.fstat(self._fd).st_size
        last, whole = last_line(self._fd)
        previous = digest_of(last) if size else self._last_of_full()
        text = orjson.dumps(line | {"previous": previous})
        # A machine that died, or a full disk, may have left half a line: it stays, and the next one begins anew.
        data = (b"" if whole else b"\n") + text + b"\n"
        if size and size + len(data) > self._bytes_max:
            self._begin_next()
            with self._current():
                return self._append(line)
        written = os.write(self._fd, data)
        if written != len(data):
            raise OSError(f"{AUDIT_TRAIL}: {written} of {len(data)} bytes were written")
        os.fsync(self._fd)
        return digest_of(text)

    def _last_of_full(self) -> str:
        """Empty: there is none, or somebody has moved it away."""
        full = full_files(self._data_dir)
        if not full:
            return ""
        fd = os.open(full[-1], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return digest_of(last_line(fd)[0])
        finally:
            os.close(fd)

    def _begin_next(self) -> None:
        """Names are in the order of the files, also if the clock has gone back."""
        named = datetime.now(UTC)
        for path in full_files(self._data_dir)[-1:]:
            latest = datetime.strptime(path.name, _FULL_TIME).replace(tzinfo=UTC)
            named = max(named, latest + timedelta(microseconds=1))
        self._path.rename(self._data_dir / named.strftime(_FULL_TIME))
        sync_directory(self._data_dir)


def full_files(data_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in data_dir.iterdir() if _FULL.fullmatch(path.name))


def digest_of(line: bytes) -> str:
    """line: without its end."""
    return sha256(line).hexdigest()


def last_line(fd: int) -> tuple[bytes, bool]:
    """Of a file, and whether it is whole. Of an empty file it is empty."""
    at, found = os.fstat(fd).st_size, b""
    while at and b"\n" not in found[:-1]:
        begin = max(0, at - _PIECE_BYTES)
        found = os.pread(fd, at - begin, begin) + found
        at = begin
    whole = not found or found.endswith(b"\n")
    return found.removesuffix(b"\n").rpartition(b"\n")[2], whole


@contextmanager
def recorded(data_dir: Path, command: str, *, strict: bool = True, **summary: Any) -> Iterator[dict[str, Any]]:
    """A line before a command and one after it; what the command adds to the summary is in the second one.

    strict: a command whose line cannot be written is not begun; raises OSError. Else that is said, and it goes on.
    """
    from engine.exits import Exit

    with AuditTrail(data_dir) as trail:
        write = partial(trail.write, f"uid:{os.getuid()}", "local", f"everopen {command}")

        def line(code: str, **more: str) -> str:
            try:
                return write(code, summary, **more)
            except OSError as error:
                # What is done is done, and what it has to say must be heard.
                if strict and code == BEGUN:
                    raise
                log.critical("the audit trail cannot be written", error=str(error))
                return ""

        begun = line(BEGUN)
        code = "OK"
        try:
            yield summary
        except BaseException as error:
            code = Exit.of(error).name if isinstance(error, Exception) else type(error).__name__
            raise
        finally:
            line(code, begun=begun)


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
