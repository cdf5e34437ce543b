"""Records of TLS 1.3 that no library sends: half a message, an end right behind the data."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.front.authority import Authority
from tests.front.calls import OK, fresh_id
from tests.front.handing import PATIENCE_S, Front, Fronts, ask, seed, until
from tests.front.http2 import Connection
from tests.serving import order

pytestmark = pytest.mark.native

ALERT, HANDSHAKE, DATA = 21, 22, 23
CLOSE_NOTIFY = bytes([1, 0])
KEY_UPDATE = bytes([24, 0, 0, 1, 0])
CALLS = 50
# Of the loop, for each call beside: some for its events, its sync, its answer.
TURNS_PER_CALL_MAX = 30


class Records:
    """Reads by Python's TLS, and sends records of its own making (RFC 8446, sections 5.2, 7.2 and 7.3)."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, keylog: Path) -> None:
        context.keylog_filename = str(keylog)
        plain = socket.create_connection(address, timeout=PATIENCE_S)
        self.tls = context.wrap_socket(plain, server_hostname="localhost")
        self.raw = socket.socket(fileno=os.dup(self.tls.fileno()))
        self.raw.settimeout(PATIENCE_S)
        lines = [line.split() for line in keylog.read_text().splitlines()]
        [secret] = [words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0"]
        cipher = self.tls.cipher()
        assert cipher is not None
        self._hash = hashes.SHA384() if cipher[0].endswith("SHA384") else hashes.SHA256()
        self._aead: Any = ChaCha20Poly1305 if "CHACHA" in cipher[0] else AESGCM
        self._key_bytes = cipher[2] // 8
        self._take(bytes.fromhex(secret))

    def _take(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._sealing = self._aead(self._expanded("key", self._key_bytes))
        self._iv = self._expanded("iv", 12)

    def _expanded(self, label: str, size: int) -> bytes:
        full = f"tls13 {label}".encode()
        info = size.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def update(self) -> None:
        """After a KeyUpdate."""
        self._take(self._expanded("traffic upd", self._hash.digest_size))

    def sealed(self, kind: int, data: bytes) -> bytes:
        nonce = int.from_bytes(self._iv, "big") ^ self._number
        self._number += 1
        head = bytes([DATA, 3, 3]) + (len(data) + 1 + 16).to_bytes(2, "big")
        sealed: bytes = self._sealing.encrypt(nonce.to_bytes(12, "big"), data + bytes([kind]), head)
        return head + sealed

    def send(self, *records: tuple[int, bytes]) -> None:
        """All at once."""
        self.raw.sendall(b"".join(self.sealed(kind, data) for kind, data in records))

    # What a Connection needs.

    def sendall(self, data: bytes) -> None:
        self.send(*((DATA, data[at : at + 16_384]) for at in range(0, len(data), 16_384)))

    def recv(self, size: int) -> bytes:
        return self.tls.recv(size)

    def close(self) -> None:
        self.raw.close()
        self.tls.close()


class Held:
    """Keeps what a connection would send."""

    def __init__(self) -> None:
        self.data = b""

    def sendall(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def start(fronts: Fronts, authority: Authority, listening: socket.socket, **settings: Any) -> Front:
    front = fronts.start(**settings)
    server = authority.issue("server")
    front.native.tls(server.certificate.read_bytes(), server.key.read_bytes(), None, False)
    front.native.listen(listening.fileno(), False, True)
    seed(front)
    return front


def records(authority: Authority, listening: socket.socket, folder: Path) -> Any:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return Records(listening.getsockname(), context, folder / "keylog")


def turns_beside(front: Front) -> int:
    """Turns of the loop while it serves somebody else, and has nothing more to do."""
    with Connection(front.address) as beside:
        before = front.count("turns")
        for _ in range(CALLS):
            assert beside.answer(ask(beside, order(fresh_id()))).code == OK
        return front.count("turns") - before


def test_answer_that_waits_for_the_rest_of_a_record_keeps_the_loop_from_nothing(
    fronts: Fronts, authority: Authority, listening: socket.socket, tmp_path: Path
) -> None:
    front = start(fronts, authority, listening)
    peer = records(authority, listening, tmp_path)
    with Connection(peer) as connection:
        connection.ping()
        held: Any = Held()
        connection.socket = held
        stream = ask(connection, order(fresh_id()))
        connection.socket = peer
        # OpenSSL writes nothing before it has the rest of a key update.
        peer.send((DATA, held.data), (HANDSHAKE, KEY_UPDATE[:4]))
        until(lambda: front.count("commands_executed") > 4)
        assert turns_beside(front) < CALLS * TURNS_PER_CALL_MAX
        peer.send((HANDSHAKE, KEY_UPDATE[4:]))
        peer.update()
        assert connection.answer(stream).code == OK
        assert connection.answer(ask(connection, order(fresh_id()))).code == OK
    until(lambda: front.count("connections_closed") == front.count("connections_accepted"))


def test_end_that_came_with_what_was_too_much_is_heard(
    fronts: Fronts, authority: Authority, listening: socket.socket, tmp_path: Path
) -> None:
    front = start(fronts, authority, listening, connection_bytes_max=4_096)
    peer = records(authority, listening, tmp_path)
    with Connection(peer) as connection:
        connection.ping()
        held: Any = Held()
        connection.socket = held
        for _ in range(40):
            ask(connection, order(fresh_id()))
        connection.socket = peer
        closed = front.count("connections_closed")
        # The socket stays open: no event of its tells that there was an end.
        peer.send((DATA, held.data), (ALERT, CLOSE_NOTIFY))
        until(lambda: front.count("connections_closed") > closed)
        assert front.count("reads_paused") == 1
