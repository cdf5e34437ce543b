"""Closed orders on their way from a follower's state to the archive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from engine._core import Shard, give_way
from engine.archive import ArchiveFeed
from engine.archive_store import FILE
from engine.channel import Channel
from engine.errors import ArchiveDamaged, ArchiveUnavailable, EveropenError

# Of one batch: some milliseconds of the thread that follows.
ORDERS_MAX = 4_096
# Between two tries while there is nothing to send, or nobody takes it.
PAUSE_S = 1.0
# Until a damaged archive is asked again: somebody may have brought the right one back.
DAMAGED_PAUSE_S = 60.0
# The disk's business, and nobody waits for it.
NICE = 5

log = structlog.get_logger()


class Feeding:
    """One shard's. go_on() is called by the thread that applies, and takes copies; a thread of its own sends them."""

    def __init__(self, channel: Channel, shard: int, path: str) -> None:
        self._channel = channel
        self._shard = shard
        self._feed = ArchiveFeed(path)
        self._threads = ThreadPoolExecutor(1, f"everopen-feed-{shard}", initializer=give_way, initargs=(NICE,))
        # The archive has what was closed up to there; None: it has not been asked yet.
        self._through: int | None = None
        self._sent: Future[int] | None = None
        self._applied = 0
        self._again_s = 0.0
        self._failing = False
        # The archive is damaged; it is asked again, but nobody waits for it.
        self._given_up = False
        # It is of a later log than this one. Never asked again: once the log has grown past it, that could not be told.
        self._ahead = False

    def go_on(self, state: Shard, now_s: float, end: Callable[[], int | None]) -> bool:
        """Whether everything that may go to the archive is there, or nothing will be.

        end: the sequence up to which the log is durable, if that is known.
        """
        if self._ahead:
            return True
        if self._sent is not None:
            if not self._sent.done():
                return self._given_up
            self._applied = state.sequence
            self._take(self._sent, now_s, end)
            self._sent = None
        if now_s < self._again_s:
            return self._given_up or (not self._failing and self._through is not None)
        orders = [] if self._through is None else state.closed(self._through, ORDERS_MAX)
        if not orders and self._through is not None:
            self._again_s = now_s + PAUSE_S
            return True
        evicted = state.counts()["evicted_through"]
        self._sent = self._threads.submit(self._feed.send, self._shard, orders, evicted_through=evicted)
        return self._given_up

    def stop(self) -> None:
        """What is being sent may arrive or not: whoever follows next asks first."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _take(self, sent: Future[int], now_s: float, end_of: Callable[[], int | None]) -> None:
        error = sent.exception()
        if error is None:
            through = sent.result()
            # What this follower has applied need not be asked for.
            end = self._applied if through <= self._applied else end_of()
            if end is None:
                self._again_s = now_s + PAUSE_S
                return
            if through > end:
                self._ahead = True
                text = f"has what was closed up to sequence {through}, but the log ends at {end}"
                error = ArchiveDamaged(FILE, f"{text}: one of them is older than the other")
        if error is None:
            self._failing = self._given_up = False
            if through != self._through:
                self._through = through
                self._channel.say("archived", shard=self._shard, sequence=through)
            return
        if isinstance(error, ArchiveUnavailable):
            self._again_s = now_s + PAUSE_S
            if not self._failing:
                log.warning("the archive takes nothing: closed orders stay in memory", error=str(error))
            self._failing = True
            return
        self._again_s = now_s + DAMAGED_PAUSE_S
        # What came back instead may have more or less than it had.
        self._through = None
        if not self._given_up or self._ahead:
            words = str(error) if isinstance(error, EveropenError) else repr(error)
            log.critical("the archive is damaged: closed orders stay in memory", shard=self._shard, error=words)
        self._given_up = True
