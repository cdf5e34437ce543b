"""Where metrics are served and spans are sent: what the options say, and sockets for it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engine.listen import Address, ListenError, UnixAddress, parse_address, private_listener

BACKLOG: Final = 16
TRACES_PATH: Final = "/v1/traces"


def check_metrics_listen(text: str, insecure: bool) -> None:
    """What --metrics-listen says. Raises ValueError with a sentence."""
    address = parse_address(text)
    if not address.is_loopback and not insecure:
        raise ValueError(f"{address} is reachable from other machines: say --insecure-listen if that is meant")


def traces_url(endpoint: str) -> str:
    """What --otlp-endpoint says; without a path it is that of all signals. Raises ValueError with a sentence."""
    found = urlsplit(endpoint)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError(f"{endpoint!r} is not http://HOST:PORT or https://HOST:PORT")
    return endpoint if found.path.strip("/") else endpoint.rstrip("/") + TRACES_PATH


def try_out(text: str | None) -> None:
    """Whether metrics can be served there. Raises ListenError: whoever starts an engine should see that at once."""
    if text is None:
        return
    address = parse_address(text)
    # A socket file would take the place of one that somebody else listens on.
    if not isinstance(address, UnixAddress):
        listen(address).close()


def listen(address: Address | UnixAddress) -> socket.socket:
    """Beside another control process of this engine, which is there while one replaces the other.

    Raises ListenError.
    """
    if isinstance(address, UnixAddress):
        return _listen_unix(address)
    failure = "no such host"
    with suppress(OSError):
        for family, kind, protocol, _, sockaddr in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # For processes of one user only, as the kernel has it.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener.bind(sockaddr)
                listener.listen(BACKLOG)
            except OSError as error:
                listener.close()
                failure = error.strerror or str(error)
                continue
            return listener
    raise ListenError(f"cannot serve metrics on {address}: {failure}")


def _listen_unix(address: UnixAddress) -> socket.socket:
    """It takes the place of what is there in one step, so that nobody finds nothing in between."""
    path = Path(address.path)
    beside = f"{address.path}.{os.getpid()}"
    try:
        if path.exists() and not path.is_socket():
            raise ListenError(f"cannot serve metrics on {address}: the file is there and is no socket")
        Path(beside).unlink(missing_ok=True)
        listener = private_listener(beside, BACKLOG)
        try:
            os.replace(beside, path)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot serve metrics on {address}: {error.strerror or error}") from None
    return listener
