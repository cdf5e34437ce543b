"""The state machine in process: orders matched a second, and bytes of resident memory an open order.

Load: one-line orders of one unit with unique 20-byte order ids and distinct 8-byte buyer ids, over 100,000 SKUs of
one shop at one location, 10 million of them open; one thread, its CPU time, median and best of the rounds. `wire to
answer`: from request bytes to answer bytes, record and effects, one order at a time as unary calls come, or in
groups as batches come. `match`: from the decoded command to record and effects, ids still strings that are hashed
and looked up, both digests kept; `warm`: over 1,000 SKUs, which stay in the cache. Excluded: sockets, the log's
disk, the making of requests (its cost is measured and subtracted), page faults of memory that was asked for ahead,
except where they are named.
Checks: every order is placed, and as many are open as were placed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from bench.conftest import TINY, Figures
from bench.core_loop import CoreLoop
from engine import _core
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2

SKUS = 100 if TINY else 100_000
WARM_SKUS = 10 if TINY else 1_000
OPEN = 800 if TINY else 10_000_000
ROUND = 1_000 if TINY else 1_000_000
ROUNDS = 1 if TINY else 5
NOW_MS = 1_800_000_000_000
MILESTONES = [OPEN // 10, OPEN // 2, OPEN]


def loop_with_stock(skus: int) -> CoreLoop:
    """A shop with so many SKUs, of which nothing runs out and no hold ends."""
    loop = CoreLoop(skus)
    activate = log_pb2.Activate(level=1, idempotency_window_ms=3_600_000, idempotency_entries_max=10_000_000)
    put_shop = inventory.PutShopRequest(shop_id="s")
    put_location = inventory.PutLocationRequest(shop_id="s", location_id="w")
    assert loop.command(_core.ACTIVATE, activate.SerializeToString(), NOW_MS)
    assert loop.command(_core.PUT_SHOP, put_shop.SerializeToString(), NOW_MS)
    assert loop.command(_core.PUT_LOCATION, put_location.SerializeToString(), NOW_MS)
    for number in range(skus):
        sku_id = f"s{number:08d}"
        sku = inventory.PutSkuRequest(shop_id="s", sku_id=sku_id, price_minor=500, reserve_ttl_ms=30 * 86_400_000)
        stock = inventory.AdjustStockRequest(
            adjustment_id=sku_id, shop_id="s", sku_id=sku_id, location_id="w", delta=1_000_000_000
        )
        assert loop.command(_core.PUT_SKU, sku.SerializeToString(), NOW_MS)
        assert loop.command(_core.ADJUST_STOCK, stock.SerializeToString(), NOW_MS)
    return loop


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(scope="module")
def full() -> CoreLoop:
    """With all orders open, and memory for those that the rounds add."""
    loop = loop_with_stock(SKUS)
    loop.expect(OPEN + 4 * ROUNDS * ROUND)
    _, placed = loop.place_in_groups(OPEN, SKUS, NOW_MS)
    assert placed == loop.open_orders == OPEN
    return loop


@pytest.mark.parametrize("way", ["wire to answer, one by one", "wire to answer, groups", "match", "match, warm"])
def test_match_rate(full: CoreLoop, way: str, figures: Figures) -> None:
    spread = WARM_SKUS if way.endswith("warm") else SKUS
    spent = []
    for _ in range(ROUNDS):
        before = full.open_orders
        if way.endswith("one by one"):
            ns, placed = full.place_one_by_one(ROUND, spread, NOW_MS)
        else:
            ns, placed = full.place_in_groups(ROUND, spread, NOW_MS, not way.startswith("match"))
        assert placed == full.open_orders - before == ROUND
        spent.append(max(1, ns - full.make_requests(ROUND, spread)))
    figures.add(f"core, {way}: median", ROUND, "orders", median(spent) / 1e9)
    figures.add(f"core, {way}: best", ROUND, "orders", min(spent) / 1e9)


def test_match_rate_page_faults_included(figures: Figures) -> None:
    loop = loop_with_stock(SKUS)
    ns, placed = loop.place_in_groups(ROUND, SKUS, NOW_MS)
    assert placed == loop.open_orders == ROUND
    figures.add("core, wire to answer, groups, page faults included", ROUND, "orders", ns / 1e9)


def test_bytes_per_open_order(figures: Figures) -> None:
    """In a process of its own: what other benches left free would hide what an order takes."""
    program = "from bench import test_core; test_core.print_memory()"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == len(MILESTONES)
    for line in lines:
        orders, resident = map(int, line.split())
        # Huge pages come whole, so that only many orders tell what one takes.
        assert TINY or resident / orders <= 160
        figures.note(f"core, resident memory, {orders:,} open orders", f"{resident / orders:.1f} bytes an order")


def print_memory() -> None:
    loop = loop_with_stock(SKUS)
    before, placed = resident_bytes(), 0
    for milestone in MILESTONES:
        placed += loop.place_in_groups(milestone - placed, SKUS, NOW_MS)[1]
        assert placed == loop.open_orders == milestone
        print(milestone, resident_bytes() - before)
