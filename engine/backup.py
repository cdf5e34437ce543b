"""`everopen backup` and `everopen restore`.

A backup is a directory with `backup.json` and `shard-0000/`: the newest snapshot and all segments, up to one sequence
that was durable. It has no identity.json, so nobody can serve from it: two engines that go on from one log would share
its log_id. A restore gives the log a new one, and leaves sequences, times and outcomes as they are.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from engine import datadir, rebuild
from engine._core import JournalReader, JournalWriter, Shard, journal_segments
from engine.errors import DataDirectoryError, JournalFull, ReplayMismatch
from engine.limits import DATA_FORMAT_VERSION, LOG_ID_BYTES
from engine.rebuild import Extent

MANIFEST = "backup.json"
# How many records are appended between two wake-ups of the sync thread.
KICK_RECORDS = 1_024
SYNC_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Manifest:
    """Written last, so a backup that has one is whole."""

    format_version: int
    log_id: str
    sequence: int
    state_digest: str
    business_digest: str


@dataclass(frozen=True)
class Restored:
    log_id: str
    sequence: int
    state_digest: str
    business_digest: str


def backup(data_dir: Path, target: Path) -> Manifest:
    """Copies what is durable, also of a running engine, and proves the copy by replaying it."""
    log = rebuild.extent(datadir.open_existing(data_dir))
    shard = _empty_target(target)
    for header in journal_segments(str(log.shard)):
        if header["segment"] <= log.segment:
            end = log.offset if header["segment"] == log.segment else header["segment_bytes"]
            _copy(_segment(log.shard, header["segment"]), shard, end, header["segment_bytes"])
    for _, path in [pair for pair in datadir.snapshots(log.shard) if pair[0] <= log.last_sequence][-1:]:
        _copy(path, shard, path.stat().st_size, path.stat().st_size)
    datadir.sync_directory(shard)
    manifest = _proved(shard, log)
    _write_synced(target / MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
    datadir.sync_directory(target)
    datadir.sync_directory(target.resolve().parent)
    return manifest


def restore(source: Path, data_dir: Path, until_sequence: int | None = None) -> Restored:
    """Makes a data directory with a log of its own from a backup, up to a sequence if one is given."""
    manifest = _read_manifest(source)
    log = rebuild.extent(datadir.shard_directory(source))
    until = manifest.sequence if until_sequence is None else until_sequence
    if until > manifest.sequence:
        raise DataDirectoryError(f"{source}: ends at sequence {manifest.sequence}, before {until}")
    log_id = os.urandom(LOG_ID_BYTES)
    state = rebuild.first_state(log, log_id)
    if until < state.sequence:
        raise DataDirectoryError(f"{source}: begins at sequence {state.sequence}, after {until}")
    shard = _empty_target(data_dir)
    _write_log(state, log, shard, until)
    restored = Restored(log_id.hex(), state.sequence, state.state_digest(), state.business_digest())
    if until == manifest.sequence and restored.state_digest != manifest.state_digest:
        raise ReplayMismatch(
            until, f"the restored state digest is {restored.state_digest}, not {manifest.state_digest}"
        )
    # The identity last: without it nothing can be served, so half a restore is never taken for a whole one.
    datadir.write_identity(data_dir)
    datadir.sync_directory(data_dir.resolve().parent)
    return restored


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


def _proved(shard: Path, log: Extent) -> Manifest:
    """Reads every block of the copy, and replays it from its snapshot."""
    with JournalReader(str(shard), log.first_sequence) as reader:
        if reader.scan() != log.last_sequence:
            raise ReplayMismatch(reader.position["sequence"], "the copy ends here; was the log changed meanwhile?")
    copied = rebuild.extent(shard)
    state = rebuild.newest_state(copied, log.last_sequence)
    rebuild.replay(state, copied, log.last_sequence)
    return Manifest(
        DATA_FORMAT_VERSION, log.log_id.hex(), state.sequence, state.state_digest(), state.business_digest()
    )


def _empty_target(target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise DataDirectoryError(f"{target}: not empty")
    shard = datadir.shard_directory(target)
    shard.mkdir()
    return shard


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


def _read_manifest(source: Path) -> Manifest:
    path = source / MANIFEST
    try:
        fields = orjson.loads(path.read_bytes())
        manifest = Manifest(**fields)
    except FileNotFoundError:
        raise DataDirectoryError(f"{source}: no backup ({MANIFEST} is missing; was it interrupted?)") from None
    except (orjson.JSONDecodeError, TypeError) as error:
        raise DataDirectoryError(f"{path}: cannot be read: {error}") from None
    if manifest.format_version != DATA_FORMAT_VERSION:
        raise DataDirectoryError(
            f"{path}: format version {manifest.format_version}; this program knows version {DATA_FORMAT_VERSION}"
        )
    return manifest
