"""Who calls an engine, and what is shown with each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from everopen.v1 import cluster_service_pb2 as cluster
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.cluster_service_pb2_grpc import ClusterServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.serving import order

# Nothing is decided by it: what hangs fails.
PATIENCE_S = 30
OK, UNAUTHENTICATED, DENIED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class Caller:
    """The stubs, and what is shown with each call."""

    def __init__(
        self, address: str, *metadata: tuple[str, str], credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options)
        self._metadata = metadata
        self._orders: Any = OrderServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._cluster: Any = ClusterServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.error: Any = None

    def _code(self, call: Callable[..., Any], request: Any) -> grpc.StatusCode:
        self.error = None
        try:
            call(request, metadata=self._metadata, timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            self.error = error
            code: grpc.StatusCode = error.code()
            return code
        return OK

    def place(self, order_id: str = "a") -> grpc.StatusCode:
        return self._code(self._orders.PlaceOrder, order(order_id))

    def get(self) -> grpc.StatusCode:
        return self._code(self._orders.GetOrder, orders.GetOrderRequest(shop_id="shop", order_id="a"))

    def workers(self) -> grpc.StatusCode:
        return self._code(self._cluster.GetWorkers, cluster.GetWorkersRequest())

    @property
    def reason(self) -> str:
        details = dict(self.error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        return info.reason

    def close(self) -> None:
        self._channel.close()
