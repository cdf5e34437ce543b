"""grpc.health.v1 and reflection, from the libraries of grpcio."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.reference_front.calls import INVENTORY_SERVICE, ORDER_SERVICE


class Health(health.aio.HealthServicer):
    """SERVING until the drain. A watcher sees NOT_SERVING, then the end: it must not hold up the drain."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def tell(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", ORDER_SERVICE, INVENTORY_SERVICE):
            await self.set(service, status)

    def end_watches(self) -> None:
        self._ending.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            watching.cancel()


def add_standard_services(server: grpc.aio.Server, servicer: Health) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = [ORDER_SERVICE, INVENTORY_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
