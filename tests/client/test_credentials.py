"""What both clients show of who they are: with each call, on every kind of call, and to nobody who must not see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import everopen
from everopen.channels import is_local
from everopen.v1.order_service_pb2 import GetOrderResponse, PlaceOrderRequest, PlaceOrdersRequest, PlaceOrdersResponse


class Listener(grpc.GenericRpcHandler):
    """Answers everything, and remembers with what it was called."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, dict[str, Any]]] = []

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self.shown.append((method, dict(details.invocation_metadata)))
        if method == "PlaceOrders":
            return grpc.stream_stream_rpc_method_handler(
                self.answer_all, PlaceOrdersRequest.FromString, PlaceOrdersResponse.SerializeToString
            )
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request: bytes, context: Any) -> bytes:
        return GetOrderResponse().SerializeToString()

    async def answer_all(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            answer = PlaceOrdersResponse()
            for _ in request.orders:
                answer.results.add().result.sequence = 1
            yield answer

    def of(self, method: str, name: str) -> list[Any]:
        return [metadata.get(name) for called, metadata in self.shown if called == method]


@pytest.fixture
async def listener() -> AsyncIterator[tuple[str, Listener]]:
    server, made = grpc.aio.server(), Listener()
    server.add_generic_rpc_handlers((made,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", made
    await server.stop(None)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [({"token": "a.b.c"}, "authorization", "Bearer a.b.c"), ({"api_key": "eo_1_2"}, "x-api-key", "eo_1_2")],
)
async def test_credential_is_shown_with_every_call(
    listener: tuple[str, Listener], given: dict[str, Any], name: str, value: str
) -> None:
    address, heard = listener
    async with everopen.AsyncClient(address, **given) as client:
        await client.get_order("shop", order_id="a")
        await client.place_order("shop", order_id="a", lines=[("tea", 1)])

    def block() -> None:
        with everopen.Client(address, **given) as client:
            client.get_order("shop", order_id="a")
            client.place_orders([PlaceOrderRequest(shop_id="shop", order_id="a")])

    await asyncio.to_thread(block)
    assert heard.of("GetOrder", name) == [value, value]
    assert heard.of("PlaceOrders", name) == [value, value]
    # A map would lead to where the secret was not said to go.
    assert not [method for method, _ in heard.shown if "PartitionMap" in method]


async def test_function_is_asked_anew_for_each_call(listener: tuple[str, Listener]) -> None:
    address, heard = listener
    tokens = iter(["first", "second"])
    async with everopen.AsyncClient(address, token=lambda: next(tokens)) as client:
        for order_id in ("a", "b"):
            await client.get_order("shop", order_id=order_id)
    assert heard.of("GetOrder", "authorization") == ["Bearer first", "Bearer second"]


async def test_client_without_credential_shows_none(listener: tuple[str, Listener]) -> None:
    address, heard = listener
    async with everopen.AsyncClient(address, route=False) as client:
        await client.get_order("shop", order_id="a")
    assert heard.of("GetOrder", "authorization") == heard.of("GetOrder", "x-api-key") == [None]


@pytest.mark.parametrize("kind", [everopen.Client, everopen.AsyncClient])
@pytest.mark.parametrize(
    ("target", "given", "what"),
    [
        ("orders.example:7400", {"token": "a"}, "plaintext"),
        ("192.0.2.1:7400", {"api_key": "a"}, "plaintext"),
        ("127.0.0.1:7400", {"token": "a", "api_key": "b"}, "which of them"),
    ],
)
async def test_secret_is_not_sent_where_others_read_it(
    kind: Any, target: str, given: dict[str, str], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        kind(target, **given)
    secured = kind("orders.example:7400", credentials=grpc.ssl_channel_credentials(), token="a")
    closed = secured.close()
    if closed is not None:
        await closed


@pytest.mark.parametrize("secret", ["", "a\nb", "a b", "ä", "a\0"])
async def test_secret_that_is_no_header_is_refused_and_not_repeated(
    listener: tuple[str, Listener], secret: str
) -> None:
    async with everopen.AsyncClient(listener[0], token=secret) as client:
        with pytest.raises(ValueError, match=r"^a token or an API key is printable ASCII without blanks$"):
            await client.get_order("shop", order_id="a")


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/everopen", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("127.0.0.1.example:1", False),
        ("localhost.example:1", False),
        ("0.0.0.0:1", False),
        ("192.0.2.1:1", False),
        ("ipv4:127.0.0.1:1,192.0.2.1:1", False),
        ("dns://192.0.2.1/localhost:1", False),
        ("", False),
    ],
)
def test_target_is_local_only_if_no_network_is_in_between(target: str, local: bool) -> None:
    assert is_local(target) is local
