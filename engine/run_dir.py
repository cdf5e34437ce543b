"""The private folder of a running engine, where its sockets are: how it is made, and how a command finds it.

DIR/lock names it below the pid. It is made in $RUNTIME_DIRECTORY, which systemd sets for RuntimeDirectory=, else where
temporary files are. There anybody may have made a folder of that name before: a command talks to no folder and no
socket that is not of the engine's user, who is the owner of the data directory or root, or that others can reach.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import EveropenError
from engine.peers import Peer
from engine.runtime import LOCK, read_lock, write_lock

_OTHERS: Final = 0o077


class NotRunning(EveropenError):
    """Nobody answers for this data directory."""


class Refused(EveropenError):
    """A folder or a socket that may be somebody else's."""


class RunDir(NamedTuple):
    """As a command found it."""

    path: Path
    # The engine's.
    uid: int

    def socket(self, name: str) -> str:
        """Its path; it may not be there. Raises Refused."""
        path = self.path / name
        _check(path, stat.S_ISSOCK, (self.uid, 0), "no socket")
        return str(path)

    def check(self, peer: Peer) -> None:
        """peer: who listens. Raises Refused."""
        if peer.uid not in (self.uid, 0):
            raise Refused(f"{self.path}: process {peer.pid} of user {peer.uid} listens there, not of user {self.uid}")


def make(data_dir: Path, lock: int) -> Path:
    """One that only its owner may enter. lock: the descriptor of DIR/lock, which says where it is from now on.

    That of an engine which was killed is taken over: its children look for the next supervisor there.
    """
    folder = _former(data_dir, os.pread(lock, 4_096, 0))
    if folder is None:
        parent = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or tempfile.gettempdir()
        folder = Path(parent) / f"everopen-{os.getuid()}-{_digest(data_dir)}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if not _is_private(folder):
                folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=parent))
    write_lock(lock, folder)
    return folder


def find(data_dir: Path) -> RunDir:
    """For a command, perhaps of root. Raises NotRunning, Refused, OSError."""
    folder = None
    with suppress(FileNotFoundError):
        folder = _named(data_dir, (data_dir / LOCK).read_bytes())
    try:
        owner = data_dir.stat().st_uid
    except FileNotFoundError:
        raise NotRunning(f"{data_dir}: is not there") from None
    if folder is None:
        folder = Path(tempfile.gettempdir()) / f"everopen-{owner}-{_digest(data_dir)}"
    found = _check(folder, stat.S_ISDIR, (owner, os.getuid(), 0), "no folder")
    if found is None:
        raise NotRunning(f"{data_dir}: no engine is running there")
    if os.getuid() not in (found.st_uid, 0):
        raise Refused(f"{folder}: belongs to user {found.st_uid}: ask as that user, or as root")
    return RunDir(folder, found.st_uid)


def _check(
    path: Path, is_kind: Callable[[int], bool], owners: Collection[int], otherwise: str
) -> os.stat_result | None:
    """None: it is not there. Raises Refused."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not is_kind(found.st_mode):
        raise Refused(f"{path}: {otherwise}")
    if found.st_uid not in owners:
        raise Refused(f"{path}: belongs to user {found.st_uid}, who is not the engine's")
    if found.st_mode & _OTHERS:
        raise Refused(f"{path}: is open to others (mode {stat.S_IMODE(found.st_mode):04o})")
    return found


def _former(data_dir: Path, lock: bytes) -> Path | None:
    folder = _named(data_dir, lock)
    return folder if folder is not None and _is_private(folder) else None


def _named(data_dir: Path, lock: bytes) -> Path | None:
    """What DIR/lock says, unless it is of a data directory that this one was copied from."""
    _, folder = read_lock(lock)
    if folder is None or re.fullmatch(rf"everopen-\d+-{_digest(data_dir)}(-\w+)?", folder.name) is None:
        return None
    return folder


def _digest(data_dir: Path) -> str:
    return hashlib.blake2b(os.fsencode(data_dir.resolve()), digest_size=8).hexdigest()


def _is_private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & _OTHERS
