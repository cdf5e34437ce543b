"""Rebuilds a shard from its snapshots and log, without an engine: audit, snapshot, backup and restore share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import datadir
from engine._core import JournalReader, Shard, journal_durable, journal_segments
from engine.errors import DataDirectoryError, ReplayMismatch
from engine.progress import bar, watched

# Records that are replayed between two looks at the progress bar.
CHUNK_RECORDS = 16_384


@dataclass(frozen=True)
class Extent:
    """Which part of a shard's log may be read: what is durable, nothing of what a running engine writes just now."""

    shard: Path
    log_id: bytes
    first_sequence: int
    # Of the last durable record; first_sequence - 1 if there is none.
    last_sequence: int
    # Where the next block goes: everything before it in the log is whole.
    segment: int
    offset: int
    engine_runs: bool


def extent(shard: Path) -> Extent:
    """Looks at the log once. With an engine running it ends where that engine says, otherwise it is read to its end."""
    engine_runs = datadir.is_locked(shard)
    durable = journal_durable(str(shard)) if engine_runs else None
    headers = journal_segments(str(shard))
    if not headers:
        raise DataDirectoryError(f"{shard}: there is no log")
    first, log_id = headers[0]["first_sequence"], headers[0]["log_id"]
    if engine_runs:
        if durable is None:
            raise DataDirectoryError(f"{shard}: the engine is starting; try again when it serves")
        last, segment, offset = durable["sequence"], durable["segment"], durable["offset"]
    else:
        with JournalReader(str(shard), headers[-1]["first_sequence"]) as reader:
            last = reader.scan()
            segment, offset = reader.position["segment"], reader.position["offset"]
    return Extent(shard, log_id, first, last, segment, offset, engine_runs)


def records(log: Extent, from_sequence: int, until_sequence: int) -> Iterator[tuple[int, bytes]]:
    """(sequence, record) in order, both ends included, with a progress bar if it takes long."""
    if until_sequence < from_sequence:
        return
    with JournalReader(str(log.shard), from_sequence, until_sequence) as reader:
        for sequence, record in watched("replaying", until_sequence - from_sequence + 1, reader):
            yield sequence, record
            if sequence >= until_sequence:
                return


def first_state(log: Extent, log_id: bytes | None = None) -> Shard:
    """The shard before the first record; where that was dropped, as of the oldest snapshot that the log continues."""
    _, path = first_snapshot(log)
    return Shard.empty(log_id or log.log_id) if path is None else load(path, log_id)


def first_snapshot(log: Extent) -> tuple[int, Path | None]:
    """Where a replay can begin: (0, None) if every record is there, or else the snapshot that stands for the first."""
    if log.first_sequence == 1:
        return 0, None
    for sequence, path in datadir.snapshots(log.shard):
        if sequence + 1 >= log.first_sequence:
            return sequence, path
    raise DataDirectoryError(
        f"{log.shard}: the log begins at sequence {log.first_sequence}, and no snapshot covers what came before"
    )


def newest_state(log: Extent, until_sequence: int) -> Shard:
    """The shard as of the newest snapshot that is not after `until_sequence`, or else the first state of the log."""
    for sequence, path in reversed(datadir.snapshots(log.shard)):
        if log.first_sequence <= sequence + 1 and sequence <= until_sequence:
            return load(path)
    return first_state(log)


def replay(shard: Shard, log: Extent, until_sequence: int) -> int:
    """Applies what follows the shard's sequence; returns the number of records. Raises ReplayMismatch."""
    first = shard.sequence + 1
    if until_sequence < first:
        return 0
    with (
        JournalReader(str(log.shard), first, until_sequence) as reader,
        bar("replaying", until_sequence - first + 1) as shown,
    ):
        try:
            while shard.replay_from(reader, CHUNK_RECORDS):
                shown.reach(shard.sequence + 1 - first)
        except ReplayMismatch as error:
            # Which record it is can be told only together with the log: each shard counts its own.
            raise ReplayMismatch(error.sequence, f"{log.shard}: {error.reason}") from None
    if shard.sequence < until_sequence:
        reason = f"{log.shard}: the log ends here, and should go on to sequence {until_sequence}"
        raise ReplayMismatch(shard.sequence + 1, reason)
    return shard.sequence + 1 - first


def sum_of_digests(digests: Iterable[str]) -> str:
    """The business digest of several shards is the sum of theirs mod 2^128: see docs/state_machine.md."""
    return f"{sum(int(digest, 16) for digest in digests) % 2**128:032x}"


def load(path: Path, log_id: bytes | None = None) -> Shard:
    """The shard of a snapshot, whose sequence must be that of the file's name."""
    shard = Shard.load(str(path)) if log_id is None else Shard.load(str(path), log_id=log_id)
    if datadir.snapshot_path(path.parent, shard.sequence).name != path.name:
        raise DataDirectoryError(f"{path}: holds the state at sequence {shard.sequence}: was it renamed?")
    return shard
