"""TLS on the front: who gets through a handshake and who does not, what goes over it, and certificates that change."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hyperframe.frame import DataFrame

from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from everopen.v1.inventory_service_pb2_grpc import InventoryServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.front.authority import Authority, Files
from tests.front.calls import INVALID_ARGUMENT, OK, PLACE_ORDER, PLACE_ORDERS, place, placed
from tests.front.http2 import PREFACE, SILENCE_S, Connection, prefixed
from tests.serving import Client, Server, batch, everopen, order

HANDSHAKE_MS = 300
BATCHES, BATCH_ORDERS = 32, 1_000


class TlsServer(Server):
    """Its certificate is a copy, so that a test may put another one there."""

    def __init__(self, folder: Path, authority: Authority, *arguments: str, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.authority = authority
        self.files = Files(folder / "server.pem", folder / "server.key")
        authority.issue("server").put_at(self.files)
        certificate, key = self.files.pair
        command = ("--tls-cert", certificate, "--tls-key", key, *arguments)
        super().__init__(folder / "data", *command, **options)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def counters(self) -> Counter[str]:
        with Channel(self) as channel:
            workers = ClusterServiceStub(channel.channel).GetWorkers(cluster.GetWorkersRequest(), timeout=30).workers
            return sum((Counter(worker.counters) for worker in workers), Counter())

    def until(self, holds: Callable[[Counter[str]], bool]) -> None:
        until_s = time.monotonic() + SILENCE_S
        while not holds(counters := self.counters()):
            assert time.monotonic() < until_s, counters


class Channel(Client):
    """The generated stubs over TLS."""

    def __init__(self, server: TlsServer, shows: Files | None = None) -> None:
        credentials = grpc.ssl_channel_credentials(
            server.authority.certificate.read_bytes(),
            shows.key.read_bytes() if shows else None,
            shows.certificate.read_bytes() if shows else None,
        )
        self.channel = grpc.secure_channel(server.address, credentials, [("grpc.use_local_subchannel_pool", 1)])
        self.orders: Any = OrderServiceStub(self.channel)
        self.inventory: Any = InventoryServiceStub(self.channel)


def context_of(
    authority: Authority, shows: Files | None = None, protocols: tuple[str, ...] = ("h2",)
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if shows is not None:
        context.load_cert_chain(*shows.pair)
    return context


def connected(server: TlsServer, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """After the handshake."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE_S)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


class Secure(Connection):
    """An HTTP/2 connection over TLS."""

    def __init__(self, server: TlsServer, context: ssl.SSLContext, **options: Any) -> None:
        self.tls = connected(server, context)
        super().__init__(self.tls, **options)


def shown_by(server: TlsServer) -> bytes:
    """The certificate that a new connection is shown."""
    with connected(server, context_of(server.authority)) as tls:
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


def is_closed(plain: socket.socket) -> bool:
    """Reads to the end."""
    with contextlib.suppress(ConnectionResetError):
        while plain.recv(1 << 16):
            pass
    return True


def heard_out(server: TlsServer, context: ssl.SSLContext) -> None:
    """Also what a server says after a handshake that the client takes for done."""
    with connected(server, context) as tls:
        while tls.recv(1 << 16):
            pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A certificate of an authority that nobody here knows."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger").issue("client")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsServer]:
    arguments = ("--workers", "1", "--front-setting", f"handshake_ms={HANDSHAKE_MS}")
    with TlsServer(tmp_path_factory.mktemp("tls"), authority, *arguments) as running:
        with Channel(running) as channel:
            channel.seed()
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module", params=["required", "optional"])
def mutual(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[tuple[str, TlsServer]]:
    folder = tmp_path_factory.mktemp("mutual")
    # All that the authority issues are of one name.
    callers = folder / "callers.toml"
    callers.write_text('[certificates.localhost]\nscopes = ["orders:write", "catalogue:write"]\n')
    callers.chmod(0o600)
    arguments = ("--workers", "1", "--tls-ca", str(authority.certificate), "--tls-client", request.param)
    with TlsServer(folder, authority, *arguments, "--callers", str(callers)) as running:
        with Channel(running, authority.issue("seeder")) as channel:
            channel.seed()
        yield request.param, running
        assert running.stop() == 0


# Calls


def test_secure_channel_of_grpcio_makes_native_relayed_and_streamed_calls(server: TlsServer) -> None:
    with Channel(server) as channel:
        assert channel.orders.PlaceOrder(order("unary"), timeout=10).order.order_id == "unary"
        answers = channel.orders.PlaceOrders(iter([batch(["a", "b"]), batch(["c"])]), timeout=10)
        assert [len(answer.results) for answer in answers] == [2, 1]
        version = ClusterServiceStub(channel.channel).GetPartitionMap(cluster.GetPartitionMapRequest(), timeout=10)
        assert version.map.version > 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_version_from_1_2_on_is_spoken(server: TlsServer, version: ssl.TLSVersion) -> None:
    context = context_of(server.authority)
    context.minimum_version = context.maximum_version = version
    with Secure(server, context) as connection:
        assert connection.tls.version() == version.name.replace("_", ".")
        assert connection.tls.selected_alpn_protocol() == "h2"
        placed(connection.call(PLACE_ORDER, place()))


def test_version_1_1_is_refused(server: TlsServer) -> None:
    context = context_of(server.authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="protocol version"):
        connected(server, context)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2c", "h")])
def test_client_without_h2_hears_no_application_protocol(server: TlsServer, protocols: tuple[str, ...]) -> None:
    failed = server.counters()["tls_handshakes_failed"]
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        connected(server, context_of(server.authority, protocols=protocols))
    server.until(lambda counters: counters["tls_handshakes_failed"] == failed + 1)


def test_h2_is_taken_from_among_others(server: TlsServer) -> None:
    with connected(server, context_of(server.authority, protocols=("http/1.1", "h2", "spdy/1"))) as tls:
        assert tls.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_resumed(server: TlsServer, version: ssl.TLSVersion) -> None:
    context = context_of(server.authority)
    context.minimum_version = context.maximum_version = version
    resumed = server.counters()["tls_resumed"]
    with Secure(server, context) as connection:
        # Its ticket has come with the answer at the latest.
        placed(connection.call(PLACE_ORDER, place()))
        session = connection.tls.session
    with connected(server, context, session) as tls, Connection(tls) as connection:
        assert tls.session_reused
        placed(connection.call(PLACE_ORDER, place()))
    assert server.counters()["tls_resumed"] > resumed


def test_end_is_said_before_it_comes(server: TlsServer) -> None:
    with Secure(server, context_of(server.authority)) as connection:
        connection.send_bytes(b"\0" * 64)
        connection.read_to_end()
        # Without close_notify it would have been an error.
        assert connection.tls.recv(1) == b""


# Messages larger than what anybody buffers


def test_greatest_message_comes_whole(server: TlsServer) -> None:
    with Secure(server, context_of(server.authority)) as connection:
        answer = connection.call(PLACE_ORDER, b"\xff" * (4 * 1024 * 1024 - 5))
        assert answer.code == INVALID_ARGUMENT
        placed(connection.call(PLACE_ORDER, place()))


def test_rest_that_only_openssl_has_is_read_without_an_event(server: TlsServer) -> None:
    with Secure(server, context_of(server.authority), give_window=False) as connection:
        connection.ping()
        # More than a turn takes, sent at once: the socket is empty before all of it was asked for.
        for size in range(60_000, 160_000, 2_500):
            stream_id = connection.open(PLACE_ORDER)
            body = prefixed(b"\xff" * size)
            frames = [DataFrame(stream_id, body[at : at + 16_384]) for at in range(0, len(body), 16_384)]
            frames[-1].flags.add("END_STREAM")
            connection.send(*frames)
            assert connection.answer(stream_id).code == INVALID_ARGUMENT


def test_megabytes_both_ways_through_small_windows_come_whole(server: TlsServer) -> None:
    plain = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        plain.setsockopt(socket.SOL_SOCKET, option, 8_192)
    plain.settimeout(SILENCE_S)
    plain.connect(("127.0.0.1", server.port))
    tls = context_of(server.authority).wrap_socket(plain, server_hostname="localhost")
    with Connection(tls, settings={4: 2**31 - 1}) as connection:
        # It says so much at once that the server's sockets are full.
        connection.grant(0, 2**30)
        stream_id = connection.open(PLACE_ORDERS)
        for number in range(BATCHES):
            ids = [f"bulk-{number}-{index}-{'x' * 30}" for index in range(BATCH_ORDERS)]
            connection.data(stream_id, prefixed(batch(ids).SerializeToString()), end=number == BATCHES - 1)
        answer = connection.answer(stream_id)
        assert answer.code == OK
        results = [orders.PlaceOrdersResponse.FromString(message).results for message in answer.messages]
        assert [len(found) for found in results] == [BATCH_ORDERS] * BATCHES
        assert len(answer.data) > 2_000_000
        assert connection.sent[0] > 2_000_000


# Peers that are none


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes.fromhex("160301020001"), id="the head of a ClientHello"),
    ],
)
def test_handshake_that_does_not_end_is_closed(server: TlsServer, said: bytes) -> None:
    before = server.counters()
    with socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE_S) as plain:
        plain.sendall(said)
        assert is_closed(plain)
    server.until(lambda counters: counters["handshakes_timed_out"] > before["handshakes_timed_out"])
    assert server.counters()["tls_handshakes_failed"] > before["tls_handshakes_failed"]


def test_client_that_says_nothing_after_its_handshake_is_closed(server: TlsServer) -> None:
    timed_out = server.counters()["handshakes_timed_out"]
    heard_out(server, context_of(server.authority))
    assert server.counters()["handshakes_timed_out"] > timed_out


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(PREFACE + b"\0\0\0\4\0\0\0\0\0", id="plaintext HTTP/2"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", id="plaintext HTTP/1.1"),
        pytest.param(bytes(range(256)) * 256, id="noise"),
        pytest.param(bytes.fromhex("1603010005010000000100"), id="a ClientHello that is none"),
    ],
)
def test_what_is_no_handshake_is_closed(server: TlsServer, said: bytes) -> None:
    failed = server.counters()["tls_handshakes_failed"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE_S) as plain:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            plain.sendall(said)
        assert is_closed(plain)
    server.until(lambda counters: counters["tls_handshakes_failed"] > failed)


def test_flood_of_key_updates_ends_the_connection_and_no_other(server: TlsServer) -> None:
    command = ["openssl", "s_client", "-connect", server.address, "-tls1_3", "-alpn", "h2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as peer:
        try:
            peer.communicate(b"K\n" * 200, timeout=SILENCE_S)
        finally:
            peer.kill()
    with Channel(server) as channel:
        assert channel.orders.PlaceOrder(order("beside"), timeout=10).order.order_id == "beside"


# Certificates of clients


def test_client_with_a_certificate_is_served(mutual: tuple[str, TlsServer]) -> None:
    _, server = mutual
    with Channel(server, server.authority.issue("client")) as channel:
        assert channel.orders.PlaceOrder(order("known"), timeout=10).order.order_id == "known"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_with_a_strange_certificate_is_refused(
    mutual: tuple[str, TlsServer], stranger: Files, version: ssl.TLSVersion
) -> None:
    _, server = mutual
    context = context_of(server.authority, shows=stranger)
    context.minimum_version = context.maximum_version = version
    # A client of TLS 1.3 is done before the server has looked.
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        heard_out(server, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_without_a_certificate_gets_as_far_as_its_first_call_if_that_is_optional(
    mutual: tuple[str, TlsServer], version: ssl.TLSVersion
) -> None:
    mode, server = mutual
    context = context_of(server.authority)
    context.minimum_version = context.maximum_version = version
    if mode == "optional":
        with Secure(server, context) as connection:
            assert connection.call(PLACE_ORDER, place()).code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        return
    with pytest.raises(ssl.SSLError, match=r"certificate required|handshake failure"):
        heard_out(server, context)


# Certificates that change


@pytest.fixture
def changing(tmp_path: Path, authority: Authority) -> Iterator[TlsServer]:
    with TlsServer(tmp_path / "changing", authority, "--workers", "1") as running:
        with Channel(running) as channel:
            channel.seed()
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize("how", ["watched", "signalled"])
def test_renewed_certificate_is_shown_and_running_connections_go_on(changing: TlsServer, how: str) -> None:
    with Secure(changing, context_of(changing.authority)) as running:
        placed(running.call(PLACE_ORDER, place()))
        stream_id = running.open(PLACE_ORDERS)
        before = shown_by(changing)
        changing.authority.issue("server").put_at(changing.files)
        if how == "signalled":
            changing.process.send_signal(signal.SIGHUP)
        after = der(changing.files)
        assert after != before
        changing.until(lambda _: shown_by(changing) == after)
        running.data(stream_id, prefixed(batch(["late"]).SerializeToString()), end=True)
        assert running.answer(stream_id).code == OK
        placed(running.call(PLACE_ORDER, place()))
        assert changing.counters()["tls_reloads"] >= 1


@pytest.mark.parametrize("broken", ["certificate", "key", "mode", "gone"])
def test_broken_file_keeps_what_was_there_and_is_said_once(changing: TlsServer, broken: str) -> None:
    before = shown_by(changing)
    if broken == "certificate":
        changing.files.certificate.write_text("no certificate")
    elif broken == "key":
        changing.authority.issue("other").key.replace(changing.files.key)
    elif broken == "mode":
        changing.files.key.chmod(0o644)
    else:
        changing.files.key.unlink()
    changing.until(lambda counters: counters["tls_reloads_failed"] > 0)
    assert shown_by(changing) == before
    # The next looks find nothing new; who asks is told again.
    assert changing.stderr.count("certificates cannot be read again") == 1
    option = "--tls-cert" if broken == "certificate" else "--tls-key"
    assert option in changing.stderr
    changing.process.send_signal(signal.SIGHUP)
    changing.until(lambda counters: counters["tls_reloads_failed"] > 1)
    assert changing.stderr.count("certificates cannot be read again") == 2
    assert "PRIVATE KEY" not in changing.stderr
    changing.authority.issue("server").put_at(changing.files)
    changing.until(lambda _: shown_by(changing) == der(changing.files))


def test_takeover_with_a_broken_file_goes_on_with_what_was_there(tmp_path: Path, authority: Authority) -> None:
    with TlsServer(tmp_path / "followed", authority, "--workers", "1", "--followers", "1") as server:
        with Channel(server) as channel:
            channel.seed()
        before = shown_by(server)
        server.until(lambda _: '"event":"following"' in server.stderr)
        server.files.certificate.write_text("no certificate")
        server.until(lambda counters: counters["tls_reloads_failed"] > 0)
        leader = server.children["worker 0"]
        os.kill(leader, signal.SIGKILL)
        until_s = time.monotonic() + SILENCE_S
        while server.children.get("worker 0") in (None, leader):
            assert time.monotonic() < until_s
        assert shown_by(server) == before
        assert server.stop() == 0


# Beside it


def test_unix_socket_stays_plaintext(tmp_path: Path, authority: Authority) -> None:
    path = f"unix:{tmp_path / 'socket'}"
    with TlsServer(tmp_path / "both", authority, "--workers", "1", "--listen", path) as server:
        with Client(path) as client, Channel(server) as channel:
            client.seed()
            assert client.orders.PlaceOrder(order("plain"), timeout=10).order.order_id == "plain"
            assert channel.orders.PlaceOrder(order("plain"), timeout=10).duplicate
        assert server.stop() == 0


def test_hangup_without_tls_ends_nobody(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        children = server.children
        os.killpg(server.process.pid, signal.SIGHUP)
        with Client(server.address) as client:
            client.seed()
            client.orders.PlaceOrder(order("still"), timeout=10)
        assert server.children == children
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files, other: files.certificate.unlink(), "--tls-cert {certificate}: No such file or directory"),
        (lambda files, other: files.certificate.write_text("x"), "--tls-cert {certificate}: no certificate in PEM"),
        (lambda files, other: other.key.replace(files.key), "--tls-key {key}: not that of the certificate"),
        (lambda files, other: files.key.write_text("x"), "--tls-key {key}: no private key in PEM"),
        (lambda files, other: files.key.chmod(0o604), "--tls-key {key}: others can read or change it"),
    ],
)
def test_serve_says_which_file_is_wrong(
    tmp_path: Path, authority: Authority, change: Callable[[Files, Files], object], words: str
) -> None:
    files = Files(tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue("server").put_at(files)
    change(files, authority.issue("other"))
    certificate, key = files.pair
    found = everopen("serve", "--data-dir", tmp_path / "data", "--tls-cert", certificate, "--tls-key", key)
    assert found.returncode == 5
    assert words.format(certificate=certificate, key=key) in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tls-cert", "a"], "go together"),
        (["--tls-ca", "a"], "need --tls-cert"),
        (["--tls-cert", "a", "--tls-key", "b", "--tls-client", "required"], "goes with"),
        (["--tls-cert", "a", "--tls-key", "b", "--tls-client", "perhaps"], "one of"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    found = everopen("serve", "--data-dir", tmp_path / "data", *arguments)
    assert found.returncode == 2
    assert words in " ".join(found.stderr.split())
