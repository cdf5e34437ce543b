"""`everopen snapshot`: writes a snapshot of all that is durable, and drops segments if asked to.

Works beside a running engine: it replays up to what that engine has published as durable, and touches nothing of its.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from engine import datadir, rebuild
from engine._core import drop_segments_before

# Should the newest turn out to be damaged, the one before it and the log behind that still hold everything.
SNAPSHOTS_KEPT = 2


class Taken(NamedTuple):
    path: Path
    sequence: int
    bytes: int
    state_digest: str
    business_digest: str
    segments_dropped: int


def take(path: Path, *, drop_segments: bool = False) -> Taken:
    """Of one shard: replays from the newest snapshot, and saves, which proves the file before it is named."""
    log = rebuild.extent(path)
    shard = rebuild.newest_state(log, log.last_sequence)
    rebuild.replay(shard, log, log.last_sequence)
    proved = datadir.snapshot_path(path, shard.sequence)
    shard.save(str(proved))
    dropped = drop_behind(path, shard.sequence) if drop_segments else 0
    return Taken(proved, shard.sequence, proved.stat().st_size, shard.state_digest(), shard.business_digest(), dropped)


def drop_behind(shard: Path, sequence: int, damaged: Container[str] = ()) -> int:
    """Removes what lies behind the older of the kept snapshots: segments first, then snapshots that no log continues.

    sequence: of the snapshot that the caller has just taken. Others may have taken newer ones meanwhile, also both of
    those that are kept; what the caller has still to read stays. damaged: names of those that count for nothing.
    """
    kept = [found for found in datadir.snapshots(shard) if found[1].name not in damaged][-SNAPSHOTS_KEPT:]
    if len(kept) < SNAPSHOTS_KEPT:
        return 0
    oldest = min(kept[0][0], sequence)
    dropped = drop_segments_before(str(shard), oldest)
    for older, path in datadir.snapshots(shard):
        if older < oldest:
            # A follower and the tool may do so at once.
            path.unlink(missing_ok=True)
    datadir.sync_directory(shard)
    return dropped
