"""HTTP for scrapers and for `everopen status`: /metrics, /healthz and, on the engine's own socket, /status.

Reading a request is the loop's; taking a sample and writing the text is a thread's, so nothing here holds up a relayed
call. A connection has one request, a few seconds and a few kilobytes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import orjson

from engine.endpoints import listen
from engine.listen import Address, UnixAddress
from engine.metrics import render
from engine.peers import admits_stream
from engine.sampling import Sample

HEAD_BYTES_MAX: Final = 8_192
REQUEST_S_MAX: Final = 5.0
# At one time; a scraper has one.
CONNECTIONS_MAX: Final = 16
TEXT: Final = "text/plain; charset=utf-8"

T = TypeVar("T")


class Answer(NamedTuple):
    code: str
    content_type: str
    body: bytes


class MetricsServer:
    def __init__(self, sample: Callable[[], Sample]) -> None:
        """sample: may take its time, and may be called from any thread, though never by two at a time."""
        self._sample = sample
        self._one_at_a_time = asyncio.Lock()
        self._connections = 0
        self._servers: list[asyncio.Server] = []
        # Path and inode of each socket file.
        self._files: list[tuple[Path, int]] = []

    async def serve(self, address: Address | UnixAddress, *, private: bool) -> int:
        """private: only the user of this engine can come there. The port; 0: a unix socket. Raises ListenError."""
        listener = listen(address)

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._met(reader, writer, private)

        if isinstance(address, UnixAddress):
            self._files.append((Path(address.path), os.lstat(address.path).st_ino))
            self._servers.append(await asyncio.start_unix_server(met, sock=listener, limit=HEAD_BYTES_MAX))
            return 0
        self._servers.append(await asyncio.start_server(met, sock=listener, limit=HEAD_BYTES_MAX))
        return int(listener.getsockname()[1])

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in self._files:
            # The next control process may have put its own there.
            with suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()
        self._files.clear()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, private: bool) -> None:
        if private and not admits_stream(writer, "status"):
            return
        self._connections += 1
        done = False
        try:
            if self._connections <= CONNECTIONS_MAX:
                # A peer that has gone, sends too much, or takes too long, is not answered.
                with suppress(OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
                    await asyncio.wait_for(self._answer(reader, writer, private), REQUEST_S_MAX)
                    done = True
        finally:
            self._connections -= 1
            # Who does not read would hold what is left of the answer for as long as it likes.
            if done:
                writer.close()
            else:
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, private: bool) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(":", 1) for line in head[1:] if ":" in line)
        method, _, rest = head[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            answer = Answer("405 Method Not Allowed", TEXT, b"only GET\n")
        elif path == "/metrics":
            body, content_type = await self._in_thread(lambda sample: render(sample, fields.get("accept", "")))
            answer = Answer("200 OK", content_type, body)
        elif path == "/healthz":
            answer = await self._in_thread(healthz)
        elif path == "/status" and private:
            answer = Answer("200 OK", "application/json", await self._in_thread(orjson.dumps))
        else:
            answer = Answer("404 Not Found", TEXT, b"/metrics or /healthz\n")
        lines = (
            f"HTTP/1.1 {answer.code}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            "Connection: close",
        )
        # So that drain() waits for all of it.
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if method == "GET":
            writer.write(answer.body)
        await writer.drain()

    async def _in_thread(self, make: Callable[[Sample], T]) -> T:
        async with self._one_at_a_time:
            return await asyncio.to_thread(lambda: make(self._sample()))


def healthz(sample: Sample) -> Answer:
    """200 if every shard is served, else 503 and which are not."""
    if sample.is_serving:
        return Answer("200 OK", TEXT, b"serving\n")
    text = ", ".join(f"shard {of.shard} {of.state}" for of in sample.shards if of.state != "SERVING")
    return Answer("503 Service Unavailable", TEXT, f"{text.lower()}\n".encode())
