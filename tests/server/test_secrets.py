"""What is secret stays where it was given: not in argv, logs, metrics, status or the data directory of any process."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine import keys
from engine.grants import SCOPES
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.server.test_supervisor import PATIENCE_S, eventually
from tests.serving import ROOT, Server, everopen, order
from tests.tokens import AUDIENCE, ED, ISSUER, OTHER_RSA, pem, token, write

# Of each kind of process one.
ALL = ("--workers", "1", "--followers", "1")
BUYER = "buyer-that-nobody-is-told"


class OverUnix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def scraped(path: Path) -> str:
    with closing(OverUnix(path)) as connection:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()


def descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from descendants(int(child))


def command_lines(server: Server) -> str:
    found = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in descendants(server.process.pid)]
    assert len(found) >= 5, "a supervisor, a worker, its follower, the archive, the control server"
    return "\n".join(found)


def codes_of(channel: grpc.Channel, *metadata: tuple[str, str]) -> list[grpc.StatusCode]:
    """Of a native call and of a relayed one. What is said of it repeats nothing that was shown."""
    calls: list[tuple[Any, Any]] = [
        (OrderServiceStub(channel).PlaceOrder, order("a", buyer_id=BUYER)),  # type: ignore[no-untyped-call]
        (ClusterServiceStub(channel).GetWorkers, cluster.GetWorkersRequest()),  # type: ignore[no-untyped-call]
    ]
    futures = [call.future(request, metadata=metadata, timeout=PATIENCE_S) for call, request in calls]
    said = [f"{future.exception()} {future.trailing_metadata()}" for future in futures]
    assert not [text for text in said for _, value in metadata if value in text]
    return [future.code() for future in futures]


def halves(secret: str) -> list[str]:
    """What is cut or wrapped is told all the same."""
    middle = len(secret) // 2
    return [secret[:middle][-24:], secret[middle:][:24]]


def test_secret_is_in_no_command_line_log_metric_status_or_file(data_dir: Path, tmp_path: Path) -> None:
    data_dir.mkdir(exist_ok=True)
    made = [everopen("keys", "make", "ops", "--data-dir", data_dir, *(f"--scope={scope}" for scope in SCOPES))]
    made.append(everopen("keys", "make", "gone", "--data-dir", data_dir, "--scope=orders:write"))
    assert [one.returncode for one in made] == [0, 0], made
    good, gone = (one.stdout.strip() for one in made)
    [gone_id] = [key_id for key_id, key in keys.read(data_dir).items() if key.name == "gone"]
    proved = token(scope=" ".join(SCOPES)).decode()
    forged = token(key=OTHER_RSA, algorithm="RS256").decode()
    expired = token(exp=1).decode()
    secrets = [half for secret in (good, gone, proved, forged, expired) for half in halves(secret)]
    assert all(len(secret) >= 16 for secret in secrets)
    file = write(tmp_path / "issuer.pem", pem(ED))
    metrics = tmp_path / "metrics"
    tokens = ("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-keys", str(file))
    with Server(data_dir, *tokens, "--metrics-listen", f"unix:{metrics}", *ALL) as server:
        with grpc.insecure_channel(server.address) as channel:
            for shown in (("x-api-key", good), ("authorization", f"Bearer {proved}")):
                # NOT_FOUND: there is no such shop, but the call was let in.
                assert codes_of(channel, shown)[1] == grpc.StatusCode.OK, shown[0]
            assert everopen("keys", "revoke", gone_id, "--data-dir", data_dir).returncode == 0
            refused = [grpc.StatusCode.UNAUTHENTICATED] * 2
            eventually(lambda: codes_of(channel, ("x-api-key", gone)) == refused, "the revoked key")
            for text in (forged, expired, good):
                assert codes_of(channel, ("authorization", f"Bearer {text}")) == refused
            assert codes_of(channel, ("x-api-key", good), ("authorization", f"Bearer {proved}")) == refused
        write(file, b"no key at all " + good.encode())
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "issuer.pem" in server.stderr, "a line about the file that is broken")
        told = {
            "command lines": command_lines(server),
            "metrics": scraped(metrics),
            "status": everopen("status", "--json", "--data-dir", data_dir).stdout,
            "keys": everopen("keys", "list", "--json", "--data-dir", data_dir).stdout,
        }
        assert "everopen_" in told["metrics"]
        assert told["status"]
        assert server.stop() == 0
    told["log"] = server.stderr
    assert not [(where, secret) for where, text in told.items() for secret in (*secrets, BUYER) if secret in text]
    files = {path.name: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    assert {"audit.jsonl"} < files.keys()
    assert not [(name, secret) for name, data in files.items() for secret in secrets if secret.encode() in data]


def test_key_of_a_certificate_is_in_no_command_line_log_or_metric(data_dir: Path, tmp_path: Path) -> None:
    authority = pytest.importorskip("tests.front.authority").Authority(tmp_path, "authority")
    certificate, key = authority.issue("server").pair
    lines = Path(key).read_text().splitlines()
    secrets = [line[:40] for line in lines if not line.startswith("-----")]
    metrics = tmp_path / "metrics"
    files = ("--tls-cert", certificate, "--tls-key", key)
    with Server(data_dir, *files, "--metrics-listen", f"unix:{metrics}", *ALL) as server:
        # A key that is cut is said to be broken, and not shown.
        broken = Path(key).with_suffix(".new")
        broken.write_text("\n".join([*lines[:2], lines[-1]]))
        broken.chmod(0o600)
        broken.rename(key)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "server-" in server.stderr, "a line about the file that is broken")
        told = command_lines(server) + scraped(metrics)
        assert server.stop() == 0
    assert secrets
    assert not [secret for secret in secrets if secret in told + server.stderr]


def test_process_that_withholds_its_memory_is_not_dumpable() -> None:
    program = (
        "import ctypes; from engine.dumps import withhold; withhold(); raise SystemExit(ctypes.CDLL(None).prctl(3))"
    )
    for environment, dumpable in (({}, 0), ({"EVEROPEN_DUMPABLE": "1"}, 1)):
        ended = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=False)
        assert ended.returncode == dumpable
