"""What the supervisor says of its places: to whoever waits until it serves, and every second to those who look on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.place import Place, Recovered

# How often the control process is told how far followers are.
FIGURES_S: Final = 1.0


def figures(since_ns: int, places: Sequence[Place]) -> dict[str, Any]:
    """Beside the map and the pids. since_ns: names this supervisor among those before it."""
    archived = {str(shard): sequence for place in places for shard, sequence in place.archived.items()}
    followers = [_follower(place) if place.followed else None for place in places]
    guards = [place.leader.guard if place.leader is not None else {} for place in places]
    return {"since_ns": since_ns, "archived": archived, "followers": followers, "guards": guards}


def _follower(place: Place) -> dict[str, Any]:
    if place.follower is None:
        return {"pid": 0, "ready": False, "lag": 0}
    return {"pid": place.follower.pid, "ready": place.is_followed, "lag": place.follower.lag}


def ready_lines(addresses: Sequence[str], places: Sequence[Place]) -> list[str]:
    """One line with all of it for one shard, else a line for each, and then one for all."""
    recovered: dict[int, Recovered] = {}
    for place in places:
        if place.leader is not None:
            recovered |= place.leader.recovered
    shards = [
        f"shard {shard}, log {found.log_id}, sequence {found.sequence}, recovered in {found.seconds:.3f} s"
        for shard, found in sorted(recovered.items())
    ]
    if len(shards) == 1:
        return [f"serving on {', '.join(addresses)}, {shards[0]}"]
    return [*shards, f"serving on {', '.join(addresses)}, {len(shards)} shards, {len(places)} workers"]
