"""Credential, caller and scope of calls; what waits for an answer, and what the control server is told."""

from __future__ import annotations

import json
import socket
import ssl
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from engine import _core
from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.front.authority import Authority
from tests.front.callers import (
    ALL,
    BEARER,
    CERTIFICATE,
    KEY,
    PERMISSION_DENIED,
    TOKEN,
    UNAUTHENTICATED,
    Answerer,
    Caller,
    answerer,
    call,
    reason,
    refused_anonymously,
)
from tests.front.calls import (
    DEADLINE_EXCEEDED,
    HEALTH_CHECK,
    NOT_FOUND,
    OK,
    PLACE_ORDERS,
    UNAVAILABLE,
    fresh_id,
    place_batch,
    placed,
)
from tests.front.handing import PATIENCE_S, Front, Fronts, ask, path_of, seed, until
from tests.front.http2 import Connection, prefixed
from tests.front.relaying import SERVICE, BareFront, Control, start_control
from tests.serving import batch, order

__all__ = ["answerer"]
pytestmark = pytest.mark.native

# ---- credentials


def test_credential_of_many_calls_is_asked_for_once(front: Front, answerer: Answerer) -> None:
    answerer.held.set()
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(front.address)) for _ in range(8)]
        asked = [(c, ask(c, order(fresh_id()), TOKEN)) for c in connections for _ in range(4)]
        for connection in connections:
            connection.ping()
        until(lambda: answerer.asked == [(BEARER, b"good")])
        answerer.held.clear()
        assert all(placed(c.answer(stream)).duplicate is False for c, stream in asked)
    assert call(front, order(fresh_id())).code == OK
    assert answerer.asked == [(BEARER, b"good")]
    assert front.count("credentials_asked") == 1
    until(lambda: front.count("credentials_known") == 1)


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ([("authorization", "bEaReR good")], (BEARER, b"good")),
        ([("authorization", "ApiKey good")], (KEY, b"good")),
        ([("x-api-key", "good")], (KEY, b"good")),
    ],
)
def test_credential_of_each_kind_is_read(
    front: Front, answerer: Answerer, headers: list[tuple[str, str]], asked: tuple[int, bytes]
) -> None:
    assert call(front, order(fresh_id()), *headers).code == OK
    assert answerer.asked == [asked]


BAD: list[list[tuple[str, str]]] = [
    [("authorization", "Basic good")],
    [("authorization", "Bearer")],
    [("authorization", "good")],
    [("x-api-key", "")],
    [TOKEN, ("x-api-key", "good")],
    [("x-api-key", "good"), TOKEN],
    [TOKEN, TOKEN],
    [("authorization", "Bearer " + "x" * 8_193)],
    [("other", "good")],
    [("authorization", "Bearer unknown")],
]


def test_whatever_is_wrong_with_a_credential_is_answered_alike(front: Front, answerer: Answerer) -> None:
    before = front.count("calls_unauthenticated")
    answers = [call(front, order(fresh_id()), *headers) for headers in BAD]
    assert {(a.code, a.message, a.last["grpc-status-details-bin"]) for a in answers} == {
        (UNAUTHENTICATED, "The call needs valid credentials.", answers[0].last["grpc-status-details-bin"])
    }
    assert reason(answers[0]) == "CREDENTIALS"
    assert front.count("calls_unauthenticated") == before + len(BAD)
    assert answerer.asked == [(BEARER, b"unknown")]


def test_certificate_counts_where_no_other_credential_was_sent(tmp_path: Path, fronts: Fronts) -> None:
    authority = Authority(tmp_path, "authority")
    server, client = authority.issue("server"), authority.issue("client")
    shown = ssl.PEM_cert_to_DER_cert(client.certificate.read_text())
    front = fronts.start(hosting=False)
    trusted = authority.certificate.read_bytes()
    front.native.tls(server.certificate.read_bytes(), server.key.read_bytes(), trusted, False)
    with socket.create_server(("127.0.0.1", 0)) as listening, Answerer(front.native, {shown: Caller()}) as answerer:
        listening.setblocking(False)
        front.native.listen(listening.fileno(), False, True)
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.set_alpn_protocols(["h2"])
        codes = []
        for shows in (False, True):
            if shows:
                context.load_cert_chain(*client.pair)
            plain = socket.create_connection(listening.getsockname(), timeout=PATIENCE_S)
            with Connection(context.wrap_socket(plain, server_hostname="localhost")) as connection:
                codes += [connection.answer(ask(connection, order("o"), *more)).code for more in ((), (TOKEN,))]
        # No shard is hosted here, which is heard of only by who is known.
        assert codes == [UNAUTHENTICATED, UNAUTHENTICATED, UNAVAILABLE, UNAUTHENTICATED]
    front.close()
    assert answerer.asked == [(BEARER, b"good"), (CERTIFICATE, shown)]


def test_health_asks_for_no_credential(front: Front, answerer: Answerer) -> None:
    with Connection(front.address) as connection:
        assert connection.call(HEALTH_CHECK, b"").code == OK
    assert answerer.asked == []


def test_refused_credential_is_remembered_and_then_asked_again(front: Front, answerer: Answerer) -> None:
    bad = ("authorization", "Bearer bad")
    for _ in range(5):
        assert call(front, order(fresh_id()), bad).code == UNAUTHENTICATED
    assert answerer.asked == [(BEARER, b"bad")]
    answerer.callers[b"bad"] = Caller()
    until(lambda: call(front, order(fresh_id()), bad).code == OK)
    assert answerer.asked == [(BEARER, b"bad")] * 2


def test_new_epoch_asks_anew_also_for_a_stream_that_runs(front: Front, answerer: Answerer) -> None:
    with Connection(front.address) as connection:
        stream = connection.open(PLACE_ORDERS, TOKEN)
        connection.data(stream, prefixed(place_batch()))
        connection.read_until(lambda: len(connection.stream(stream).messages) == 1)
        connection.data(stream, prefixed(place_batch()))
        connection.read_until(lambda: len(connection.stream(stream).messages) == 2)
        assert len(answerer.asked) == 1
        answerer.front.authenticate(True, 2)
        until(lambda: (call(front, order(fresh_id())), len(answerer.asked))[1] == 2)
        connection.data(stream, prefixed(place_batch()))
        connection.read_until(lambda: len(connection.stream(stream).messages) == 3)
        answerer.callers[b"good"] = None
        answerer.front.authenticate(True, 3)
        until(lambda: call(front, order(fresh_id())).code == UNAUTHENTICATED)
        connection.data(stream, prefixed(place_batch()))
        answer = connection.answer(stream)
        assert (answer.code, len(answer.messages)) == (UNAUTHENTICATED, 3)


def test_caller_that_expires_is_asked_for_at_the_next_message(front: Front, answerer: Answerer) -> None:
    answerer.callers[b"good"] = Caller(expires_unix_ms=int(time.time() * 1000) + 400)
    with Connection(front.address) as connection:
        stream = connection.open(PLACE_ORDERS, TOKEN)
        connection.data(stream, prefixed(place_batch()))
        connection.read_until(lambda: len(connection.stream(stream).messages) == 1)
        answerer.callers[b"good"] = None
        until(lambda: call(front, order(fresh_id())).code == UNAUTHENTICATED)
        connection.data(stream, prefixed(place_batch()))
        assert connection.answer(stream).code == UNAUTHENTICATED


def test_messages_of_a_stream_that_waits_are_carried_out_in_their_order(front: Front, answerer: Answerer) -> None:
    answerer.held.set()
    with Connection(front.address) as connection:
        stream = connection.open(PLACE_ORDERS, TOKEN)
        names = [fresh_id() for _ in range(9)]
        connection.data(stream, b"".join(prefixed(batch([name]).SerializeToString()) for name in names), end=True)
        connection.ping()
        assert connection.stream(stream).messages == []
        answerer.held.clear()
        answer = connection.answer(stream)
    results = [orders.PlaceOrdersResponse.FromString(each).results[0].result for each in answer.messages]
    assert [result.order.order_id for result in results] == names


def test_call_that_waits_ends_by_its_deadline_and_by_a_reset(front: Front, answerer: Answerer) -> None:
    answerer.held.set()
    with Connection(front.address) as connection:
        late = ask(connection, order(fresh_id()), TOKEN, ("grpc-timeout", "200m"))
        reset = ask(connection, order(fresh_id()), TOKEN)
        assert connection.answer(late).code == DEADLINE_EXCEEDED
        connection.reset(reset)
        connection.ping()
        answerer.held.clear()
        assert placed(connection.answer(ask(connection, order(fresh_id()), TOKEN)))
    until(lambda: front.count("calls_in_flight") == 0)


def test_calls_beyond_the_bound_on_those_that_wait_are_refused(fronts: Fronts) -> None:
    front = fronts.start(identity_calls_max=2)
    seed(front)
    with Answerer(front.native, {b"good": Caller()}) as answerer, Connection(front.address) as connection:
        until(lambda: refused_anonymously(front))
        answerer.held.set()
        waiting = [ask(connection, order(fresh_id()), TOKEN) for _ in range(2)]
        third = connection.answer(ask(connection, order(fresh_id()), TOKEN))
        assert (third.code, reason(third)) == (UNAVAILABLE, "IDENTITY_BUSY")
        answerer.held.clear()
        assert [connection.answer(stream).code for stream in waiting] == [OK, OK]


def test_drain_ends_calls_that_wait(front: Front, answerer: Answerer) -> None:
    answerer.held.set()
    with Connection(front.address) as connection:
        asked = [ask(connection, order(fresh_id()), TOKEN), connection.open(PLACE_ORDERS, TOKEN)]
        connection.data(asked[1], prefixed(place_batch()))
        until(lambda: answerer.asked != [])
        connection.ping()
        front.native.drain()
        assert [connection.answer(stream).code for stream in asked] == [UNAVAILABLE] * 2
    assert front.native.drained(PATIENCE_S)


def test_front_that_is_closed_lets_go_of_calls_that_wait(fronts: Fronts) -> None:
    front = fronts.start()
    with Answerer(front.native, {}) as answerer:
        until(lambda: refused_anonymously(front))
        answerer.held.set()
        with Connection(front.address) as connection:
            ask(connection, order(fresh_id()), TOKEN)
            until(lambda: answerer.asked != [])
    front.close()


def test_flood_of_bad_credentials_does_not_drive_out_a_good_one(fronts: Fronts) -> None:
    front = fronts.start(bad_credentials_max=10_000)
    seed(front)
    with Answerer(front.native, {b"good": Caller()}) as answerer, Connection(front.address) as connection:
        until(lambda: refused_anonymously(front))
        assert connection.answer(ask(connection, order(fresh_id()), TOKEN)).code == OK
        for number in range(4_200):
            connection.answer(ask(connection, order("never"), ("x-api-key", f"bad-{number}")))
        assert connection.answer(ask(connection, order(fresh_id()), TOKEN)).code == OK
        until(lambda: front.count("credentials_known") == 4_096)
    assert answerer.asked.count((BEARER, b"good")) == 1


def test_table_forgets_who_was_not_heard_of_for_longest(front: Front, answerer: Answerer) -> None:
    answerer.callers |= {f"good-{number}".encode(): Caller() for number in range(4_096)}
    with Connection(front.address) as connection:
        for number in range(4_096):
            used = ask(connection, order("never"), ("x-api-key", f"good-{number}"))
            assert connection.answer(used).code == OK
            if number == 4_000:
                # Used once more, so another one goes in its place.
                connection.answer(ask(connection, order("never"), ("x-api-key", "good-0")))
        for secret in ("new", "good-0", "good-1"):
            connection.answer(ask(connection, order("never"), ("x-api-key", secret)))
    assert [answerer.asked.count((KEY, secret)) for secret in (b"good-0", b"good-1", b"good-4095")] == [1, 2, 1]


def test_answer_that_is_no_caller_is_refused(front: Front) -> None:
    for wrong in (Caller(name=""), Caller(name="x" * 129), Caller(connections=-1), Caller(orders_per_s=1 << 40)):
        with pytest.raises(ValueError, match=r"caller|orders_per_s"):
            front.native.answer_credential(1, wrong)
    front.native.answer_credential(1, Caller())  # a question that was never asked


# ---- scopes

METHOD_SCOPES = _core.method_scopes()
PEER = {"peer": "127.0.0.1"}


def test_each_method_has_a_scope_of_its_own_choice() -> None:
    described = [
        f"/{service.full_name}/{method.name}"
        for file in (orders, inventory, cluster)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert len(described) == 24
    assert set(described) <= set(METHOD_SCOPES), "engine/_front_methods.pxi says in which group a new method is"
    assert set(METHOD_SCOPES.values()) <= ALL | {""}
    known = descriptor_pool.Default()
    assert all(
        path.endswith("/") or path.startswith("/grpc.") or known.FindMethodByName(path[1:].replace("/", "."))
        for path in METHOD_SCOPES
    )


@pytest.mark.parametrize(
    "request_",
    [
        order("o"),
        orders.GetOrderRequest(shop_id="shop", order_id="o"),
        inventory.PutShopRequest(shop_id="shop"),
        inventory.GetStockRequest(shop_id="shop", sku_id="sku"),
    ],
)
def test_method_is_refused_without_its_scope_and_not_with_it_alone(
    front: Front, answerer: Answerer, request_: Message
) -> None:
    needed = METHOD_SCOPES[path_of(request_)]
    answerer.callers |= {b"only": Caller(scopes=frozenset({needed})), b"rest": Caller(scopes=ALL - {needed})}
    answer = call(front, request_, ("x-api-key", "rest"))
    assert (answer.code, reason(answer)) == (PERMISSION_DENIED, "SCOPE_DENIED")
    assert front.count("calls_scope_denied") == 1
    assert call(front, request_, ("x-api-key", "only")).code in (OK, NOT_FOUND)


# ---- the relay


async def test_control_server_is_told_who_calls_and_nobody_else_can_say_so(tmp_path: Path) -> None:
    control = Control()
    server = await start_control(tmp_path / "control", control)
    admin = Caller(name="admin", scopes=frozenset({"cluster:admin"}), shops=frozenset({"b", "a"}))
    with BareFront(tmp_path / "control") as bare:
        bare.front.relay_secret(bytes(range(32)))
        async with grpc.aio.insecure_channel(bare.address) as channel:
            unary: Any = channel.unary_unary(f"/{SERVICE}/Unary")
            forged = (
                ("everopen-caller-bin", b"{}"),
                ("everopen-relay-bin", b"x"),
                ("everopen-more", "y"),
                ("kept", "z"),
            )
            assert await unary(b"1", metadata=forged) == b"1"
            assert told(control) == {"name": "anonymous", "scopes": sorted(ALL), "shops": None} | PEER
            with Answerer(bare.front, {b"good": admin, b"few": replace(admin, scopes=frozenset({"cluster:read"}))}):
                assert await unary(b"2", metadata=(*forged, TOKEN)) == b"2"
                assert told(control) == {
                    "name": "admin",
                    "scopes": ["cluster:admin"],
                    "shops": ["a", "b"],
                    "peer": "127.0.0.1",
                }
                assert not [name for name, _ in control.metadata if name == "authorization"]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await unary(b"3", metadata=(("x-api-key", "few"),))
                assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await unary(b"4")
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    await server.stop(None)


def told(control: Control) -> object:
    reserved = {name: value for name, value in control.metadata if name.startswith("everopen-")}
    assert ("kept", "z") in control.metadata
    assert sorted(reserved) == ["everopen-caller-bin", "everopen-relay-bin"]
    assert reserved["everopen-relay-bin"] == bytes(range(32))
    return json.loads(reserved["everopen-caller-bin"])


async def test_watch_ends_when_its_caller_is_not_known_any_more(tmp_path: Path) -> None:
    control = Control()
    server = await start_control(tmp_path / "control", control)
    callers: dict[bytes, Caller | None] = {b"good": Caller()}
    with BareFront(tmp_path / "control") as bare, Answerer(bare.front, callers):
        async with grpc.aio.insecure_channel(bare.address) as channel:
            echo: Any = channel.stream_stream(f"/{SERVICE}/Echo")(metadata=(TOKEN,))
            await echo.write(b"1")
            assert await echo.read() == b"1"
            bare.front.authenticate(True, 2)
            # Asked again, and still known.
            until(lambda: bare.count("credentials_asked") == 2)
            await echo.write(b"2")
            assert await echo.read() == b"2"
            callers[b"good"] = None
            bare.front.authenticate(True, 3)
            assert await echo.code() == grpc.StatusCode.UNAUTHENTICATED
    await server.stop(None)
