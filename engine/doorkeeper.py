"""The control server's socket: only who is of our own user, or root, comes through to gRPC.

grpcio neither takes a connection that somebody else has accepted, nor tells whose one is. So its own socket is one that
nobody finds: its file is removed before anything is served, and only this process, which holds it open, can still
connect there. What is accepted here, and is of our own user, is copied from one to the other.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from engine.limits import CONTROL_CONNECTIONS_MAX, LISTEN_BACKLOG
from engine.listen import private_listener, private_mode
from engine.peers import admits_stream

# Read at once; as much again waits for a side that does not read.
PIECE_BYTES: Final = 64 * 1024


class Doorkeeper:
    def __init__(self, server: grpc.aio.Server, path: str) -> None:
        """server: not started yet. path: where fronts come. Raises OSError."""
        self._path = Path(path)
        self._connections: set[asyncio.Task[None]] = set()
        hidden = f"{path}.{os.getpid()}"
        with private_mode():
            server.add_insecure_port(f"unix:{hidden}")
        # A descriptor of the file, not of the socket: what is connected to by it need not have a name any more.
        self._hidden = os.open(hidden, os.O_PATH | os.O_CLOEXEC)
        os.unlink(hidden)
        self._listener = private_listener(path, LISTEN_BACKLOG, replace=True)
        self._inode = self._path.lstat().st_ino

    async def open(self) -> None:
        """Once the server has started."""
        self._server = await asyncio.start_unix_server(
            self._met, sock=self._listener, limit=PIECE_BYTES, backlog=LISTEN_BACKLOG
        )

    def close(self) -> None:
        """Nobody comes in any more; who is in may stay."""
        self._server.close()
        # The next control server may have put its own there.
        with suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not admits_stream(writer, "control server"):
            return
        if len(self._connections) >= CONTROL_CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            inner = await asyncio.open_unix_connection(f"/proc/self/fd/{self._hidden}", limit=PIECE_BYTES)
        except OSError:
            # The server has stopped.
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, inner[1]), _copy(inner[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until its end, which is told to the other side after all that came before it."""
    # uvloop has a RuntimeError for a side that has closed meanwhile.
    with suppress(OSError, RuntimeError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()
