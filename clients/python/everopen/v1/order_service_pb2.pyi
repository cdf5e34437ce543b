from everopen.v1 import order_pb2 as _order_pb2
from everopen.v1 import outcome_pb2 as _outcome_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReturnDisposition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETURN_DISPOSITION_UNSPECIFIED: _ClassVar[ReturnDisposition]
    RETURN_DISPOSITION_TO_STOCK: _ClassVar[ReturnDisposition]
    RETURN_DISPOSITION_WRITE_OFF: _ClassVar[ReturnDisposition]
RETURN_DISPOSITION_UNSPECIFIED: ReturnDisposition
RETURN_DISPOSITION_TO_STOCK: ReturnDisposition
RETURN_DISPOSITION_WRITE_OFF: ReturnDisposition

class PlaceOrderRequest(_message.Message):
    __slots__ = ("order_id", "shop_id", "buyer_id", "lines", "region", "strategy", "allow_split", "priority_class", "placed_at_ms", "attributes", "first_sent_at_ms")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    BUYER_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SPLIT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    PLACED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    shop_id: str
    buyer_id: str
    lines: _containers.RepeatedCompositeFieldContainer[PlaceOrderLine]
    region: str
    strategy: _order_pb2.AllocationStrategy
    allow_split: bool
    priority_class: int
    placed_at_ms: int
    attributes: _containers.ScalarMap[str, str]
    first_sent_at_ms: int
    def __init__(self, order_id: _Optional[str] = ..., shop_id: _Optional[str] = ..., buyer_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[PlaceOrderLine, _Mapping]]] = ..., region: _Optional[str] = ..., strategy: _Optional[_Union[_order_pb2.AllocationStrategy, str]] = ..., allow_split: _Optional[bool] = ..., priority_class: _Optional[int] = ..., placed_at_ms: _Optional[int] = ..., attributes: _Optional[_Mapping[str, str]] = ..., first_sent_at_ms: _Optional[int] = ...) -> None: ...

class PlaceOrderLine(_message.Message):
    __slots__ = ("sku_id", "quantity", "amount_minor", "expected_price_minor")
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PRICE_MINOR_FIELD_NUMBER: _ClassVar[int]
    sku_id: str
    quantity: int
    amount_minor: int
    expected_price_minor: int
    def __init__(self, sku_id: _Optional[str] = ..., quantity: _Optional[int] = ..., amount_minor: _Optional[int] = ..., expected_price_minor: _Optional[int] = ...) -> None: ...

class PlaceOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id", "refused_line_index")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_LINE_INDEX_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    refused_line_index: int
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ..., refused_line_index: _Optional[int] = ...) -> None: ...

class PlaceOrdersRequest(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[PlaceOrderRequest]
    def __init__(self, orders: _Optional[_Iterable[_Union[PlaceOrderRequest, _Mapping]]] = ...) -> None: ...

class PlaceOrdersResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PlaceOrderResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PlaceOrderResult, _Mapping]]] = ...) -> None: ...

class PlaceOrderResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: PlaceOrderResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[PlaceOrderResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class LineQuantity(_message.Message):
    __slots__ = ("line_index", "quantity")
    LINE_INDEX_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    line_index: int
    quantity: int
    def __init__(self, line_index: _Optional[int] = ..., quantity: _Optional[int] = ...) -> None: ...

class PayOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "payment_id", "amount_minor")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    payment_id: str
    amount_minor: int
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., payment_id: _Optional[str] = ..., amount_minor: _Optional[int] = ...) -> None: ...

class PayOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class CancelOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "command_id", "lines", "reason")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    command_id: str
    lines: _containers.RepeatedCompositeFieldContainer[LineQuantity]
    reason: str
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., command_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LineQuantity, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class ShipLine(_message.Message):
    __slots__ = ("line_index", "quantity", "location_id")
    LINE_INDEX_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    line_index: int
    quantity: int
    location_id: str
    def __init__(self, line_index: _Optional[int] = ..., quantity: _Optional[int] = ..., location_id: _Optional[str] = ...) -> None: ...

class ShipOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "command_id", "lines")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    command_id: str
    lines: _containers.RepeatedCompositeFieldContainer[ShipLine]
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., command_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[ShipLine, _Mapping]]] = ...) -> None: ...

class ShipOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class DeliverOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "command_id", "lines")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    command_id: str
    lines: _containers.RepeatedCompositeFieldContainer[LineQuantity]
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., command_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LineQuantity, _Mapping]]] = ...) -> None: ...

class DeliverOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class ReturnOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "command_id", "lines", "disposition", "location_id")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    command_id: str
    lines: _containers.RepeatedCompositeFieldContainer[LineQuantity]
    disposition: ReturnDisposition
    location_id: str
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., command_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LineQuantity, _Mapping]]] = ..., disposition: _Optional[_Union[ReturnDisposition, str]] = ..., location_id: _Optional[str] = ...) -> None: ...

class ReturnOrderResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class SettleRefundRequest(_message.Message):
    __slots__ = ("shop_id", "order_id", "command_id", "amount_minor")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    command_id: str
    amount_minor: int
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ..., command_id: _Optional[str] = ..., amount_minor: _Optional[int] = ...) -> None: ...

class SettleRefundResponse(_message.Message):
    __slots__ = ("outcome", "order", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    order: _order_pb2.Order
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class GetOrderRequest(_message.Message):
    __slots__ = ("shop_id", "order_id")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    order_id: str
    def __init__(self, shop_id: _Optional[str] = ..., order_id: _Optional[str] = ...) -> None: ...

class GetOrderResponse(_message.Message):
    __slots__ = ("order", "sequence", "log_id")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    order: _order_pb2.Order
    sequence: int
    log_id: bytes
    def __init__(self, order: _Optional[_Union[_order_pb2.Order, _Mapping]] = ..., sequence: _Optional[int] = ..., log_id: _Optional[bytes] = ...) -> None: ...
