"""Retention at length: evictions that nobody sees, and memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from everopen.v1 import log_pb2
from tests import reference_fields as fields
from tests.desk import SHOP, START_MS
from tests.generate import Generator
from tests.machines import Pair
from tests.profiles import PROFILES
from tests.reference_fields import REQUESTS
from tests.till import Till

pytestmark = pytest.mark.native

WINDOW_MS = 60_000
RETIRED = 3


def _wakes(pair: Pair, method: int, request: bytes) -> bytes | None:
    """The archived order that a command is about, if there is one."""
    if method != fields.PLACE_ORDER and not fields.PAY_ORDER <= method <= fields.SETTLE_REFUND:
        return None
    message = REQUESTS[method].FromString(request)
    named = (message.shop_id, message.order_id)
    return next((item for item, order in pair.model.archive.items() if (order.shop.id, order.id) == named), None)


def _gone(pair: Pair, method: int, request: bytes) -> bool:
    """Whether a Put is about something that was retired, and is still there only where nothing is evicted."""
    names: dict[int, Callable[[], bool]] = {
        fields.PUT_SKU: lambda: message.sku_id in shop.skus and shop.skus[message.sku_id].settings.status == RETIRED,
        fields.PUT_LOCATION: lambda: (
            message.location_id in shop.locations and shop.locations[message.location_id].settings.status == RETIRED
        ),
        fields.PUT_SHOP: lambda: shop.settings.status == RETIRED,
    }
    if method not in names:
        return False
    message = REQUESTS[method].FromString(request)
    shop = pair.model.shops.get(message.shop_id)
    return shop is not None and names[method]()


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6, 7])
def test_business_digest_with_and_without_evictions_is_the_same(seed: int) -> None:
    generator = Generator(seed)
    entries = max(10_000, generator.profile.entries_max)
    keeps, evicts = Pair(WINDOW_MS, entries), Pair(WINDOW_MS, entries)
    compared = 0
    for index in range(1_200 if PROFILES[seed].retire == 0 else 2_500):
        method, request, now_ms = generator.next(keeps.model)
        if method in fields.INTERNAL or _gone(keeps, method, request):
            continue
        item = _wakes(evicts, method, request)
        if item is not None:
            shop_id = evicts.model.archive[item].shop.id
            assert evicts.execute(fields.RESTORE, log_pb2.Restore(shop_id=shop_id, item=item), now_ms).code == 0
        keeps.execute(method, request, now_ms)
        evicts.execute(method, request, now_ms)
        if index % 5 == 4 and evicts.model.evict_due(evicts.model.sequence):
            evicts.execute(fields.EVICT, log_pb2.Evict(closed_sequence=evicts.model.sequence), now_ms)
        if index % 50 == 49:
            assert evicts.core.business_digest() == keeps.core.business_digest(), index
            compared += evicts.core.counts()["evicted_orders"] > 0
    assert compared
    assert evicts.core.check() == keeps.core.check() == ""


def test_memory_over_many_orders_placed_and_closed_is_flat() -> None:
    till = Till(1, 2_000)
    till.do(fields.PUT_SHOP)
    till.do(fields.PUT_LOCATION, location_id="north")
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1)
    till.restock("tea", "north", 10_000)
    place = REQUESTS[fields.PLACE_ORDER]
    cancel = REQUESTS[fields.CANCEL_ORDER]
    shard, line = till.shard, [{"sku_id": "tea", "quantity": 1}]
    sizes = []
    for number in range(100_000):
        till.now_ms = START_MS + number // 10
        order = place(shop_id=SHOP, order_id=f"order{number:09}", buyer_id="buyer", lines=line)
        assert shard.execute(fields.PLACE_ORDER, order.SerializeToString(), till.now_ms)[0] == 0
        if number >= 1_000:
            end = cancel(shop_id=SHOP, order_id=f"order{number - 1_000:09}", command_id="c")
            assert shard.execute(fields.CANCEL_ORDER, end.SerializeToString(), till.now_ms)[0] == 0
        if number % 100 == 99:
            while shard.evict(shard.sequence, till.now_ms):
                pass
        if number % 10_000 == 9_999:
            sizes.append(shard.counts()["address_bytes"])
    # The seed of the indexes decides how many of their lines overflow.
    assert max(sizes) - sizes[0] < 4_096, sizes
    counts = shard.counts()
    assert counts["orders"] < 1_200
    assert counts["evicted_orders"] > 98_000
    assert shard.check() == ""


def test_open_order_of_one_line_takes_little_memory() -> None:
    till = Till()
    till.do(fields.PUT_SHOP)
    till.do(fields.PUT_LOCATION, location_id="north")
    till.do(fields.PUT_SKU, sku_id="tea", price_minor=1)
    till.restock("tea", "north", 10_000)
    before = till.shard.counts()["arena_bytes"]
    for number in range(2_000):
        till.place(f"order{number:09}", [("tea", 1)], buyer_id=f"buyer{number:07}")
    assert (till.shard.counts()["arena_bytes"] - before) / 2_000 <= 145
