"""The way of one call: wire -> admit -> match -> log -> ack. Requests and answers pass through as bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from engine.admission import Gate
from engine.durability import Acknowledger, Log
from engine.faults import TOO_LATE, Refusal, refusal, refuse

UnaryHandler = Callable[[bytes, Any], Awaitable[bytes]]


class Executor(Log, Protocol):
    """What the pipeline needs of an engine."""

    def execute(self, method: int, request: bytes) -> tuple[int, bytes, int]: ...
    def execute_batch(self, method: int, request: bytes) -> tuple[int, bytes, int]: ...


class Pipeline:
    """The stages that all calls share. It refuses until the engine is recovered and given to begin()."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._engine: Executor
        self._acknowledger: Acknowledger

    def begin(self, engine: Executor, acknowledger: Acknowledger) -> None:
        self._engine = engine
        self._acknowledger = acknowledger
        self.gate.open()

    def unary(self, method: int, *, batch: bool = False) -> UnaryHandler:
        """The handler of one method: one request, one answer."""

        async def call(request: bytes, context: Any) -> bytes:
            # admit
            closed = self.gate.try_enter(len(request))
            if closed is not None:
                await refuse(context, closed)
            # In flight until the answer is sent, which the drain waits for: so leave when the call is over.
            context.add_done_callback(lambda _: self.gate.leave(len(request)))
            if too_late(context):
                await refuse(context, TOO_LATE)
            # match, log
            answer, fault, sequence = self.execute(method, request, batch=batch)
            # ack
            await self.durable(sequence)
            if fault is not None:
                await refuse(context, fault)
            return answer

        return call

    def execute(self, method: int, request: bytes, *, batch: bool) -> tuple[bytes, Refusal | None, int]:
        """(answer, why there is none, sequence that must be durable before either leaves)."""
        run = self._engine.execute_batch if batch else self._engine.execute
        code, answer, sequence = run(method, request)
        self._acknowledger.executed(sequence)
        return answer, refusal(answer) if code else None, sequence

    async def durable(self, sequence: int) -> None:
        await self._acknowledger.durable(sequence)


def too_late(context: Any) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= 0
