"""The load generator over TLS, against a peer that is not ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from engine import loadgen
from engine.loadgen import LoadError, Options

SERVING = health_pb2.HealthCheckResponse.SERVING


class Noted(HealthServicer):
    def __init__(self) -> None:
        super().__init__()
        self.set("", SERVING)
        self.tokens: set[object] = set()

    def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        self.tokens.add(dict(context.invocation_metadata()).get("authorization"))
        return super().Check(request, context)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, its own CA; the key stands beside it."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=peer"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(["openssl", *options.split(), *names, *files], check=True, capture_output=True)
    return path


@pytest.fixture
def served(certificate: Path) -> Iterator[tuple[Noted, str]]:
    noted = Noted()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(noted, server)
    pair = certificate.with_suffix(".key").read_bytes(), certificate.read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield noted, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_every_request_is_answered_and_has_the_token(served: tuple[Noted, str], certificate: Path) -> None:
    noted, target = served
    token = "Bearer " + "t" * 700
    options = Options(target=target, method="health", connections=2, streams=4, requests=200, warmup_s=0)
    result = loadgen.run(replace(options, tls_ca=str(certificate), headers=(("authorization", token),)))
    assert result.holds
    assert result.counts["good"] == result.counts["offered"] >= 200
    assert noted.tokens == {token}


def test_peer_without_the_right_name_is_not_spoken_to(
    served: tuple[Noted, str], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, target = served
    monkeypatch.setattr(loadgen, "CONNECT_S_MAX", 0.3)
    monkeypatch.setattr(loadgen, "host_of", lambda target: "somebody.else")
    with pytest.raises(LoadError):
        loadgen.run(Options(target=target, method="health", connections=1, tls_ca=str(certificate)))
    assert not noted.tokens


def test_file_without_a_certificate_is_refused(certificate: Path) -> None:
    key = str(certificate.with_suffix(".key"))
    with pytest.raises(ValueError, match=key):
        loadgen.run(Options(target="127.0.0.1:1", method="health", tls_ca=key))
