"""`everopen backup` and `everopen restore`.

A backup is a directory with `backup.json` and, for each shard, `shard-0000/` and so on: its newest snapshot and all
segments, up to one sequence that was durable, and the archive with all that had left memory by then. Shards know
nothing of each other, and an order lives in one of them, so each is cut at a sequence of its own. A backup has no
identity.json, so nobody can serve from it: two engines that go on from one log would share its log_id. A restore gives
each log a new one; sequences, times and outcomes stay as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from engine import archive_tools, datadir, keys, rebuild
from engine._core import JournalReader, JournalWriter, Shard, journal_segments
from engine.errors import DataDirectoryError, JournalFull, ReplayMismatch
from engine.limits import LOG_ID_BYTES
from engine.rebuild import Extent

MANIFEST = "backup.json"
MANIFEST_FORMAT_VERSION = 2
# How many records are appended between two wake-ups of the sync thread.
KICK_RECORDS = 1_024
SYNC_TIMEOUT_S = 60.0
# Of a shard whose follower drops files meanwhile; it does so once a snapshot.
COPY_TRIES = 5


@dataclass(frozen=True)
class Held:
    """What a backup holds of a shard, or a restore made of one."""

    log_id: str
    sequence: int
    state_digest: str
    business_digest: str


def backup(data_dir: Path, target: Path) -> list[Held]:
    """Copies what is durable of every shard, also of running engines, and proves the copy by replaying it."""
    sources = datadir.shard_directories(data_dir)
    _refuse_unless_empty(target)
    copies = datadir.make_shard_directories(target, len(sources))
    held = [_copy_shard(*pair) for pair in zip(sources, copies, strict=True)]
    # The keys stay where they are; that there were some does not, so that a restored engine is not open to all.
    if keys.is_required(data_dir) or os.path.lexists(data_dir / keys.KEYS):
        keys.require(target)
    # Written last, so a backup that has it is whole.
    manifest = {"format_version": MANIFEST_FORMAT_VERSION, "shards": held}
    _write_synced(target / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    datadir.sync_directory(target)
    datadir.sync_directory(target.resolve().parent)
    return held


def restore(source: Path, data_dir: Path, until: Mapping[int, int] | None = None) -> list[Held]:
    """Makes a data directory with logs of its own from a backup. `until`: the last sequence of shards to cut short."""
    whole = read_manifest(source)
    logs = [rebuild.extent(datadir.shard_directory(source, shard)) for shard in range(len(whole))]
    ends = [(until or {}).get(shard, held.sequence) for shard, held in enumerate(whole)]
    for log, held, end in zip(logs, whole, ends, strict=True):
        if end > held.sequence:
            raise DataDirectoryError(f"{log.shard}: ends at sequence {held.sequence}, before {end}")
        first, _ = rebuild.first_snapshot(log)
        if end < first:
            raise DataDirectoryError(f"{log.shard}: begins at sequence {first}, after {end}")
    _refuse_unless_empty(data_dir)
    paths = datadir.make_shard_directories(data_dir, len(whole))
    restored = [_restore_shard(*parts) for parts in zip(logs, paths, ends, whole, strict=True)]
    if keys.is_required(source):
        keys.require(data_dir)
    # The identity last: without it nothing can be served, so half a restore is never taken for a whole one.
    datadir.write_identity(data_dir, len(whole))
    datadir.sync_directory(data_dir.resolve().parent)
    return restored


def read_manifest(source: Path) -> list[Held]:
    """What a backup holds, by shard."""
    path = source / MANIFEST
    try:
        fields = orjson.loads(path.read_bytes())
        version = fields.pop("format_version")
        # Version 1 was of one shard, whose fields stood beside the version.
        if version in (1, MANIFEST_FORMAT_VERSION):
            return [Held(**held) for held in ([fields] if version == 1 else fields["shards"])]
    except FileNotFoundError:
        raise DataDirectoryError(f"{source}: no backup ({MANIFEST} is missing; was it interrupted?)") from None
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataDirectoryError(f"{path}: cannot be read: {error}") from None
    raise DataDirectoryError(f"{path}: format version {version}; this program knows up to {MANIFEST_FORMAT_VERSION}")


def _copy_shard(source: Path, copy: Path) -> Held:
    """Begins again if a follower removes what is to be copied."""
    for _ in range(COPY_TRIES - 1):
        try:
            return _copy_once(source, copy)
        except FileNotFoundError:
            for path in copy.iterdir():
                path.unlink()
    return _copy_once(source, copy)


def _copy_once(source: Path, copy: Path) -> Held:
    log = rebuild.extent(source)
    headers = journal_segments(str(source))
    if headers[0]["first_sequence"] != log.first_sequence:
        raise FileNotFoundError(f"{source}: the first segment was removed meanwhile")
    for header in headers:
        if header["segment"] <= log.segment:
            end = log.offset if header["segment"] == log.segment else header["segment_bytes"]
            _copy(_segment(source, header["segment"]), copy, end, header["segment_bytes"])
    fitting = [path for sequence, path in datadir.snapshots(source) if sequence <= log.last_sequence]
    if log.first_sequence > 1 and not fitting:
        raise FileNotFoundError(f"{source}: the snapshot that the log continues was removed meanwhile")
    for path in fitting[-1:]:
        _copy(path, copy, path.stat().st_size, path.stat().st_size)
    datadir.sync_directory(copy)
    archive_tools.copy(source, copy, log.log_id)
    return _proved(copy, log)


def _restore_shard(log: Extent, path: Path, until: int, whole: Held) -> Held:
    state = rebuild.first_state(log, os.urandom(LOG_ID_BYTES))
    _write_log(state, log, path, until)
    archive_tools.put_back(log.shard, path, log.log_id, state)
    archive_tools.prove(state, rebuild.extent(path))
    restored = _held(state)
    if until == whole.sequence and restored.state_digest != whole.state_digest:
        reason = f"{log.shard}: the restored state digest is {restored.state_digest}, not {whole.state_digest}"
        raise ReplayMismatch(until, reason)
    return restored


def _held(state: Shard) -> Held:
    return Held(state.log_id.hex(), state.sequence, state.state_digest(), state.business_digest())


def _write_log(state: Shard, log: Extent, shard: Path, until: int) -> None:
    """The records again, in a log of their own; where the old one began behind a snapshot, so does this one."""
    if state.sequence:
        state.save(str(datadir.snapshot_path(shard, state.sequence)))
    with JournalWriter(str(shard), log_id=state.log_id, first_sequence=state.sequence + 1) as writer:
        for sequence, record in rebuild.records(log, state.sequence + 1, until):
            state.apply(record)
            _append(writer, record)
            if sequence % KICK_RECORDS == 0:
                writer.kick()
        writer.kick()
        _wait(writer, until)


def _append(writer: JournalWriter, record: bytes) -> None:
    while True:
        try:
            writer.append(record)
        except JournalFull:
            writer.kick()
            _wait(writer, writer.durable + 1)
        else:
            return


def _wait(writer: JournalWriter, sequence: int) -> None:
    if not writer.wait_durable(sequence, SYNC_TIMEOUT_S):
        raise TimeoutError(f"{writer.path}: the disk did not sync within {SYNC_TIMEOUT_S:.0f} s")


def _proved(copy: Path, log: Extent) -> Held:
    """Reads every block of the copy, and replays it from its snapshot."""
    with JournalReader(str(copy), log.first_sequence) as reader:
        if reader.scan() != log.last_sequence:
            raise ReplayMismatch(reader.position["sequence"], "the copy ends here; was the log changed meanwhile?")
    copied = rebuild.extent(copy)
    state = rebuild.newest_state(copied, log.last_sequence)
    rebuild.replay(state, copied, log.last_sequence)
    archive_tools.prove(state, copied)
    return _held(state)


def _refuse_unless_empty(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise DataDirectoryError(f"{target}: not empty")


def _segment(shard: Path, number: int) -> Path:
    return shard / f"{number:020d}.log"


def _copy(path: Path, into: Path, end: int, size: int) -> None:
    """The first `end` bytes, then zeros up to `size`: what a running engine writes just now is left out."""
    with path.open("rb") as source, (into / path.name).open("xb") as target:
        remaining = end
        while remaining > 0 and (piece := source.read(min(remaining, 1 << 20))):
            target.write(piece)
            remaining -= len(piece)
        target.truncate(size)
        target.flush()
        os.fsync(target.fileno())
    shutil.copymode(path, into / path.name)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
