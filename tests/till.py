"""The core alone, for tests whose states are too large for the naive model."""

from __future__ import annotations

from typing import Any

from engine._core import Shard
from everopen.v1 import log_pb2
from tests import reference_fields as fields
from tests.machines import LOG_ID, RECORD_HEADER_BYTES, read_fault
from tests.reference_fields import REQUESTS, RESPONSES

START_MS = 1_700_000_000_000
SHOP = "shop"


class Till:
    def __init__(self, window_ms: int = 3_600_000, entries_max: int = 10_000_000) -> None:
        self.shard = Shard(LOG_ID, window_ms, entries_max)
        self.now_ms = START_MS
        self.ids = 0

    def ask(self, method: int, **values: Any) -> tuple[int, bytes, int]:
        request = REQUESTS[method](**{"shop_id": SHOP, **values}).SerializeToString()
        return self.shard.execute(method, request, self.now_ms)

    def do(self, method: int, **values: Any) -> Any:
        """The response of what must be decided."""
        code, answer, _ = self.ask(method, **values)
        assert code == 0, read_fault(answer)
        return RESPONSES[method].FromString(answer)

    def refused(self, method: int, **values: Any) -> str:
        """The reason of a fault, which must have changed nothing but counters of the program."""
        shard = self.shard
        before = (shard.state_digest(), shard.business_digest(), shard.sequence, shard.time_ms, shard.counts())
        code, answer, sequence = self.ask(method, **values)
        assert (code, sequence) == (8, 0), (code, answer)
        after = (shard.state_digest(), shard.business_digest(), shard.sequence, shard.time_ms, shard.counts())
        assert after == before
        return read_fault(answer)[0]

    def tick(self) -> log_pb2.Effects:
        code, _, _ = self.shard.execute(fields.TICK, b"", self.now_ms)
        assert code == 0
        return self.effects()

    def effects(self) -> log_pb2.Effects:
        record = self.shard.record
        command_bytes = int.from_bytes(record[12:16], "little")
        return log_pb2.Effects.FromString(record[RECORD_HEADER_BYTES + command_bytes :])

    def next_id(self, size: int = 0) -> str:
        self.ids += 1
        return f"{self.ids:0{size}}"

    def restock(self, sku_id: str, location_id: str, delta: int) -> Any:
        where = {"sku_id": sku_id, "location_id": location_id}
        return self.do(fields.ADJUST_STOCK, adjustment_id=self.next_id(), delta=delta, **where)

    def place(self, order_id: str, lines: list[tuple[str, int]], **values: Any) -> Any:
        wanted = [{"sku_id": sku_id, "quantity": units} for sku_id, units in lines]
        return self.do(fields.PLACE_ORDER, **{"order_id": order_id, "buyer_id": "buyer", "lines": wanted, **values})
