"""Recovery: a shard rebuilt from its log alone, and from a snapshot.

Load: a log of one-line orders over 1,000 SKUs, written through the engine in batches of 1,024; read back warm (it was
just written) by one thread that replays every command and compares outcome and effects. Excluded: process start.
Checks: sequence and both digests are those before.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.conftest import TINY, Figures
from engine import _core
from engine._core import Engine, Shard
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders

SKUS = 1_000
BATCH = 1_024
BATCHES = 2 if TINY else 2_000
PATIENCE_S = 60.0


def setup_shop(engine: Engine) -> None:
    shop = inventory.PutShopRequest(shop_id="s")
    location = inventory.PutLocationRequest(shop_id="s", location_id="w")
    assert engine.execute(_core.PUT_SHOP, shop.SerializeToString())[0] == 0
    assert engine.execute(_core.PUT_LOCATION, location.SerializeToString())[0] == 0
    for number in range(SKUS):
        sku = inventory.PutSkuRequest(shop_id="s", sku_id=f"s{number:08d}", price_minor=500, reserve_ttl_ms=86_400_000)
        stock = inventory.AdjustStockRequest(
            adjustment_id=sku.sku_id, shop_id="s", sku_id=sku.sku_id, location_id="w", delta=1_000_000
        )
        assert engine.execute(_core.PUT_SKU, sku.SerializeToString())[0] == 0
        assert engine.execute(_core.ADJUST_STOCK, stock.SerializeToString())[0] == 0


def batch(first: int) -> bytes:
    return orders.PlaceOrdersRequest(
        orders=[
            orders.PlaceOrderRequest(
                order_id=f"o-{number:018d}",
                shop_id="s",
                buyer_id=f"{number:08d}",
                lines=[orders.PlaceOrderLine(sku_id=f"s{number * 7919 % SKUS:08d}", quantity=1)],
            )
            for number in range(first, first + BATCH)
        ]
    ).SerializeToString()


@pytest.fixture(scope="module")
def written(data_dir: Path) -> tuple[Path, int, str, str]:
    """(directory, last sequence, state digest, business digest) of a closed shard."""
    directory = data_dir / "shard-0000"
    directory.mkdir()
    engine = Engine(str(directory))
    setup_shop(engine)
    for number in range(BATCHES):
        code, _, sequence = engine.execute_batch(_core.PLACE_ORDER, batch(number * BATCH))
        assert code == 0
        engine.kick()
        assert engine.wait_durable(sequence, PATIENCE_S)
    told = engine.sequence, engine.state_digest(), engine.business_digest()
    engine.close()
    assert told[0] >= BATCHES * BATCH
    return directory, *told


def rebuilt(written: tuple[Path, int, str, str]) -> float:
    directory, *told = written
    began = time.perf_counter()
    engine = Engine(str(directory))
    seconds = time.perf_counter() - began
    try:
        assert [engine.sequence, engine.state_digest(), engine.business_digest()] == told
    finally:
        engine.close()
    return seconds


def test_recovery_from_log(written: tuple[Path, int, str, str], figures: Figures) -> None:
    figures.add("recovery from the log", written[1], "commands", rebuilt(written))


def test_recovery_from_snapshot(written: tuple[Path, int, str, str], figures: Figures) -> None:
    directory, sequence, *_ = written
    shard = Shard.empty(_core.journal_segments(str(directory))[0]["log_id"])
    with _core.JournalReader(str(directory)) as reader:
        shard.replay_from(reader)
    began = time.perf_counter()
    shard.save(str(directory / f"snapshot-{sequence:020d}.snap"))
    figures.add("snapshot written", BATCHES * BATCH, "open orders", time.perf_counter() - began)
    del shard
    figures.add("recovery from a snapshot", BATCHES * BATCH, "open orders", rebuilt(written))
