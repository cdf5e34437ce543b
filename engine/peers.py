"""Who is at the other end of a unix socket, as the kernel saw it when it connected (SO_PEERCRED).

The folder of the sockets lets nobody else in; this holds also where somebody has opened it to others.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from asyncio.trsock import TransportSocket
from typing import NamedTuple

import structlog

# struct ucred of <sys/socket.h>
_CREDENTIALS = struct.Struct("iII")

# The latter is what a stream shows of its socket.
End = socket.socket | TransportSocket

log = structlog.get_logger()


class Peer(NamedTuple):
    """Of a client: the process that listens."""

    pid: int
    uid: int

    @classmethod
    def of(cls, end: End) -> Peer:
        pid, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return cls(pid, uid)

    @property
    def is_ours(self) -> bool:
        """Of our own user, or root, who could do everything anyway."""
        return self.uid in (os.getuid(), 0)


def admits(end: End, where: str) -> bool:
    """Whether a socket of this engine serves who has connected. Who is refused is said."""
    peer = Peer.of(end)
    if not peer.is_ours:
        log.error(f"a connection to the {where} is refused: its process is of another user", pid=peer.pid, uid=peer.uid)
    return peer.is_ours


def admits_stream(writer: asyncio.StreamWriter, where: str) -> bool:
    """The same of a stream, which ends if it is refused."""
    admitted = admits(writer.get_extra_info("socket"), where)
    if not admitted:
        writer.transport.abort()
    return admitted
