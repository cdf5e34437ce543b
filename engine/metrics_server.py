"""HTTP for scrapers and for `everopen status`: /metrics, /healthz and, on the engine's own socket, /status.

Reading a request is the loop's; taking a sample and writing the text is a thread's, so nothing here holds up a relayed
call. A connection has one request, a few seconds and a few kilobytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from engine.listen import private_listener
from engine.metrics import format_for, render
from engine.peers import admits_stream
from engine.sampling import Sample

HEAD_BYTES_MAX: Final = 8_192
REQUEST_S_MAX: Final = 5.0
# At one time; a scraper has one.
CONNECTIONS_MAX: Final = 16
BACKLOG: Final = 16
# A storm of scrapes costs as much as four a second.
FRESH_S: Final = 0.25
TEXT: Final = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    code: str
    content_type: str
    body: bytes


class MetricsServer:
    def __init__(self, sample: Callable[[], Sample], now_s: Callable[[], float] = time.monotonic) -> None:
        """sample: may take its time, and may be called from any thread, though never by two at a time."""
        self._sample = sample
        self._now_s = now_s
        self._one_at_a_time = asyncio.Lock()
        # What was answered of the last sample, by what it is, and until when that is answered again.
        self._answers: dict[str, Answer] = {}
        self._fresh_until_s = 0.0
        self._last: Sample
        # By `private`: strangers leave room for the engine's own user.
        self._connections = {True: 0, False: 0}
        self._servers: list[asyncio.Server] = []
        # Path and inode of each socket file that was made here.
        self._files: list[tuple[Path, int]] = []

    async def serve_status(self, path: str) -> None:
        """For the engine's own user, to whom /status is answered too. Raises OSError."""
        listener = private_listener(path, BACKLOG, replace=True)
        self._files.append((Path(path), os.lstat(path).st_ino))
        await self.serve(listener, private=True)

    async def serve(self, listener: socket.socket, *, private: bool = False) -> None:
        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._met(reader, writer, private)

        start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
        self._servers.append(await start(met, sock=listener, limit=HEAD_BYTES_MAX, backlog=BACKLOG))

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
        self._connections[private] += 1
        done = False
        try:
            if self._connections[private] <= CONNECTIONS_MAX:
                # A peer that has gone, sends too much, or takes too long, is not answered.
                with suppress(OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
                    await asyncio.wait_for(self._answer(reader, writer, private), REQUEST_S_MAX)
                    done = True
        finally:
            self._connections[private] -= 1
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
            accept = fields.get("accept", "")
            answer = await self._lately(format_for(accept)[1], lambda sample: metrics(sample, accept))
        elif path == "/healthz":
            answer = await self._lately(path, healthz)
        elif path == "/status" and private:
            async with self._one_at_a_time:
                body = await asyncio.to_thread(lambda: orjson.dumps(self._sample()))
            answer = Answer("200 OK", "application/json", body)
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

    async def _lately(self, what: str, make: Callable[[Sample], Answer]) -> Answer:
        """However many ask, there is one sample in FRESH_S, and of that one answer of each kind."""
        async with self._one_at_a_time:
            if self._now_s() >= self._fresh_until_s:
                self._answers.clear()
                self._last = await asyncio.to_thread(self._sample)
                self._fresh_until_s = self._now_s() + FRESH_S
            if what not in self._answers:
                self._answers[what] = await asyncio.to_thread(make, self._last)
            return self._answers[what]


def metrics(sample: Sample, accept: str) -> Answer:
    body, content_type = render(sample, accept)
    return Answer("200 OK", content_type, body)


def healthz(sample: Sample) -> Answer:
    """200 if every shard is served, else 503 and which are not."""
    if sample.is_serving:
        return Answer("200 OK", TEXT, b"serving\n")
    text = ", ".join(f"shard {of.shard} {of.state}" for of in sample.shards if of.state != "SERVING")
    return Answer("503 Service Unavailable", TEXT, f"{text.lower()}\n".encode())
