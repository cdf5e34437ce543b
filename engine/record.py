"""A log record, decoded for people: what audit and dump show. The core reads records without this."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError, Message

from engine import _core
from engine.errors import ReplayMismatch
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import log_pb2, outcome_pb2
from everopen.v1 import order_service_pb2 as orders

# length, kind, outcome, level, caller, command_length, time_ms: see docs/log_format.md.
_HEADER: Final = struct.Struct("<IBBHIIq")

_KINDS: Final[dict[int, tuple[str, type[Message]]]] = {
    _core.PLACE_ORDER: ("PlaceOrder", orders.PlaceOrderRequest),
    _core.PAY_ORDER: ("PayOrder", orders.PayOrderRequest),
    _core.CANCEL_ORDER: ("CancelOrder", orders.CancelOrderRequest),
    _core.SHIP_ORDER: ("ShipOrder", orders.ShipOrderRequest),
    _core.DELIVER_ORDER: ("DeliverOrder", orders.DeliverOrderRequest),
    _core.RETURN_ORDER: ("ReturnOrder", orders.ReturnOrderRequest),
    _core.SETTLE_REFUND: ("SettleRefund", orders.SettleRefundRequest),
    _core.PUT_SHOP: ("PutShop", inventory.PutShopRequest),
    _core.PUT_LOCATION: ("PutLocation", inventory.PutLocationRequest),
    _core.PUT_SKU: ("PutSku", inventory.PutSkuRequest),
    _core.ADJUST_STOCK: ("AdjustStock", inventory.AdjustStockRequest),
    _core.TRANSFER_STOCK: ("TransferStock", inventory.TransferStockRequest),
    _core.TICK: ("Tick", log_pb2.Tick),
    _core.ACTIVATE: ("Activate", log_pb2.Activate),
    _core.EVICT: ("Evict", log_pb2.Evict),
    _core.RESTORE: ("Restore", log_pb2.Restore),
}


class Record(NamedTuple):
    """One record; `command` and `effects` are protobuf bytes."""

    sequence: int
    kind: int
    outcome: int
    level: int
    time_ms: int
    command: bytes
    effects: bytes

    @classmethod
    def parse(cls, sequence: int, data: bytes) -> Record:
        """Raises ReplayMismatch if the lengths in the record do not fit it."""
        if len(data) < _HEADER.size:
            raise ReplayMismatch(sequence, "the record is shorter than its header")
        length, kind, outcome, level, _, command_bytes, time_ms = _HEADER.unpack_from(data)
        if length != len(data) or command_bytes > length - _HEADER.size:
            raise ReplayMismatch(sequence, "the record's lengths do not fit")
        command_end = _HEADER.size + command_bytes
        return cls(sequence, kind, outcome, level, time_ms, data[_HEADER.size : command_end], data[command_end:])

    @property
    def kind_name(self) -> str:
        return _KINDS[self.kind][0] if self.kind in _KINDS else f"kind {self.kind}"

    @property
    def outcome_name(self) -> str:
        try:
            return outcome_pb2.Outcome.Name(outcome_pb2.Outcome.ValueType(self.outcome)).removeprefix("OUTCOME_")
        except ValueError:
            return f"outcome {self.outcome}"

    def messages(self) -> tuple[Message, Message]:
        """The command and its effects. Raises ReplayMismatch if they do not parse."""
        if self.kind not in _KINDS:
            raise ReplayMismatch(self.sequence, f"the record is of an unknown kind, {self.kind}")
        try:
            return _KINDS[self.kind][1].FromString(self.command), log_pb2.Effects.FromString(self.effects)
        except DecodeError as error:
            raise ReplayMismatch(self.sequence, f"the record does not parse: {error}") from None

    def as_text(self) -> str:
        """One line, aligned with its neighbours up to the command."""
        command, effects = (text_format.MessageToString(message, as_one_line=True) for message in self.messages())
        time = datetime.fromtimestamp(self.time_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        head = f"{self.sequence:>12}  {time:<29}  {self.kind_name:<13}  {self.outcome_name:<18}"
        return f"{head}  {command or '-'}  =>  {effects or '-'}"

    def as_json(self, shard: int) -> bytes:
        """One line of JSON, with the newline."""
        command, effects = (_plain(message) for message in self.messages())
        fields: dict[str, Any] = {
            "shard": shard,
            "sequence": self.sequence,
            "time_ms": self.time_ms,
            "level": self.level,
            "kind": self.kind_name,
            "outcome": self.outcome_name,
            "command": command,
            "effects": effects,
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _plain(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
