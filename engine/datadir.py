"""The data directory: what lies where, whose it is, and whether an engine has it open.

DIR/identity.json    format version and shard count, written once
DIR/shard-0000/      log and snapshots of the one shard; docs/log_format.md names its files
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import orjson

from engine.errors import DataDirectoryError, JournalLocked
from engine.limits import DATA_FORMAT_VERSION, SHARDS

IDENTITY = "identity.json"
_TEMPORARY = f".{IDENTITY}.tmp"
_SNAPSHOT = re.compile(r"snapshot-(\d{20})\.snap")


def shard_directory(data_dir: Path, shard: int = 0) -> Path:
    return data_dir / f"shard-{shard:04d}"


def create_or_open(data_dir: Path) -> Path:
    """The directory of the shard; makes what is missing if the data directory is new or empty."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if not (data_dir / IDENTITY).exists():
        # What a crash left of the first start, and what a fresh file system brings, is nobody's data.
        if {path.name for path in data_dir.iterdir()} - {_TEMPORARY, "lost+found"}:
            raise DataDirectoryError(f"{data_dir}: not empty, and not ours ({IDENTITY} is missing)")
        write_identity(data_dir)
    check_identity(data_dir)
    shard = shard_directory(data_dir)
    shard.mkdir(exist_ok=True)
    sync_directory(data_dir)
    return shard


def open_existing(data_dir: Path) -> Path:
    """The directory of the shard of a data directory that must be there already."""
    check_identity(data_dir)
    shard = shard_directory(data_dir)
    if not shard.is_dir():
        raise DataDirectoryError(f"{shard}: is missing")
    return shard


def check_identity(data_dir: Path) -> None:
    path = data_dir / IDENTITY
    try:
        identity = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataDirectoryError(f"{data_dir}: no data directory of everopen ({IDENTITY} is missing)") from None
    except orjson.JSONDecodeError as error:
        raise DataDirectoryError(f"{path}: cannot be read: {error}") from None
    if not isinstance(identity, dict):
        raise DataDirectoryError(f"{path}: cannot be read: an object is expected")
    if identity.get("format_version") != DATA_FORMAT_VERSION:
        found = identity.get("format_version")
        raise DataDirectoryError(f"{path}: format version {found}; this program knows version {DATA_FORMAT_VERSION}")
    if identity.get("shards") != SHARDS:
        raise DataDirectoryError(f"{path}: made for {identity.get('shards')} shards; this program serves {SHARDS}")


def write_identity(data_dir: Path) -> None:
    """Whole or not at all: a crash in between leaves an empty directory, which the next start takes for new."""
    text = orjson.dumps({"format_version": DATA_FORMAT_VERSION, "shards": SHARDS}, option=orjson.OPT_APPEND_NEWLINE)
    temporary = data_dir / _TEMPORARY
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(data_dir / IDENTITY)
    sync_directory(data_dir)


def sync_directory(path: Path) -> None:
    """Makes created, renamed and removed names of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_if_locked(shard: Path) -> None:
    """Raises JournalLocked if an engine has the shard open.

    It tells early and in words; what keeps two engines apart is the lock that each takes for as long as it runs.
    """
    if is_locked(shard):
        try:
            pid = int((shard / "lock").read_text().strip())
        except (OSError, ValueError):
            pid = None
        raise JournalLocked(str(shard), pid)


def is_locked(shard: Path) -> bool:
    """Whether an engine has the shard open. The lock is tried and let go, so nothing is written or kept."""
    try:
        fd = os.open(shard / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def snapshots(shard: Path) -> list[tuple[int, Path]]:
    """(sequence, path) of every snapshot, oldest first."""
    matches = ((_SNAPSHOT.fullmatch(path.name), path) for path in shard.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def snapshot_path(shard: Path, sequence: int) -> Path:
    return shard / f"snapshot-{sequence:020d}.snap"
