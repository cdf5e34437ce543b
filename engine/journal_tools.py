"""`everopen journal verify` and `everopen journal dump`: what a log holds and whether it is whole, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine import datadir, journal, rebuild
from engine.errors import DataDirectoryError
from engine.record import Record

_TAILS = {
    "clean": "ends cleanly",
    "sealed": "ends with a seal",
    "torn": "ends before a write that never finished (and was never acknowledged)",
    "limit": "read up to what the running engine published as durable",
}


def verify(shard: Path) -> Iterator[str]:
    """Lines in words; the last one sums up. Raises JournalDamaged, JournalFormatError or SnapshotDamaged."""
    log = rebuild.extent(shard)
    proved = journal.verify(shard, until_sequence=log.last_sequence if log.engine_runs else None)
    yield f"log {proved.log_id.hex()}" + (", an engine is running" if log.engine_runs else "")
    yield from map(str, proved.segments)
    for sequence, path in datadir.snapshots(shard):
        yield f"snapshot {path.name}: holds, sequence {sequence}, state digest {rebuild.load(path).state_digest()}"
    span = "no records"
    if proved.last_sequence >= proved.first_sequence:
        span = f"sequences {proved.first_sequence} to {proved.last_sequence}"
    yield f"journal: holds, {span}, {_TAILS[proved.tail]}"


def dump(
    data_dir: Path, from_sequence: int | None = None, until_sequence: int | None = None, shard: int | None = None
) -> Iterator[tuple[int, Record]]:
    """(shard, record): those of a range of sequences of each shard, or of one, that are there and durable.

    They are decoded as far as their headers.
    """
    paths = datadir.shard_directories(data_dir)
    if shard is not None and not 0 <= shard < len(paths):
        raise DataDirectoryError(f"{data_dir}: has no shard {shard}, only {datadir.counted(len(paths))} from 0")
    for number in range(len(paths)) if shard is None else [shard]:
        log = rebuild.extent(paths[number])
        first = max(from_sequence or 1, log.first_sequence)
        last = log.last_sequence if until_sequence is None else min(until_sequence, log.last_sequence)
        for sequence, record in rebuild.records(log, first, last):
            yield number, Record.parse(sequence, record)
