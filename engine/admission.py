"""Admission: what is in flight in this process is bounded; what does not fit is refused before work is done for it."""

from __future__ import annotations

import asyncio
from collections import deque

from engine.faults import DRAINING, OVERLOADED, RECOVERING, Refusal
from engine.limits import BYTES_IN_FLIGHT_MAX, CALLS_IN_FLIGHT_MAX


class Gate:
    """Counts calls and bytes in flight. Closed until the log is recovered, and again for good when the drain begins."""

    def __init__(self, calls_max: int = CALLS_IN_FLIGHT_MAX, bytes_max: int = BYTES_IN_FLIGHT_MAX) -> None:
        self.calls_max = calls_max
        self.bytes_max = bytes_max
        self.calls = 0
        self.bytes = 0
        # Calls that met the closed gate.
        self.turned_away = 0
        self.closed: Refusal | None = RECOVERING
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        self.closed = None

    def drain(self) -> None:
        """Refuses new calls from now on; what is inside stays until it is answered."""
        self.closed = DRAINING

    def refuse_if_closed(self) -> Refusal | None:
        if self.closed is not None:
            self.turned_away += 1
        return self.closed

    def try_enter(self, size: int) -> Refusal | None:
        """None: the call is in, and leave() must follow. Otherwise why not."""
        closed = self.refuse_if_closed()
        if closed is not None:
            return closed
        # Whoever waits goes first, or a flood of single calls would starve the streams.
        if self._waiting or not self._fits(size):
            return OVERLOADED
        self._count(size)
        return None

    async def enter(self, size: int) -> None:
        """For streams, which have another way to shed load: they stop reading until there is room, first come first."""
        if not self._waiting and self._fits(size):
            self._count(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the turn in which room was made: it was counted in already.
            if turn.done() and not turn.cancelled():
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        self.calls -= 1
        self.bytes -= size
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            waiting_size, turn = self._waiting.popleft()
            if not turn.done():
                self._count(waiting_size)
                turn.set_result(None)
        if self.calls == 0:
            self._empty.set()

    async def empty(self) -> None:
        """Waits until nothing is in flight."""
        await self._empty.wait()

    def _fits(self, size: int) -> bool:
        return self.calls < self.calls_max and self.bytes + size <= self.bytes_max

    def _count(self, size: int) -> None:
        self.calls += 1
        self.bytes += size
        self._empty.clear()
