"""One call through the stages, against an engine and a log that the test holds in its hands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from tests.reference_front.acknowledger import Acknowledger
from tests.reference_front.calls import Calls


class Aborted(Exception):
    """What the context raises; the code is its argument."""


class Context:
    """As much of a gRPC context as a call touches."""

    def __init__(self, remaining_s: float | None = None) -> None:
        self.remaining_s = remaining_s
        self.trailing: Any = None
        self._done: list[Callable[[Any], None]] = []

    def time_remaining(self) -> float | None:
        return self.remaining_s

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._done.append(callback)

    def finish(self) -> None:
        for callback in self._done:
            callback(self)

    async def abort(self, code: grpc.StatusCode, message: str, trailing: Any) -> None:
        self.trailing = trailing
        raise Aborted(code)


class Engine:
    """Answers with the request; each execution is one record; durable when the test says so."""

    def __init__(self) -> None:
        self.sequence = 0
        self.durable = 0
        self.kicks = 0
        self.executed: list[bytes] = []
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def execute(self, method: int, request: bytes) -> tuple[int, bytes, int]:
        self.executed.append(request)
        if request == b"bad":
            return 3, status_pb2.Status(code=3, message="bad").SerializeToString(), 0
        self.sequence += 1
        return 0, request, self.sequence

    execute_batch = execute

    def kick(self) -> None:
        self.kicks += 1

    def sync(self, sequence: int) -> None:
        self.durable = sequence
        os.eventfd_write(self.eventfd, 1)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    os.close(made.eventfd)


@pytest.fixture
async def calls(engine: Engine) -> Calls:
    return Calls(engine, Acknowledger(engine, asyncio.get_running_loop()))


async def turns(count: int = 5) -> None:
    """Lets the loop run everything that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_answer_waits_until_its_record_is_durable(engine: Engine, calls: Calls) -> None:
    call = asyncio.ensure_future(calls.unary(1)(b"a", Context()))
    await turns()
    assert engine.executed == [b"a"]
    assert not call.done()
    engine.sync(1)
    assert await call == b"a"


async def test_calls_of_one_turn_are_kicked_once(engine: Engine, calls: Calls) -> None:
    running = [asyncio.ensure_future(calls.unary(1)(name, Context())) for name in (b"a", b"b", b"c")]
    await turns()
    assert engine.kicks == 1
    engine.sync(2)
    await asyncio.wait({running[0], running[1]})
    assert not running[2].done()
    engine.sync(3)
    assert await running[2] == b"c"


async def test_fault_is_answered_without_waiting(engine: Engine, calls: Calls) -> None:
    with pytest.raises(Aborted) as aborted:
        await calls.unary(1)(b"bad", Context())
    assert aborted.value.args == (grpc.StatusCode.INVALID_ARGUMENT,)


async def test_call_past_its_deadline_is_not_executed(engine: Engine, calls: Calls) -> None:
    with pytest.raises(Aborted) as aborted:
        await calls.unary(1)(b"late", Context(remaining_s=0.0))
    assert aborted.value.args == (grpc.StatusCode.DEADLINE_EXCEEDED,)
    assert engine.executed == []


async def test_call_after_the_drain_began_is_unavailable_and_the_drain_waits_for_those_before(
    engine: Engine, calls: Calls
) -> None:
    context = Context()
    taken = asyncio.ensure_future(calls.unary(1)(b"a", context))
    await turns()
    drained = asyncio.ensure_future(calls.drain())
    await turns()
    with pytest.raises(Aborted) as aborted:
        await calls.unary(1)(b"b", Context())
    assert aborted.value.args == (grpc.StatusCode.UNAVAILABLE,)
    assert not drained.done()
    engine.sync(1)
    assert await taken == b"a"
    context.finish()
    await drained
    assert engine.executed == [b"a"]


async def test_cancelled_call_leaves_the_others_waiting_in_order(engine: Engine, calls: Calls) -> None:
    contexts = [Context(), Context()]
    running = [asyncio.ensure_future(calls.unary(1)(b"a", context)) for context in contexts]
    await turns()
    running[0].cancel()
    engine.sync(2)
    assert await running[1] == b"a"
    assert running[0].cancelled()
