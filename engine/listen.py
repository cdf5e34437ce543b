"""What --listen may say, and the sockets that listen there."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import EveropenError
from engine.limits import LISTEN_BACKLOG

UNIX: Final = "unix:"
# What fits sockaddr_un.sun_path beside its final zero byte.
UNIX_PATH_BYTES_MAX: Final = 107


class ListenError(EveropenError):
    """The address cannot be listened on."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class UnixAddress(NamedTuple):
    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"

    @property
    def is_loopback(self) -> bool:
        return True


def parse_address(text: str) -> Address | UnixAddress:
    """HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 asks for a free one. Raises ValueError with a sentence."""
    if text.startswith(UNIX):
        return _parse_unix(text.removeprefix(UNIX))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text)
    if match is None:
        raise ValueError(f"{text!r} is not HOST:PORT, [IPV6]:PORT or unix:PATH")
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            raise ValueError(f"{match[1]!r} is not an IPv6 address") from None
    port = int(match[3])
    if port > 65_535:
        raise ValueError(f"port {port} is more than 65535")
    return Address(match[1] or match[2], port)


def _parse_unix(path: str) -> UnixAddress:
    if not path or "\0" in path:
        raise ValueError(f"{path!r} is not the path of a socket")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise ValueError(f"{path!r} is not usable: a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
    return UnixAddress(path)


def is_unix(fd: int) -> bool:
    """Whether a socket is that of a path, which no other machine reaches."""
    with socket.socket(fileno=os.dup(fd)) as seen:
        return seen.family == socket.AF_UNIX


@dataclass
class Inherited:
    """Sockets of an engine that goes on: in the order of the addresses, the direct ones by worker."""

    shared: list[socket.socket] = field(default_factory=list)
    direct: dict[int, list[socket.socket]] = field(default_factory=dict)
    metrics: socket.socket | None = None


@dataclass
class Listeners:
    """Every socket that an engine listens on: the shared ones, and for each worker one beside each of them."""

    shared: list[socket.socket] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    # By worker, in the order of the shared ones.
    direct: list[list[socket.socket]] = field(default_factory=list)
    direct_addresses: list[list[str]] = field(default_factory=list)
    # Where metrics are served, if anywhere. One control server after the other serves them there.
    metrics: socket.socket | None = None
    # Path and inode of each socket file that was made here.
    _files: list[tuple[str, int]] = field(default_factory=list)

    def open(
        self, addresses: Sequence[Address | UnixAddress], workers: int, inherited: Inherited | None = None
    ) -> None:
        """Those that are inherited are not made. Raises ListenError; what was opened until then is to be closed."""
        found = inherited or Inherited()
        for index, address in enumerate(addresses):
            listener, bound = self._listen(address, found.shared[index] if found.shared else None)
            self.shared.append(listener)
            self.addresses.append(bound)
        for worker in range(workers):
            self.direct.append([])
            self.direct_addresses.append([])
            own = found.direct.get(worker)
            for index, address in enumerate(addresses):
                listener, bound = self._listen(_direct(address, worker), own[index] if own else None)
                self.direct[worker].append(listener)
                self.direct_addresses[worker].append(bound)

    def open_metrics(self, address: Address | UnixAddress, inherited: socket.socket | None) -> None:
        """Raises ListenError."""
        try:
            self.metrics, _ = self._listen(address, inherited)
        except ListenError as error:
            raise ListenError(f"metrics: {error}") from None

    @property
    def for_control(self) -> list[int]:
        """Descriptors that a control server is given."""
        return [] if self.metrics is None else [self.metrics.fileno()]

    def close(self) -> None:
        """No connect is accepted any more once the workers have closed theirs too."""
        for path, inode in self._files:
            # Somebody may have put his own there; that one stays.
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
        self._files.clear()
        direct = (listener for listeners in self.direct for listener in listeners)
        for listener in (*self.shared, *direct, *([self.metrics] if self.metrics else [])):
            listener.close()

    def _listen(self, address: Address | UnixAddress, inherited: socket.socket | None) -> tuple[socket.socket, str]:
        if isinstance(address, UnixAddress):
            listener = inherited or _listen_unix(address)
            with contextlib.suppress(FileNotFoundError):
                self._files.append((address.path, os.lstat(address.path).st_ino))
            return listener, str(address)
        listener = inherited or _listen_tcp(address)
        return listener, str(Address(address.host, listener.getsockname()[1]))


def _direct(address: Address | UnixAddress, worker: int) -> Address | UnixAddress:
    if isinstance(address, UnixAddress):
        return UnixAddress(f"{address.path}.worker-{worker}")
    return Address(address.host, 0)


def _listen_tcp(address: Address) -> socket.socket:
    """On the first of the host's addresses that this machine has."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    failure: OSError | None = None
    for family, kind, protocol, _, sockaddr in found:
        try:
            listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            # Connections of a former engine that linger must not keep the address.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(sockaddr)
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            failure = error
            continue
        return listener
    raise ListenError(f"cannot listen on {address}: {failure.strerror if failure else 'no such host'}")


def _listen_unix(address: UnixAddress) -> socket.socket:
    """The file is for its owner alone. One that a dead engine left is replaced."""
    if len(os.fsencode(address.path)) > UNIX_PATH_BYTES_MAX:
        raise ListenError(f"cannot listen on {address}: a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
    try:
        _remove_stale(address)
        return private_listener(address.path, LISTEN_BACKLOG)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None


def private_listener(
    path: str, backlog: int, kind: int = socket.SOCK_STREAM, *, replace: bool = False
) -> socket.socket:
    """A unix socket whose file is for its owner alone. replace: what a dead one left there. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        if replace:
            Path(path).unlink(missing_ok=True)
        with private_mode():
            listener.bind(path)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def private_mode() -> Iterator[None]:
    """The mode of a socket is that of the moment of bind: a chmod afterwards would leave a gap."""
    umask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(umask)


def _remove_stale(address: UnixAddress) -> None:
    path = Path(address.path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if found.st_uid != os.getuid():
        raise ListenError(f"cannot listen on {address}: the file is there and belongs to another user")
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"cannot listen on {address}: the file is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        # Nobody listens: refused. Anything else, a full backlog too, is somebody who does.
        if caller.connect_ex(address.path) != errno.ECONNREFUSED:
            raise ListenError(f"cannot listen on {address}: {os.strerror(errno.EADDRINUSE)}")
    path.unlink()
