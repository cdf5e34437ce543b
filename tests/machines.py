"""The core and the naive model side by side: one door for both, and a pair that must answer alike."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from engine._core import Shard
from everopen.v1 import log_pb2
from everopen.v1.order_service_pb2 import GetOrderResponse
from tests.reference import Model
from tests.reference_digest import order_business
from tests.reference_fields import ACTIVATE, INTERNAL, REQUESTS, RESPONSES, TICK
from tests.reference_retention import item_of

RECORD_HEADER_BYTES = 24
MESSAGE_BYTES_MAX = 4 * 2**20
LOG_ID = bytes(range(16))


class Result(NamedTuple):
    """What came of a command or read: a fault, or a response (None for a tick) and the sequence of its record."""

    code: int
    reason: str
    field: str
    response: Message | None
    sequence: int


class Effects(NamedTuple):
    """Orders and stock rows that a record changed, by their names."""

    orders: dict[tuple[str, str], Message]
    stocks: dict[tuple[str, str, str], Message]


def effects_of(message: log_pb2.Effects) -> Effects:
    return Effects(
        {(order.shop_id, order.order_id): order for order in message.orders},
        {(stock.shop_id, stock.sku_id, stock.location_id): stock for stock in message.stocks},
    )


def effects_of_record(record: bytes) -> Effects:
    command_bytes = int.from_bytes(record[12:16], "little")
    return effects_of(log_pb2.Effects.FromString(record[RECORD_HEADER_BYTES + command_bytes :]))


def effects_of_model(model: Model) -> Effects:
    return Effects(
        {(order.shop.id, order.id): order.view() for order in model.changed_orders},
        {(row.sku.shop.id, row.sku.id, row.location.id): row.view() for row in model.changed_rows},
    )


def read_fault(status_bytes: bytes) -> tuple[str, str]:
    """Reason and field path of a Status."""
    reason = field = ""
    for detail in status_pb2.Status.FromString(status_bytes).details:
        error, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(error):
            reason = error.reason
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
    return reason, field


def ask_core(shard: Shard, method: int, request: bytes, now_ms: int) -> Result:
    code, answer, sequence = shard.execute(method, request, now_ms)
    if code:
        return Result(code, *read_fault(answer), None, sequence)
    response = RESPONSES[method].FromString(answer) if method in RESPONSES else None
    return Result(0, "", "", response, sequence)


def ask_model(model: Model, method: int, request: bytes, now_ms: int) -> Result:
    message = None
    if len(request) > MESSAGE_BYTES_MAX:
        return Result(3, "INVALID_FIELD", "", None, 0)
    if method != TICK:
        try:
            message = (REQUESTS | INTERNAL)[method].FromString(request)
        except DecodeError:
            return Result(3, "MALFORMED_MESSAGE", "", None, 0)
        message.DiscardUnknownFields()
    answer = model.execute(method, message, now_ms)
    return Result(answer.code, answer.reason, answer.field, answer.response, answer.sequence)


class Pair:
    """Each command goes to both; what differs is an AssertionError that says so."""

    def __init__(
        self, idempotency_window_ms: int = 3_600_000, idempotency_entries_max: int = 10_000, level: int = 2
    ) -> None:
        self.core = Shard(LOG_ID, idempotency_window_ms, idempotency_entries_max, level)
        self.model = Model(LOG_ID, idempotency_window_ms, idempotency_entries_max, level)

    def execute(self, method: int, request: Message | bytes, now_ms: int | None = None) -> Result:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        now_ms = self.model.time_ms if now_ms is None else now_ms
        expected = ask_model(self.model, method, data, now_ms)
        got = ask_core(self.core, method, data, now_ms)
        assert got == expected, f"the core answered\n{got}\nand the model\n{expected}"
        if got.sequence:
            self._compare_effects(method)
        return got

    def tick(self, now_ms: int) -> None:
        self.execute(TICK, b"", now_ms)

    def raise_level(self, now_ms: int) -> None:
        self.model.raise_level(now_ms)
        assert self.core.raise_level(now_ms) == self.model.sequence

    def compare_closed(self) -> None:
        """What the archive would be given, and what it would then say of it."""
        model = self.model
        over = [
            (sequence, order.sequence, order.shop.id, order.id, item_of(order, sequence, time_ms))
            for order, (sequence, time_ms) in model.closed.items()
            if time_ms + model.idempotency_window_ms <= model.time_ms
        ]
        assert self.core.closed(0, len(over) + 1) == over
        for item, order in model.archive.items():
            assert self.core.business_digest_of(item) == f"{order_business(order):032x}"
            response = GetOrderResponse.FromString(self.core.order_response(order.shop.id, item))
            assert response == GetOrderResponse(order=order.view(), sequence=model.sequence, log_id=model.log_id)

    def _compare_effects(self, method: int) -> None:
        assert method != ACTIVATE
        got, expected = effects_of_record(self.core.record), effects_of_model(self.model)
        assert got == expected, f"the core's effects are\n{got}\nand the model's\n{expected}"

    def compare_digests(self) -> None:
        assert self.core.sequence == self.model.sequence
        assert self.core.next_due_ms() == self.model.next_due_ms()
        assert self.core.business_digest() == self.model.business_digest(), "business digests differ"
        assert self.core.state_digest() == self.model.state_digest(), "state digests differ"
        assert self.core.check() == ""
