from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OrderState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_STATE_UNSPECIFIED: _ClassVar[OrderState]
    ORDER_STATE_PENDING_REVIEW: _ClassVar[OrderState]
    ORDER_STATE_BACKORDERED: _ClassVar[OrderState]
    ORDER_STATE_PLACED: _ClassVar[OrderState]
    ORDER_STATE_PARTIALLY_SHIPPED: _ClassVar[OrderState]
    ORDER_STATE_SHIPPED: _ClassVar[OrderState]
    ORDER_STATE_PARTIALLY_DELIVERED: _ClassVar[OrderState]
    ORDER_STATE_DELIVERED: _ClassVar[OrderState]
    ORDER_STATE_PARTIALLY_RETURNED: _ClassVar[OrderState]
    ORDER_STATE_RETURNED: _ClassVar[OrderState]
    ORDER_STATE_CANCELLED: _ClassVar[OrderState]
    ORDER_STATE_EXPIRED: _ClassVar[OrderState]

class PaymentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYMENT_STATE_UNSPECIFIED: _ClassVar[PaymentState]
    PAYMENT_STATE_UNPAID: _ClassVar[PaymentState]
    PAYMENT_STATE_PAID: _ClassVar[PaymentState]
    PAYMENT_STATE_REFUND_DUE: _ClassVar[PaymentState]
    PAYMENT_STATE_REFUNDED: _ClassVar[PaymentState]

class AllocationStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALLOCATION_STRATEGY_UNSPECIFIED: _ClassVar[AllocationStrategy]
    ALLOCATION_STRATEGY_PRIORITY: _ClassVar[AllocationStrategy]
    ALLOCATION_STRATEGY_NEAREST: _ClassVar[AllocationStrategy]
    ALLOCATION_STRATEGY_MOST_STOCK: _ClassVar[AllocationStrategy]
    ALLOCATION_STRATEGY_FEWEST_SHIPMENTS: _ClassVar[AllocationStrategy]
ORDER_STATE_UNSPECIFIED: OrderState
ORDER_STATE_PENDING_REVIEW: OrderState
ORDER_STATE_BACKORDERED: OrderState
ORDER_STATE_PLACED: OrderState
ORDER_STATE_PARTIALLY_SHIPPED: OrderState
ORDER_STATE_SHIPPED: OrderState
ORDER_STATE_PARTIALLY_DELIVERED: OrderState
ORDER_STATE_DELIVERED: OrderState
ORDER_STATE_PARTIALLY_RETURNED: OrderState
ORDER_STATE_RETURNED: OrderState
ORDER_STATE_CANCELLED: OrderState
ORDER_STATE_EXPIRED: OrderState
PAYMENT_STATE_UNSPECIFIED: PaymentState
PAYMENT_STATE_UNPAID: PaymentState
PAYMENT_STATE_PAID: PaymentState
PAYMENT_STATE_REFUND_DUE: PaymentState
PAYMENT_STATE_REFUNDED: PaymentState
ALLOCATION_STRATEGY_UNSPECIFIED: AllocationStrategy
ALLOCATION_STRATEGY_PRIORITY: AllocationStrategy
ALLOCATION_STRATEGY_NEAREST: AllocationStrategy
ALLOCATION_STRATEGY_MOST_STOCK: AllocationStrategy
ALLOCATION_STRATEGY_FEWEST_SHIPMENTS: AllocationStrategy

class Order(_message.Message):
    __slots__ = ("order_id", "shop_id", "buyer_id", "state", "payment_state", "amount_minor", "received_minor", "refunded_minor", "refund_due_minor", "lines", "allocations", "accepted_at_ms", "expires_at_ms", "placed_at_ms", "currency", "sequence")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    BUYER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_STATE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_MINOR_FIELD_NUMBER: _ClassVar[int]
    REFUNDED_MINOR_FIELD_NUMBER: _ClassVar[int]
    REFUND_DUE_MINOR_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PLACED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    shop_id: str
    buyer_id: str
    state: OrderState
    payment_state: PaymentState
    amount_minor: int
    received_minor: int
    refunded_minor: int
    refund_due_minor: int
    lines: _containers.RepeatedCompositeFieldContainer[OrderLine]
    allocations: _containers.RepeatedCompositeFieldContainer[Allocation]
    accepted_at_ms: int
    expires_at_ms: int
    placed_at_ms: int
    currency: str
    sequence: int
    def __init__(self, order_id: _Optional[str] = ..., shop_id: _Optional[str] = ..., buyer_id: _Optional[str] = ..., state: _Optional[_Union[OrderState, str]] = ..., payment_state: _Optional[_Union[PaymentState, str]] = ..., amount_minor: _Optional[int] = ..., received_minor: _Optional[int] = ..., refunded_minor: _Optional[int] = ..., refund_due_minor: _Optional[int] = ..., lines: _Optional[_Iterable[_Union[OrderLine, _Mapping]]] = ..., allocations: _Optional[_Iterable[_Union[Allocation, _Mapping]]] = ..., accepted_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., placed_at_ms: _Optional[int] = ..., currency: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class OrderLine(_message.Message):
    __slots__ = ("sku_id", "quantity", "amount_minor", "open", "shipped", "cancelled", "delivered", "returned", "written_off")
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SHIPPED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_OFF_FIELD_NUMBER: _ClassVar[int]
    sku_id: str
    quantity: int
    amount_minor: int
    open: int
    shipped: int
    cancelled: int
    delivered: int
    returned: int
    written_off: int
    def __init__(self, sku_id: _Optional[str] = ..., quantity: _Optional[int] = ..., amount_minor: _Optional[int] = ..., open: _Optional[int] = ..., shipped: _Optional[int] = ..., cancelled: _Optional[int] = ..., delivered: _Optional[int] = ..., returned: _Optional[int] = ..., written_off: _Optional[int] = ...) -> None: ...

class Allocation(_message.Message):
    __slots__ = ("line_index", "location_id", "quantity", "shipped", "released")
    LINE_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    SHIPPED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    line_index: int
    location_id: str
    quantity: int
    shipped: int
    released: int
    def __init__(self, line_index: _Optional[int] = ..., location_id: _Optional[str] = ..., quantity: _Optional[int] = ..., shipped: _Optional[int] = ..., released: _Optional[int] = ...) -> None: ...
