"""Seeded sequences of commands. Ids come from small sets, so that orders, stock and retries collide.

The generator looks at the naive model to aim: it pays what is due, ships what is paid, ticks when a hold ends. What it
gives is plain bytes and times, so that a sequence can be run again without it.
"""

from __future__ import annotations

import random
from itertools import islice
from typing import NamedTuple

from google.protobuf.message import Message

from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2
from everopen.v1 import order_service_pb2 as orders
from tests import reference_fields as fields
from tests.profiles import PROFILES
from tests.reference import Model
from tests.reference_state import Order

RECENT_ORDERS = 24
# How long a shop is in use: what is retired or forgotten by the buyers must not stop a run for ever.
SHOP_COMMANDS = 1_500
START_MS = 1_700_000_000_000
NUMBERS = (
    0,
    1,
    2,
    255,
    10**8,
    10**8 + 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**12,
    10**12 + 1,
    10**15,
    10**15 + 1,
    2**63 - 1,
)
TEXTS = ("", " ", "x", "x" * 64, "x" * 65, "a b", "\x7f", "ü", "A", "CNY", "usd")


class Step(NamedTuple):
    method: int
    request: bytes
    now_ms: int


class Generator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.profile = PROFILES[seed % len(PROFILES)]
        self.now_ms = START_MS
        self.count = 0
        self.order_count = 0
        self.recent: list[tuple[str, str]] = []
        self.past: list[tuple[int, Message]] = []
        self.opening: list[tuple[int, Message]] = []
        self.makers = {
            fields.PLACE_ORDER: (36, self._place),
            fields.PAY_ORDER: (4 if self.profile.retire else 13, self._pay),
            fields.CANCEL_ORDER: (30 if self.profile.retire else 7, self._cancel),
            fields.SHIP_ORDER: (9, self._ship),
            fields.DELIVER_ORDER: (5, self._deliver),
            fields.RETURN_ORDER: (7, self._return),
            fields.SETTLE_REFUND: (12 if self.profile.retire else 3, self._settle),
            fields.ADJUST_STOCK: (3 if self.profile.restock_rarely else 10, self._adjust),
            fields.TRANSFER_STOCK: (3, self._transfer),
            fields.PUT_SKU: (20 if self.profile.retire else 4, self._put_sku),
            fields.PUT_LOCATION: (4, self._put_location),
            fields.PUT_SHOP: (1, self._put_shop),
            fields.GET_ORDER: (1, self._get_order),
            fields.GET_STOCK: (1, self._get_stock),
            fields.EVICT: (8 if self.profile.retire else 2, self._evict),
            fields.RESTORE: (2, self._restore),
        }
        self.methods = list(self.makers)
        self.weights = [weight for weight, _ in self.makers.values()]

    def next(self, model: Model) -> Step:
        if self.count % SHOP_COMMANDS == 0:
            self.opening = self._opening(f"shop{self.count // SHOP_COMMANDS}")
        self.count += 1
        if self.opening:
            method, request = self.opening.pop(0)
            return Step(method, request.SerializeToString(), self.now_ms)
        self._pass_time(model)
        if self.random.random() < (0.3 if 0 <= model.next_due_ms() <= self.now_ms else 0.03):
            return Step(fields.TICK, b"", self.now_ms)
        method, request = self._command(model)
        if method in fields.INTERNAL:
            # Never repeated: an item of the archive is good for one Restore.
            return Step(method, request.SerializeToString(), self.now_ms)
        self.past = [*self.past[-60:], (method, request)]
        return Step(method, request.SerializeToString(), self.now_ms)

    def _pass_time(self, model: Model) -> None:
        chance = self.random.random()
        if chance < 0.4:
            self.now_ms += self.random.randrange(200)
        elif chance < 0.43:
            self.now_ms += self.random.choice((1_000, 5_000, 20_000))
        elif chance < 0.48 and model.next_due_ms() > 0:
            self.now_ms = max(self.now_ms, model.next_due_ms() + self.random.choice((-1, 0, 0, 1)))
        elif chance < 0.49:
            # A clock that went back: logged time does not.
            self.now_ms -= self.random.randrange(500)

    def _command(self, model: Model) -> tuple[int, Message]:
        chance = self.random.random()
        if chance < 0.06 and self.past:
            return self._repeat()
        if chance < 0.09:
            return self._side_shop()
        method = self.random.choices(self.methods, self.weights)[0]
        request = self.makers[method][1](model)
        if chance > 0.97 and method not in fields.INTERNAL:
            self._spoil(request)
        return method, request

    def _repeat(self) -> tuple[int, Message]:
        method, request = self.random.choice(self.past)
        repeat = type(request).FromString(request.SerializeToString())
        if hasattr(repeat, "first_sent_at_ms") and self.random.random() < 0.5:
            repeat.first_sent_at_ms = max(0, self.now_ms - self.random.choice((10, 4_001, 100_000)))
        elif self.random.random() < 0.3:
            self._spoil(repeat)
        return method, repeat

    def _spoil(self, request: Message) -> None:
        """Sets some field to something borderline."""
        field = self.random.choice([field for field in request.DESCRIPTOR.fields if field.number < 16])
        target = request
        if field.message_type and not field.message_type.GetOptions().map_entry:
            items = getattr(request, field.name)
            if items and self.random.random() < 0.8:
                target = self.random.choice(items)
                field = self.random.choice(target.DESCRIPTOR.fields)
            else:
                del items[:]
                return
        if field.message_type:
            request.attributes.update(
                {f"k{i}": "v" * self.random.choice((1, 90)) for i in range(self.random.randrange(19))}
            )
        elif field.type == field.TYPE_STRING:
            setattr(target, field.name, self.random.choice(TEXTS))
        else:
            self._spoil_number(target, field)

    def _spoil_number(self, target: Message, field: object) -> None:
        number = self.random.choice(NUMBERS)
        for candidate in (number, number % 2**31, number % 2):
            try:
                setattr(target, field.name, self.random.choice((candidate, -candidate)))
                return
            except ValueError:
                continue

    # Names

    def _shop(self) -> str:
        newest = self.count // SHOP_COMMANDS
        return f"shop{max(0, newest - self.random.choice((0, 0, 0, 1)))}"

    def _sku(self) -> str:
        return f"sku{self.random.randrange(self.profile.skus + (self.random.random() < 0.02))}"

    def _location(self) -> str:
        return f"loc{self.random.randrange(self.profile.locations + (self.random.random() < 0.02))}"

    def _region(self) -> str:
        return self.random.choice(("", "north", "south", "east", "nowhere"))

    def _any_order(self) -> tuple[str, str]:
        return self.random.choice(self.recent) if self.recent else ("shop0", "none")

    def _order(self, model: Model, wanted: str) -> tuple[str, str, Order | None]:
        """An accepted order that the wanted property suits, if there is one; now and then any."""
        shop = model.shops.get(self._shop())
        accepted = list(islice(reversed(shop.orders.values()), RECENT_ORDERS)) if shop else []
        if not accepted or self.random.random() < 0.04:
            return (*self._any_order(), None)
        suitable = [order for order in accepted if getattr(self, f"_{wanted}_suits")(order)]
        order = self.random.choice(accepted if not suitable or self.random.random() < 0.1 else suitable)
        return order.shop.id, order.id, order

    def _pay_suits(self, order: Order) -> bool:
        return not order.paid

    def _cancel_suits(self, order: Order) -> bool:
        return order.has_open

    def _ship_suits(self, order: Order) -> bool:
        return order.paid and order.has_open

    def _goods_suits(self, order: Order) -> bool:
        return any(line.shipped for line in order.lines)

    def _settle_suits(self, order: Order) -> bool:
        return order.refund_due > 0

    def _command_id(self) -> str:
        return f"c{self.random.randrange(6)}" if self.random.random() < 0.2 else f"c{self.count}"

    def _first_sent(self) -> int:
        if self.random.random() < 0.9:
            return 0
        return max(
            0, self.now_ms + self.random.choice((0, -1_000, -self.profile.window_ms, -self.profile.window_ms - 1))
        )

    # Orders

    def _place(self, model: Model) -> Message:
        shop_id = self._shop()
        if self.random.random() < 0.98:
            self.order_count += 1
        order_id = f"o{self.order_count}"
        self.recent = [*self.recent[-RECENT_ORDERS:], (shop_id, order_id)]
        request = orders.PlaceOrderRequest(
            order_id=order_id,
            shop_id=shop_id,
            buyer_id=f"b{self.random.randrange(5)}",
            region=self._region(),
            strategy=self.random.choice((0, 0, 1, 2, 3, 4)),
            priority_class=self.random.choice((0, 0, 0, 0, 1, 9)),
            first_sent_at_ms=self._first_sent(),
        )
        if self.random.random() < 0.2:
            request.allow_split = self.random.random() < 0.4
        if self.random.random() < 0.1:
            request.placed_at_ms = self.random.randrange(10**12)
            request.attributes["cart_id"] = "7"
        for _ in range(self.random.choice(self.profile.lines)):
            line = request.lines.add(sku_id=self._sku(), quantity=self.random.randint(1, self.profile.quantity_max))
            self._price(line)
        return request

    def _price(self, line: orders.PlaceOrderLine) -> None:
        chance = self.random.random()
        if chance < 0.3:
            line.amount_minor = self.random.choice((0, 1, 7, 100, 999))
        elif chance < 0.33:
            line.expected_price_minor = self.random.choice((5, 10))
        elif self.profile.money and chance < 0.5:
            line.amount_minor = self.random.choice((10**15, 10**15 // 3, 10**14))

    def _pay(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "pay")
        total = sum(line.payable for line in order.lines) if order else 50
        missing = max(0, total - order.credit) if order else 0
        amount = self.random.choice((missing, missing, missing, missing, missing // 2, missing + 10, total, 0, 1))
        if self.profile.money and self.random.random() < 0.1:
            amount = 10**15
        payment_id = f"p{self.random.randrange(4)}" if self.random.random() < 0.2 else f"p{self.count}"
        return orders.PayOrderRequest(shop_id=shop_id, order_id=order_id, payment_id=payment_id, amount_minor=amount)

    def _some_lines(self, order: Order | None, request: Message) -> None:
        """Half of the time named lines, mostly with quantities that are there."""
        if order is None or self.random.random() < 0.4:
            return
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            index = self.random.randrange(len(order.lines) + (self.random.random() < 0.02))
            request.lines.add(line_index=index, quantity=self.random.choice((1, 1, 1, 2, 3)))

    def _cancel(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "cancel")
        request = orders.CancelOrderRequest(shop_id=shop_id, order_id=order_id, command_id=self._command_id())
        if not self.profile.retire:
            self._some_lines(order, request)
        return request

    def _ship(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "ship")
        request = orders.ShipOrderRequest(shop_id=shop_id, order_id=order_id, command_id=self._command_id())
        self._some_lines(order, request)
        for line in request.lines:
            if self.random.random() < 0.3:
                line.location_id = self._location()
        return request

    def _deliver(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "goods")
        request = orders.DeliverOrderRequest(shop_id=shop_id, order_id=order_id, command_id=self._command_id())
        self._some_lines(order, request)
        return request

    def _return(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "goods")
        request = orders.ReturnOrderRequest(shop_id=shop_id, order_id=order_id, command_id=self._command_id())
        self._some_lines(order, request)
        request.disposition = self.random.choice((0, 0, 1, 2))
        if self.random.random() < 0.3:
            request.location_id = self._location()
        return request

    def _settle(self, model: Model) -> Message:
        shop_id, order_id, order = self._order(model, "settle")
        due = order.refund_due if order else 0
        amount = self.random.choice((0, due, due // 2, due + 1))
        return orders.SettleRefundRequest(
            shop_id=shop_id, order_id=order_id, command_id=self._command_id(), amount_minor=amount
        )

    def _get_order(self, model: Model) -> Message:
        shop_id, order_id = self._any_order()
        return orders.GetOrderRequest(shop_id=shop_id, order_id=order_id)

    # Retention

    def _evict(self, model: Model) -> Message:
        """Mostly all that is due."""
        closed = [sequence for sequence, _ in model.closed.values()]
        last = self.random.choice(closed) if closed and self.random.random() < 0.3 else model.sequence
        return log_pb2.Evict(closed_sequence=last)

    def _restore(self, model: Model) -> Message:
        """Mostly what was evicted lately, whole; else something that the archive should not have given."""
        items = list(model.archive)[-12:]
        if not items:
            return log_pb2.Restore(shop_id=self._shop(), item=self.random.randbytes(self.random.choice((1, 3, 80))))
        item = self.random.choice(items)
        shop_id = model.archive[item].shop.id
        chance = self.random.random()
        if chance < 0.05:
            shop_id = "side"
        elif chance < 0.1:
            place = self.random.randrange(len(item))
            item = item[:place] + bytes([item[place] ^ 1 << self.random.randrange(8)]) + item[place + 1 :]
        elif chance < 0.12:
            item = item[: self.random.randrange(1, len(item))]
        return log_pb2.Restore(shop_id=shop_id, item=item)

    # Stock and catalogue

    def _adjust(self, model: Model) -> Message:
        kind = self.random.choice((0, 0, 0, 1, 2, 3))
        delta = self.random.randint(1, self.profile.restock_max)
        if self.random.random() < self.profile.retire:
            kind, delta = 3, 0
        if kind in (0, 2) and self.random.random() < 0.25:
            delta = -self.random.randint(1, 8)
        if self.profile.money and self.random.random() < 0.02:
            delta = 10**12 - self.random.randrange(3)
        return inventory.AdjustStockRequest(
            adjustment_id=f"a{self.count}" if self.random.random() < 0.95 else "a",
            shop_id=self._shop(),
            sku_id=self._sku(),
            location_id=self._location(),
            delta=delta,
            kind=kind,
            first_sent_at_ms=self._first_sent(),
        )

    def _transfer(self, model: Model) -> Message:
        return inventory.TransferStockRequest(
            transfer_id=f"t{self.count}" if self.random.random() < 0.95 else "t",
            shop_id=self._shop(),
            sku_id=self._sku(),
            from_location_id=self._location(),
            to_location_id=self._location(),
            quantity=self.random.randint(1, 6),
            first_sent_at_ms=self._first_sent(),
        )

    def _get_stock(self, model: Model) -> Message:
        return inventory.GetStockRequest(shop_id=self._shop(), sku_id=self._sku())

    def _put_shop(self, model: Model) -> Message:
        return self.make_shop(self._shop(), self.random.choice((0,) * 20 + (2, 3)))

    def _put_location(self, model: Model) -> Message:
        status = self.random.choice((0, 0, 0, 0, 1, 1, 1, 2))
        if self.random.random() < max(0.02, self.profile.retire):
            status = 3
        return self.make_location(self._shop(), self._location(), status)

    def _put_sku(self, model: Model) -> Message:
        status = self.random.choice((0,) * 40 + (1, 2, 2, 3))
        if self.random.random() < self.profile.retire:
            status = 3
        return self.make_sku(self._shop(), self._sku(), status)

    def make_shop(self, shop_id: str, status: int) -> Message:
        request = inventory.PutShopRequest(shop_id=shop_id, status=status, strategy=self.random.randrange(5))
        request.currency = self.random.choice(("", "", "", "CNY", "CNY", "CNY", "CNY", "EUR"))
        if self.random.random() < 0.3:
            request.allow_split = self.random.random() < 0.7
        for _ in range(self.random.randrange(4)):
            places = (self.random.choice(("north", "south", "east", "west")) for _ in range(2))
            request.region_costs.add(from_region=next(places), to_region=next(places), cost=self.random.randrange(9))
        self._maybe_revision(request)
        return request

    def make_location(self, shop_id: str, location_id: str, status: int) -> Message:
        request = inventory.PutLocationRequest(
            shop_id=shop_id,
            location_id=location_id,
            kind=self.random.randrange(3),
            region=self.random.choice(("", "north", "south", "east")),
            priority=self.random.randrange(3),
            status=status,
        )
        self._maybe_revision(request)
        return request

    def make_sku(self, shop_id: str, sku_id: str, status: int) -> Message:
        chosen = self.random
        request = inventory.PutSkuRequest(
            shop_id=shop_id,
            sku_id=sku_id,
            status=status,
            price_minor=chosen.choice((0, 5, 10, 10)),
            backorder_policy=2 if chosen.random() < self.profile.backorders else 0,
            backorder_limit=chosen.choice((0, 0, 10, 30)) if not self.profile.restock_rarely else 0,
            safety_stock=chosen.choice((0, 0, 0, 1, 3)),
            reserve_ttl_ms=chosen.choice((0, 1_000, 3_000, 3_000, 20_000)),
            buyer_window_ms=chosen.choice((0, 2_000, 10_000)),
        )
        if self.profile.money and chosen.random() < 0.2:
            request.price_minor = 10**12
        if chosen.random() < self.profile.limits:
            request.buyer_limit_per_order = chosen.choice((0, 4, 8))
            request.buyer_limit_per_window = chosen.choice((0, 6, 15))
        if chosen.random() < 0.2:
            for _ in range(chosen.randrange(3)):
                request.safety_stock_overrides.add(location_id=self._location(), quantity=chosen.randrange(6))
        self._maybe_revision(request)
        return request

    def _maybe_revision(self, request: Message) -> None:
        if self.random.random() < 0.05:
            request.if_revision = self.random.choice((0, 1, 2))

    def _opening(self, shop_id: str) -> list[tuple[int, Message]]:
        """A shop with its places, goods, and some stock."""
        steps: list[tuple[int, Message]] = [(fields.PUT_SHOP, self.make_shop(shop_id, 0))]
        places = [self.make_location(shop_id, f"loc{number}", 0) for number in range(self.profile.locations)]
        goods = [self.make_sku(shop_id, f"sku{number}", 0) for number in range(self.profile.skus)]
        steps += [(fields.PUT_LOCATION, place) for place in places]
        return steps + [(fields.PUT_SKU, sku) for sku in goods]

    def _side_shop(self) -> tuple[int, Message]:
        """A shop without orders, whose entities are retired and made again all the time."""
        status = self.random.choice((0, 1, 2, 3, 3, 3))
        chance = self.random.random()
        if chance < 0.25:
            return fields.PUT_SHOP, self.make_shop("side", status)
        if chance < 0.5:
            return fields.PUT_LOCATION, self.make_location("side", f"loc{self.random.randrange(2)}", status)
        if chance < 0.75:
            return fields.PUT_SKU, self.make_sku("side", f"sku{self.random.randrange(2)}", status)
        return fields.ADJUST_STOCK, inventory.AdjustStockRequest(
            adjustment_id=f"a{self.count}",
            shop_id="side",
            sku_id=f"sku{self.random.randrange(2)}",
            location_id=f"loc{self.random.randrange(2)}",
            delta=self.random.choice((0, 0, 0, 3)),
            kind=3,
        )
