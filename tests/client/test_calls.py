"""Single calls of both clients: requests, errors, retries."""

from __future__ import annotations

import asyncio
import functools
import typing
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

import everopen
from everopen import fields, methods
from everopen.retry import may_repeat
from everopen.v1 import inventory_pb2, inventory_service_pb2, order_service_pb2
from everopen.v1.inventory_service_pb2 import (
    AdjustStockResponse,
    BatchPutSkusResponse,
    GetStockResponse,
    PutShopRequest,
    PutShopResponse,
    PutSkuRequest,
    PutSkuResponse,
    PutSkuResult,
)
from everopen.v1.order_service_pb2 import PlaceOrderRequest, PlaceOrderResponse, PlaceOrderResult
from tests.client.fake import Abort, Clock, FakeServer, make_status, shed

Code = grpc.StatusCode


def bad_request(field: str, description: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    return error_details_pb2.BadRequest(field_violations=[violation])


@pytest.mark.parametrize(
    ("abort", "kind", "attributes"),
    [
        (
            Abort(Code.INVALID_ARGUMENT, "bad", bad_request("lines[0].quantity", "is 0")),
            everopen.InvalidArgument,
            {"field": "lines[0].quantity", "description": "is 0"},
        ),
        (Abort(Code.INVALID_ARGUMENT, "bad"), everopen.InvalidArgument, {"field": "", "description": "bad"}),
        (
            Abort(Code.NOT_FOUND, "no", error_details_pb2.ResourceInfo(resource_type="sku", resource_name="tea")),
            everopen.NotFound,
            {"resource": "tea", "resource_type": "sku"},
        ),
        (
            Abort(Code.ALREADY_EXISTS, "used", error_details_pb2.ErrorInfo(reason="ID_CONFLICT")),
            everopen.IdConflict,
            {"reason": "ID_CONFLICT"},
        ),
        (
            Abort(Code.ABORTED, "moved", error_details_pb2.ErrorInfo(reason="REVISION_CONFLICT")),
            everopen.RevisionConflict,
            {"reason": "REVISION_CONFLICT"},
        ),
        (Abort(Code.DATA_LOSS, "damaged"), everopen.DataLoss, {"code": Code.DATA_LOSS}),
        (Abort(Code.UNIMPLEMENTED, "later"), everopen.EveropenError, {"code": Code.UNIMPLEMENTED}),
        (
            Abort(Code.RESOURCE_EXHAUSTED, "full", trailing={"grpc-retry-pushback-ms": "-1"}),
            everopen.Overloaded,
            {"retry_after_s": -0.001},
        ),
    ],
    ids=lambda value: value.code.name if isinstance(value, Abort) else None,
)
async def test_status_becomes_its_exception(
    unbatched: everopen.AsyncClient,
    server: FakeServer,
    abort: Abort,
    kind: type[everopen.EveropenError],
    attributes: dict[str, object],
) -> None:
    task = asyncio.create_task(unbatched.place_order("shop", order_id="a"))
    (await server.take()).reply_with(abort)
    with pytest.raises(kind, match=abort.status.message) as caught:
        await task
    assert {name: getattr(caught.value, name) for name in attributes} == attributes


def test_pushback_that_is_no_number_means_never() -> None:
    assert [everopen.errors.pushback_of(value) for value in ("250", "-1", "soon", None)] == [0.25, -0.001, -1.0, None]


def test_details_of_another_code_are_not_believed() -> None:
    other = make_status(Code.NOT_FOUND, "no").SerializeToString()
    assert everopen.errors.status_of(Code.UNAVAILABLE, "gone", other).code == Code.UNAVAILABLE.value[0]
    assert everopen.errors.status_of(Code.UNAVAILABLE, "gone", b"\xff\xff").message == "gone"


async def test_unavailable_call_is_tried_again_with_the_same_request(
    unbatched: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    task = asyncio.create_task(unbatched.place_order("shop", order_id="a", lines=[("tea", 2)]))
    tries = []
    for _ in range(3):
        received = await server.take()
        tries.append(received.request)
        clock.seconds += 0.5
        received.reply_with(Abort(Code.UNAVAILABLE))
    received = await server.take()
    received.reply_with(PlaceOrderResponse(outcome=everopen.PLACED))
    assert (await task).outcome == everopen.PLACED
    assert all(request == received.request for request in tries)
    assert received.request.first_sent_at_ms == 1_000_000
    assert clock.slept == [0.05, 0.1, 0.2]


async def test_pushback_is_waited_for_and_ends_where_the_deadline_is(
    unbatched: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    task = asyncio.create_task(unbatched.get_stock("shop", sku_id="tea", timeout_s=3))
    busy = Abort(Code.RESOURCE_EXHAUSTED, "busy", trailing={"grpc-retry-pushback-ms": "2000"})
    (await server.take()).reply_with(busy)
    (await server.take()).reply_with(busy)
    with pytest.raises(everopen.Overloaded) as caught:
        await task
    assert caught.value.retry_after_s == 2
    assert clock.slept == [pytest.approx(2.05)]


async def test_put_with_a_revision_is_not_repeated_when_its_fate_is_unknown(
    client: everopen.AsyncClient, server: FakeServer, clock: Clock
) -> None:
    task = asyncio.create_task(client.put_shop("shop", if_revision=0))
    (await server.take()).reply_with(Abort(Code.UNAVAILABLE))
    with pytest.raises(everopen.Unavailable):
        await task

    task = asyncio.create_task(client.put_shop("shop", if_revision=0))
    (await server.take()).reply_with(Abort(Code.RESOURCE_EXHAUSTED))
    (await server.take()).reply_with(PutShopResponse(revision=1))
    assert (await task).revision == 1


def test_batch_with_one_revision_is_not_repeatable() -> None:
    puts = [PutSkuRequest(sku_id="tea"), PutSkuRequest(sku_id="cup", if_revision=3)]
    assert not methods.is_repeatable(inventory_service_pb2.BatchPutSkusRequest(requests=puts))
    assert methods.is_repeatable(inventory_service_pb2.BatchPutSkusRequest(requests=puts[:1]))


async def test_batch_gives_answers_and_errors_item_by_item(client: everopen.AsyncClient, server: FakeServer) -> None:
    puts = [PutSkuRequest(shop_id="shop", sku_id=f"sku-{number}") for number in range(methods.BATCH_ITEMS_MAX + 2)]
    task = asyncio.create_task(client.batch_put_skus(puts))
    received = await server.take()
    results = [PutSkuResult(result=PutSkuResponse(revision=1))] * methods.BATCH_ITEMS_MAX
    results[1] = PutSkuResult(status=make_status(Code.NOT_FOUND, "no such shop"))
    received.reply_with(BatchPutSkusResponse(results=results))
    received = await server.take()
    assert [put.sku_id for put in received.request.requests] == ["sku-1024", "sku-1025"]
    received.reply_with(Abort(Code.DATA_LOSS, "damaged"))
    answers = await task
    assert isinstance(answers[1], everopen.NotFound)
    assert [type(answer) for answer in answers[-2:]] == [everopen.DataLoss] * 2
    assert len(everopen.or_raise([answers[0], *answers[2:-2]])) == methods.BATCH_ITEMS_MAX - 1
    with pytest.raises(everopen.NotFound):
        everopen.or_raise(answers)


async def test_message_of_the_caller_is_left_as_it_was(client: everopen.AsyncClient, server: FakeServer) -> None:
    request = PlaceOrderRequest(shop_id="shop", order_id="a")
    task = asyncio.create_task(client.place_order(request))
    batch = await server.take()
    assert batch.request.orders[0].first_sent_at_ms == 1_000_000
    batch.answer()
    await task
    assert request.first_sent_at_ms == 0


async def test_time_of_the_first_try_may_be_the_callers(blocking: everopen.Client, server: FakeServer) -> None:
    sending = asyncio.to_thread(
        blocking.adjust_stock,
        "shop",
        sku_id="tea",
        location_id="hangzhou",
        adjustment_id="a",
        delta=-1,
        kind="ADJUST_KIND_ADJUST",
        first_sent_at_ms=7,
    )
    task = asyncio.create_task(sending)
    received = await server.take()
    assert received.request.first_sent_at_ms == 7
    assert received.request.kind == inventory_pb2.ADJUST_KIND_ADJUST
    received.reply_with(AdjustStockResponse(outcome=everopen.APPLIED))
    assert (await task).outcome == everopen.APPLIED


async def test_blocking_client_retries_and_maps_errors_likewise(
    blocking: everopen.Client, server: FakeServer, clock: Clock
) -> None:
    task = asyncio.create_task(asyncio.to_thread(blocking.get_stock, "shop", sku_id="tea"))
    (await server.take()).reply_with(Abort(Code.UNAVAILABLE))
    (await server.take()).reply_with(GetStockResponse(on_hand=3))
    assert (await task).on_hand == 3
    assert clock.slept == [0.05]

    task = asyncio.create_task(asyncio.to_thread(blocking.get_stock, "shop", sku_id="tea"))
    (await server.take()).reply_with(Abort(Code.NOT_FOUND, "no such SKU"))
    with pytest.raises(everopen.NotFound, match="no such SKU"):
        await task


async def test_blocking_stream_sends_again_what_broke_or_was_shed(
    blocking: everopen.Client, server: FakeServer, clock: Clock
) -> None:
    orders = [PlaceOrderRequest(shop_id="shop", order_id=name) for name in "abcd"]
    task = asyncio.create_task(asyncio.to_thread(blocking.place_orders, orders))
    (await server.take()).reply_with(Abort(Code.UNAVAILABLE))
    received = await server.take()
    assert received.ids == ["a", "b", "c", "d"]
    received.answer(instead={"b": shed(1), "c": make_status(Code.NOT_FOUND)})
    received = await server.take()
    assert received.ids == ["b"]
    received.answer()
    a, b, c, d = await task
    assert [answer.order.order_id for answer in (a, b, d) if isinstance(answer, PlaceOrderResponse)] == ["a", "b", "d"]
    assert isinstance(c, everopen.NotFound)
    assert clock.slept == [0.05, pytest.approx(1.1)]


async def test_every_method_reaches_the_server_with_its_own_request(
    unbatched: everopen.AsyncClient, blocking: everopen.Client, server: FakeServer
) -> None:
    for method in vars(methods).values():
        if isinstance(method, methods.Method):
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name).strip("_")
            response: Message = method.response()
            sendings: list[Callable[[], typing.Any]] = [
                functools.partial(getattr(unbatched, name), "shop"),
                functools.partial(asyncio.to_thread, getattr(blocking, name), shop_id="shop"),
            ]
            for sending in sendings:
                task = asyncio.ensure_future(sending())
                received = await server.take()
                assert type(received.request) is method.request
                assert received.request.shop_id == "shop"
                received.reply_with(response)
                assert await task == response


def test_keyword_arguments_are_the_fields_of_the_requests() -> None:
    for method in vars(methods).values():
        if isinstance(method, methods.Method):
            declared = typing.get_type_hints(getattr(fields, f"{method.name}Fields"))
            assert list(declared) == [field.name for field in method.request.DESCRIPTOR.fields], method.name


def test_methods_are_those_of_the_services() -> None:
    services = [
        module.DESCRIPTOR.services_by_name[name]
        for module, name in [(order_service_pb2, methods.ORDERS), (inventory_service_pb2, methods.INVENTORY)]
    ]
    declared = {f"{service.name}.{method.name}" for service in services for method in service.methods}
    known = {
        f"{method.service}.{method.name}"
        for method in vars(methods).values()
        if isinstance(method, methods.Method | methods.BatchMethod)
    }
    assert declared - known == {"OrderService.PlaceOrders"}
    assert known <= declared


def test_request_takes_tuples_messages_maps_and_enum_names() -> None:
    request = methods.make_request(
        PlaceOrderRequest,
        "shop",
        {
            "lines": [("tea", 2), ("cup", 1, 900), order_service_pb2.PlaceOrderLine(sku_id="pot", quantity=1)],
            "attributes": {"channel": "live"},
            "strategy": "ALLOCATION_STRATEGY_NEAREST",
            "allow_split": False,
            "region": None,
        },
        wall_ms=5,
    )
    assert [(line.sku_id, line.quantity, line.amount_minor) for line in request.lines] == [
        ("tea", 2, 0),
        ("cup", 1, 900),
        ("pot", 1, 0),
    ]
    assert not request.lines[0].HasField("amount_minor")
    assert dict(request.attributes) == {"channel": "live"}
    assert (request.strategy, request.HasField("allow_split"), request.first_sent_at_ms) == (2, True, 5)


def test_request_with_an_unknown_field_or_twice_given_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no field sku"):
        methods.make_request(PutShopRequest, "shop", {"sku": "tea"}, 0)
    with pytest.raises(TypeError, match="not both"):
        methods.make_request(PutShopRequest, PutShopRequest(), {"currency": "CNY"}, 0)


def test_item_without_an_answer_is_an_error() -> None:
    (error,) = methods.unpack([PlaceOrderResult()], 1)
    assert isinstance(error, everopen.EveropenError)
    assert not may_repeat(error, True)


def test_names_tolerate_what_is_not_known() -> None:
    assert everopen.outcome_name(everopen.PRICE_CHANGED) == "PRICE_CHANGED"
    assert (everopen.outcome_name(999), everopen.state_name(999)) == ("999", "999")
    assert everopen.state_name(3) == "PLACED"


async def test_peer_that_is_slow_to_connect_fails_no_call(server: FakeServer) -> None:
    """A conditional Put has one try, which must not end because the server is far or busy."""
    host, port = server.address.split(":")
    copies: list[asyncio.Task[None]] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)  # This is the slowness, not a wait for anything.
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        copies.extend([asyncio.create_task(copy(reader, far_writer)), asyncio.create_task(copy(far_reader, writer))])

    proxy = await asyncio.start_server(accept, host, 0)
    slow = "{}:{}".format(*proxy.sockets[0].getsockname())
    async with everopen.AsyncClient(slow, route=False) as client:
        call = asyncio.create_task(client.put_shop("shop", if_revision=0))
        (await server.take()).reply_with(PutShopResponse(revision=1))
        assert (await call).revision == 1
    proxy.close()
    await asyncio.gather(*copies)
