"""What the supervisor looks at from time to time: heartbeats, and where nobody follows, whether a snapshot is due."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from engine._core import Board
from engine.limits import REPLAY_LOOK_S, WATCH_S
from engine.place import Place
from engine.post import Post
from engine.schedule import Replays


class Watched(Protocol):
    """What a watch needs of the supervisor's settings."""

    @property
    def followers(self) -> int: ...
    @property
    def snapshot_bytes(self) -> int: ...
    @property
    def snapshot_s(self) -> int: ...
    @property
    def heartbeat_ms(self) -> int: ...


class Owner(Protocol):
    """What a watch needs of the supervisor."""

    places: list[Place]
    posts: list[Post]

    @property
    def settings(self) -> Watched: ...
    @property
    def serving(self) -> bool: ...
    @property
    def upgrade(self) -> object: ...
    @property
    def now_s(self) -> float: ...
    def later(self, seconds: float, then: Callable[[], None]) -> None: ...


class Watch:
    def __init__(self, owner: Owner, board: Board, directories: Sequence[Path]) -> None:
        self._owner = owner
        self._board = board
        self._directories = directories
        self._looked_s = 0.0
        # From when there are logs.
        self._replays: Replays | None = None

    def begin(self) -> None:
        self._looked_s = self._owner.now_s
        self._look_at_hearts()
        if self._owner.settings.followers == 0:
            self._look_at_logs()

    def taken(self, shard: int, sequence: int) -> None:
        """A snapshot is there."""
        if self._replays is not None:
            self._replays.taken(shard, sequence)

    def _look_at_hearts(self) -> None:
        self._owner.later(WATCH_S, self._look_at_hearts)
        now_s = self._owner.now_s
        since_s, self._looked_s = now_s - self._looked_s, now_s
        if self._owner.serving:
            heartbeats = {slot["pid"]: slot["heartbeat_ns"] for slot in self._board.slots()}
            for place in self._owner.places:
                place.watch(heartbeats, since_s, 2 * WATCH_S, self._owner.settings.heartbeat_ms / 1_000)
            for post in self._owner.posts:
                post.watch(since_s, 2 * WATCH_S)

    def _look_at_logs(self) -> None:
        """Starts a replayer where one is due. One at a time, since it takes a core, and the memory of a worker."""
        self._owner.later(REPLAY_LOOK_S, self._look_at_logs)
        if not self._owner.serving or self._owner.upgrade is not None:
            return
        if self._replays is None:
            settings = self._owner.settings
            now_s = self._owner.now_s
            self._replays = Replays(self._directories, settings.snapshot_bytes, settings.snapshot_s, now_s)
        if any(place.follower is not None for place in self._owner.places):
            return
        for place in self._owner.places:
            if place.serves and self._replays.begin(place.shards, self._owner.now_s):
                place.replay()
                return
