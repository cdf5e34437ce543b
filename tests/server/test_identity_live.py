"""A whole engine that lets in by key and by token: who, what, and how long."""

from __future__ import annotations

import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest

from engine import keys
from engine._core import method_scopes
from engine.audit_trail import AUDIT_TRAIL
from engine.control_identity import scope_of
from engine.grants import SCOPES, Grants
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tests.front.authority import Authority
from tests.server.callers import DENIED, OK, UNAUTHENTICATED, Caller
from tests.server.test_supervisor import PATIENCE_S, eventually
from tests.serving import Server, everopen
from tests.tokens import AUDIENCE, ED, ISSUER, OTHER_RSA, jwk, jwks, pem, token, write

NOW = 1_700_000_000_000


def key_of(data_dir: Path, *scopes: str) -> tuple[str, str]:
    data_dir.mkdir(exist_ok=True)
    _, text = keys.make(data_dir, "ops", Grants(frozenset(scopes)), NOW)
    return "x-api-key", text


def bearer(**changed: Any) -> tuple[str, str]:
    return "authorization", f"Bearer {token(**changed).decode()}"


def test_first_key_ends_anonymity_and_its_end_ends_its_calls(data_dir: Path, callers: Any) -> None:
    with Server(data_dir) as server:
        anonymous = callers(server)
        # NOT_FOUND: there is no such shop, but the call was let in.
        assert anonymous.get() == grpc.StatusCode.NOT_FOUND
        assert anonymous.workers() == OK
        shown = key_of(data_dir, "orders:read", "cluster:read")
        eventually(lambda: anonymous.get() == UNAUTHENTICATED, "refused without a key")
        assert anonymous.reason == "CREDENTIALS"
        assert anonymous.workers() == UNAUTHENTICATED
        known = callers(server, shown)
        assert known.get() == grpc.StatusCode.NOT_FOUND
        assert known.workers() == OK
        assert known.place() == DENIED
        assert known.reason == "SCOPE_DENIED"
        [key_id] = keys.read(data_dir)
        keys.revoke(data_dir, key_id, NOW)
        eventually(lambda: known.get() == UNAUTHENTICATED, "refused with a key that is revoked")
        assert known.workers() == UNAUTHENTICATED
        assert server.stop() == 0


def test_token_is_proved_with_keys_that_are_exchanged_while_it_serves(data_dir: Path, callers: Any) -> None:
    file = write(data_dir.parent / "keys.jwks", pem(ED))
    tokens = ("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-keys", str(file))
    with Server(data_dir, *tokens) as server:
        old = callers(server, bearer(scope="orders:read"))
        new = callers(server, bearer(key=OTHER_RSA, algorithm="RS256", headers={"kid": "b"}, scope="orders:read"))
        assert (old.get(), new.get()) == (grpc.StatusCode.NOT_FOUND, UNAUTHENTICATED)
        assert callers(server).get() == UNAUTHENTICATED
        assert callers(server, bearer(aud="another")).get() == UNAUTHENTICATED
        assert callers(server, bearer(exp=1)).get() == UNAUTHENTICATED
        assert callers(server, ("authorization", "Bearer junk")).get() == UNAUTHENTICATED
        write(file, jwks(jwk(OTHER_RSA, kid="b")))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: new.get() == grpc.StatusCode.NOT_FOUND, "the new key")
        eventually(lambda: old.get() == UNAUTHENTICATED, "the old key")
        assert server.stop() == 0


def test_refused_by_the_control_server_is_in_the_trail_and_so_is_the_caller(data_dir: Path, callers: Any) -> None:
    shown = key_of(data_dir, *SCOPES)
    with Server(data_dir) as server:
        # What the front lets by, the control server may still refuse: somebody reaches its socket without the secret.
        from engine.run_dir import find
        from engine.runtime import CONTROL_SOCKETS

        with grpc.insecure_channel(f"unix:{find(data_dir).path / CONTROL_SOCKETS[0]}") as channel:
            stub: Any = ClusterServiceStub(channel)  # type: ignore[no-untyped-call]
            forged = (("everopen-relay-bin", bytes(32)), ("everopen-caller-bin", b"{}"))
            for metadata in ((), forged):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.GetWorkers(cluster.GetWorkersRequest(), metadata=metadata, timeout=PATIENCE_S)
                assert refused.value.code() == UNAUTHENTICATED
        # Nor does it help to send that through a front.
        from_outside = callers(server, *forged)
        assert from_outside.workers() == UNAUTHENTICATED
        assert callers(server, shown, *forged).workers() == OK
        assert server.stop() == 0
    lines = [orjson.loads(line) for line in (data_dir / AUDIT_TRAIL).read_bytes().splitlines()]
    said = [(line["method"], line["code"]) for line in lines]
    refused_call = ("/everopen.v1.ClusterService/GetWorkers", "UNAUTHENTICATED")
    assert said == [("everopen serve", "BEGUN"), refused_call, refused_call, ("everopen serve", "OK")]
    assert lines[0]["summary"] == {"version": version("everopen"), "pid": server.process.pid}
    assert lines[3]["summary"]["exit"] == 0
    assert everopen("audit", "--trail", "--data-dir", data_dir).returncode == 0
    assert shown[1] not in (data_dir / AUDIT_TRAIL).read_text() + server.stderr


def test_relayed_calls_go_on_over_restarts_of_every_process(data_dir: Path, callers: Any) -> None:
    shown = key_of(data_dir, "cluster:read")
    with Server(data_dir, "--workers", "1") as server:
        known = callers(server, shown)
        assert known.workers() == OK
        os.kill(server.children["control server"], signal.SIGKILL)
        eventually(lambda: known.workers() == OK, "the next control server")
        os.kill(server.children["worker 0"], signal.SIGKILL)
        eventually(lambda: known.workers() == OK, "the next worker")
        server.kill_supervisor()
        with Server(data_dir, "--workers", "1") as again:
            eventually(lambda: known.workers() == OK, "the next supervisor")
            os.kill(again.children["control server"], signal.SIGKILL)
            eventually(lambda: known.workers() == OK, "a control server that the next supervisor started")
            assert again.stop() == 0


def test_certificate_is_who_the_callers_file_says_while_it_changes(data_dir: Path, callers: Any) -> None:
    folder = data_dir.parent
    authority = Authority(folder, "authority")
    certificate, key = authority.issue("server").pair
    listed = write(folder / "callers.toml", b'[certificates."spiffe://shop/till"]\nscopes = ["orders:read"]\n')
    tls = ("--tls-cert", certificate, "--tls-key", key, "--tls-ca", str(authority.certificate))
    with Server(data_dir, *tls, "--tls-client", "optional", "--callers", str(listed)) as server:

        def shows(alternative: str | None) -> Caller:
            files = authority.issue("client", alternative) if alternative else None
            pair = (files.key.read_bytes(), files.certificate.read_bytes()) if files else (None, None)
            made: Caller = callers(
                server, credentials=grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *pair)
            )
            return made

        till, stranger = shows("URI:spiffe://shop/till,DNS:localhost"), shows("URI:spiffe://shop/desk")
        assert till.get() == grpc.StatusCode.NOT_FOUND
        assert (till.place(), till.reason) == (DENIED, "SCOPE_DENIED")
        assert stranger.get() == UNAUTHENTICATED
        assert shows(None).get() == UNAUTHENTICATED
        write(listed, b'[certificates."spiffe://shop/desk"]\nscopes = ["orders:read", "cluster:read"]\n')
        eventually(lambda: stranger.workers() == OK, "the new callers")
        eventually(lambda: till.get() == UNAUTHENTICATED, "no more of the old ones")
        assert server.stop() == 0


def test_front_and_control_server_ask_for_the_same_scopes() -> None:
    relayed = {path: scope for path, scope in method_scopes().items() if scope.startswith("cluster:")}
    assert relayed
    for path, scope in relayed.items():
        assert scope_of(f"{path}Any" if path.endswith("/") else path) == scope
