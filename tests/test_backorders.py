"""Orders that wait: who is served first, who may pass, and how stock gathers for a head that does not fit."""

from __future__ import annotations

import pytest

from tests.desk import Desk, allocations_of, outcome_of

pytestmark = pytest.mark.native

PASSES_MAX = 8


def place_all(desk: Desk, *orders: str, **values: object) -> list[str]:
    """Places "name sku*units ..." each, and tells the outcomes."""
    split = [order.partition(" ") for order in orders]
    return [outcome_of(desk.place(name, lines, **values)) for name, _, lines in split]


def states(desk: Desk, *orders: str) -> list[str]:
    return [desk.state(order) for order in orders]


def test_order_beyond_stock_waits_and_holds_nothing(desk: Desk) -> None:
    desk.open("tea@north=2", backorder_policy=2)
    assert place_all(desk, "big tea*5") == ["BACKORDERED"]
    stock = desk.stock("tea")
    assert (stock.reserved, stock.sellable, stock.backordered) == (0, 2, 5)
    assert desk.order("big").expires_at_ms == 0


def test_restock_serves_the_queue_in_its_order(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    place_all(desk, "first tea*2", "second tea*2", "third tea*2")
    desk.adjust("tea", "north", 5)
    assert states(desk, "first", "second", "third") == ["PLACED", "PLACED", "BACKORDERED"]
    assert desk.order("first").expires_at_ms == desk.now_ms + 900_000


def test_higher_class_is_served_before_earlier_orders(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    place_all(desk, "early tea*2")
    place_all(desk, "important tea*2", priority_class=5)
    place_all(desk, "late tea*2", priority_class=5)
    desk.adjust("tea", "north", 3)
    assert states(desk, "early", "important", "late") == ["BACKORDERED", "PLACED", "BACKORDERED"]
    desk.adjust("tea", "north", 1)
    assert states(desk, "early", "late") == ["BACKORDERED", "PLACED"]


def test_new_order_does_not_take_what_a_fitting_head_could_use(desk: Desk) -> None:
    desk.open("tea@north=2 cup@north=9", backorder_policy=2)
    place_all(desk, "cups cup*20", *(f"cup{number} cup*1" for number in range(PASSES_MAX)))
    # There would be a cup for it, but cups gather now; its teas are kept for it all the same.
    assert place_all(desk, "pair tea*2 cup*1") == ["BACKORDERED"]
    assert place_all(desk, "tea tea*1") == ["BACKORDERED"]
    desk.cancel("cups")
    assert states(desk, "pair", "tea") == ["PLACED", "BACKORDERED"]


def test_order_that_leaves_the_head_enough_is_placed_without_passing_it(desk: Desk) -> None:
    desk.open("tea@north=5 cup@north=0", backorder_policy=2)
    place_all(desk, "head tea*2 cup*1")
    for number in range(3):
        assert place_all(desk, f"small{number} tea*1") == ["PLACED"]
    assert desk.model.shops["shop"].skus["tea"].passed == {desk.model.shops["shop"].orders["head"]: 0}


def test_head_that_does_not_fit_is_passed_eight_times_then_stock_gathers(desk: Desk) -> None:
    desk.open("tea@north=9", backorder_policy=2)
    place_all(desk, "head tea*20")
    for number in range(PASSES_MAX):
        assert place_all(desk, f"small{number} tea*1") == ["PLACED"]
    assert desk.stock("tea").sellable == 1
    assert place_all(desk, "ninth tea*1") == ["BACKORDERED"]
    desk.adjust("tea", "north", 18)
    assert states(desk, "head", "ninth") == ["BACKORDERED", "BACKORDERED"]
    desk.adjust("tea", "north", 1)
    assert states(desk, "head", "ninth") == ["PLACED", "BACKORDERED"]
    desk.adjust("tea", "north", 1)
    assert desk.state("ninth") == "PLACED"


def test_order_refused_as_backorder_passes_nobody(desk: Desk) -> None:
    desk.open("tea@north=5 cup@north=0", backorder_policy=2)
    place_all(desk, "head tea*9")
    for number in range(PASSES_MAX + 2):
        assert place_all(desk, f"waits{number} tea*1 cup*1") == ["BACKORDERED"]
    assert place_all(desk, "passes tea*1") == ["PLACED"]


def test_matched_order_may_pass_a_head_and_counts(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    place_all(desk, "head tea*100", *(f"small{number} tea*1" for number in range(PASSES_MAX + 1)))
    desk.adjust("tea", "north", 50)
    expected = ["PLACED"] * PASSES_MAX + ["BACKORDERED"]
    assert states(desk, *(f"small{number}" for number in range(PASSES_MAX + 1))) == expected
    assert desk.stock("tea").sellable == 50 - PASSES_MAX


def test_order_of_several_skus_is_matched_as_a_whole_or_not(desk: Desk) -> None:
    desk.open("tea@north=0 cup@south=0", backorder_policy=2)
    place_all(desk, "pair tea*2 cup*3")
    desk.adjust("tea", "north", 2)
    assert (desk.state("pair"), desk.stock("tea").reserved) == ("BACKORDERED", 0)
    desk.adjust("cup", "south", 3)
    assert allocations_of(desk.order("pair")) == "0:2@north 1:3@south"


def test_leaving_head_lets_those_behind_it_be_matched(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    place_all(desk, "head tea*10")
    for number in range(PASSES_MAX):
        desk.adjust("tea", "north", 1)
        place_all(desk, f"small{number} tea*1")
    desk.adjust("tea", "north", 5)
    place_all(desk, "behind tea*4")
    assert desk.state("behind") == "BACKORDERED"
    desk.cancel("head")
    assert states(desk, "head", "behind") == ["CANCELLED", "PLACED"]


def test_backorder_that_shrinks_to_fit_is_matched_at_once(desk: Desk) -> None:
    desk.open("tea@north=3 cup@north=0", backorder_policy=2)
    place_all(desk, "pair tea*3 cup*2")
    desk.cancel("pair", "1*2")
    assert desk.state("pair") == "PLACED"
    assert desk.stock("cup").backordered == 0
    place_all(desk, "next cup*1")
    desk.adjust("cup", "north", 1)
    assert desk.state("next") == "PLACED"


def restocked(desk: Desk, way: str) -> None:
    """Makes three teas sellable, each time otherwise."""
    if way == "adjust":
        desk.adjust("tea", "north", 3)
    elif way == "transfer":
        desk.transfer("tea", "closed", "north", 3)
    elif way == "cancel":
        desk.cancel("holder")
    elif way == "expiry":
        desk.pass_time(1_000)
    elif way == "return":
        desk.take_back("shipped")
    elif way == "safety stock":
        desk.put_sku("tea", backorder_policy=2, reserve_ttl_ms=1_000)
    elif way == "location":
        desk.put_location("closed", status=1)


WAYS = ["adjust", "transfer", "cancel", "expiry", "return", "safety stock", "location"]


@pytest.mark.parametrize("way", WAYS)
def test_backorder_is_matched_however_stock_grows(desk: Desk, way: str) -> None:
    desk.open("tea@north=6 tea@closed=3", backorder_policy=2, reserve_ttl_ms=1_000)
    desk.put_location("closed", status=2)
    place_all(desk, "holder tea*3", "shipped tea*3")
    desk.pay("shipped", 300)
    desk.ship("shipped")
    if way == "safety stock":
        desk.put_sku("tea", backorder_policy=2, safety_stock=3, reserve_ttl_ms=1_000)
        desk.adjust("tea", "north", 3)
    assert place_all(desk, "waits tea*3") == ["BACKORDERED"]
    restocked(desk, way)
    assert desk.state("waits") == "PLACED"


def test_paid_backorder_is_held_without_end_once_matched(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2, reserve_ttl_ms=1_000)
    place_all(desk, "waits tea*2")
    desk.pay("waits", 200)
    desk.adjust("tea", "north", 2)
    desk.pass_time(10_000)
    assert (desk.state("waits"), desk.payment_state("waits")) == ("PLACED", "PAID")


def test_backorder_limit_counts_units_that_wait(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2, backorder_limit=5)
    assert place_all(desk, "three tea*3", "more tea*3", "two tea*2") == [
        "BACKORDERED",
        "INSUFFICIENT_STOCK",
        "BACKORDERED",
    ]
    desk.cancel("three")
    assert place_all(desk, "again tea*3") == ["BACKORDERED"]


def test_short_sku_that_denies_backorders_refuses_and_is_named(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    desk.open("cup@north=0", backorder_policy=1)
    refused = desk.place("order", "tea*1 cup*1")
    assert (outcome_of(refused), refused.refused_line_index) == ("INSUFFICIENT_STOCK", 1)


def test_matching_beyond_its_steps_goes_on_with_the_next_ticks(desk: Desk) -> None:
    desk.open("tea@north=0", backorder_policy=2)
    names = [f"wide{number}" for number in range(70)]
    for name in names:
        desk.place(name, "tea*1 " * 64)
    desk.adjust("tea", "north", 70 * 64)
    # Each match takes 64 steps to look and 64 to take: 32 of them fill the 4,096.
    assert states(desk, *names).count("PLACED") == 32
    assert desk.core.next_due_ms() == 0
    desk.pass_time(0)
    assert states(desk, *names).count("PLACED") == 64
    desk.pass_time(0)
    assert states(desk, *names).count("PLACED") == 70
    assert desk.core.next_due_ms() > 0


def test_match_looks_at_the_first_64_orders_only(desk: Desk) -> None:
    desk.open("tea@north=0 cup@north=0", backorder_policy=2)
    place_all(desk, *(f"pair{number} tea*1 cup*1" for number in range(64)), "single tea*1")
    desk.adjust("tea", "north", 1)
    assert desk.state("single") == "BACKORDERED"
    desk.cancel("pair0")
    assert desk.state("single") == "PLACED"
