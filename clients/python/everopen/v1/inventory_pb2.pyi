from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EntityStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTITY_STATUS_UNSPECIFIED: _ClassVar[EntityStatus]
    ENTITY_STATUS_ACTIVE: _ClassVar[EntityStatus]
    ENTITY_STATUS_PAUSED: _ClassVar[EntityStatus]
    ENTITY_STATUS_RETIRED: _ClassVar[EntityStatus]

class LocationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCATION_KIND_UNSPECIFIED: _ClassVar[LocationKind]
    LOCATION_KIND_WAREHOUSE: _ClassVar[LocationKind]
    LOCATION_KIND_STORE: _ClassVar[LocationKind]

class BackorderPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKORDER_POLICY_UNSPECIFIED: _ClassVar[BackorderPolicy]
    BACKORDER_POLICY_DENY: _ClassVar[BackorderPolicy]
    BACKORDER_POLICY_ALLOW: _ClassVar[BackorderPolicy]

class AdjustKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADJUST_KIND_UNSPECIFIED: _ClassVar[AdjustKind]
    ADJUST_KIND_RESTOCK: _ClassVar[AdjustKind]
    ADJUST_KIND_ADJUST: _ClassVar[AdjustKind]
    ADJUST_KIND_COUNT: _ClassVar[AdjustKind]
ENTITY_STATUS_UNSPECIFIED: EntityStatus
ENTITY_STATUS_ACTIVE: EntityStatus
ENTITY_STATUS_PAUSED: EntityStatus
ENTITY_STATUS_RETIRED: EntityStatus
LOCATION_KIND_UNSPECIFIED: LocationKind
LOCATION_KIND_WAREHOUSE: LocationKind
LOCATION_KIND_STORE: LocationKind
BACKORDER_POLICY_UNSPECIFIED: BackorderPolicy
BACKORDER_POLICY_DENY: BackorderPolicy
BACKORDER_POLICY_ALLOW: BackorderPolicy
ADJUST_KIND_UNSPECIFIED: AdjustKind
ADJUST_KIND_RESTOCK: AdjustKind
ADJUST_KIND_ADJUST: AdjustKind
ADJUST_KIND_COUNT: AdjustKind

class RegionCost(_message.Message):
    __slots__ = ("from_region", "to_region", "cost")
    FROM_REGION_FIELD_NUMBER: _ClassVar[int]
    TO_REGION_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    from_region: str
    to_region: str
    cost: int
    def __init__(self, from_region: _Optional[str] = ..., to_region: _Optional[str] = ..., cost: _Optional[int] = ...) -> None: ...

class SafetyStock(_message.Message):
    __slots__ = ("location_id", "quantity")
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    location_id: str
    quantity: int
    def __init__(self, location_id: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class StockLevel(_message.Message):
    __slots__ = ("shop_id", "sku_id", "location_id", "on_hand", "reserved", "available", "sellable", "safety_stock", "received", "adjusted", "moved_in", "moved_out", "returned", "shipped", "written_off")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    ON_HAND_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    SELLABLE_FIELD_NUMBER: _ClassVar[int]
    SAFETY_STOCK_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    MOVED_IN_FIELD_NUMBER: _ClassVar[int]
    MOVED_OUT_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    SHIPPED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_OFF_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    sku_id: str
    location_id: str
    on_hand: int
    reserved: int
    available: int
    sellable: int
    safety_stock: int
    received: int
    adjusted: int
    moved_in: int
    moved_out: int
    returned: int
    shipped: int
    written_off: int
    def __init__(self, shop_id: _Optional[str] = ..., sku_id: _Optional[str] = ..., location_id: _Optional[str] = ..., on_hand: _Optional[int] = ..., reserved: _Optional[int] = ..., available: _Optional[int] = ..., sellable: _Optional[int] = ..., safety_stock: _Optional[int] = ..., received: _Optional[int] = ..., adjusted: _Optional[int] = ..., moved_in: _Optional[int] = ..., moved_out: _Optional[int] = ..., returned: _Optional[int] = ..., shipped: _Optional[int] = ..., written_off: _Optional[int] = ...) -> None: ...
