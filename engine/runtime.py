"""What the processes of one engine share while they run: the locks that keep two engines apart, and a private socket.

DIR/lock             held by the supervisor, with its pid
DIR/lock.children    held by every child, so that the next engine can wait for those of one that was killed

The socket of the control server is not there: the path of a data directory may be longer than a socket's may be, and
who copies a data directory after a crash should meet nothing but files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import JournalLocked
from engine.limits import PREDECESSOR_S_MAX

LOCK = "lock"
CHILDREN_LOCK = "lock.children"
POLL_S = 0.01


@contextmanager
def exclusive(data_dir: Path) -> Iterator[int]:
    """Raises JournalLocked if another engine has the data directory. Gives the descriptor that children must inherit.

    A supervisor that was killed takes its children along, but not in the same instant: they are waited for.
    """
    own = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _try_lock(own):
            raise JournalLocked(str(data_dir), _pid(os.pread(own, 32, 0)))
        os.ftruncate(own, 0)
        os.pwrite(own, f"{os.getpid()}\n".encode(), 0)
        children = os.open(data_dir / CHILDREN_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _wait_for_lock(children, data_dir)
            yield children
        finally:
            os.close(children)
    finally:
        os.close(own)


def _wait_for_lock(fd: int, data_dir: Path) -> None:
    until = time.monotonic() + PREDECESSOR_S_MAX
    while not _try_lock(fd):
        if time.monotonic() > until:
            raise JournalLocked(str(data_dir), None)
        time.sleep(POLL_S)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(text: bytes) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


@contextmanager
def control_socket(data_dir: Path) -> Iterator[str]:
    """Where the control server is to listen, in a folder that only its owner may enter.

    Its name follows from the data directory, so that the next engine finds and removes what a killed one left.
    """
    name = hashlib.blake2b(os.fsencode(data_dir.resolve()), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"everopen-{os.getuid()}-{name}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix="everopen-"))
    path = folder / "control.sock"
    path.unlink(missing_ok=True)
    try:
        yield str(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Anybody may have made a folder of that name where all may write."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
