from everopen.v1 import inventory_pb2 as _inventory_pb2
from everopen.v1 import order_pb2 as _order_pb2
from everopen.v1 import outcome_pb2 as _outcome_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutShopRequest(_message.Message):
    __slots__ = ("shop_id", "currency", "strategy", "allow_split", "region_costs", "status", "if_revision")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SPLIT_FIELD_NUMBER: _ClassVar[int]
    REGION_COSTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    currency: str
    strategy: _order_pb2.AllocationStrategy
    allow_split: bool
    region_costs: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.RegionCost]
    status: _inventory_pb2.EntityStatus
    if_revision: int
    def __init__(self, shop_id: _Optional[str] = ..., currency: _Optional[str] = ..., strategy: _Optional[_Union[_order_pb2.AllocationStrategy, str]] = ..., allow_split: _Optional[bool] = ..., region_costs: _Optional[_Iterable[_Union[_inventory_pb2.RegionCost, _Mapping]]] = ..., status: _Optional[_Union[_inventory_pb2.EntityStatus, str]] = ..., if_revision: _Optional[int] = ...) -> None: ...

class PutShopResponse(_message.Message):
    __slots__ = ("outcome", "revision", "sequence", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    revision: int
    sequence: int
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., revision: _Optional[int] = ..., sequence: _Optional[int] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class PutLocationRequest(_message.Message):
    __slots__ = ("shop_id", "location_id", "kind", "region", "priority", "status", "if_revision")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    location_id: str
    kind: _inventory_pb2.LocationKind
    region: str
    priority: int
    status: _inventory_pb2.EntityStatus
    if_revision: int
    def __init__(self, shop_id: _Optional[str] = ..., location_id: _Optional[str] = ..., kind: _Optional[_Union[_inventory_pb2.LocationKind, str]] = ..., region: _Optional[str] = ..., priority: _Optional[int] = ..., status: _Optional[_Union[_inventory_pb2.EntityStatus, str]] = ..., if_revision: _Optional[int] = ...) -> None: ...

class PutLocationResponse(_message.Message):
    __slots__ = ("outcome", "revision", "sequence", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    revision: int
    sequence: int
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., revision: _Optional[int] = ..., sequence: _Optional[int] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class PutSkuRequest(_message.Message):
    __slots__ = ("shop_id", "sku_id", "price_minor", "status", "buyer_limit_per_order", "buyer_limit_per_window", "buyer_window_ms", "backorder_policy", "backorder_limit", "safety_stock", "safety_stock_overrides", "reserve_ttl_ms", "if_revision")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    PRICE_MINOR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BUYER_LIMIT_PER_ORDER_FIELD_NUMBER: _ClassVar[int]
    BUYER_LIMIT_PER_WINDOW_FIELD_NUMBER: _ClassVar[int]
    BUYER_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    BACKORDER_POLICY_FIELD_NUMBER: _ClassVar[int]
    BACKORDER_LIMIT_FIELD_NUMBER: _ClassVar[int]
    SAFETY_STOCK_FIELD_NUMBER: _ClassVar[int]
    SAFETY_STOCK_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    RESERVE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    sku_id: str
    price_minor: int
    status: _inventory_pb2.EntityStatus
    buyer_limit_per_order: int
    buyer_limit_per_window: int
    buyer_window_ms: int
    backorder_policy: _inventory_pb2.BackorderPolicy
    backorder_limit: int
    safety_stock: int
    safety_stock_overrides: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.SafetyStock]
    reserve_ttl_ms: int
    if_revision: int
    def __init__(self, shop_id: _Optional[str] = ..., sku_id: _Optional[str] = ..., price_minor: _Optional[int] = ..., status: _Optional[_Union[_inventory_pb2.EntityStatus, str]] = ..., buyer_limit_per_order: _Optional[int] = ..., buyer_limit_per_window: _Optional[int] = ..., buyer_window_ms: _Optional[int] = ..., backorder_policy: _Optional[_Union[_inventory_pb2.BackorderPolicy, str]] = ..., backorder_limit: _Optional[int] = ..., safety_stock: _Optional[int] = ..., safety_stock_overrides: _Optional[_Iterable[_Union[_inventory_pb2.SafetyStock, _Mapping]]] = ..., reserve_ttl_ms: _Optional[int] = ..., if_revision: _Optional[int] = ...) -> None: ...

class PutSkuResponse(_message.Message):
    __slots__ = ("outcome", "revision", "sequence", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    revision: int
    sequence: int
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., revision: _Optional[int] = ..., sequence: _Optional[int] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class AdjustStockRequest(_message.Message):
    __slots__ = ("adjustment_id", "shop_id", "sku_id", "location_id", "delta", "kind", "first_sent_at_ms")
    ADJUSTMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    adjustment_id: str
    shop_id: str
    sku_id: str
    location_id: str
    delta: int
    kind: _inventory_pb2.AdjustKind
    first_sent_at_ms: int
    def __init__(self, adjustment_id: _Optional[str] = ..., shop_id: _Optional[str] = ..., sku_id: _Optional[str] = ..., location_id: _Optional[str] = ..., delta: _Optional[int] = ..., kind: _Optional[_Union[_inventory_pb2.AdjustKind, str]] = ..., first_sent_at_ms: _Optional[int] = ...) -> None: ...

class AdjustStockResponse(_message.Message):
    __slots__ = ("outcome", "stock", "sequence", "duplicate", "log_id")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STOCK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    stock: _inventory_pb2.StockLevel
    sequence: int
    duplicate: bool
    log_id: bytes
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., stock: _Optional[_Union[_inventory_pb2.StockLevel, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class TransferStockRequest(_message.Message):
    __slots__ = ("transfer_id", "shop_id", "sku_id", "from_location_id", "to_location_id", "quantity", "first_sent_at_ms")
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    TO_LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    FIRST_SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    transfer_id: str
    shop_id: str
    sku_id: str
    from_location_id: str
    to_location_id: str
    quantity: int
    first_sent_at_ms: int
    def __init__(self, transfer_id: _Optional[str] = ..., shop_id: _Optional[str] = ..., sku_id: _Optional[str] = ..., from_location_id: _Optional[str] = ..., to_location_id: _Optional[str] = ..., quantity: _Optional[int] = ..., first_sent_at_ms: _Optional[int] = ...) -> None: ...

class TransferStockResponse(_message.Message):
    __slots__ = ("outcome", "from_stock", "sequence", "duplicate", "log_id", "to_stock")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FROM_STOCK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    TO_STOCK_FIELD_NUMBER: _ClassVar[int]
    outcome: _outcome_pb2.Outcome
    from_stock: _inventory_pb2.StockLevel
    sequence: int
    duplicate: bool
    log_id: bytes
    to_stock: _inventory_pb2.StockLevel
    def __init__(self, outcome: _Optional[_Union[_outcome_pb2.Outcome, str]] = ..., from_stock: _Optional[_Union[_inventory_pb2.StockLevel, _Mapping]] = ..., sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[bytes] = ..., to_stock: _Optional[_Union[_inventory_pb2.StockLevel, _Mapping]] = ...) -> None: ...

class GetStockRequest(_message.Message):
    __slots__ = ("shop_id", "sku_id")
    SHOP_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_ID_FIELD_NUMBER: _ClassVar[int]
    shop_id: str
    sku_id: str
    def __init__(self, shop_id: _Optional[str] = ..., sku_id: _Optional[str] = ...) -> None: ...

class GetStockResponse(_message.Message):
    __slots__ = ("on_hand", "reserved", "available", "sellable", "backordered", "locations", "sequence", "log_id")
    ON_HAND_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    SELLABLE_FIELD_NUMBER: _ClassVar[int]
    BACKORDERED_FIELD_NUMBER: _ClassVar[int]
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    on_hand: int
    reserved: int
    available: int
    sellable: int
    backordered: int
    locations: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.StockLevel]
    sequence: int
    log_id: bytes
    def __init__(self, on_hand: _Optional[int] = ..., reserved: _Optional[int] = ..., available: _Optional[int] = ..., sellable: _Optional[int] = ..., backordered: _Optional[int] = ..., locations: _Optional[_Iterable[_Union[_inventory_pb2.StockLevel, _Mapping]]] = ..., sequence: _Optional[int] = ..., log_id: _Optional[bytes] = ...) -> None: ...

class BatchPutShopsRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[PutShopRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[PutShopRequest, _Mapping]]] = ...) -> None: ...

class BatchPutShopsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PutShopResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PutShopResult, _Mapping]]] = ...) -> None: ...

class PutShopResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: PutShopResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[PutShopResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchPutLocationsRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[PutLocationRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[PutLocationRequest, _Mapping]]] = ...) -> None: ...

class BatchPutLocationsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PutLocationResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PutLocationResult, _Mapping]]] = ...) -> None: ...

class PutLocationResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: PutLocationResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[PutLocationResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchPutSkusRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[PutSkuRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[PutSkuRequest, _Mapping]]] = ...) -> None: ...

class BatchPutSkusResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PutSkuResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PutSkuResult, _Mapping]]] = ...) -> None: ...

class PutSkuResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: PutSkuResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[PutSkuResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchAdjustStockRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[AdjustStockRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[AdjustStockRequest, _Mapping]]] = ...) -> None: ...

class BatchAdjustStockResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AdjustStockResult]
    def __init__(self, results: _Optional[_Iterable[_Union[AdjustStockResult, _Mapping]]] = ...) -> None: ...

class AdjustStockResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: AdjustStockResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[AdjustStockResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchTransferStockRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[TransferStockRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[TransferStockRequest, _Mapping]]] = ...) -> None: ...

class BatchTransferStockResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TransferStockResult]
    def __init__(self, results: _Optional[_Iterable[_Union[TransferStockResult, _Mapping]]] = ...) -> None: ...

class TransferStockResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: TransferStockResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[TransferStockResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchGetStockRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[GetStockRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[GetStockRequest, _Mapping]]] = ...) -> None: ...

class BatchGetStockResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[GetStockResult]
    def __init__(self, results: _Optional[_Iterable[_Union[GetStockResult, _Mapping]]] = ...) -> None: ...

class GetStockResult(_message.Message):
    __slots__ = ("result", "status")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    result: GetStockResponse
    status: _status_pb2.Status
    def __init__(self, result: _Optional[_Union[GetStockResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
