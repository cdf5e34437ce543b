"""Holds answers back until the log is durable up to the record that they show."""

from __future__ import annotations

import asyncio
import heapq
import os
from typing import Protocol


class Log(Protocol):
    """What acknowledgement needs to know of an engine."""

    @property
    def durable(self) -> int: ...
    @property
    def eventfd(self) -> int: ...
    def kick(self) -> None: ...


class Acknowledger:
    """Waiters in order of sequence, let go by one event of the sync thread."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop
        self._kick_is_planned = False
        # The count keeps two waiters of one sequence from being compared by their futures.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        loop.add_reader(log.eventfd, self._durable_grew)

    async def durable(self, sequence: int) -> None:
        """Waits until the record is durable. Sequence 0 and what is durable already do not wait."""
        if sequence <= self._log.durable:
            return
        # Once per turn of the loop, so that what arrived together is synced together.
        if not self._kick_is_planned:
            self._kick_is_planned = True
            self._loop.call_soon(self._kick)
        turn: asyncio.Future[None] = self._loop.create_future()
        self._count += 1
        heapq.heappush(self._waiting, (sequence, self._count, turn))
        await turn

    def close(self) -> None:
        self._loop.remove_reader(self._log.eventfd)

    def _kick(self) -> None:
        self._kick_is_planned = False
        self._log.kick()

    def _durable_grew(self) -> None:
        try:
            os.eventfd_read(self._log.eventfd)
        except BlockingIOError:
            return
        durable = self._log.durable
        while self._waiting and self._waiting[0][0] <= durable:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
