"""Calls that are not decided: the status, its details, and that nothing was changed."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from everopen.v1 import order_service_pb2 as orders
from tests.serving import Client, Server, order


def details(error: Any) -> dict[str, Any]:
    """The details of an error by the name of their type."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.code == error.code().value[0]
    kinds = [error_details_pb2.BadRequest, error_details_pb2.ResourceInfo, error_details_pb2.ErrorInfo]
    found = {}
    for packed in status.details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    return found


def refused(code: grpc.StatusCode, call: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    assert error.value.code() == code
    return error.value


def test_malformed_field_is_named_by_bad_request(client: Client) -> None:
    request = order("two words")
    error = refused(grpc.StatusCode.INVALID_ARGUMENT, client.orders.PlaceOrder, request)
    assert [violation.field for violation in details(error)["BadRequest"].field_violations] == ["order_id"]


def test_unknown_resource_is_named_by_resource_info(client: Client) -> None:
    request = orders.GetOrderRequest(shop_id="shop", order_id="nobody")
    error = refused(grpc.StatusCode.NOT_FOUND, client.orders.GetOrder, request)
    resource = details(error)["ResourceInfo"]
    assert resource.resource_type == "everopen.v1.Order"
    assert resource.resource_name.endswith("nobody")


def test_same_id_with_other_content_is_an_id_conflict(client: Client) -> None:
    client.orders.PlaceOrder(order("conflict", 1))
    error = refused(grpc.StatusCode.ALREADY_EXISTS, client.orders.PlaceOrder, order("conflict", 2))
    assert details(error)["ErrorInfo"].reason == "ID_CONFLICT"


@pytest.mark.parametrize("request_bytes", [b"\xff", b"\x0a\x40abc", bytes(range(256))])
def test_malformed_bytes_are_an_invalid_argument(client: Client, request_bytes: bytes) -> None:
    for method in ("OrderService/PlaceOrder", "OrderService/GetOrder", "InventoryService/BatchPutSkus"):
        error = refused(grpc.StatusCode.INVALID_ARGUMENT, client.raw, method, request_bytes)
        assert "Error" not in error.details(), "no name of a class of ours"


def test_unknown_method_is_unimplemented(client: Client) -> None:
    refused(grpc.StatusCode.UNIMPLEMENTED, client.raw, "OrderService/Nothing", b"")
    refused(grpc.StatusCode.UNIMPLEMENTED, client.raw, "NothingService/PlaceOrder", b"")


def test_oversized_message_is_refused_and_the_connection_lives(server: Server, client: Client) -> None:
    too_large = b"\x0a" * (4 * 1024 * 1024 + 1)
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, client.raw, "OrderService/PlaceOrder", too_large)
    assert client.orders.PlaceOrder(order("after-oversized")).sequence > 0
