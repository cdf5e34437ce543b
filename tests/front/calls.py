"""What the tests of a front ask for, in bytes, and the codes of the answers."""

from __future__ import annotations

import base64
import itertools

from google.rpc import status_pb2

from everopen.v1 import order_service_pb2 as orders
from tests.front.http2 import Answer, Connection
from tests.serving import batch, order

PLACE_ORDER = "/everopen.v1.OrderService/PlaceOrder"
PLACE_ORDERS = "/everopen.v1.OrderService/PlaceOrders"
GET_ORDER = "/everopen.v1.OrderService/GetOrder"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14

_numbers = itertools.count(1)


def fresh_id() -> str:
    """An id that nothing before has used."""
    return f"fresh-{next(_numbers)}"


def place(order_id: str | None = None) -> bytes:
    return order(order_id or fresh_id()).SerializeToString()


def place_batch(count: int = 1) -> bytes:
    return batch([fresh_id() for _ in range(count)]).SerializeToString()


def placed(answer: Answer) -> orders.PlaceOrderResponse:
    """The response of a PlaceOrder that went well."""
    assert answer.code == OK, answer
    [message] = answer.messages
    return orders.PlaceOrderResponse.FromString(message)


def details(answer: Answer) -> status_pb2.Status:
    """grpc-status-details-bin, which is base64 with or without its padding."""
    text = answer.last["grpc-status-details-bin"]
    return status_pb2.Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))


def is_known(connection: Connection, order_id: str) -> bool:
    """Whether the order was decided before; if it was not, it is now."""
    return placed(connection.call(PLACE_ORDER, place(order_id))).duplicate
