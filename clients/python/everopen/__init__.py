"""Python client of everopen, the order engine.

    with everopen.connect("127.0.0.1:7400") as client:
        answer = client.place_order("night-market", order_id="A-1", buyer_id="mei", lines=[("tea", 2)])

`connect` gives the synchronous client and `connect_async` the asyncio one. Requests, responses and enums are the
messages of everopen.v1, where proto/everopen/v1 is their documentation.
"""

from everopen.aio import AsyncClient
from everopen.client import Client
from everopen.errors import (
    DataLoss,
    DeadlineExceeded,
    EveropenError,
    IdConflict,
    InvalidArgument,
    NotFound,
    Overloaded,
    RevisionConflict,
    Unavailable,
    or_raise,
)
from everopen.outcomes import (
    APPLIED,
    BACKORDERED,
    BUYER_LIMIT,
    ILLEGAL_STATE,
    INSUFFICIENT_STOCK,
    NOT_FOR_SALE,
    PLACED,
    PRICE_CHANGED,
    RETRY_TOO_OLD,
    outcome_name,
    state_name,
)
from everopen.retry import RetryPolicy

connect = Client
connect_async = AsyncClient

__all__ = [
    "APPLIED",
    "BACKORDERED",
    "BUYER_LIMIT",
    "ILLEGAL_STATE",
    "INSUFFICIENT_STOCK",
    "NOT_FOR_SALE",
    "PLACED",
    "PRICE_CHANGED",
    "RETRY_TOO_OLD",
    "AsyncClient",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "EveropenError",
    "IdConflict",
    "InvalidArgument",
    "NotFound",
    "Overloaded",
    "RetryPolicy",
    "RevisionConflict",
    "Unavailable",
    "connect",
    "connect_async",
    "or_raise",
    "outcome_name",
    "state_name",
]
