"""What users of other order systems complained of, each in the form that it would take here."""

from __future__ import annotations

import pytest

from tests import reference_fields as fields
from tests.desk import Desk, allocations_of, outcome_of, told

pytestmark = pytest.mark.native


def outcomes_of_buyers(desk: Desk, count: int, units: int) -> list[str]:
    """One order each by `count` buyers for the same SKU."""
    buyers = [f"b{number}" for number in range(count)]
    return [outcome_of(desk.place(f"o-{buyer}", f"tea*{units}", buyer_id=buyer)) for buyer in buyers]


def test_last_units_wanted_by_many_are_sold_once_vendure_4930(desk: Desk) -> None:
    desk.open("tea@north=5")
    assert outcomes_of_buyers(desk, 20, 1).count("PLACED") == 5
    assert desk.stock("tea").available == 0


def test_checkouts_in_one_batch_never_oversell_saleor_543() -> None:
    desk = Desk()
    desk.open("tea@north=10")
    requests = [
        fields.REQUESTS[fields.PLACE_ORDER](shop_id="shop", **desk.order_fields(f"o{number}", "tea*3"))
        for number in range(8)
    ]
    # A batch is carried out item by item: each sees what those before it took.
    items = b"".join(b"\x0a" + bytes([len(data)]) + data for data in (item.SerializeToString() for item in requests))
    code, answer, _ = desk.core.execute_batch(fields.PLACE_ORDER, items, desk.now_ms)
    results = fields.orders.PlaceOrdersResponse.FromString(answer).results
    assert code == 0
    assert [outcome_of(result.result) for result in results] == ["PLACED"] * 3 + ["INSUFFICIENT_STOCK"] * 5
    assert desk.core.check() == ""


def test_reservations_of_paid_orders_are_not_sold_again_medusa_16569(desk: Desk) -> None:
    desk.open("tea@north=3", reserve_ttl_ms=1_000)
    desk.place("paid", "tea*2")
    desk.pay("paid", 200)
    desk.pass_time(60_000)
    assert outcome_of(desk.place("other", "tea*2")) == "INSUFFICIENT_STOCK"
    assert outcome_of(desk.ship("paid")) == "APPLIED"
    assert outcome_of(desk.place("last", "tea*1")) == "PLACED"


def test_two_lines_of_one_sku_are_summed_against_stock_medusa_16502(desk: Desk) -> None:
    desk.open("tea@north=5")
    refused = desk.place("six", "tea*3 tea*3")
    assert (outcome_of(refused), refused.refused_line_index) == ("INSUFFICIENT_STOCK", 0)
    assert outcome_of(desk.place("five", "tea*3 tea*2")) == "PLACED"
    assert desk.stock("tea").reserved == 5


def test_order_that_loses_the_race_is_refused_whole_medusa_16825(desk: Desk) -> None:
    desk.open("tea@north=1 cup@north=1")
    desk.place("winner", "cup*1")
    before = desk.core.business_digest()
    assert outcome_of(desk.place("loser", "tea*1 cup*1")) == "INSUFFICIENT_STOCK"
    # Neither is there an order without stock, nor stock reserved without an order.
    assert desk.core.business_digest() == before
    assert told(desk.say(fields.GET_ORDER, order_id="loser")) == "ORDER_NOT_FOUND"
    assert desk.stock("tea").reserved == 0


def test_cancelled_order_gives_every_allocation_back_vendure_1571(desk: Desk) -> None:
    desk.open("tea@north=2 tea@south=2 cup@south=3")
    desk.place("order", "tea*4 cup*3")
    desk.pay("order", 700)
    desk.ship("order", "0*1")
    desk.cancel("order")
    assert desk.stock("tea").reserved == desk.stock("cup").reserved == 0
    assert (desk.stock("tea").available, desk.stock("cup").available) == (3, 3)
    assert allocations_of(desk.order("order")) == ""


def test_cancel_twice_never_makes_stock_vendure_1557(desk: Desk) -> None:
    desk.open("tea@north=2")
    desk.place("order", "tea*2")
    desk.cancel("order", command_id="once")
    assert desk.cancel("order", command_id="once").duplicate
    assert outcome_of(desk.cancel("order")) == "ILLEGAL_STATE"
    row = desk.level("tea", "north")
    assert (row.on_hand, row.reserved, row.available) == (2, 0, 2)
    refused = desk.adjust("tea", "north", -3)
    assert (outcome_of(refused), refused.stock.on_hand) == ("INSUFFICIENT_STOCK", 2)


def test_buyer_is_not_blocked_by_a_hold_of_his_own_that_ended_woocommerce_67354(desk: Desk) -> None:
    desk.open("tea@north=1", buyer_limit_per_window=1, reserve_ttl_ms=1_000)
    desk.place("abandoned", "tea*1")
    assert outcome_of(desk.place("blocked", "tea*1")) == "BUYER_LIMIT"
    desk.pass_time(1_000)
    assert outcome_of(desk.place("expired", "tea*1")) == "PLACED"
    desk.cancel("expired")
    assert outcome_of(desk.place("cancelled", "tea*1")) == "PLACED"


def test_hold_is_neither_lengthened_nor_lost_by_payment_woocommerce_50578(desk: Desk) -> None:
    desk.open("tea@north=1", reserve_ttl_ms=1_000)
    ends_at = desk.place("order", "tea*1").order.expires_at_ms
    desk.pass_time(500)
    # A short payment and a repeat of the order leave the hold as it was.
    assert desk.pay("order", 40).order.expires_at_ms == ends_at
    assert desk.place("order", "tea*1").order.expires_at_ms == ends_at
    desk.pass_time(499)
    assert desk.state("order") == "PLACED"
    assert desk.pay("order", 60).order.expires_at_ms == 0
    desk.pass_time(10_000)
    assert desk.state("order") == "PLACED"


def test_payment_after_expiry_never_oversells_seckill_41(desk: Desk) -> None:
    desk.open("tea@north=1", reserve_ttl_ms=1_000)
    desk.place("late", "tea*1")
    desk.pass_time(1_000)
    desk.place("quick", "tea*1")
    desk.pay("quick", 100)
    paid = desk.pay("late", 100).order
    assert (desk.state("late"), paid.refund_due_minor) == ("EXPIRED", 100)
    assert outcome_of(desk.ship("late")) == "ILLEGAL_STATE"
    assert outcome_of(desk.ship("quick")) == "APPLIED"


def test_payment_in_progress_locks_nothing_saleor_11069(desk: Desk) -> None:
    desk.open("tea@north=2", reserve_ttl_ms=1_000)
    # The order waits for its payment provider; other orders, stock and the order itself go on meanwhile.
    desk.place("paying", "tea*1")
    assert outcome_of(desk.place("other", "tea*1", buyer_id="other")) == "PLACED"
    assert outcome_of(desk.adjust("tea", "north", 5)) == "APPLIED"
    assert outcome_of(desk.cancel("paying")) == "APPLIED"
    # The provider's answer comes in the end: money is a fact, and due back.
    assert desk.pay("paying", 100).order.refund_due_minor == 100


def test_all_locations_are_tried_medusa_14987(desk: Desk) -> None:
    desk.open("tea@a=1 tea@b=0 tea@c=4 cup@b=2")
    placed = desk.place("order", "tea*5 cup*2")
    assert allocations_of(placed.order) == "0:1@a 0:4@c 1:2@b"
    assert outcome_of(desk.place("more", "tea*1")) == "INSUFFICIENT_STOCK"


def test_cap_is_not_evaded_by_ordering_again_saleor_4191(desk: Desk) -> None:
    desk.open("tea@north=50", buyer_limit_per_order=2, buyer_limit_per_window=3, buyer_window_ms=60_000)
    assert outcome_of(desk.place("lines", "tea*1 tea*2")) == "BUYER_LIMIT"
    assert outcome_of(desk.place("first", "tea*2")) == "PLACED"
    assert outcome_of(desk.place("second", "tea*2")) == "BUYER_LIMIT"
    assert outcome_of(desk.place("third", "tea*1")) == "PLACED"
    assert outcome_of(desk.place("friend", "tea*2", buyer_id="friend")) == "PLACED"
    desk.pass_time(59_999)
    assert outcome_of(desk.place("early", "tea*1")) == "BUYER_LIMIT"
    desk.pass_time(1)
    assert outcome_of(desk.place("later", "tea*2")) == "PLACED"


def test_retry_never_makes_a_second_order_saleor_14926() -> None:
    desk = Desk(idempotency_window_ms=5_000)
    desk.open("tea@north=9")
    first = desk.place("order", "tea*2")
    again = desk.place("order", "tea*2")
    assert again.duplicate
    assert (again.sequence, again.order) == (first.sequence, first.order)
    assert desk.stock("tea").reserved == 2
    other = desk.say(fields.PLACE_ORDER, **desk.order_fields("order", "tea*3"))
    assert told(other) == "ID_CONFLICT"
    # A refusal is remembered too; and what might be a repeat of something forgotten is not carried out.
    refused = desk.place("much", "tea*8")
    desk.adjust("tea", "north", 9)
    assert outcome_of(desk.place("much", "tea*8")) == "INSUFFICIENT_STOCK"
    sent_at = desk.now_ms
    desk.pass_time(5_001)
    late = desk.place("much", "tea*8", first_sent_at_ms=sent_at)
    assert (outcome_of(refused), outcome_of(late)) == ("INSUFFICIENT_STOCK", "RETRY_TOO_OLD")
    desk.compare_digests()
