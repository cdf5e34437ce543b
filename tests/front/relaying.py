"""A front by itself, and a control server of the tests' own behind its relay."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2

from engine import _core, front_settings

# grpcio's stubs know no calls over bare bytes.
Handler = Any
Context = Any
SERVICE = "test.Relayed"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def failure() -> status_pb2.Status:
    """What Fail ends with."""
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="no: 不 100%")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="BECAUSE", domain="test"))
    return status


class BareFront:
    """The native front without shards, in a thread; its clients come by TCP, its control server by a unix socket."""

    def __init__(self, control: Path, **settings: int) -> None:
        self._board = _core.board_create(1)
        self.board = _core.Board(self._board, 1)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listening.setblocking(False)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.front = _core.NativeFront(
            worker=0, workers=1, shards=1, board_fd=self._board, settings=front_settings.defaults() | settings
        )
        self.front.listen(self._listening.fileno(), True)
        self.front.relay_to(str(control))
        self._thread = threading.Thread(target=self.front.run)
        self._thread.start()

    def count(self, name: str) -> int:
        return self.front.counters()[name]

    def close(self) -> None:
        self.front.stop()
        self._thread.join()
        self.front.close()
        self._listening.close()
        os.close(self._board)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Control(grpc.GenericRpcHandler):
    """Methods over bare bytes, and what they saw."""

    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)
    remaining_s: float | None = None
    messages_sent: int = 0
    bytes_read: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, call: grpc.HandlerCallDetails) -> Handler | None:
        methods: dict[str, tuple[Callable[..., Handler], Any]] = {
            "Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
            "Collect": (grpc.stream_unary_rpc_method_handler, self.collect),
            "Spread": (grpc.unary_stream_rpc_method_handler, self.spread),
            "Echo": (grpc.stream_stream_rpc_method_handler, self.echo),
            "Late": (grpc.unary_stream_rpc_method_handler, self.late),
            "Fail": (grpc.unary_unary_rpc_method_handler, self.fail),
            "Hang": (grpc.unary_unary_rpc_method_handler, self.hang),
        }
        service, _, name = call.method.strip("/").partition("/")
        if service != SERVICE or name not in methods:
            return None
        make, method = methods[name]
        return make(method)

    async def unary(self, request: bytes, context: Context) -> bytes:
        self.metadata = list(context.invocation_metadata())
        self.remaining_s = context.time_remaining()
        await context.send_initial_metadata((("first", "1"), ("first-bin", b"\0\xff")))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\xff\0" * 300)))
        return request

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        if ("how", "wait") in list(context.invocation_metadata()):
            self.begun.set()
            await self.go.wait()
        async for request in requests:
            self.bytes_read += len(request)
        return str(self.bytes_read).encode()

    async def spread(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        count, size = map(int, request.split())
        for number in range(count):
            yield number.to_bytes(4, "big") + bytes(size - 4)
            self.messages_sent += 1

    async def echo(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def late(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("first", "1"),))
        await self.go.wait()
        yield request

    async def fail(self, request: bytes, context: Context) -> None:
        status = failure()
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message)

    async def hang(self, request: bytes, context: Context) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""


async def start_control(path: Path, control: Control) -> grpc.aio.Server:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((control,))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


class ControlProcess:
    """The same in a process of its own, which can be killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, str(self.path), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def main(path: Path) -> None:
    server = await start_control(path, Control())
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
