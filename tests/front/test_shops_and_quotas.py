"""What a caller may touch, and how much of it: shops and quotas."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.front.callers import (
    PERMISSION_DENIED,
    TOKEN,
    Answerer,
    Caller,
    answerer,
    call,
    reason,
    refused_anonymously,
)
from tests.front.calls import (
    NOT_FOUND,
    OK,
    PLACE_ORDER,
    PLACE_ORDERS,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    details,
    fresh_id,
    place_batch,
)
from tests.front.handing import Front, Fronts, ask, link, message, seed, until
from tests.front.http2 import Answer, Connection
from tests.serving import adjustment, order

__all__ = ["answerer"]
pytestmark = pytest.mark.native

# ---- shops


NONE = Caller(name="none", shops=frozenset())
FEW = Caller(name="few", shops=frozenset({"shop", "own"}))
OF: dict[str, Any] = {"shop_id": "other", "order_id": "order-x"}
ORDER_REQUESTS: list[Message] = [
    orders.GetOrderRequest(**OF),
    orders.PayOrderRequest(**OF, payment_id="p", amount_minor=250),
    orders.CancelOrderRequest(**OF, command_id="c"),
    orders.ShipOrderRequest(**OF, command_id="c"),
    orders.DeliverOrderRequest(**OF, command_id="c"),
    orders.ReturnOrderRequest(**OF, command_id="c"),
    orders.SettleRefundRequest(**OF, command_id="c"),
]


def of_shop(request: Message, shop_id: str) -> Message:
    other = type(request)()
    other.CopyFrom(request)
    other.shop_id = shop_id  # type: ignore[attr-defined]
    return other


@pytest.mark.parametrize("request_", ORDER_REQUESTS, ids=lambda request: request.DESCRIPTOR.name)
def test_order_of_a_shop_that_is_not_the_callers_is_as_one_that_does_not_exist(
    front: Front, answerer: Answerer, request_: Message
) -> None:
    # Names of one length, so that the bytes differ in the names alone: "shop" is the caller's, and has no such order.
    answerer.callers[b"few"] = FEW
    seed_with_token(front, "othr")
    message(call(front, order("order-x", shop_id="othr")))
    few = ("x-api-key", "few")
    answers = {name: call(front, of_shop(request_, name), few) for name in ("shop", "othr", "neve")}
    shown = {
        name: (
            details(answer).SerializeToString().replace(b"shops/" + name.encode(), b"shops/*"),
            {key: value for key, value in answer.last.items() if key != "grpc-status-details-bin"},
            answer.is_trailers_only,
        )
        for name, answer in answers.items()
    }
    assert shown["othr"] == shown["neve"] == shown["shop"]
    assert (answers["othr"].code, reason(answers["othr"])) == (NOT_FOUND, "ORDER_NOT_FOUND")
    assert front.count("calls_shop_denied") == 2


def seed_with_token(front: Front, shop_id: str) -> None:
    of: dict[str, Any] = {"shop_id": shop_id, "sku_id": "sku"}
    for request in (
        inventory.PutShopRequest(shop_id=shop_id),
        inventory.PutLocationRequest(shop_id=shop_id, location_id="near"),
        inventory.PutSkuRequest(**of, price_minor=250),
        adjustment("seed", 1_000_000, **of),
    ):
        message(call(front, request))


def test_what_writes_to_a_shop_that_is_not_the_callers_is_denied_whether_it_exists_or_not(
    front: Front, answerer: Answerer
) -> None:
    answerer.callers[b"few"] = FEW
    seed_with_token(front, "other")
    answers = [
        call(front, request, ("x-api-key", "few"))
        for shop_id in ("other", "never")
        for request in (
            order("o", shop_id=shop_id),
            inventory.PutShopRequest(shop_id=shop_id),
            inventory.PutLocationRequest(shop_id=shop_id, location_id="near"),
            inventory.PutSkuRequest(shop_id=shop_id, sku_id="sku", price_minor=1),
            adjustment("a", 1, shop_id=shop_id, sku_id="sku"),
        )
    ]
    assert {(a.code, reason(a), a.last["grpc-status-details-bin"]) for a in answers} == {
        (PERMISSION_DENIED, "SHOP_DENIED", answers[0].last["grpc-status-details-bin"])
    }
    stock = [
        call(front, inventory.GetStockRequest(shop_id=shop_id, sku_id="sku"), ("x-api-key", "few"))
        for shop_id in ("other", "never")
    ]
    assert [(a.code, reason(a)) for a in stock] == [(NOT_FOUND, "SHOP_NOT_FOUND")] * 2


def test_caller_without_any_shop_is_denied_all(front: Front, answerer: Answerer) -> None:
    answerer.callers[b"none"] = NONE
    assert call(front, order("o"), ("x-api-key", "none")).code == PERMISSION_DENIED


def test_malformed_request_of_another_shop_is_refused_as_ever(front: Front, answerer: Answerer) -> None:
    answerer.callers[b"few"] = FEW
    with Connection(front.address) as connection:
        for path, data in ((PLACE_ORDER, b""), (PLACE_ORDER, b"\xff"), (PLACE_ORDER, order("", shop_id="other"))):
            body = data if isinstance(data, bytes) else data.SerializeToString()
            few, all_ = (connection.call(path, body, more=[("x-api-key", secret)]) for secret in ("few", "good"))
            assert (few.code, few.last) == (all_.code, all_.last)


@pytest.mark.parametrize("shards", [1, 4])
def test_batch_is_denied_item_by_item(tmp_path: Path, shards: int) -> None:
    with Fronts(tmp_path / "batches", shards=shards) as fronts:
        front = fronts.start()
        for shop_id in ("shop", "own", "other"):
            seed(front, shop_id)
        with Answerer(front.native, {b"good": FEW}), Connection(front.address) as connection:
            until(lambda: refused_anonymously(front))
            shops = ["shop", "other", "own", "never", "", "shop"]
            request = orders.PlaceOrdersRequest(orders=[order(fresh_id(), shop_id=shop_id) for shop_id in shops])
            [answer] = connection.call(PLACE_ORDERS, request.SerializeToString(), more=[TOKEN]).messages
            results = orders.PlaceOrdersResponse.FromString(answer).results
            assert [each.status.code for each in results] == [0, 7, 0, 7, 3, 0]
            assert [each.result.order.shop_id for each in results] == ["shop", "", "own", "", "", "shop"]
            only = orders.PlaceOrdersRequest(orders=[order(fresh_id(), shop_id="other")])
            [answer] = connection.call(PLACE_ORDERS, only.SerializeToString(), more=[TOKEN]).messages
            assert [each.status.code for each in orders.PlaceOrdersResponse.FromString(answer).results] == [7]
            reads = inventory.BatchGetStockRequest(
                requests=[inventory.GetStockRequest(shop_id=each, sku_id="sku") for each in shops]
            )
            [answer] = connection.answer(ask(connection, reads, TOKEN)).messages
            found = inventory.BatchGetStockResponse.FromString(answer).results
            assert [each.status.code for each in found] == [0, NOT_FOUND, 0, NOT_FOUND, 3, 0]


# ---- quotas


def quota(answer: Answer) -> tuple[str, str]:
    failure = error_details_pb2.QuotaFailure()
    assert (answer.code, reason(answer)) == (RESOURCE_EXHAUSTED, "QUOTA")
    assert details(answer).details[1].Unpack(failure)
    [violation] = failure.violations
    return violation.subject, violation.description


def test_quota_of_orders_is_one_for_all_fronts_and_counts_batches(tmp_path: Path) -> None:
    with Fronts(tmp_path / "data", workers=2, shards=2) as fronts, ExitStack() as stack:
        callers: dict[bytes, Caller | None] = {b"good": Caller(name="slow", orders_per_s=1, burst=60)}
        both = [fronts.start(number) for number in range(2)]
        link(*both)
        for front in both:
            stack.enter_context(Answerer(front.native, callers))
            until(lambda front=front: refused_anonymously(front))  # type: ignore[misc]
        began = time.monotonic()
        taken = 0
        for front in both * 20:
            with Connection(front.address) as connection:
                answer = connection.call(PLACE_ORDERS, place_batch(7), more=[TOKEN])
                if answer.code != OK:
                    break
                taken += 7
        assert taken in range(56, 57 + int(time.monotonic() - began) + 7)
        assert quota(answer) == ("slow", "The quota of orders is used up.")
        assert 0 < int(answer.last["grpc-retry-pushback-ms"]) <= 7_000
        with Connection(both[0].address) as connection:
            answer = connection.call(PLACE_ORDERS, place_batch(61), more=[TOKEN])
            assert quota(answer)[0] == "slow"
            assert answer.last["grpc-retry-pushback-ms"] == "-1"
            # What places no order costs none.
            read = orders.GetOrderRequest(shop_id="shop", order_id="none")
            assert connection.answer(ask(connection, read, TOKEN)).code in (NOT_FOUND, UNAVAILABLE)
        assert sum(front.count("calls_quota_refused") for front in both) == 2


def test_quota_of_orders_lets_a_unary_call_through_again(front: Front, answerer: Answerer) -> None:
    answerer.callers[b"good"] = Caller(orders_per_s=20, burst=1)
    answers: list[Answer] = []

    def one_was_refused() -> bool:
        answers.append(call(front, order(fresh_id())))
        return answers[-1].code == RESOURCE_EXHAUSTED

    until(one_was_refused)
    assert 0 < int(answers[-1].last["grpc-retry-pushback-ms"]) <= 50 + 1
    until(lambda: call(front, order(fresh_id())).code == OK)


def test_bytes_in_flight_are_bounded(front: Front, answerer: Answerer) -> None:
    answerer.callers[b"good"] = Caller(bytes_in_flight=3_000)
    assert call(front, order(fresh_id())).code == OK
    with Connection(front.address) as connection:
        answer = connection.call(PLACE_ORDERS, place_batch(100), more=[TOKEN])
    assert quota(answer) == ("caller", "Too many bytes of this caller are in flight.")
    # What was in flight is given back.
    for _ in range(20):
        assert call(front, order(fresh_id())).code == OK


def test_connections_are_bounded_over_all_fronts(tmp_path: Path) -> None:
    with Fronts(tmp_path / "data", workers=2, shards=1) as fronts, ExitStack() as stack:
        callers: dict[bytes, Caller | None] = {b"good": Caller(name="many", connections=2)}
        both = [fronts.start(number) for number in range(2)]
        for front in both:
            stack.enter_context(Answerer(front.native, callers))
            until(lambda front=front: refused_anonymously(front))  # type: ignore[misc]
        opened = [Connection(front.address) for front in both]
        read = orders.GetOrderRequest(shop_id="shop", order_id="none")
        for connection in opened * 2:
            assert connection.answer(ask(connection, read, TOKEN)).code in (NOT_FOUND, UNAVAILABLE)
        with Connection(both[0].address) as third:
            refused = third.answer(ask(third, read, TOKEN))
            assert quota(refused) == ("many", "Too many connections of this caller are open.")
            opened.pop().close()
            until(lambda: third.answer(ask(third, read, TOKEN)).code != RESOURCE_EXHAUSTED)
        opened.pop().close()


def test_connection_counts_for_each_caller_that_was_served_on_it_and_for_nobody_else(tmp_path: Path) -> None:
    with Fronts(tmp_path / "data") as fronts, ExitStack() as stack:
        front = fronts.start()
        callers: dict[bytes, Caller | None] = {
            b"good": Caller(name="two", connections=2),
            b"one": Caller(name="one", connections=1),
            b"free": Caller(name="free"),
        }
        stack.enter_context(Answerer(front.native, callers))
        until(lambda: refused_anonymously(front))
        read = orders.GetOrderRequest(shop_id="shop", order_id="none")
        one, free = ("x-api-key", "one"), ("x-api-key", "free")
        first, second, third = (stack.enter_context(Connection(front.address)) for _ in range(3))

        def refused(connection: Connection, *more: tuple[str, str]) -> str:
            answer = connection.answer(ask(connection, read, *more))
            return quota(answer)[0] if answer.code == RESOURCE_EXHAUSTED else ""

        # By turns with another credential, it stays within its bound.
        for connection in (first, second) * 2:
            assert [refused(connection, each) for each in (TOKEN, free, TOKEN)] == [""] * 3
        assert [refused(third, each) for each in (free, TOKEN, free, TOKEN)] == ["", "two", "", "two"]
        # Those connections are nobody else's, and cost the one whose credential was shown there what it may have.
        assert refused(first, one) == ""
        assert [refused(each, one) for each in (second, third)] == ["one", "one"]
        assert refused(first, TOKEN) == refused(first, one) == ""
        first.close()
        until(lambda: refused(third, one) == "")
        assert refused(third, TOKEN) == ""
        assert refused(second, one) == "one"
