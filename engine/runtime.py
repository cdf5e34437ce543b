"""What the processes of one engine share while they run: the locks that keep two engines apart, and their sockets.

DIR/lock             held by the supervisor, with its pid, and below it the private folder of the sockets
DIR/lock.children    held by every child, and names them: {pid, start_time, name} of each, as one line of JSON

The sockets are not there: the path of a data directory may be longer than a socket's may be, and who copies a data
directory after a crash should meet nothing but files.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson

from engine.errors import JournalLocked
from engine.limits import LISTEN_BACKLOG, PREDECESSOR_S_MAX
from engine.listen import private_listener

LOCK = "lock"
CHILDREN_LOCK = "lock.children"
SUPERVISOR_SOCKET = "supervisor.sock"
ARCHIVE_SOCKET = "archive.sock"
# Two, since a new control server listens before the old one stops.
CONTROL_SOCKETS = ("control.sock", "control-2.sock")
# Beside each of them, where `everopen status` asks.
STATUS_SUFFIX = ".status"
# The descriptor of the lock, for a supervisor that replaces its own program.
LOCK_VARIABLE = "EVEROPEN_LOCK_FD"
POLL_S = 0.01


class Process(NamedTuple):
    """A pid alone may be somebody else's by now."""

    pid: int
    # As in /proc/PID/stat: clock ticks since boot.
    start_time: int
    name: str


def start_time(pid: int) -> int:
    """0: there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def process_state(pid: int) -> str:
    """As in /proc/PID/stat; empty: there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


@contextmanager
def exclusive(data_dir: Path) -> Iterator[int]:
    """Gives the descriptor that holds the lock. Raises JournalLocked if another supervisor has the data directory."""
    inherited = os.environ.pop(LOCK_VARIABLE, None)
    if inherited is None:
        own = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    else:
        own = int(inherited)
        os.set_inheritable(own, False)
    try:
        pid, folder = read_lock(os.pread(own, 4_096, 0))
        if not _try_lock(own):
            raise JournalLocked(str(data_dir), pid)
        write_lock(own, folder)
        yield own
    finally:
        os.close(own)


class Children:
    """`lock.children`, as its supervisor has it open. Children inherit the descriptor, and with it the lock."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.fd = os.open(data_dir / CHILDREN_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def living(self) -> list[Process]:
        return living(self._data_dir)

    def wait_for_all(self) -> None:
        """Until no child of any former supervisor is left. Raises JournalLocked if that takes too long."""
        until = time.monotonic() + PREDECESSOR_S_MAX
        while not _try_lock(self.fd):
            if time.monotonic() > until:
                raise JournalLocked(str(self._data_dir), None)
            time.sleep(POLL_S)

    def hold(self) -> None:
        """For this supervisor and its children, beside those that it has adopted."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def name(self, processes: Iterable[Process]) -> None:
        """One write, so that who reads at any time finds one whole line."""
        line = orjson.dumps([process._asdict() for process in processes], option=orjson.OPT_APPEND_NEWLINE)
        os.pwrite(self.fd, line, 0)
        os.ftruncate(self.fd, len(line))

    def close(self) -> None:
        os.close(self.fd)


def named(data_dir: Path) -> list[Process]:
    """The children that a data directory names. They may be gone."""
    try:
        line = (data_dir / CHILDREN_LOCK).read_bytes().partition(b"\n")[0]
        return [Process(**entry) for entry in orjson.loads(line)]
    except (OSError, ValueError, TypeError):
        # Nobody was ever named there, or the machine died in the middle of the write, and with it all who could be.
        return []


def living(data_dir: Path) -> list[Process]:
    """Those named by the last supervisor that still are who they were."""
    return [process for process in named(data_dir) if start_time(process.pid) == process.start_time]


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_lock(text: bytes) -> tuple[int | None, Path | None]:
    """What DIR/lock says: the supervisor's pid, and the private folder of the engine (engine/run_dir.py)."""
    pid, _, folder = text.partition(b"\n")
    named = folder.partition(b"\n")[0]
    return int(pid) if pid.isdigit() else None, Path(os.fsdecode(named)) if named else None


def write_lock(lock: int, folder: Path | None) -> None:
    """In one write, so that who reads meanwhile finds the pid."""
    text = b"%d\n" % os.getpid() + (os.fsencode(folder) + b"\n" if folder is not None else b"")
    os.pwrite(lock, text, 0)
    os.ftruncate(lock, len(text))


def supervisor_socket(folder: Path) -> socket.socket:
    """Where orphans say hello, and `everopen upgrade` says what it wants."""
    return private_listener(str(folder / SUPERVISOR_SOCKET), LISTEN_BACKLOG, socket.SOCK_SEQPACKET, replace=True)
