"""Both clients against a real engine: a first order, the life of an order, errors as the engine says them, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import everopen
from engine.local import LocalEngine, audit
from everopen.v1.order_pb2 import OrderState, PaymentState
from everopen.v1.order_service_pb2 import PlaceOrderResponse
from tests.serving import ALONE

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    with LocalEngine(tmp_path_factory.mktemp("client") / "data", arguments=ALONE) as engine:
        yield engine


@pytest.fixture
def client(engine: LocalEngine) -> Iterator[everopen.Client]:
    with everopen.connect(engine.address) as client:
        yield client


def stock_tea(client: everopen.Client, shop_id: str, units: int = 100) -> None:
    client.put_shop(shop_id)
    client.put_location(shop_id, location_id="hangzhou")
    client.put_sku(shop_id, sku_id="tea", price_minor=2_500)
    client.adjust_stock(shop_id, sku_id="tea", location_id="hangzhou", delta=units, adjustment_id="delivery-1")


def test_first_order_is_placed_and_its_repeat_is_a_duplicate(client: everopen.Client) -> None:
    stock_tea(client, "first")
    for duplicate in (False, True):
        answer = client.place_order("first", order_id="A-1", buyer_id="mei", lines=[("tea", 2)])
        assert (answer.outcome, answer.order.amount_minor, answer.duplicate) == (everopen.PLACED, 5_000, duplicate)
    stock = client.get_stock("first", sku_id="tea")
    assert (stock.on_hand, stock.reserved, stock.available) == (100, 2, 98)


def test_order_goes_from_payment_to_refund(client: everopen.Client) -> None:
    stock_tea(client, "life")
    client.place_order("life", order_id="A-1", buyer_id="mei", lines=[("tea", 4)])
    early = client.ship_order("life", order_id="A-1", command_id="s-0")
    assert early.outcome == everopen.ILLEGAL_STATE
    client.pay_order("life", order_id="A-1", payment_id="p-1", amount_minor=10_000)
    client.ship_order("life", order_id="A-1", command_id="s-1", lines=[(0, 3)])
    cancelled = client.cancel_order("life", order_id="A-1", command_id="c-1", reason="enough")
    assert everopen.state_name(cancelled.order.state) == "SHIPPED"
    client.deliver_order("life", order_id="A-1", command_id="d-1")
    returned = client.return_order("life", order_id="A-1", command_id="r-1", lines=[(0, 1)])
    assert returned.order.refund_due_minor == 5_000
    settled = client.settle_refund("life", order_id="A-1", command_id="f-1")
    assert settled.outcome == everopen.APPLIED

    order = client.get_order("life", order_id="A-1").order
    assert order.state == OrderState.ORDER_STATE_PARTIALLY_RETURNED
    assert (order.payment_state, order.refunded_minor) == (PaymentState.PAYMENT_STATE_PAID, 5_000)
    (line,) = order.lines
    assert (line.shipped, line.cancelled, line.delivered, line.returned) == (3, 1, 3, 1)


def test_transfer_moves_stock_between_locations(client: everopen.Client) -> None:
    stock_tea(client, "transfer")
    client.put_location("transfer", location_id="chengdu")
    moved = client.transfer_stock(
        "transfer",
        transfer_id="t-1",
        sku_id="tea",
        from_location_id="hangzhou",
        to_location_id="chengdu",
        quantity=30,
    )
    assert (moved.from_stock.on_hand, moved.to_stock.on_hand) == (70, 30)


def test_errors_of_the_engine_name_what_is_wrong(client: everopen.Client) -> None:
    stock_tea(client, "errors")
    with pytest.raises(everopen.InvalidArgument) as invalid:
        client.place_order("errors", order_id="A-1", buyer_id="mei", lines=[("tea", 1), ("tea", 0)])
    assert invalid.value.field == "lines[1].quantity"
    with pytest.raises(everopen.NotFound) as missing:
        client.place_order("errors", order_id="A-1", buyer_id="mei", lines=[("coffee", 1)])
    assert "coffee" in missing.value.resource
    client.place_order("errors", order_id="A-1", buyer_id="mei", lines=[("tea", 1)])
    with pytest.raises(everopen.IdConflict) as conflict:
        client.place_order("errors", order_id="A-1", buyer_id="mei", lines=[("tea", 2)])
    assert conflict.value.reason == "ID_CONFLICT"
    with pytest.raises(everopen.RevisionConflict) as revision:
        client.put_shop("errors", if_revision=0)
    assert revision.value.reason == "REVISION_CONFLICT"


async def place_many(address: str, shop_id: str, count: int, halfway: Callable[[], None]) -> list[PlaceOrderResponse]:
    """Places orders by 32 callers, and lets something happen when half of them are answered."""
    answers: list[PlaceOrderResponse] = []
    names = iter(range(count))

    async def call(client: everopen.AsyncClient) -> None:
        for name in names:
            order_id = f"order-{name}"
            answers.append(await client.place_order(shop_id, order_id=order_id, buyer_id="mei", lines=[("tea", 1)]))
            if len(answers) == count // 2:
                await asyncio.to_thread(halfway)

    policy = everopen.RetryPolicy(timeout_s=60)
    async with everopen.AsyncClient(address, policy=policy) as client:
        await asyncio.gather(*(call(client) for _ in range(32)))
    return answers


@pytest.mark.parametrize("end", [LocalEngine.stop, LocalEngine.kill], ids=["SIGTERM", "SIGKILL"])
async def test_callers_outlive_a_restart_and_nothing_is_placed_twice(
    tmp_path: Path, end: Callable[[LocalEngine], None]
) -> None:
    data_dir, count = tmp_path / "data", 4_000
    engines = [LocalEngine(data_dir, arguments=ALONE)]
    with everopen.connect(engines[0].address) as client:
        stock_tea(client, "restart", units=count)

    def restart() -> None:
        end(engines[0])
        engines.append(LocalEngine(data_dir, listen=engines[0].address, arguments=ALONE))

    answers = await place_many(engines[0].address, "restart", count, restart)
    assert sorted(answer.order.order_id for answer in answers) == sorted(f"order-{name}" for name in range(count))
    assert {answer.outcome for answer in answers} == {everopen.PLACED}
    with everopen.connect(engines[1].address) as client:
        assert client.get_stock("restart", sku_id="tea").reserved == count
    engines[1].stop()
    assert audit(data_dir).holds
