"""`everopen audit`: replays the log, compares it with every snapshot, and checks every invariant at the end."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine import datadir, rebuild
from engine._core import Shard
from engine.errors import EveropenError


class Violation(EveropenError):
    """The state that the log gives breaks an invariant, or is not that of a snapshot."""


class Verdict(NamedTuple):
    """What holds: the number of records replayed, and the digests after the last one."""

    records: int
    sequence: int
    state_digest: str
    business_digest: str

    def __str__(self) -> str:
        digests = f"state digest {self.state_digest}, business digest {self.business_digest}"
        return f"audit: holds, {self.records} records, {digests}"


def audit(data_dir: Path) -> Verdict:
    """Reads only. Raises the first violation: JournalDamaged, SnapshotDamaged, ReplayMismatch, Violation."""
    log = rebuild.extent(datadir.open_existing(data_dir))
    shard = rebuild.first_state(log)
    count = 0
    for sequence, path in datadir.snapshots(log.shard):
        if sequence > log.last_sequence:
            raise Violation(f"{path}: the log ends before it, at sequence {log.last_sequence}")
        if sequence >= shard.sequence:
            count += rebuild.replay(shard, log, sequence)
            _compare(shard, path)
    count += rebuild.replay(shard, log, log.last_sequence)
    violation = shard.check()
    if violation:
        raise Violation(f"state at sequence {shard.sequence}: {violation}")
    return Verdict(count, shard.sequence, shard.state_digest(), shard.business_digest())


def _compare(shard: Shard, path: Path) -> None:
    """The snapshot must be the state that the log gives."""
    stored = rebuild.load(path)
    for name, one, other in (
        ("state", stored.state_digest(), shard.state_digest()),
        ("business", stored.business_digest(), shard.business_digest()),
    ):
        if one != other:
            raise Violation(f"{path}: its {name} digest is {one}, the replay's at sequence {shard.sequence} is {other}")
