"""The bound on what is in flight."""

from __future__ import annotations

import asyncio

from engine.admission import Gate
from engine.faults import DRAINING, OVERLOADED, RECOVERING


def opened(calls_max: int = 2, bytes_max: int = 100) -> Gate:
    gate = Gate(calls_max, bytes_max)
    gate.open()
    return gate


async def test_gate_refuses_until_opened_and_from_drain_on() -> None:
    gate = Gate()
    assert gate.try_enter(1) is RECOVERING
    gate.open()
    assert gate.try_enter(1) is None
    gate.drain()
    assert gate.try_enter(1) is DRAINING


async def test_streams_that_wait_enter_in_their_order_and_before_new_calls() -> None:
    gate = opened()
    assert gate.try_enter(60) is None
    entered: list[int] = []

    async def stream(name: int, size: int) -> None:
        await gate.enter(size)
        entered.append(name)

    waiting = [asyncio.ensure_future(stream(1, 80)), asyncio.ensure_future(stream(2, 10))]
    await asyncio.sleep(0)
    assert gate.try_enter(1) is OVERLOADED, "whoever waits goes first"
    gate.leave(60)
    await asyncio.gather(*waiting)
    assert entered == [1, 2]
    assert (gate.calls, gate.bytes) == (2, 90)


async def test_stream_cancelled_while_it_waits_takes_no_place() -> None:
    gate = opened(calls_max=1)
    await gate.enter(10)
    waiting = [asyncio.ensure_future(gate.enter(10)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.leave(10)
    await waiting[1]
    assert (gate.calls, gate.bytes) == (1, 10)


async def test_stream_cancelled_in_the_turn_of_its_entry_gives_the_place_back() -> None:
    gate = opened(calls_max=1)
    await gate.enter(10)
    waiting = asyncio.ensure_future(gate.enter(10))
    await asyncio.sleep(0)
    gate.leave(10)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert (gate.calls, gate.bytes) == (0, 0)
    await gate.empty()
