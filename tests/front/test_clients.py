"""Ordinary clients of grpcio, synchronous and asyncio, over every kind of address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from everopen.v1 import order_service_pb2 as orders
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.front.calls import HEALTH_CHECK, OK, PLACE_ORDER, fresh_id
from tests.front.fronts import FRONTS
from tests.front.http2 import Connection
from tests.serving import Client, Server, batch, order

MESSAGE_BYTES_MAX = 4 * 1024 * 1024


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as made:
        yield made


def padded(order_id: str, size: int) -> bytes:
    """An order of exactly so many bytes, most of them an unknown field."""
    request = order(order_id).SerializeToString()
    padding = size - len(request) - 6
    length = bytes([padding & 127 | 128, padding >> 7 & 127 | 128, padding >> 14 & 127 | 128, padding >> 21])
    return request + b"\xa2\x06" + length + bytes(padding)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_compression_of_the_client_is_understood(client: Client, compression: grpc.Compression) -> None:
    for _ in range(3):
        assert client.orders.PlaceOrder(order(fresh_id()), compression=compression).sequence > 0


def test_metadata_goes_along(client: Client) -> None:
    metadata = (("x-text", "a b"), ("x-raw-bin", bytes(range(256))), ("x-long", "v" * 4_000))
    assert client.orders.PlaceOrder(order(fresh_id()), metadata=metadata, timeout=30).sequence > 0


def test_message_of_four_mebibytes_goes_through_and_one_byte_more_does_not(client: Client) -> None:
    method = client.channel.unary_unary(PLACE_ORDER)
    assert method(padded(fresh_id(), MESSAGE_BYTES_MAX))
    with pytest.raises(grpc.RpcError) as refused:
        method(padded(fresh_id(), MESSAGE_BYTES_MAX + 1))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_batch_of_four_mebibytes_in_gzip_goes_through(client: Client) -> None:
    ids = [fresh_id() for _ in range(1_024)]
    stream = client.orders.PlaceOrders(iter([batch(ids)] * 3), compression=grpc.Compression.Gzip)
    assert [len(answer.results) for answer in stream] == [1_024] * 3


async def test_asyncio_client_with_many_calls_at_a_time_gets_each_answer(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: OrderServiceStub = OrderServiceStub(channel)
        ids = [fresh_id() for _ in range(200)]
        calls = [stub.PlaceOrder(order(order_id)) for order_id in ids]
        assert [(await call).order.order_id for call in calls] == ids
        stream = stub.PlaceOrders(compression=grpc.Compression.Gzip)
        for order_id in ids[:5]:
            await stream.write(batch([order_id]))
            answer = await stream.read()
            assert isinstance(answer, orders.PlaceOrdersResponse)
            assert answer.results[0].result.duplicate
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK


async def test_asyncio_client_that_cancels_leaves_the_channel_working(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: OrderServiceStub = OrderServiceStub(channel)
        for _ in range(20):
            call = stub.PlaceOrder(order(fresh_id()))
            call.cancel()
        assert (await stub.PlaceOrder(order(fresh_id()))).sequence > 0


def test_reflection_describes_the_services_at_the_same_address(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="everopen.v1.OrderService"),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests))
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"everopen.v1.OrderService", "everopen.v1.InventoryService", "grpc.health.v1.Health"}
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix:"])
def test_address_of_every_kind_is_served(front: type[Server], listen: str, tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/front.sock" if listen == "unix:" else listen
    with front(tmp_path / "data", listen=where) as server:
        assert server.address.startswith(where.removesuffix(":0"))
        with grpc.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
        with Connection(server.address) as connection:
            assert connection.call(HEALTH_CHECK, b"").code == OK
        assert server.stop() == 0
