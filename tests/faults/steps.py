"""What a run does, from its seed alone: commands of a small, busy shop between turns of threads, crashes and faults.

No step looks at what came of those before it, and each has a seed of its own, so that any of them can be left out.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from google.protobuf.message import Message

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.inventory_pb2 import BACKORDER_POLICY_ALLOW
from tests import reference_fields as fields
from tests.faults import damage
from tests.faults.disk import Fault

START_NS = 1_700_000_000 * 10**9
BOOT_NS = 5_000 * 10**9
MS = 1_000_000
SECOND = 1_000 * MS
HOLD_MS = 20_000
STEPS = (30, 60, 90, 140)
SHOP, HOT, COLD = "shop", "hot", "cold"
PRICE = 10
COMMAND, TICK, COMMIT, TAKE, SEAL, PREPARE = "command", "tick", "commit", "take", "seal", "prepare"
FOLLOW, SPARE, SNAPSHOT, DROP = "follow", "spare", "snapshot", "drop"
CRASH, CRASH_IN, POWER, POWER_IN, TAKEOVER = "crash", "crash in", "power", "power in", "takeover"
WISH, FULL, FREE, DAMAGE, EVICT = "wish", "full", "free", "damage", "evict"


class Step(NamedTuple):
    action: str
    seed: int
    real_ns: int
    boot_ns: int
    method: int = 0
    request: bytes = b""
    # Of a crash: after so many operations. Of a follower: so many records.
    number: int = 0
    # A fault that is wished for, or a kind of damage.
    fault: str = ""

    def __str__(self) -> str:
        text = f"{(self.boot_ns - BOOT_NS) // MS:>8} ms  {self.action}"
        if self.real_ns - START_NS != self.boot_ns - BOOT_NS:
            text += f" (the wall is off by {(self.real_ns - START_NS - self.boot_ns + BOOT_NS) // MS} ms)"
        if self.action == COMMAND:
            request = fields.REQUESTS[self.method].FromString(self.request)
            text += f" {type(request).__name__} " + " ".join(str(request).split())
        return text + (f" {self.number}" if self.number else "") + (f" {self.fault}" if self.fault else "")


class Mix(NamedTuple):
    """What a run is rich in: a weight for each action, and for each fault."""

    name: str
    actions: dict[str, int]
    faults: dict[str, int]


WORK = {
    COMMAND: 100,
    TICK: 8,
    COMMIT: 26,
    TAKE: 5,
    SEAL: 4,
    PREPARE: 9,
    FOLLOW: 9,
    SPARE: 2,
    SNAPSHOT: 3,
    DROP: 2,
    EVICT: 3,
}
ENDS = {CRASH: 2, CRASH_IN: 4, POWER: 3, POWER_IN: 4, TAKEOVER: 2}
HARMLESS: dict[str, int] = {Fault.SHORT_WRITE: 2, Fault.WRITE_ERROR: 1, Fault.SYNC_ERROR: 2}
LIES: dict[str, int] = {Fault.MISDIRECTED_WRITE: 1, Fault.LOST_WRITE: 1}
MIXES = (
    Mix("crashes", WORK | ENDS, {}),
    Mix("failing disk", WORK | ENDS | {WISH: 8}, HARMLESS),
    Mix("full disk", WORK | ENDS | {FULL: 4, FREE: 3, WISH: 3}, HARMLESS),
    Mix("lying disk", WORK | ENDS | {WISH: 4}, LIES),
    Mix("damage", WORK | ENDS | {DAMAGE: 4}, dict.fromkeys(damage.KINDS, 1)),
)


def mix_of(seed: int) -> Mix:
    return MIXES[seed % len(MIXES)]


def steps_of(seed: int, mix: Mix | None = None) -> list[Step]:
    return _Maker(seed, mix or mix_of(seed)).make()


class _Maker:
    def __init__(self, seed: int, mix: Mix) -> None:
        self.random = random.Random(seed)
        self.mix = mix
        self.actions, self.weights = list(mix.actions), list(mix.actions.values())
        self.boot_ns, self.wall_ns = BOOT_NS, 0
        self.placed: list[orders.PlaceOrderRequest] = []
        self.sent: list[tuple[int, bytes]] = []
        self.steps: list[Step] = []
        self.makers = (
            (50, fields.PLACE_ORDER, self._place),
            (14, fields.PAY_ORDER, self._pay),
            (6, fields.CANCEL_ORDER, self._cancel),
            (5, fields.SHIP_ORDER, self._ship),
            (3, fields.DELIVER_ORDER, self._deliver),
            (3, fields.RETURN_ORDER, self._return),
            (2, fields.SETTLE_REFUND, self._settle),
            (8, fields.ADJUST_STOCK, self._adjust),
            (2, fields.TRANSFER_STOCK, self._transfer),
            (2, fields.PUT_SKU, self._put_sku),
            (2, fields.GET_ORDER, self._get_order),
            (2, fields.GET_STOCK, self._get_stock),
        )
        self.maker_weights = [weight for weight, _, _ in self.makers]

    def make(self) -> list[Step]:
        chosen = self.random
        self._open_shop()
        for action in chosen.choices(self.actions, self.weights, k=chosen.choice(STEPS)):
            self._pass_time()
            if action == COMMAND:
                self._command()
            elif action in (CRASH_IN, POWER_IN):
                self._add(action, number=chosen.choice((1, 2, 3, 5, 8, 13, 30)))
            elif action == FOLLOW:
                self._add(action, number=chosen.choice((1, 5, 1_000)))
            elif action in (WISH, DAMAGE):
                self._add(action, fault=chosen.choices(list(self.mix.faults), list(self.mix.faults.values()))[0])
            else:
                self._add(action)
        return self.steps

    def _open_shop(self) -> None:
        self._send(fields.PUT_SHOP, inventory.PutShopRequest(shop_id=SHOP))
        for name in ("near", "far"):
            self._send(fields.PUT_LOCATION, inventory.PutLocationRequest(shop_id=SHOP, location_id=name))
        for _ in range(2):
            self._send(fields.PUT_SKU, self._put_sku())
            self._send(fields.ADJUST_STOCK, self._adjust())

    def _pass_time(self) -> None:
        chance = self.random.random()
        if chance < 0.6:
            self.boot_ns += self.random.randrange(200) * MS
        elif chance < 0.68:
            self.boot_ns += self.random.choice((1, 5, 20)) * SECOND
        if chance > 0.97:
            # The wall is set, by a little or by a lot.
            self.wall_ns += self.random.choice((-3_600, -1, 1, 60, 3_600)) * SECOND + self.random.randrange(999) * MS

    def _add(self, action: str, method: int = 0, request: bytes = b"", number: int = 0, fault: str = "") -> None:
        seed, real_ns = self.random.getrandbits(32), START_NS + self.boot_ns - BOOT_NS + self.wall_ns
        self.steps.append(Step(action, seed, real_ns, self.boot_ns, method, request, number, fault))

    def _send(self, method: int, request: Message) -> None:
        self.sent.append((method, request.SerializeToString()))
        self._add(COMMAND, *self.sent[-1])

    def _command(self) -> None:
        if self.random.random() < 0.14:
            self._add(COMMAND, *self.random.choice(self.sent))
            return
        _, method, make = self.random.choices(self.makers, self.maker_weights)[0]
        self._send(method, make())

    # Requests

    def _sku(self) -> str:
        return HOT if self.random.random() < 0.7 else COLD

    def _location(self) -> str:
        return self.random.choice(("near", "near", "far"))

    def _order(self) -> tuple[str, int]:
        """Of a recent order, what it costs."""
        if not self.placed:
            return "none", PRICE
        order = self.random.choice(self.placed[-8:])
        return order.order_id, PRICE * sum(line.quantity for line in order.lines)

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.steps)}"

    def _place(self) -> Message:
        request = orders.PlaceOrderRequest(order_id=self._name("o"), shop_id=SHOP)
        request.buyer_id = f"b{self.random.randrange(4)}"
        for sku in (HOT, COLD) if self.random.random() < 0.15 else (self._sku(),):
            request.lines.add(sku_id=sku, quantity=self.random.choice((1, 1, 2, 3)))
        self.placed.append(request)
        return request

    def _pay(self) -> Message:
        order_id, cost = self._order()
        return orders.PayOrderRequest(shop_id=SHOP, order_id=order_id, payment_id=self._name("p"), amount_minor=cost)

    def _cancel(self) -> Message:
        return orders.CancelOrderRequest(shop_id=SHOP, order_id=self._order()[0], command_id=self._name("c"))

    def _ship(self) -> Message:
        return orders.ShipOrderRequest(shop_id=SHOP, order_id=self._order()[0], command_id=self._name("c"))

    def _deliver(self) -> Message:
        return orders.DeliverOrderRequest(shop_id=SHOP, order_id=self._order()[0], command_id=self._name("c"))

    def _return(self) -> Message:
        return orders.ReturnOrderRequest(shop_id=SHOP, order_id=self._order()[0], command_id=self._name("c"))

    def _settle(self) -> Message:
        order_id, cost = self._order()
        return orders.SettleRefundRequest(
            shop_id=SHOP, order_id=order_id, command_id=self._name("c"), amount_minor=cost
        )

    def _adjust(self) -> Message:
        delta = self.random.choice((3, 8, 20)) if self.random.random() < 0.9 else -2
        return inventory.AdjustStockRequest(
            adjustment_id=self._name("a"), shop_id=SHOP, sku_id=self._sku(), location_id=self._location(), delta=delta
        )

    def _transfer(self) -> Message:
        return inventory.TransferStockRequest(
            transfer_id=self._name("t"),
            shop_id=SHOP,
            sku_id=self._sku(),
            from_location_id="near",
            to_location_id="far",
            quantity=1,
        )

    def _put_sku(self) -> Message:
        sku = COLD if self.steps and self.sent[-1][0] == fields.ADJUST_STOCK else HOT
        return inventory.PutSkuRequest(
            shop_id=SHOP,
            sku_id=sku,
            price_minor=PRICE,
            reserve_ttl_ms=HOLD_MS,
            backorder_policy=self.random.choice((None, BACKORDER_POLICY_ALLOW)),
            buyer_limit_per_window=self.random.choice((0, 0, 6)),
        )

    def _get_order(self) -> Message:
        return orders.GetOrderRequest(shop_id=SHOP, order_id=self._order()[0])

    def _get_stock(self) -> Message:
        return inventory.GetStockRequest(shop_id=SHOP, sku_id=self._sku())
