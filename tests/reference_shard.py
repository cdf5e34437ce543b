"""What all commands of the naive model share: the log's clock, remembered ids, holds, purchases, backorders, ticks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import Message

from tests.reference_fields import content_of
from tests.reference_plan import Attempt, attempt
from tests.reference_state import RETIRED, Location, Order, Purchase, Remembered, Row, Shop, Sku

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED, ABORTED = 3, 5, 6, 8, 10
UNIMPLEMENTED, DATA_LOSS = 12, 15
BACKORDER_LOOKAHEAD_MAX = 64
STEPS_MAX = 4096


class Fault(Exception):
    """A command that is not decided: nothing is logged, nothing changed, the id stays free."""

    def __init__(self, code: int, reason: str, field: str = "") -> None:
        super().__init__(f"{code} {reason} {field}")
        self.code, self.reason, self.field = code, reason, field


@dataclass(slots=True)
class Answer:
    """code 0: `response` (None for a tick) and the sequence of the record, 0 if none was written."""

    code: int = 0
    reason: str = ""
    field: str = ""
    response: Message | None = None
    sequence: int = 0


class Shard:
    def __init__(self, log_id: bytes, idempotency_window_ms: int, idempotency_entries_max: int, level: int) -> None:
        self.log_id = log_id
        self.level = level
        self.idempotency_window_ms = idempotency_window_ms
        self.idempotency_entries_max = idempotency_entries_max
        # The first record is the Activate.
        self.sequence = 1
        self.time_ms = 0
        self.now_ms = 0
        self.shops: dict[str, Shop] = {}
        # Dicts without values are sets that keep their order.
        self.held: dict[Order, None] = {}
        self.purchases: dict[Purchase, None] = {}
        self.to_match: list[Sku] = []
        self.listed = False
        self.begun = 0
        # Used-up ids without an order, oldest first.
        self.remembered: dict[tuple[Shop, int, str], Remembered] = {}
        # Closed orders in the order of their closing, each with sequence and time of that.
        self.closed: dict[Order, tuple[int, int]] = {}
        # What was evicted, by what the archive would keep of it; and what it adds to the business digest.
        self.archive: dict[bytes, Order] = {}
        self.evicted = 0
        self.evicted_orders = 0
        self.changed_orders: dict[Order, None] = {}
        self.changed_rows: dict[Row, None] = {}

    def begin(self, now_ms: int) -> None:
        """Before each command. The time counts only once the command is decided, that is with log()."""
        self.changed_orders = {}
        self.changed_rows = {}
        self.listed = False
        self.now_ms = max(self.time_ms, now_ms)

    def log(self) -> None:
        """From here on the command is decided."""
        self.sequence += 1
        self.time_ms = self.now_ms

    # Ids

    def too_old(self, first_sent_at_ms: int) -> bool:
        return first_sent_at_ms > 0 and self.now_ms - first_sent_at_ms > self.idempotency_window_ms

    def recall(self, known: Remembered | None, kind: int, request: Message) -> Remembered | None:
        """What is known of an id, if it is a repeat."""
        if known and (known.kind != kind or known.content != content_of(request)):
            raise Fault(ALREADY_EXISTS, "ID_CONFLICT")
        return known

    def check_room_for_id(self) -> None:
        if len(self.remembered) >= self.idempotency_entries_max:
            raise Fault(RESOURCE_EXHAUSTED, "IDEMPOTENCY_TABLE_FULL")

    def remember(
        self, shop: Shop, kind: int, name: str, request: Message, outcome: int, refused_line: int | None = None
    ) -> Remembered:
        known = Remembered(kind, name, content_of(request), self.sequence, outcome, self.now_ms, refused_line)
        shop.ids[kind, name] = known
        self.remembered[shop, kind, name] = known
        return known

    # Names

    def sku_of(self, shop: Shop, sku_id: str) -> Sku:
        if sku_id not in shop.skus:
            raise Fault(NOT_FOUND, "SKU_NOT_FOUND")
        return shop.skus[sku_id]

    def location_of(self, shop: Shop, location_id: str) -> Location:
        if location_id not in shop.locations:
            raise Fault(NOT_FOUND, "LOCATION_NOT_FOUND")
        return shop.locations[location_id]

    def row_for(self, sku: Sku, location: Location) -> Row:
        """The row, which comes to be with the first command that needs it."""
        if location.id not in sku.rows:
            sku.rows[location.id] = Row(sku, location, sku.safety_stock)
        return sku.rows[location.id]

    def rows_at(self, location: Location | None) -> list[Row]:
        skus = location.shop.skus.values() if location else []
        return [sku.rows[location.id] for sku in skus if location and location.id in sku.rows]

    def live(self, entity: Location | Sku) -> bool:
        return entity.settings.status != RETIRED

    def reclaim(self, shop: Shop) -> None:
        """Removes what is retired and no longer named by anything."""
        for sku in [sku for sku in shop.skus.values() if not self.live(sku)]:
            if not sku.order_count and not sku.purchases:
                for row in sku.rows.values():
                    self.changed_rows.pop(row, None)
                del shop.skus[sku.id]
        for location in [place for place in shop.locations.values() if not self.live(place)]:
            if not self.rows_at(location):
                del shop.locations[location.id]
        if shop.settings.status == RETIRED and not (shop.skus or shop.locations or shop.orders or shop.ids):
            del self.shops[shop.id]

    def review_closing(self, order: Order) -> None:
        """A closed order that was changed is closed anew, since the archive may have it as it was."""
        self.closed.pop(order, None)
        if self.level >= 2 and order.closed:
            self.closed[order] = (self.sequence, self.now_ms)

    # Holds and purchases

    def take(self, order: Order, trial: Attempt) -> None:
        """Reserves what was planned. The heads that it passes are noted."""
        for sku in trial.passing:
            sku.passed[sku.queue[0]] += 1
        order.allocations = trial.plan or []
        for allocation in order.allocations:
            allocation.row.reserved += allocation.quantity
            self.changed_rows[allocation.row] = None

    def begin_hold(self, order: Order) -> None:
        self.begun += 1
        order.hold_begin = self.begun
        order.hold_ttl_ms = min(line.sku.settings.reserve_ttl_ms for line in order.lines)
        order.expires_at_ms = self.now_ms + order.hold_ttl_ms
        self.held[order] = None

    def end_hold(self, order: Order) -> None:
        order.expires_at_ms = 0
        self.held.pop(order, None)

    def begin_purchases(self, order: Order) -> None:
        for sku, units in order.need().items():
            if sku.settings.buyer_limit_per_window:
                self.begun += 1
                window = sku.settings.buyer_window_ms
                purchase = Purchase(sku, order, units, self.now_ms + window, window, self.begun)
                sku.purchases[order] = purchase
                self.purchases[purchase] = None

    def shrink_purchase(self, order: Order, sku: Sku, units: int) -> None:
        purchase = sku.purchases.get(order)
        if purchase:
            purchase.units -= units
            if not purchase.units:
                self.drop_purchase(purchase)

    def drop_purchase(self, purchase: Purchase) -> None:
        del purchase.sku.purchases[purchase.order]
        del self.purchases[purchase]

    # Backorders

    def join_queues(self, order: Order) -> None:
        order.waiting = True
        for sku in order.need():
            if not sku.queue:
                sku.shop.queued.append(sku)
            sku.queue.append(order)
            sku.queue.sort(key=lambda waiting: (-waiting.priority_class, waiting.sequence))
            sku.passed[order] = 0

    def leave_queue(self, order: Order, sku: Sku) -> None:
        sku.queue.remove(order)
        del sku.passed[order]
        if not sku.queue:
            sku.shop.queued.remove(sku)

    def put_on_list(self, sku: Sku) -> None:
        if sku.queue:
            self.listed = True
            if sku not in self.to_match:
                self.to_match.append(sku)

    def match_if_listed(self) -> None:
        if self.listed:
            self.match()

    def match(self) -> None:
        steps = 0
        while self.to_match:
            sku = self.to_match[0]
            for order in sku.queue[:BACKORDER_LOOKAHEAD_MAX]:
                if steps >= STEPS_MAX:
                    return
                steps += len(order.lines)
                trial = attempt(order)
                steps += trial.head_lines
                if trial.plan:
                    steps += len(trial.plan)
                    self._serve_backorder(order, trial)
            self.to_match.remove(sku)

    def _serve_backorder(self, order: Order, trial: Attempt) -> None:
        self.take(order, trial)
        order.waiting = False
        if not order.paid:
            self.begin_hold(order)
        was_head = [sku for sku in order.need() if sku.queue[0] is order]
        for sku in order.need():
            self.leave_queue(order, sku)
        for sku in was_head:
            self.put_on_list(sku)
        self.changed_orders[order] = None

    # Time

    def next_due_ms(self) -> int:
        """When a tick has work to do; 0: now, -1: never."""
        if self.to_match:
            return 0
        ends = [order.expires_at_ms for order in self.held]
        ends += [purchase.ends_at_ms for purchase in self.purchases]
        # They are remembered in the order of their times.
        ends += [known.time_ms + self.idempotency_window_ms for known in islice(self.remembered.values(), 1)]
        return min(ends, default=-1)

    def tick(self) -> None:
        self.log()
        self._end_holds()
        ended = [purchase for purchase in self.purchases if purchase.ends_at_ms <= self.now_ms]
        ended.sort(key=lambda purchase: (purchase.ends_at_ms, purchase.window_ms, purchase.begin))
        for purchase in ended[:STEPS_MAX]:
            self.drop_purchase(purchase)
            self.review_closing(purchase.order)
        self._forget_ids()
        self.match()

    def _end_holds(self) -> None:
        steps = 0
        due = [order for order in self.held if order.expires_at_ms <= self.now_ms]
        for order in sorted(due, key=lambda order: (order.expires_at_ms, order.hold_ttl_ms, order.hold_begin)):
            if steps >= STEPS_MAX:
                return
            steps += len(order.lines) + len(order.allocations)
            for allocation in order.allocations:
                allocation.row.reserved -= allocation.reserved
                self.changed_rows[allocation.row] = None
            for sku, units in order.need().items():
                self.shrink_purchase(order, sku, units)
            order.expired = True
            self.end_hold(order)
            self.review_closing(order)
            self.changed_orders[order] = None
            for line in order.lines:
                self.put_on_list(line.sku)

    def _forget_ids(self) -> None:
        for (shop, kind, name), known in list(self.remembered.items())[:STEPS_MAX]:
            if known.time_ms + self.idempotency_window_ms > self.now_ms:
                return
            del self.remembered[shop, kind, name]
            del shop.ids[kind, name]
            self.reclaim(shop)
