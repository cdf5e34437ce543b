"""`everopen audit`: replays the log, compares it with every snapshot, checks every invariant, and the archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine import archive_tools, datadir, rebuild
from engine._core import Shard, partition_of
from engine.errors import EveropenError


class Violation(EveropenError):
    """The state that the log gives breaks an invariant, or is not that of a snapshot."""


class Verdict(NamedTuple):
    """What holds of a shard: the number of records replayed, and the digests after the last one."""

    records: int
    sequence: int
    state_digest: str
    business_digest: str

    def __str__(self) -> str:
        digests = f"state digest {self.state_digest}, business digest {self.business_digest}"
        return f"holds, {self.records} records, {digests}"


def audit(data_dir: Path) -> Iterator[str]:
    """Lines in words, as they are found; the last one sums up. Reads only. Raises the first violation, as below."""
    paths = datadir.shard_directories(data_dir)
    verdicts = []
    for shard, path in enumerate(paths):
        verdicts.append(audit_shard(path, shard, len(paths)))
        yield f"audit: shard {shard} {verdicts[-1]}" if len(paths) > 1 else f"audit: {verdicts[-1]}"
    if len(paths) > 1:
        # State digests are of one shard each: they hold its times and sequences, and their sum would say nothing.
        records = sum(verdict.records for verdict in verdicts)
        business = rebuild.sum_of_digests(verdict.business_digest for verdict in verdicts)
        yield f"audit: holds, {records} records, business digest {business}"


def audit_shard(path: Path, shard: int = 0, shards: int = 1) -> Verdict:
    """Raises the first violation: JournalDamaged, SnapshotDamaged, ReplayMismatch, Violation, ArchiveDamaged."""
    log = rebuild.extent(path)
    state = rebuild.first_state(log)
    count = 0
    for sequence, snapshot in datadir.snapshots(path):
        if sequence > log.last_sequence:
            raise Violation(f"{snapshot}: the log ends before it, at sequence {log.last_sequence}")
        if sequence >= state.sequence:
            count += rebuild.replay(state, log, sequence)
            _compare(state, snapshot)
    count += rebuild.replay(state, log, log.last_sequence)
    violation = state.check() or _stray_shop(state, shard, shards)
    if violation:
        raise Violation(f"{path}: state at sequence {state.sequence}: {violation}")
    archive_tools.prove(state, log)
    return Verdict(count, state.sequence, state.state_digest(), state.business_digest())


def _stray_shop(state: Shard, shard: int, shards: int) -> str:
    """Nothing without its shop can be in a shard, so the shops tell whether all commands came to the right one."""
    for shop_id in state.shop_ids():
        right = datadir.shard_of(partition_of(shop_id), shards)
        if right != shard:
            return f"shop {shop_id} belongs to shard {right}"
    return ""


def _compare(shard: Shard, path: Path) -> None:
    """The snapshot must be the state that the log gives."""
    stored = rebuild.load(path)
    for name, one, other in (
        ("state", stored.state_digest(), shard.state_digest()),
        ("business", stored.business_digest(), shard.business_digest()),
    ):
        if one != other:
            raise Violation(f"{path}: its {name} digest is {one}, the replay's at sequence {shard.sequence} is {other}")
