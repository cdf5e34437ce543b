"""A worker's questions to the archive: orders that a call names and that are not in memory.

The front's loop never waits for a disk: it puts questions into a list, which is read here, on the worker's own event
loop; threads ask the stores, and the answers go back. How many are asked at a time, the front bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Protocol

import structlog

from engine.archive_store import ArchiveReader, log_id_of
from engine.errors import EveropenError

# They wait for the disk, and a disk does little more for many at a time.
THREADS = 2

log = structlog.get_logger()


class Asking(Protocol):
    """What is needed of a NativeFront."""

    @property
    def lookup_fd(self) -> int: ...
    def take_lookups(self) -> list[tuple[int, int, str, str]]:
        """(token, shard, shop_id, order_id) of each question since the last call."""

    def answer_lookup(self, token: int, item: bytes | None, failed: bool = False) -> None: ...


class Lookups:
    """From begin() until close(), both on the event loop; after close() the front is not called any more."""

    def __init__(self, front: Asking, directories: Sequence[Path], evicted_through: Callable[[int], int]) -> None:
        """evicted_through: of a shard, the closing sequence up to which orders have left memory; called by threads."""
        self._front = front
        self._directories = directories
        self._evicted_through = evicted_through
        self._stores: dict[int, ArchiveReader] = {}
        self._opening = Lock()
        self._threads = ThreadPoolExecutor(THREADS, "everopen-lookup")
        self._failing: set[int] = set()
        self._closed = False

    def begin(self) -> None:
        asyncio.get_running_loop().add_reader(self._front.lookup_fd, self._ask)

    def close(self) -> None:
        """What is still being looked up is answered by nobody: the front ends, and refuses those who wait."""
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._front.lookup_fd)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        for token, shard, shop_id, order_id in self._front.take_lookups():
            found = loop.run_in_executor(self._threads, self._find, shard, shop_id, order_id)
            found.add_done_callback(partial(self._answer, token, shard))

    def _answer(self, token: int, shard: int, done: asyncio.Future[bytes | None]) -> None:
        if self._closed:
            return
        error = done.exception()
        if error is None:
            self._failing.discard(shard)
            self._front.answer_lookup(token, done.result())
            return
        # Once: callers come again, and each would say the same.
        if shard not in self._failing:
            self._failing.add(shard)
            log.critical("archived orders cannot be read", shard=shard, error=str(error))
        self._front.answer_lookup(token, None, True)

    def _find(self, shard: int, shop_id: str, order_id: str) -> bytes | None:
        """None only of a store that has all that has left memory; everything else is an error."""
        # Before the store is read: what has left memory by now is there.
        evicted_through = self._evicted_through(shard)
        with self._opening:
            store = self._stores.get(shard)
            if store is None:
                directory = self._directories[shard]
                store = self._stores[shard] = ArchiveReader(directory, log_id_of(directory))
        try:
            return store.find(shop_id, order_id, evicted_through)
        except EveropenError:
            # Perhaps another file is there by now. Not closed here: the other thread may be reading.
            with self._opening:
                if self._stores.get(shard) is store:
                    del self._stores[shard]
            raise
