"""Money: what is due back, who is paid, what comes too late, and sums that do not fit."""

from __future__ import annotations

import pytest

from tests import reference_fields as fields
from tests.desk import Desk, outcome_of, table_rows, told

pytestmark = pytest.mark.native

AMOUNT_MAX = 10**15
PRICE_MAX = 10**12
STOCK_MAX = 10**12
QUANTITY_MAX = 10**8

# One order of two lines: 3 teas for 100 in all, 2 cups for 50. Steps, then what the order shows.
AXIS = """
steps                                            | received | refunded | due | payment
                                                 | 0        | 0        | 0   | UNPAID
pay 149                                          | 149      | 0        | 0   | UNPAID
pay 150                                          | 150      | 0        | 0   | PAID
pay 100, pay 50                                  | 150      | 0        | 0   | PAID
pay 160                                          | 160      | 0        | 10  | REFUND_DUE
pay 160, settle 4                                | 160      | 4        | 6   | REFUND_DUE
pay 160, settle 0                                | 160      | 10       | 0   | PAID
pay 150, pay 150                                 | 300      | 0        | 150 | REFUND_DUE
pay 100, cancel 1*2                              | 100      | 0        | 0   | PAID
pay 99, cancel 1*2                               | 99       | 0        | 0   | UNPAID
cancel 1*2, pay 100                              | 100      | 0        | 0   | PAID
pay 150, cancel 0*1                              | 150      | 0        | 33  | REFUND_DUE
pay 150, cancel 0*2                              | 150      | 0        | 66  | REFUND_DUE
pay 150, cancel 0*3                              | 150      | 0        | 100 | REFUND_DUE
pay 150, cancel 0*1, settle 33, cancel 0*1       | 150      | 33       | 33  | REFUND_DUE
pay 150, cancel 0*1, settle 33, cancel 0*2       | 150      | 33       | 67  | REFUND_DUE
pay 150, cancel all                              | 150      | 0        | 150 | REFUND_DUE
pay 150, cancel all, settle 0                    | 150      | 150      | 0   | REFUNDED
cancel all, pay 150                              | 150      | 0        | 150 | REFUND_DUE
cancel all                                       | 0        | 0        | 0   | UNPAID
pay 150, ship all, return 0*1                    | 150      | 0        | 33  | REFUND_DUE
pay 150, ship 0*2, return 0*1, cancel 0*1        | 150      | 0        | 66  | REFUND_DUE
pay 150, ship all, return all, settle 0          | 150      | 150      | 0   | REFUNDED
expire                                           | 0        | 0        | 0   | UNPAID
pay 20, expire                                   | 20       | 0        | 20  | REFUND_DUE
pay 20, expire, settle 0                         | 20       | 20       | 0   | REFUNDED
pay 20, expire, settle 0, pay 150                | 170      | 20       | 0   | PAID
pay 20, expire, pay 130                          | 150      | 0        | 0   | PAID
pay 20, expire, pay 129                          | 149      | 0        | 149 | REFUND_DUE
cancel 1*2, expire, pay 100                      | 100      | 0        | 0   | PAID
"""


def step(desk: Desk, text: str) -> None:
    verb, _, rest = text.partition(" ")
    if verb == "pay":
        assert outcome_of(desk.pay("order", int(rest))) == "APPLIED"
    elif verb == "settle":
        assert outcome_of(desk.settle("order", int(rest))) == "APPLIED"
    elif verb == "expire":
        desk.pass_time(1_000)
    else:
        method = {"cancel": desk.cancel, "ship": desk.ship, "return": desk.take_back}[verb]
        assert outcome_of(method("order", "" if rest == "all" else rest)) == "APPLIED"


@pytest.mark.parametrize("row", table_rows(AXIS), ids=lambda row: row["steps"] or "nothing")
def test_payment_axis_after_each_way_shows_what_is_due(desk: Desk, row: dict[str, str]) -> None:
    desk.open("tea@north=3 cup@north=2", reserve_ttl_ms=1_000)
    lines = [
        {"sku_id": "tea", "quantity": 3, "amount_minor": 100},
        {"sku_id": "cup", "quantity": 2, "amount_minor": 50},
    ]
    desk.done(fields.PLACE_ORDER, order_id="order", buyer_id="buyer", lines=lines)
    for text in filter(None, row["steps"].split(", ")):
        step(desk, text)
    order = desk.order("order")
    shown = [order.received_minor, order.refunded_minor, order.refund_due_minor, desk.payment_state("order")]
    assert [str(value) for value in shown] == [row["received"], row["refunded"], row["due"], row["payment"]]


def test_parts_of_a_line_given_back_one_by_one_sum_to_its_amount(desk: Desk) -> None:
    desk.open("tea@north=7")
    line = {"sku_id": "tea", "quantity": 7, "amount_minor": 100}
    desk.done(fields.PLACE_ORDER, order_id="order", buyer_id="buyer", lines=[line])
    desk.pay("order", 100)
    for _ in range(7):
        desk.cancel("order", "0*1")
        desk.settle("order")
    assert desk.order("order").refunded_minor == 100


def test_free_order_is_paid_by_a_payment_of_nothing(desk: Desk) -> None:
    desk.open("tea@north=1", price_minor=0)
    desk.place("order", "tea*1")
    assert outcome_of(desk.ship("order")) == "ILLEGAL_STATE"
    desk.pay("order", 0)
    assert (desk.payment_state("order"), outcome_of(desk.ship("order"))) == ("PAID", "APPLIED")


def test_free_part_left_after_cancellation_without_payment_is_not_paid(desk: Desk) -> None:
    desk.open("tea@north=2")
    lines = [{"sku_id": "tea", "quantity": 1, "amount_minor": amount} for amount in (0, 100)]
    desk.done(fields.PLACE_ORDER, order_id="order", buyer_id="buyer", lines=lines)
    desk.cancel("order", "1*1")
    assert desk.payment_state("order") == "UNPAID"
    assert desk.order("order").expires_at_ms > 0


def test_more_than_is_due_is_not_settled(desk: Desk) -> None:
    desk.open("tea@north=1")
    desk.place("order", "tea*1")
    desk.pay("order", 110)
    assert outcome_of(desk.settle("order", 11)) == "ILLEGAL_STATE"
    assert outcome_of(desk.settle("order", 10)) == "APPLIED"
    assert outcome_of(desk.settle("order", 0)) == "ILLEGAL_STATE"


def test_payment_after_expiry_takes_the_stock_again(desk: Desk) -> None:
    desk.open("tea@north=2 tea@south=5", reserve_ttl_ms=1_000)
    desk.place("order", "tea*3")
    desk.pass_time(1_000)
    desk.place("other", "tea*2")
    desk.pay("order", 300)
    order = desk.order("order")
    assert (desk.state("order"), desk.payment_state("order")) == ("PLACED", "PAID")
    assert [(item.location_id, item.quantity) for item in order.allocations] == [("south", 3)]
    repeat = desk.place("order", "tea*3")
    assert repeat.duplicate
    assert [(item.location_id, item.quantity) for item in repeat.order.allocations] == [("north", 2), ("south", 1)]


def test_payment_after_expiry_without_stock_is_due_back_once(desk: Desk) -> None:
    desk.open("tea@north=3", reserve_ttl_ms=1_000)
    desk.place("order", "tea*3")
    desk.pass_time(1_000)
    desk.place("other", "tea*1")
    paid = desk.pay("order", 300, payment_id="p")
    assert desk.pay("order", 300, payment_id="p").duplicate
    assert outcome_of(paid) == "APPLIED"
    assert (desk.state("order"), desk.order("order").refund_due_minor) == ("EXPIRED", 300)
    desk.settle("order")
    assert outcome_of(desk.settle("order")) == "ILLEGAL_STATE"
    assert desk.stock("tea").reserved == 1


def test_payment_after_expiry_keeps_to_queues_and_window_limits(desk: Desk) -> None:
    desk.open("tea@north=3", reserve_ttl_ms=1_000, buyer_limit_per_window=4, buyer_window_ms=60_000)
    desk.place("order", "tea*3")
    desk.pass_time(1_000)
    desk.place("second", "tea*2")
    desk.pay("second", 200)
    desk.adjust("tea", "north", 9)
    desk.pay("order", 300)
    assert (desk.state("order"), desk.payment_state("order")) == ("EXPIRED", "REFUND_DUE")
    desk.cancel("second")
    desk.pay("order", 0)
    assert (desk.state("order"), desk.payment_state("order")) == ("PLACED", "PAID")
    assert outcome_of(desk.place("third", "tea*2")) == "BUYER_LIMIT"


OVERFLOWS = """
what                                      | told
price 1000000000000, tea*1000             | PLACED
price 1000000000000, tea*1001             | INVALID_FIELD lines[0].quantity
price 1000000000000, tea*1 tea*100000000  | INVALID_FIELD lines[1].quantity
price 1000000000000, tea*500 tea*501      | INVALID_FIELD lines
price 10000000, tea*100000000             | PLACED
price 10000001, tea*100000000             | INVALID_FIELD lines[0].quantity
"""


@pytest.mark.parametrize("row", table_rows(OVERFLOWS), ids=lambda row: row["what"])
def test_amount_of_an_order_beyond_its_bound_is_refused_with_the_field(desk: Desk, row: dict[str, str]) -> None:
    price, lines = row["what"].removeprefix("price ").split(", ")
    desk.open(f"tea@north={STOCK_MAX}", price_minor=int(price))
    assert told(desk.say(fields.PLACE_ORDER, **desk.order_fields("order", lines))) == row["told"]


def test_given_amounts_beyond_their_bound_are_refused(desk: Desk) -> None:
    desk.open("tea@north=2")
    for amounts, expected in (
        ([AMOUNT_MAX + 1], "INVALID_FIELD lines[0].amount_minor"),
        ([-1], "INVALID_FIELD lines[0].amount_minor"),
        ([AMOUNT_MAX, 1], "INVALID_FIELD lines"),
        ([AMOUNT_MAX, 0], "PLACED"),
    ):
        lines = [{"sku_id": "tea", "quantity": 1, "amount_minor": amount} for amount in amounts]
        result = desk.say(fields.PLACE_ORDER, order_id="order", buyer_id="buyer", lines=lines)
        assert told(result) == expected


def test_payments_beyond_their_bound_are_refused_and_leave_the_id_free(desk: Desk) -> None:
    desk.open("tea@north=1")
    desk.place("order", "tea*1")
    desk.pay("order", AMOUNT_MAX)
    refused = desk.say(fields.PAY_ORDER, order_id="order", payment_id="p", amount_minor=1)
    assert told(refused) == "INVALID_FIELD amount_minor"
    assert outcome_of(desk.pay("order", 0, payment_id="p")) == "APPLIED"


def test_share_of_the_greatest_amount_and_quantity_is_exact(desk: Desk) -> None:
    desk.open(f"tea@north={QUANTITY_MAX}")
    line = {"sku_id": "tea", "quantity": QUANTITY_MAX, "amount_minor": AMOUNT_MAX - 1}
    desk.done(fields.PLACE_ORDER, order_id="order", buyer_id="buyer", lines=[line])
    desk.pay("order", AMOUNT_MAX - 1)
    cancelled = QUANTITY_MAX - 1
    desk.cancel("order", f"0*{cancelled}")
    assert desk.order("order").refund_due_minor == (AMOUNT_MAX - 1) * cancelled // QUANTITY_MAX


STOCK_LIMITS = """
steps                                     | last
restock 1000000000000                     | APPLIED
restock 1000000000000, restock 1          | STOCK_LIMIT
restock 1000000000000, adjust -1, count 1000000000000 | APPLIED
restock 1000000000000, adjust -1, restock 1 | STOCK_LIMIT
adjust 1000000000000, adjust 1            | STOCK_LIMIT
count 1000000000000, restock 1            | STOCK_LIMIT
restock 1000000000000, adjust -1000000000000, adjust -1 | STOCK_LIMIT
restock 1000000000000, adjust -1000000000000, restock 1 | STOCK_LIMIT
restock 1000000000000, move 1             | APPLIED
fill south, restock 5, move 1             | STOCK_LIMIT
"""


@pytest.mark.parametrize("row", table_rows(STOCK_LIMITS), ids=lambda row: row["steps"])
def test_stock_counter_beyond_its_bound_is_refused_and_changes_nothing(desk: Desk, row: dict[str, str]) -> None:
    desk.open("tea@north=0 tea@south=0")
    for text in row["steps"].split(", "):
        before = desk.core.state_digest()
        result = stock_step(desk, text)
    assert told(result) == row["last"]
    assert (desk.core.state_digest() == before) == (row["last"] == "STOCK_LIMIT")


def stock_step(desk: Desk, text: str) -> object:
    verb, units = text.split()
    if verb == "move":
        places = {"from_location_id": "north", "to_location_id": "south", "quantity": int(units)}
        return desk.say(fields.TRANSFER_STOCK, transfer_id=desk.next_id(), sku_id="tea", **places)
    place = "south" if verb == "fill" else "north"
    delta = STOCK_MAX if verb == "fill" else int(units)
    kind = {"restock": 1, "adjust": 2, "count": 3, "fill": 3}[verb]
    values = {"sku_id": "tea", "location_id": place, "delta": delta, "kind": kind}
    return desk.say(fields.ADJUST_STOCK, adjustment_id=desk.next_id(), **values)


def test_return_that_would_overflow_the_stock_is_refused_and_may_come_back_elsewhere(desk: Desk) -> None:
    desk.open("tea@north=5 tea@south=0")
    desk.place("order", "tea*2 tea*3")
    desk.pay("order", 500)
    desk.ship("order")
    desk.adjust("tea", "north", STOCK_MAX - 4, kind=3)
    result = desk.say(fields.RETURN_ORDER, order_id="order", command_id="c")
    assert told(result) == "STOCK_LIMIT"
    assert outcome_of(desk.take_back("order", "1*3", disposition=2, command_id="c")) == "APPLIED"
    assert outcome_of(desk.take_back("order", location_id="south")) == "APPLIED"
    assert desk.state("order") == "RETURNED"
