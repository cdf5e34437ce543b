"""What ends by a logged tick, in which order, and how much of it at one time."""

from __future__ import annotations

import pytest

from everopen.v1 import log_pb2
from tests.desk import Desk, outcome_of
from tests.machines import RECORD_HEADER_BYTES

pytestmark = pytest.mark.native

STEPS_MAX = 4096


def ended_by_last_record(desk: Desk) -> list[str]:
    record = desk.core.record
    effects = record[RECORD_HEADER_BYTES + int.from_bytes(record[12:16], "little") :]
    return [order.order_id for order in log_pb2.Effects.FromString(effects).orders]


def test_hold_ends_with_the_first_tick_at_its_end_and_not_before(desk: Desk) -> None:
    desk.open("tea@north=1", reserve_ttl_ms=1_000)
    desk.place("order", "tea*1")
    desk.now_ms += 5_000
    # Time passed without a tick ends nothing.
    assert outcome_of(desk.place("other", "tea*1")) == "INSUFFICIENT_STOCK"
    desk.pass_time(0)
    assert (desk.state("order"), desk.stock("tea").available) == ("EXPIRED", 1)


def test_tick_before_the_end_leaves_the_hold(desk: Desk) -> None:
    desk.open("tea@north=1", reserve_ttl_ms=1_000)
    desk.place("order", "tea*1")
    desk.pass_time(999)
    assert desk.state("order") == "PLACED"
    assert desk.core.next_due_ms() == desk.now_ms + 1


def test_holds_end_by_their_end_then_the_shorter_ttl_then_their_begin(desk: Desk) -> None:
    desk.open("slow@north=9", reserve_ttl_ms=3_000)
    desk.open("quick@north=9", reserve_ttl_ms=1_000)
    desk.place("slow1", "slow*1")
    desk.place("slow2", "slow*1")
    desk.now_ms += 1_000
    desk.place("first", "quick*1")
    desk.now_ms += 1_000
    desk.place("quick1", "quick*1")
    desk.place("quick2", "quick*1 slow*1")
    desk.pass_time(1_000)
    assert ended_by_last_record(desk) == ["first", "quick1", "quick2", "slow1", "slow2"]


def test_many_holds_that_end_together_are_spread_over_ticks(desk: Desk) -> None:
    # A line and an allocation are two steps.
    count = STEPS_MAX // 2 + 5
    desk.open(f"tea@north={count}", reserve_ttl_ms=1_000)
    for number in range(count):
        desk.place(f"o{number}", "tea*1")
    desk.pass_time(1_000)
    assert desk.stock("tea").reserved == 5
    assert desk.core.next_due_ms() <= desk.now_ms
    desk.pass_time(0)
    assert desk.stock("tea").reserved == 0


def test_many_purchases_whose_window_ended_are_spread_over_ticks(desk: Desk) -> None:
    count = STEPS_MAX + 1
    desk.open(f"tea@north={count + 9}", buyer_limit_per_window=1, buyer_window_ms=1_000)
    for number in range(count):
        desk.place(f"o{number}", "tea*1", buyer_id=f"b{number}")
    desk.pass_time(1_000)
    assert outcome_of(desk.place("again", "tea*1", buyer_id="b0")) == "PLACED"
    assert outcome_of(desk.place("early", "tea*1", buyer_id=f"b{count - 1}")) == "BUYER_LIMIT"
    desk.pass_time(0)
    assert outcome_of(desk.place("later", "tea*1", buyer_id=f"b{count - 1}")) == "PLACED"


def test_many_ids_whose_window_ended_are_spread_over_ticks() -> None:
    desk = Desk(idempotency_window_ms=1_000)
    desk.open("tea@north=0")
    for number in range(STEPS_MAX + 1):
        desk.adjust("tea", "north", 1, adjustment_id=f"a{number}")
    desk.pass_time(999)
    assert desk.adjust("tea", "north", 1, adjustment_id="a0").duplicate
    desk.pass_time(1)
    assert not desk.adjust("tea", "north", 1, adjustment_id="a0").duplicate
    assert desk.adjust("tea", "north", 1, adjustment_id=f"a{STEPS_MAX}").duplicate
    desk.pass_time(0)
    assert not desk.adjust("tea", "north", 1, adjustment_id=f"a{STEPS_MAX}").duplicate
    desk.compare_digests()


def test_clock_that_goes_back_does_not_take_logged_time_with_it(desk: Desk) -> None:
    desk.open("tea@north=1", reserve_ttl_ms=1_000)
    accepted = desk.place("order", "tea*1").order.accepted_at_ms
    desk.now_ms -= 10_000
    desk.pass_time(0)
    assert desk.core.time_ms == accepted
    assert desk.state("order") == "PLACED"
