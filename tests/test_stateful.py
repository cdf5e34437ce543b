"""Hypothesis drives core and model through 10,000 commands, and shrinks what it finds to the least."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from everopen.v1 import log_pb2
from tests import reference_fields as fields
from tests.desk import Desk

COMMANDS = 10_000
STEPS = 100

SKUS = st.sampled_from(["tea", "cup"])
LOCATIONS = st.sampled_from(["north", "south"])
ORDERS = st.sampled_from(["o1", "o2", "o3", "o4"])
IDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
UNITS = st.integers(1, 5)
REGIONS = st.sampled_from(["", "hill", "sea", "nowhere"])
STATUSES = st.sampled_from([0, 0, 0, 1, 2, 3])
MONEY = st.sampled_from([0, 1, 100, 200, 300, 500])
ORDER_LINES = st.lists(st.builds(lambda sku, units: f"{sku}*{units}", SKUS, UNITS), min_size=1, max_size=3)
LINES = st.lists(
    st.builds(lambda index, units: {"line_index": index, "quantity": units}, st.integers(0, 2), UNITS), max_size=2
)


class Machine(RuleBasedStateMachine):
    commands = 0

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(idempotency_window_ms=5_000, idempotency_entries_max=20)

    @initialize(split=st.booleans(), backorders=st.sampled_from([0, 2]))
    def open(self, split: bool, backorders: int) -> None:
        self.desk.put_shop(allow_split=split)
        for location_id, region in (("north", "hill"), ("south", "sea")):
            self.desk.put_location(location_id, region=region)
        for sku_id in ("tea", "cup"):
            self.desk.put_sku(sku_id, backorder_policy=backorders, reserve_ttl_ms=1_000)

    def _say(self, method: int, **values: object) -> None:
        Machine.commands += 1
        self.desk.say(method, **values)

    @rule(
        order_id=ORDERS, lines=ORDER_LINES, region=REGIONS, strategy=st.integers(0, 4), priority=st.sampled_from([0, 9])
    )
    def place(self, order_id: str, lines: list[str], region: str, strategy: int, priority: int) -> None:
        values = self.desk.order_fields(order_id, " ".join(lines), region=region)
        self._say(fields.PLACE_ORDER, **values, strategy=strategy, priority_class=priority)

    @rule(order_id=ORDERS, buyer=st.sampled_from(["x", "y"]), sku_id=SKUS, amount=MONEY, sent_ago=st.integers(0, 9_000))
    def place_one(self, order_id: str, buyer: str, sku_id: str, amount: int, sent_ago: int) -> None:
        line = {"sku_id": sku_id, "quantity": 2, "amount_minor": amount}
        sent_at = self.desk.now_ms - sent_ago
        self._say(
            fields.PLACE_ORDER,
            order_id=order_id,
            buyer_id=buyer,
            lines=[line],
            first_sent_at_ms=sent_at,
            allow_split=False,
        )

    @rule(order_id=ORDERS, payment_id=IDS, amount=MONEY)
    def pay(self, order_id: str, payment_id: str, amount: int) -> None:
        self._say(fields.PAY_ORDER, order_id=order_id, payment_id=payment_id, amount_minor=amount)

    @rule(order_id=ORDERS)
    def pay_in_full(self, order_id: str) -> None:
        shop = self.desk.model.shops.get("shop")
        if shop and order_id in shop.orders:
            due = sum(line.payable for line in shop.orders[order_id].lines)
            self._say(fields.PAY_ORDER, order_id=order_id, payment_id="full", amount_minor=due)

    @rule(
        method=st.sampled_from([fields.CANCEL_ORDER, fields.SHIP_ORDER, fields.DELIVER_ORDER, fields.RETURN_ORDER]),
        order_id=ORDERS,
        command_id=IDS,
        lines=LINES,
    )
    def command(self, method: int, order_id: str, command_id: str, lines: list[dict[str, int]]) -> None:
        self._say(method, order_id=order_id, command_id=command_id, lines=lines)

    @rule(order_id=ORDERS, command_id=IDS, location_id=LOCATIONS, disposition=st.integers(0, 2))
    def take_back(self, order_id: str, command_id: str, location_id: str, disposition: int) -> None:
        values = {"location_id": location_id, "disposition": disposition}
        self._say(fields.RETURN_ORDER, order_id=order_id, command_id=command_id, **values)

    @rule(order_id=ORDERS, command_id=IDS, amount=MONEY)
    def settle(self, order_id: str, command_id: str, amount: int) -> None:
        self._say(fields.SETTLE_REFUND, order_id=order_id, command_id=command_id, amount_minor=amount)

    @rule(adjustment_id=IDS, sku_id=SKUS, location_id=LOCATIONS, delta=st.integers(-3, 6), kind=st.integers(0, 3))
    def adjust(self, adjustment_id: str, sku_id: str, location_id: str, delta: int, kind: int) -> None:
        values = {"adjustment_id": adjustment_id, "location_id": location_id, "delta": delta, "kind": kind}
        self._say(fields.ADJUST_STOCK, sku_id=sku_id, **values)

    @rule(transfer_id=IDS, sku_id=SKUS, source=LOCATIONS, goal=LOCATIONS, units=UNITS)
    def transfer(self, transfer_id: str, sku_id: str, source: str, goal: str, units: int) -> None:
        places = {"from_location_id": source, "to_location_id": goal}
        self._say(fields.TRANSFER_STOCK, transfer_id=transfer_id, sku_id=sku_id, quantity=units, **places)

    @rule(
        location_id=LOCATIONS, region=st.sampled_from(["", "hill", "sea"]), priority=st.integers(0, 1), status=STATUSES
    )
    def put_location(self, location_id: str, region: str, priority: int, status: int) -> None:
        self._say(fields.PUT_LOCATION, location_id=location_id, region=region, priority=priority, status=status)

    @rule(
        sku_id=SKUS,
        status=STATUSES,
        limit=st.sampled_from([0, 4]),
        backorder=st.sampled_from([0, 2]),
        safety=st.sampled_from([0, 0, 2]),
        override=st.none() | LOCATIONS,
    )
    def put_sku(self, sku_id: str, status: int, limit: int, backorder: int, safety: int, override: str | None) -> None:
        overrides = [{"location_id": override, "quantity": 1}] if override else []
        self._say(
            fields.PUT_SKU,
            sku_id=sku_id,
            price_minor=100,
            status=status,
            buyer_limit_per_window=limit,
            buyer_window_ms=3_000,
            backorder_policy=backorder,
            safety_stock=safety,
            safety_stock_overrides=overrides,
            reserve_ttl_ms=1_000,
        )

    @rule(status=st.sampled_from([0, 0, 2, 3]), strategy=st.integers(0, 4))
    def put_shop(self, status: int, strategy: int) -> None:
        cost = {"from_region": "hill", "to_region": "sea", "cost": 7}
        self._say(fields.PUT_SHOP, status=status, strategy=strategy, region_costs=[cost])

    @rule(milliseconds=st.sampled_from([0, 1, 999, 1_000, 3_000, 5_000]))
    def tick(self, milliseconds: int) -> None:
        Machine.commands += 1
        self.desk.pass_time(milliseconds)

    @rule(sku_id=SKUS)
    def sell_out_and_retire(self, sku_id: str) -> None:
        """What it takes for goods to be gone when an order that names them comes back."""
        for location_id in ("north", "south"):
            values = {"adjustment_id": self.desk.next_id(), "location_id": location_id, "kind": 3}
            self._say(fields.ADJUST_STOCK, sku_id=sku_id, **values)
        self._say(fields.PUT_SKU, sku_id=sku_id, status=3)

    @rule(order_id=ORDERS, sku_id=SKUS, ships=st.booleans())
    def close_and_evict(self, order_id: str, sku_id: str, ships: bool) -> None:
        values = {"adjustment_id": self.desk.next_id(), "location_id": "north", "delta": 2}
        self._say(fields.ADJUST_STOCK, sku_id=sku_id, **values)
        self._say(fields.PLACE_ORDER, **self.desk.order_fields(order_id, f"{sku_id}*2"))
        if ships:
            self.pay_in_full(order_id)
            self._say(fields.SHIP_ORDER, order_id=order_id, command_id=self.desk.next_id())
            self._say(fields.DELIVER_ORDER, order_id=order_id, command_id=self.desk.next_id())
        self._say(fields.CANCEL_ORDER, order_id=order_id, command_id=self.desk.next_id())
        self._say(fields.SETTLE_REFUND, order_id=order_id, command_id=self.desk.next_id())
        self.evict()

    @rule()
    def evict(self) -> None:
        self.desk.pass_time(5_000)
        if self.desk.model.evict_due(self.desk.model.sequence):
            Machine.commands += 1
            self.desk.send(fields.EVICT, log_pb2.Evict(closed_sequence=self.desk.model.sequence))

    @rule(number=st.integers(0, 3), goods=st.sampled_from(["stay", "go", "go and come back"]))
    def restore(self, number: int, goods: str) -> None:
        items = list(self.desk.model.archive)
        if number >= len(items):
            return
        sku_id = self.desk.model.archive[items[number]].lines[0].sku.id
        if goods != "stay":
            self.sell_out_and_retire(sku_id)
        if goods == "go and come back":
            self._say(fields.PUT_SKU, sku_id=sku_id, price_minor=100, backorder_policy=2, reserve_ttl_ms=1_000)
        Machine.commands += 1
        self.desk.send(fields.RESTORE, log_pb2.Restore(shop_id="shop", item=items[number]))

    @rule()
    def list_closed(self) -> None:
        self.desk.compare_closed()

    @rule(order_id=ORDERS, sku_id=SKUS)
    def read(self, order_id: str, sku_id: str) -> None:
        self._say(fields.GET_ORDER, order_id=order_id)
        self._say(fields.GET_STOCK, sku_id=sku_id)

    @invariant()
    def agree(self) -> None:
        self.desk.compare_digests()


@pytest.mark.native
def test_core_under_hypothesis_equals_the_model_for_ten_thousand_commands() -> None:
    Machine.commands = 0
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=COMMANDS // STEPS + 15,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Machine.commands >= COMMANDS
