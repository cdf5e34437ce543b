"""Closed orders: what counts as one, how they leave memory, and how they come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine._core import LIMITS, Engine, JournalWriter, Shard
from everopen.v1 import log_pb2
from everopen.v1.order_service_pb2 import GetOrderResponse
from tests import reference_fields as fields
from tests.desk import SHOP, Desk, told
from tests.machines import LOG_ID, Result, read_fault
from tests.reference_fields import REQUESTS
from tests.till import Till

pytestmark = pytest.mark.native

WINDOW_MS = 60_000
TTL_MS = 1_000
DATA_LOSS = 15
RETIRED = 3


@pytest.fixture
def shop() -> Desk:
    desk = Desk(WINDOW_MS)
    desk.open("tea@north=90 cup@north=9", reserve_ttl_ms=TTL_MS)
    return desk


def closed_orders(desk: Desk) -> list[str]:
    """By the model, after it was held against the core."""
    desk.compare_digests()
    assert desk.core.counts()["closed_orders"] == len(desk.model.closed)
    return [order.id for order in desk.model.closed]


def evict(desk: Desk) -> Result:
    desk.now_ms += WINDOW_MS
    return desk.send(fields.EVICT, log_pb2.Evict(closed_sequence=desk.model.sequence))


def restore(desk: Desk, item: bytes) -> Result:
    return desk.send(fields.RESTORE, log_pb2.Restore(shop_id=SHOP, item=item))


def deliver(desk: Desk, order_id: str, lines: str = "tea*2") -> None:
    due = desk.place(order_id, lines).order.amount_minor
    desk.pay(order_id, due)
    desk.ship(order_id)
    desk.deliver(order_id)


def archived(desk: Desk, order_id: str) -> bytes:
    """What the archive was given of the order, last."""
    return next(item for item, order in reversed(desk.model.archive.items()) if order.id == order_id)


# What is closed


def test_order_that_is_open_shipped_or_owed_a_refund_is_not_closed(shop: Desk) -> None:
    shop.place("o", "tea*2")
    assert closed_orders(shop) == []
    shop.pay("o", 300)
    shop.ship("o")
    assert closed_orders(shop) == []
    shop.deliver("o")
    assert closed_orders(shop) == [], "100 more than due were paid"
    shop.settle("o")
    assert closed_orders(shop) == ["o"]
    shop.take_back("o", "0*1")
    assert closed_orders(shop) == [], "a return is to be paid back"
    shop.settle("o")
    assert closed_orders(shop) == ["o"]


def test_order_that_is_cancelled_or_expired_is_closed_with_what_ended_it(shop: Desk) -> None:
    shop.place("cancelled", "tea*2")
    shop.place("expired", "tea*2")
    shop.cancel("cancelled")
    assert closed_orders(shop) == ["cancelled"]
    shop.pass_time(TTL_MS)
    assert closed_orders(shop) == ["cancelled", "expired"]


def test_order_returned_before_it_arrived_is_closed(shop: Desk) -> None:
    shop.place("o", "tea*2", priority_class=1)
    shop.pay("o", 200)
    shop.ship("o")
    shop.take_back("o")
    shop.settle("o")
    assert closed_orders(shop) == ["o"]


def test_order_that_counts_against_a_buyer_is_closed_when_the_window_ends(shop: Desk) -> None:
    shop.put_sku("tea", buyer_limit_per_window=5, buyer_window_ms=10_000)
    deliver(shop, "o")
    assert closed_orders(shop) == []
    shop.pass_time(10_000)
    assert closed_orders(shop) == ["o"]


def test_closed_order_that_a_command_changes_is_closed_anew(shop: Desk) -> None:
    deliver(shop, "first")
    deliver(shop, "second")
    before = shop.model.closed.copy()
    shop.deliver("first")
    assert closed_orders(shop) == ["second", "first"], "even a refusal is remembered by the order"
    assert [sequence for sequence, _ in shop.model.closed.values()] > [sequence for sequence, _ in before.values()]


def test_late_payment_of_a_closed_order_opens_it(shop: Desk) -> None:
    shop.place("o", "tea*2")
    shop.pass_time(TTL_MS)
    assert closed_orders(shop) == ["o"]
    shop.pay("o", 200)
    assert shop.state("o") == "PLACED"
    assert closed_orders(shop) == []


# Leaving memory


def test_evict_before_the_window_is_over_or_of_later_closings_is_refused(shop: Desk) -> None:
    deliver(shop, "o")
    [(sequence, _)] = shop.model.closed.values()
    wanted = log_pb2.Evict(closed_sequence=sequence)
    shop.now_ms += WINDOW_MS - 1
    assert told(shop.send(fields.EVICT, wanted)) == "NOTHING_TO_EVICT"
    shop.now_ms += 1
    assert told(shop.send(fields.EVICT, log_pb2.Evict(closed_sequence=sequence - 1))) == "NOTHING_TO_EVICT"
    assert shop.send(fields.EVICT, wanted).code == 0
    assert told(shop.say(fields.GET_ORDER, order_id="o")) == "ORDER_NOT_FOUND"
    assert shop.core.counts()["evicted_orders"] == 1
    assert told(shop.send(fields.EVICT, wanted)) == "NOTHING_TO_EVICT"


def test_evict_of_many_orders_stops_after_its_steps(shop: Desk) -> None:
    for number in range(400):
        shop.place(f"o{number}", "tea*1")
        shop.cancel(f"o{number}")
    # A line, an allocation and a command each.
    assert evict(shop).code == 0
    assert shop.core.counts()["evicted_orders"] == -(-LIMITS["EVICT_STEPS_MAX"] // 3)
    assert shop.core.evict(2**40, shop.now_ms) is False
    assert shop.core.counts()["evicted_orders"] == 400
    assert shop.core.check() == ""


def test_business_digest_does_not_see_evictions_and_restores(shop: Desk) -> None:
    deliver(shop, "o")
    before = shop.core.business_digest()
    evict(shop)
    assert shop.core.business_digest() == before
    [item] = shop.model.archive
    restore(shop, item)
    assert shop.core.business_digest() == before
    shop.compare_digests()


# Coming back


def test_archived_order_is_shown_as_it_was(shop: Desk) -> None:
    deliver(shop, "o", "tea*2 cup*1")
    shown = shop.order("o")
    evict(shop)
    [item] = shop.model.archive
    response = GetOrderResponse.FromString(shop.core.order_response(SHOP, item))
    assert (response.order, response.sequence) == (shown, shop.core.sequence)
    shop.compare_digests()
    with pytest.raises(ValueError, match="another shop"):
        shop.core.order_response("other", item)


def test_restored_order_takes_commands_and_knows_its_ids(shop: Desk) -> None:
    deliver(shop, "o")
    shop.settle("o", command_id="refused")
    evict(shop)
    assert told(shop.say(fields.RETURN_ORDER, order_id="o", command_id="back")) == "ORDER_NOT_FOUND"
    [item] = shop.model.archive
    assert restore(shop, item).code == 0
    assert shop.settle("o", command_id="refused").duplicate
    assert told(shop.say(fields.DELIVER_ORDER, order_id="o", command_id="refused")) == "ID_CONFLICT"
    shop.take_back("o", command_id="back")
    assert closed_orders(shop) == []
    shop.settle("o")
    assert closed_orders(shop) == ["o"]
    evict(shop)
    assert len(shop.model.archive) == 1
    assert archived(shop, "o") != item


def test_restore_of_an_order_in_memory_or_into_another_shop_is_refused(shop: Desk) -> None:
    deliver(shop, "o")
    deliver(shop, "other")
    evict(shop)
    item = archived(shop, "o")
    restore(shop, item)
    code, answer, _ = shop.core.execute(
        fields.RESTORE, log_pb2.Restore(shop_id=SHOP, item=item).SerializeToString(), shop.now_ms
    )
    assert (code, read_fault(answer)[0]) == (10, "ORDER_IN_MEMORY")
    wrong = log_pb2.Restore(shop_id="wrong", item=archived(shop, "other"))
    assert told(shop.send(fields.RESTORE, wrong)) == "ARCHIVE_DAMAGED"


def test_damaged_item_is_refused_wherever_a_bit_flips(shop: Desk) -> None:
    deliver(shop, "o", "tea*2 cup*1")
    evict(shop)
    [item] = shop.model.archive
    before = (shop.core.state_digest(), shop.core.counts())
    for bit in range(len(item) * 8):
        damaged = bytearray(item)
        damaged[bit // 8] ^= 1 << bit % 8
        request = log_pb2.Restore(shop_id=SHOP, item=bytes(damaged)).SerializeToString()
        code, answer, sequence = shop.core.execute(fields.RESTORE, request, shop.now_ms)
        assert (code, read_fault(answer)[0], sequence) == (DATA_LOSS, "ARCHIVE_DAMAGED", 0)
        with pytest.raises(ValueError, match="archive"):
            shop.core.business_digest_of(bytes(damaged))
    assert (shop.core.state_digest(), shop.core.counts()) == before


def retire_all(desk: Desk, *sku_ids: str) -> None:
    for sku_id in sku_ids:
        desk.adjust(sku_id, "north", 0, kind=fields.COUNT)
        assert desk.put_sku(sku_id, status=RETIRED).outcome == 3


def test_restored_order_of_goods_that_are_gone_makes_them_anew_as_retired(shop: Desk) -> None:
    deliver(shop, "o", "tea*2 cup*1")
    retire_all(shop, "tea", "cup")
    shop.put_location("north", status=RETIRED)
    before = shop.core.business_digest()
    evict(shop)
    assert (shop.core.counts()["skus"], shop.core.counts()["locations"]) == (0, 0)
    [item] = shop.model.archive
    assert restore(shop, item).code == 0
    assert (shop.core.counts()["skus"], shop.core.counts()["locations"]) == (2, 1)
    assert shop.core.business_digest() == before
    assert shop.put_sku("tea").outcome == 9, "retired"
    shop.put_location("home")
    assert shop.take_back("o", location_id="home", disposition=2).outcome == 3
    shop.settle("o")
    shop.compare_digests()
    evict(shop)
    assert shop.core.counts()["skus"] == 0
    shop.compare_digests()


def test_restored_order_of_goods_that_were_made_anew_does_not_touch_their_stock(shop: Desk) -> None:
    deliver(shop, "o")
    retire_all(shop, "tea")
    evict(shop)
    shop.put_sku("tea")
    before = shop.core.business_digest()
    [item] = shop.model.archive
    restore(shop, item)
    assert shop.core.business_digest() == before
    shop.compare_digests()
    shop.take_back("o", location_id="north")
    assert shop.level("tea", "north").on_hand == 2
    assert shop.core.business_digest() != before
    shop.compare_digests()


def test_restore_into_a_shop_without_room_for_a_location_is_refused(shop: Desk) -> None:
    deliver(shop, "o")
    retire_all(shop, "tea", "cup")
    shop.put_location("north", status=RETIRED)
    evict(shop)
    for number in range(LIMITS["LOCATIONS_PER_SHOP_MAX"]):
        shop.put_location(f"place{number}")
    [item] = shop.model.archive
    assert told(restore(shop, item)) == "LOCATION_LIMIT"


def test_greatest_order_leaves_and_comes_back() -> None:
    till = Till(WINDOW_MS)
    name = "x" * (LIMITS["ID_BYTES_MAX"] - 3)
    till.do(fields.PUT_SHOP)
    for number in range(4):
        till.do(fields.PUT_LOCATION, location_id=f"{name}{number}")
    for number in range(64):
        till.do(fields.PUT_SKU, sku_id=f"{name}{number}", price_minor=1)
        for place in range(4):
            till.restock(f"{name}{number}", f"{name}{place}", 1)
    till.place(f"{name}o", [(f"{name}{number}", 4) for number in range(64)])
    for number in range(LIMITS["ORDER_COMMANDS_MAX"] - LIMITS["ORDER_PAYMENTS_KEPT"] - 1):
        till.do(fields.SHIP_ORDER, order_id=f"{name}o", command_id=f"{number:064}")
    till.do(fields.CANCEL_ORDER, order_id=f"{name}o", command_id="c" * 64)
    for number in range(LIMITS["ORDER_PAYMENTS_KEPT"]):
        till.do(fields.PAY_ORDER, order_id=f"{name}o", payment_id=f"{number:064}", amount_minor=0)
    before = till.shard.business_digest()
    till.now_ms += WINDOW_MS
    till.tick()
    [(closed_sequence, *_, item)] = till.shard.closed(0, 1)
    assert 100_000 < len(item) <= LIMITS["ARCHIVED_ORDER_BYTES_MAX"]
    assert till.shard.evict(closed_sequence, till.now_ms) is False
    assert till.shard.counts()["orders"] == 0
    request = log_pb2.Restore(shop_id=SHOP, item=item).SerializeToString()
    assert till.shard.execute(fields.RESTORE, request, till.now_ms)[0] == 0
    assert len(till.shard.record) < LIMITS["RECORD_BYTES_MAX"]
    assert till.shard.business_digest() == before
    assert till.shard.check() == ""


# What the archive is given


def test_closed_orders_are_listed_once_their_window_is_over_and_by_whole_records(shop: Desk) -> None:
    for number in range(3):
        deliver(shop, f"early{number}")
    for number in range(5):
        shop.place(f"expired{number}", "tea*1")
    shop.pass_time(TTL_MS)
    deliver(shop, "late")
    assert shop.core.closed(0, 99) == []
    shop.now_ms += WINDOW_MS
    shop.tick(shop.now_ms)
    listed = shop.core.closed(0, 99)
    assert [entry[3] for entry in listed] == [order.id for order in shop.model.closed]
    shop.compare_closed()
    first = shop.core.closed(0, 2)
    assert first == listed[:2]
    assert shop.core.closed(first[-1][0], 2) == listed[2:8], "the five that one tick expired come together"
    assert shop.core.closed(listed[7][0], 2) == listed[8:]
    # Where the last look ended may be evicted, or be opened again.
    shop.core.evict(listed[2][0], shop.now_ms)
    assert shop.core.closed(listed[2][0], 99) == listed[3:]
    assert shop.core.closed(0, 99) == listed[3:]
    assert shop.core.check() == ""


def test_item_names_everything_as_the_model_does(shop: Desk) -> None:
    shop.put_shop(region_costs=[{"from_region": "hill", "to_region": "sea", "cost": 1}])
    shop.put_sku("pot", backorder_policy=2)
    shop.place("o", "pot*2", region="hill", placed_at_ms=7, strategy=2, priority_class=3)
    shop.adjust("pot", "north", 5)
    shop.pay("o", 200)
    shop.ship("o", "0*1")
    shop.cancel("o")
    shop.deliver("o")
    shop.settle("o")
    shop.pass_time(WINDOW_MS)
    shop.compare_closed()
    assert len(shop.core.closed(0, 1)) == 1


# Levels


def first_half(desk: Desk) -> None:
    desk.open("tea@north=90 cup@north=9", reserve_ttl_ms=TTL_MS)
    deliver(desk, "second-to-close")
    deliver(desk, "open")
    desk.take_back("open")
    desk.place("expired", "cup*1")
    desk.deliver("second-to-close")
    desk.pass_time(TTL_MS)
    retire_all(desk, "cup")


def test_level_1_knows_no_retention_and_is_raised_with_what_is_closed(tmp_path: Path) -> None:
    desk = Desk(WINDOW_MS, level=1)
    first_half(desk)
    assert told(desk.send(fields.EVICT, log_pb2.Evict(closed_sequence=9))) == "UNKNOWN_METHOD"
    assert desk.core.closed(0, 9) == []
    desk.core.save(str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes()[8] == 1, "a program of level 1 still reads it"
    records = [desk.core.record]
    desk.raise_level(desk.now_ms)
    records.append(desk.core.record)
    desk.compare_digests()
    assert [order.id for order in desk.model.closed] == ["second-to-close", "expired"]
    assert desk.core.raise_level(desk.now_ms) == 0
    evict(desk)
    desk.compare_digests()
    old = Shard.load(str(tmp_path / "old"))
    old.apply(records[1])
    old.apply(desk.core.record)
    assert old.state_digest() == desk.core.state_digest()
    assert old.business_digest() == desk.core.business_digest()
    assert old.check() == ""
    desk.core.save(str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes()[8] == 2
    assert Shard.load(str(tmp_path / "new")).state_digest() == desk.core.state_digest()


def test_engine_of_a_level_1_log_goes_on_at_it_until_it_is_raised(tmp_path: Path) -> None:
    old = Shard(LOG_ID, level=1)
    with JournalWriter(str(tmp_path), log_id=LOG_ID) as writer:
        writer.append(old.record)
    engine = Engine(str(tmp_path))
    try:
        engine.execute(fields.PUT_SHOP, REQUESTS[fields.PUT_SHOP](shop_id="shop").SerializeToString())
        assert engine.level == 1
        sequence = engine.raise_level()
        assert (sequence, engine.level, engine.raise_level()) == (3, LIMITS["LEVEL_MAX"], 0)
        assert engine.wait_durable(sequence, 10)
        digest = engine.state_digest()
    finally:
        engine.close()
    again = Engine(str(tmp_path))
    try:
        assert (again.level, again.state_digest()) == (LIMITS["LEVEL_MAX"], digest)
    finally:
        again.close()
