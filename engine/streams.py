"""PlaceOrders: batches read and executed ahead, answered in their order once durable."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

import grpc
import structlog

from engine._core import PLACE_ORDER
from engine.faults import DRAINING, INTERNAL, OVERLOADED, TOO_LATE, Refusal, refuse
from engine.limits import BATCHES_PER_STREAM_MAX, STREAMS_MAX
from engine.pipeline import Pipeline, too_late

log = structlog.get_logger()


class Answer(NamedTuple):
    """What goes out next: bytes, or the end of the stream, with a refusal or without."""

    response: bytes = b""
    sequence: int = 0
    end: bool = False
    refusal: Refusal | None = None


class PlaceOrdersStream:
    """One call. A task reads and executes, the call itself writes; the queue between them bounds how far they part."""

    def __init__(self, pipeline: Pipeline, context: Any) -> None:
        self._pipeline = pipeline
        self._context = context
        self._answers: asyncio.Queue[Answer] = asyncio.Queue(BATCHES_PER_STREAM_MAX)
        self._held: deque[int] = deque()
        self._draining = False
        self._in_read = False
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self._reader = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            self._reader.cancel()
            while self._held:
                self._pipeline.gate.leave(self._held.popleft())

    def drain(self) -> None:
        """No batch is read from now on; those that were read are answered, then the stream ends."""
        self._draining = True
        # Cancelled only while it waits for the caller: a batch that is being executed must reach the queue.
        if self._in_read and self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        answer = Answer()
        while not answer.end:
            answer = await self._next()
            await self._answers.put(answer)

    async def _next(self) -> Answer:
        try:
            request = await self._receive()
            if request is None:
                return Answer(end=True, refusal=DRAINING if self._draining else None)
            await self._pipeline.gate.enter(len(request))
            self._held.append(len(request))
            if too_late(self._context):
                return Answer(end=True, refusal=TOO_LATE)
            response, fault, sequence = self._pipeline.execute(PLACE_ORDER, request, batch=True)
            return Answer(response, sequence, fault is not None, fault)
        except Exception as error:
            # The writer waits for this task's answer, so whatever happens here must reach it.
            log.warning("stream ended by an error", error=repr(error), peer=self._context.peer())
            return Answer(end=True, refusal=INTERNAL)

    async def _receive(self) -> bytes | None:
        """The next request message; None: there is none, or none is wanted any more."""
        if self._draining:
            return None
        self._in_read = True
        try:
            message = await self._context.read()
        except asyncio.CancelledError:
            if not self._draining:
                raise
            return None
        finally:
            self._in_read = False
        return None if message is grpc.aio.EOF else message

    async def _write(self) -> None:
        while True:
            answer = await self._answers.get()
            await self._pipeline.durable(answer.sequence)
            if answer.refusal is not None:
                await refuse(self._context, answer.refusal)
            if answer.end:
                return
            await self._context.write(answer.response)
            self._pipeline.gate.leave(self._held.popleft())


class PlaceOrdersHandler:
    """All open streams of the process: bounded in number, and drained together."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._streams: set[PlaceOrdersStream] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()

    async def call(self, _: Any, context: Any) -> None:
        closed = self._pipeline.gate.refuse_if_closed()
        if closed is not None:
            await refuse(context, closed)
        if len(self._streams) >= STREAMS_MAX:
            await refuse(context, OVERLOADED)
        stream = PlaceOrdersStream(self._pipeline, context)
        self._streams.add(stream)
        self._none_open.clear()
        context.add_done_callback(lambda _: self._ended(stream))
        await stream.run()

    def drain(self) -> None:
        for stream in self._streams:
            stream.drain()

    async def ended(self) -> None:
        """Waits until no stream is open."""
        await self._none_open.wait()

    def _ended(self, stream: PlaceOrdersStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._none_open.set()
