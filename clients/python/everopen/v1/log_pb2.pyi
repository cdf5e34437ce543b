from everopen.v1 import inventory_pb2 as _inventory_pb2
from everopen.v1 import order_pb2 as _order_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tick(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Activate(_message.Message):
    __slots__ = ("level", "idempotency_window_ms", "idempotency_entries_max")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_ENTRIES_MAX_FIELD_NUMBER: _ClassVar[int]
    level: int
    idempotency_window_ms: int
    idempotency_entries_max: int
    def __init__(self, level: _Optional[int] = ..., idempotency_window_ms: _Optional[int] = ..., idempotency_entries_max: _Optional[int] = ...) -> None: ...

class Evict(_message.Message):
    __slots__ = ("closed_sequence",)
    CLOSED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    closed_sequence: int
    def __init__(self, closed_sequence: _Optional[int] = ...) -> None: ...

class Restore(_message.Message):
    __slots__ = ("shop_id", "item")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    item: bytes
    def __init__(self, shop_id: _Optional[str] = ..., item: _Optional[bytes] = ...) -> None: ...

class Effects(_message.Message):
    __slots__ = ("orders", "stocks")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    STOCKS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[_order_pb2.Order]
    stocks: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.StockLevel]
    def __init__(self, orders: _Optional[_Iterable[_Union[_order_pb2.Order, _Mapping]]] = ..., stocks: _Optional[_Iterable[_Union[_inventory_pb2.StockLevel, _Mapping]]] = ...) -> None: ...
