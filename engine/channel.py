"""Messages between supervisor and child: one JSON line in one packet, with the descriptors that belong to it.

The socket keeps packets apart, so a message and its descriptors arrive together or not at all, and several threads may
send. docs/front.md lists the messages.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from engine.errors import EveropenError
from engine.limits import CHANNEL_FDS_MAX, CHANNEL_MESSAGE_BYTES_MAX
from engine.peers import Peer

_INT = struct.Struct("i")


class ChannelError(EveropenError):
    """The other side is gone, or does not read."""


@dataclass(frozen=True)
class Message:
    """The receiver owns the descriptors."""

    kind: str
    fields: dict[str, Any]
    fds: list[int]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class Channel:
    """One end. Sending never blocks: the few messages there are fit the socket's buffer, or the other side is stuck."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        # A child whose supervisor has died: nobody hears what it says, and the next one hears all of it in the hello.
        self.orphaned = False
        # What the supervisor calls this process.
        self.name = ""

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """The supervisor's end, and the child's, which is inherited and then closed here."""
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.setblocking(False)
        return cls(own), other

    @classmethod
    def inherited(cls, fd: int) -> Self:
        os.set_inheritable(fd, False)
        end = socket.socket(fileno=fd)
        end.setblocking(False)
        return cls(end)

    @classmethod
    def to(cls, path: str) -> Self | None:
        """To the supervisor that listens at `path`; None if none does."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            end.connect(path)
        except OSError:
            end.close()
            return None
        return cls(end)

    def send(self, kind: str, fds: Sequence[int] = (), /, **fields: Any) -> None:
        """The descriptors are copied; they stay the caller's. Raises ChannelError."""
        line = orjson.dumps({"kind": kind, **fields}, option=orjson.OPT_APPEND_NEWLINE)
        try:
            socket.send_fds(self._socket, [line], list(fds))
        except OSError as error:
            raise ChannelError(f"{kind} could not be sent: {error.strerror}") from None

    def say(self, kind: str, /, **fields: Any) -> None:
        """A child's way to send: it outlives the one who listens, and hears of that where it receives."""
        if not self.orphaned:
            with contextlib.suppress(ChannelError):
                self.send(kind, **fields)

    def come_back(self, path: str, hello: dict[str, Any], fds: Sequence[int]) -> None:
        """If there is a supervisor at `path`, `hello` is said to it, and this is the channel to it from now on."""
        found = Channel.to(path)
        if found is None:
            return
        if not found.peer.is_ours:
            found.close()
            return
        try:
            found.send("hello", fds, **hello)
        except ChannelError:
            found.close()
            return
        self._socket.close()
        self._socket = found._socket
        self.orphaned = False

    @property
    def peer(self) -> Peer:
        return Peer.of(self._socket)

    def receive(self) -> Message | None:
        """None once the other side has ended. Raises BlockingIOError if there is nothing yet."""
        # Not socket.recv_fds: in Python 3.11 it forgets its flags, and descriptors would be inherited.
        room = socket.CMSG_SPACE(CHANNEL_FDS_MAX * _INT.size)
        try:
            line, riders, flags, _ = self._socket.recvmsg(CHANNEL_MESSAGE_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not line:
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ChannelError("a message was cut off")
        fields = orjson.loads(line)
        return Message(fields.pop("kind"), fields, [fd for _, _, data in riders for (fd,) in _INT.iter_unpack(data)])

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
