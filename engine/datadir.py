"""The data directory: what lies where, whose it is, and whether an engine has it open.

DIR/identity.json    format version and number of shards, written once
DIR/shard-0000/      log and snapshots of shard 0, and so on for each; docs/log_format.md names the files
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

import orjson

from engine.errors import DataDirectoryError, JournalLocked
from engine.limits import DATA_FORMAT_VERSION, LIMITS

IDENTITY = "identity.json"
SHARDS_DEFAULT = 1
_TEMPORARY = f".{IDENTITY}.tmp"
# engine/keys.py
_KEYS = ("keys.json", ".keys.json.tmp", "authentication.required")
# engine/audit_trail.py
_AUDIT = re.compile(r"audit(-[\dTZ.]+)?\.jsonl")
_SHARD = re.compile(r"shard-\d{4}")
_SNAPSHOT = re.compile(r"snapshot-(\d{20})\.snap")


def shard_directory(data_dir: Path, shard: int) -> Path:
    return data_dir / f"shard-{shard:04d}"


def shard_of(partition: int, shards: int) -> int:
    """The shard that holds a partition. Neighbours stay together, and no shard has two more than another."""
    return partition * shards // LIMITS["PARTITIONS"]


def create_or_open(data_dir: Path, shards: int | None = None) -> list[Path]:
    """The directories of all shards, in order. A data directory that is new or empty is made for `shards` (default 1).

    One that is there has the number that it was made with; another one is refused. None: whatever it has.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if not (data_dir / IDENTITY).exists():
        # What a crash left of the first start, and what a fresh file system brings, is nobody's data.
        refuse_unless_ours(data_dir)
        count = SHARDS_DEFAULT if shards is None else shards
        make_shard_directories(data_dir, count)
        write_identity(data_dir, count)
    found = shard_count(data_dir)
    if shards is not None and shards != found:
        raise DataDirectoryError(
            f"{data_dir / IDENTITY}: made for {counted(found)}, not for {shards}; the number cannot be changed"
        )
    return shard_directories(data_dir)


def create_or_open_for_keys(data_dir: Path) -> None:
    """Keys may be made before the first start, so that nobody is ever let in without. Raises DataDirectoryError."""
    data_dir.mkdir(parents=True, exist_ok=True)
    refuse_unless_ours(data_dir)


def refuse_unless_ours(data_dir: Path) -> None:
    """Unless it is a data directory, or what becomes one at the first start. Raises DataDirectoryError."""
    if not data_dir.is_dir():
        raise DataDirectoryError(f"{data_dir}: no data directory of everopen")
    if not (data_dir / IDENTITY).exists() and not all(_is_nobodys(path) for path in data_dir.iterdir()):
        raise DataDirectoryError(f"{data_dir}: not empty, and not ours ({IDENTITY} is missing)")


def shard_count(data_dir: Path) -> int:
    """How many shards a data directory has, which must be there already and be one that this program knows."""
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
    shards = identity.get("shards")
    if type(shards) is not int or not 1 <= shards <= LIMITS["SHARDS_MAX"]:
        raise DataDirectoryError(f"{path}: made for {shards} shards; this program knows 1 to {LIMITS['SHARDS_MAX']}")
    return shards


def shard_directories(data_dir: Path) -> list[Path]:
    """The directories of all shards, in order, of a data directory that must be there already and be whole."""
    paths = [shard_directory(data_dir, shard) for shard in range(shard_count(data_dir))]
    for path in paths:
        # One that is lost must not be made anew: it would be served as a shard that never had an order.
        if not path.is_dir():
            raise DataDirectoryError(f"{path}: is missing")
    return paths


def make_shard_directories(data_dir: Path, shards: int) -> list[Path]:
    """Before the identity, which says that they are there."""
    if not 1 <= shards <= LIMITS["SHARDS_MAX"]:
        raise DataDirectoryError(f"{data_dir}: cannot have {shards} shards; 1 to {LIMITS['SHARDS_MAX']} are possible")
    paths = [shard_directory(data_dir, shard) for shard in range(shards)]
    for path in paths:
        path.mkdir(exist_ok=True)
    sync_directory(data_dir)
    return paths


def write_identity(data_dir: Path, shards: int) -> None:
    """Whole or not at all: a crash in between leaves a directory without data, which the next start takes for new."""
    text = orjson.dumps({"format_version": DATA_FORMAT_VERSION, "shards": shards}, option=orjson.OPT_APPEND_NEWLINE)
    temporary = data_dir / _TEMPORARY
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(data_dir / IDENTITY)
    sync_directory(data_dir)


def counted(shards: int) -> str:
    return "1 shard" if shards == 1 else f"{shards} shards"


def _is_nobodys(path: Path) -> bool:
    if _SHARD.fullmatch(path.name):
        return path.is_dir() and not any(path.iterdir())
    # Keys may be made before the first start.
    return path.name in (_TEMPORARY, *_KEYS, "lost+found") or _AUDIT.fullmatch(path.name) is not None


def give_to_owner(fd: int, data_dir: Path) -> None:
    """A new file, which an administrator made in an engine's data directory. Raises OSError."""
    owner = data_dir.stat()
    if os.getuid() == 0 != owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def sync_directory(path: Path) -> None:
    """Makes created, renamed and removed names of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_if_locked(shards: Iterable[Path]) -> None:
    """Raises JournalLocked if an engine has one of the shards open.

    It tells early and in words; what keeps two engines apart is the lock that each takes for as long as it runs.
    """
    for shard in filter(is_locked, shards):
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
