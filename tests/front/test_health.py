"""When a front says that it serves: after its logs are recovered and not before, and not from the drain on."""

from __future__ import annotations

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.front.calls import HEALTH_CHECK, HEALTH_WATCH, OK, PLACE_ORDER, UNAVAILABLE, details, place
from tests.front.handing import Fronts, message, seed
from tests.front.http2 import Connection, prefixed

pytestmark = pytest.mark.native

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICES = ("", "everopen.v1.OrderService", "everopen.v1.InventoryService")


def check(connection: Connection, service: str = "") -> int:
    request = HealthCheckRequest(service=service).SerializeToString()
    return int(HealthCheckResponse.FromString(message(connection.call(HEALTH_CHECK, request))).status)


def watch(connection: Connection) -> int:
    stream_id = connection.open(HEALTH_WATCH)
    connection.data(stream_id, prefixed(b""), end=True)
    return stream_id


def seen(connection: Connection, stream_id: int, count: int) -> list[int]:
    connection.read_until(lambda: len(connection.stream(stream_id).messages) >= count)
    return [int(HealthCheckResponse.FromString(each).status) for each in connection.stream(stream_id).messages]


@pytest.mark.parametrize("service", SERVICES)
def test_front_serves_only_once_its_log_is_recovered(fronts: Fronts, service: str) -> None:
    front = fronts.start(hosting=False)
    with Connection(front.address) as connection:
        assert check(connection, service) == NOT_SERVING
        refused = connection.call(PLACE_ORDER, place("early"))
        assert refused.code == UNAVAILABLE
        assert b"RECOVERING" in details(refused).details[0].value
        front.host()
        assert check(connection, service) == SERVING
        seed(front)
        assert connection.call(PLACE_ORDER, place("late")).code == OK


def test_watcher_that_came_early_hears_of_the_recovery_once(fronts: Fronts) -> None:
    front = fronts.start(hosting=False)
    with Connection(front.address) as connection:
        stream_id = watch(connection)
        assert seen(connection, stream_id, 1) == [NOT_SERVING]
        front.host()
        assert seen(connection, stream_id, 2) == [NOT_SERVING, SERVING]
        assert check(connection) == SERVING


def test_watcher_hears_of_the_drain_before_the_end(fronts: Fronts) -> None:
    front = fronts.start()
    with Connection(front.address) as connection:
        stream_id = watch(connection)
        assert seen(connection, stream_id, 1) == [SERVING]
        front.native.drain()
        assert seen(connection, stream_id, 2) == [SERVING, NOT_SERVING]
