"""Clients that others wrote, where they are installed: gRPC for C++ and for JavaScript, and nghttp2's h2load.

@grpc/grpc-js is looked for where node looks, so NODE_PATH may name it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from everopen.v1 import order_service_pb2 as orders
from tests.front.calls import (
    GET_ORDER,
    HEALTH_CHECK,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OK,
    PLACE_ORDER,
    UNIMPLEMENTED,
    fresh_id,
    place,
)
from tests.serving import ROOT, Client, Server

HERE = ROOT / "tests/front"
CALLS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("others") / "data") as running:
        with Client(running.address) as client:
            client.seed()
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def cpp_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if shutil.which("g++") is None or shutil.which("pkg-config") is None:
        pytest.skip("no C++ compiler")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("no libgrpc++")
    program = tmp_path_factory.mktemp("cpp") / "client"
    source = str(HERE / "generic_client.cc")
    subprocess.run(["g++", "-std=c++17", "-O0", source, "-o", str(program), *found.stdout.split()], check=True)
    return [str(program)]


@pytest.fixture(scope="module")
def js_client() -> list[str]:
    look = ["node", "-e", "require.resolve('@grpc/grpc-js')"]
    if shutil.which("node") is None or subprocess.run(look, capture_output=True, check=False).returncode != 0:
        pytest.skip("no @grpc/grpc-js")
    return ["node", str(HERE / "generic_client.js")]


@pytest.mark.parametrize("compression", ["none", "gzip"])
# Compiling takes longer than all that is asked.
@pytest.mark.parametrize("name", [pytest.param("cpp_client", marks=pytest.mark.long), "js_client"])
def test_client_of_another_language_gets_every_answer(
    request: pytest.FixtureRequest, server: Server, name: str, compression: str
) -> None:
    program: list[str] = request.getfixturevalue(name)
    ids = [fresh_id() for _ in range(CALLS)]
    asked = [(PLACE_ORDER, place(order_id)) for order_id in ids]
    asked += [
        (PLACE_ORDER, b"\xff"),
        (GET_ORDER, orders.GetOrderRequest(shop_id="shop", order_id="nobody").SerializeToString()),
        ("/everopen.v1.OrderService/Nothing", b""),
        (HEALTH_CHECK, b""),
        (PLACE_ORDER, place(fresh_id()) + b"\xa2\x06\x80\x80\x80\x01" + bytes(2 * 1024 * 1024)),
    ]
    lines = "".join(f"{path} {message.hex()}\n" for path, message in asked)
    ran = subprocess.run(
        [*program, server.address, compression], input=lines, capture_output=True, text=True, timeout=90, check=True
    )
    answers = [line.partition(" ") for line in ran.stdout.splitlines()]
    codes = [int(code) for code, _, _ in answers]
    assert codes == [OK] * CALLS + [INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, OK, OK]
    placed = [orders.PlaceOrderResponse.FromString(bytes.fromhex(hexed)) for _, _, hexed in answers[:CALLS]]
    assert [answer.order.order_id for answer in placed] == ids


@pytest.mark.skipif(shutil.which("h2load") is None, reason="no h2load")
def test_h2load_gets_every_health_check(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(5))
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command = ["h2load", "-n", "20000", "-c", "8", "-m", "16", *headers, "-d", str(body)]
    ran = subprocess.run(
        [*command, f"http://{server.address}{HEALTH_CHECK}"], capture_output=True, text=True, timeout=90, check=True
    )
    assert re.search(r"20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout", ran.stdout), ran.stdout
