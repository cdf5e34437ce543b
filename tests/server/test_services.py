"""Every method of the API once, end to end, and the services that every gRPC server should have."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from everopen.v1 import inventory_pb2, order_pb2
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.outcome_pb2 import Outcome
from tests.serving import Client, Server, adjustment, batch, order

SERVICES = ("everopen.v1.OrderService", "everopen.v1.InventoryService")


def test_order_life_through_every_method_ends_returned_and_refunded(server: Server, client: Client) -> None:
    of = {"shop_id": "shop", "order_id": "life"}
    placed = client.orders.PlaceOrder(order("life", 3))
    assert placed.outcome == Outcome.OUTCOME_PLACED
    assert placed.order.amount_minor == 750
    assert [(a.line_index, a.location_id, a.quantity) for a in placed.order.allocations] == [(0, "near", 3)]
    assert not placed.duplicate
    assert placed.log_id == server.log_id

    paid = client.orders.PayOrder(orders.PayOrderRequest(**of, payment_id="p", amount_minor=750))
    assert paid.order.payment_state == order_pb2.PAYMENT_STATE_PAID
    lines = [orders.LineQuantity(line_index=0, quantity=1)]
    cancelled = client.orders.CancelOrder(orders.CancelOrderRequest(**of, command_id="c", lines=lines))
    assert cancelled.order.payment_state == order_pb2.PAYMENT_STATE_REFUND_DUE
    shipped = client.orders.ShipOrder(orders.ShipOrderRequest(**of, command_id="s"))
    assert shipped.order.state == order_pb2.ORDER_STATE_SHIPPED
    delivered = client.orders.DeliverOrder(orders.DeliverOrderRequest(**of, command_id="d"))
    assert delivered.order.state == order_pb2.ORDER_STATE_DELIVERED
    returned = client.orders.ReturnOrder(orders.ReturnOrderRequest(**of, command_id="r"))
    assert returned.order.state == order_pb2.ORDER_STATE_RETURNED
    settled = client.orders.SettleRefund(orders.SettleRefundRequest(**of, command_id="f"))
    assert settled.order.payment_state == order_pb2.PAYMENT_STATE_REFUNDED

    answers = [placed, paid, cancelled, shipped, delivered, returned, settled]
    assert [answer.sequence for answer in answers] == sorted({answer.sequence for answer in answers})
    read = client.orders.GetOrder(orders.GetOrderRequest(**of))
    assert read.order == settled.order
    assert read.sequence >= settled.sequence


def test_stock_methods_move_and_show_the_stock(client: Client) -> None:
    client.inventory.PutSku(inventory.PutSkuRequest(shop_id="shop", sku_id="moved", price_minor=1))
    adjusted = client.inventory.AdjustStock(adjustment("in", 10, sku_id="moved"))
    assert adjusted.stock.on_hand == 10
    transferred = client.inventory.TransferStock(
        inventory.TransferStockRequest(
            transfer_id="t", shop_id="shop", sku_id="moved", from_location_id="near", to_location_id="far", quantity=4
        )
    )
    assert (transferred.from_stock.on_hand, transferred.to_stock.on_hand) == (6, 4)
    stock = client.inventory.GetStock(inventory.GetStockRequest(shop_id="shop", sku_id="moved"))
    assert (stock.on_hand, stock.reserved, stock.available) == (10, 0, 10)
    assert [(level.location_id, level.on_hand) for level in stock.locations] == [("far", 4), ("near", 6)]


def test_put_methods_count_revisions(client: Client) -> None:
    location = inventory.PutLocationRequest(
        shop_id="revised", location_id="store", kind=inventory_pb2.LOCATION_KIND_STORE
    )
    for revision in (1, 2):
        assert client.inventory.PutShop(inventory.PutShopRequest(shop_id="revised")).revision == revision
        assert client.inventory.PutLocation(location).revision == revision
        put_sku = inventory.PutSkuRequest(shop_id="revised", sku_id="sku", price_minor=revision)
        assert client.inventory.PutSku(put_sku).revision == revision


def test_batch_methods_answer_item_by_item(client: Client) -> None:
    shop = {"shop_id": "batched"}
    put_shops = inventory.BatchPutShopsRequest(requests=[inventory.PutShopRequest(**shop), inventory.PutShopRequest()])
    shops = client.inventory.BatchPutShops(put_shops).results
    assert [answer.WhichOneof("answer") for answer in shops] == ["result", "status"]
    assert shops[1].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    put_locations = [inventory.PutLocationRequest(**shop, location_id=name) for name in ("near", "far")]
    locations = client.inventory.BatchPutLocations(inventory.BatchPutLocationsRequest(requests=put_locations)).results
    assert [answer.result.revision for answer in locations] == [1, 1]
    put_skus = [inventory.PutSkuRequest(**shop, sku_id="sku", price_minor=price) for price in (1, 2)]
    skus = client.inventory.BatchPutSkus(inventory.BatchPutSkusRequest(requests=put_skus)).results
    assert [answer.result.revision for answer in skus] == [1, 2]
    adjust = [adjustment("a", 5, **shop), adjustment("a", 6, **shop), adjustment("a", 5, **shop)]
    adjusted = client.inventory.BatchAdjustStock(inventory.BatchAdjustStockRequest(requests=adjust)).results
    assert adjusted[0].result.stock.on_hand == 5
    assert adjusted[1].status.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert adjusted[2].result.duplicate
    move = inventory.TransferStockRequest(
        **shop, transfer_id="t", sku_id="sku", from_location_id="near", to_location_id="far", quantity=2
    )
    moved = client.inventory.BatchTransferStock(inventory.BatchTransferStockRequest(requests=[move])).results
    assert moved[0].result.outcome == Outcome.OUTCOME_APPLIED
    read = [inventory.GetStockRequest(**shop, sku_id=name) for name in ("sku", "none")]
    stock = client.inventory.BatchGetStock(inventory.BatchGetStockRequest(requests=read)).results
    assert stock[0].result.on_hand == 5
    assert stock[1].status.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_place_orders_answers_each_batch_in_its_order(client: Client) -> None:
    batches = [batch(f"streamed-{n}-{item}" for item in range(3)) for n in range(20)]
    answers = list(client.orders.PlaceOrders(iter(batches)))
    ids = [[result.result.order.order_id for result in answer.results] for answer in answers]
    assert ids == [[placed.order_id for placed in request.orders] for request in batches]


def test_health_is_serving_for_each_service(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", *SERVICES):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="everopen.v1.Nothing"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_the_services(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="everopen.v1.OrderService"),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests))
    assert {service.name for service in listed.list_services_response.service} > set(SERVICES)
    assert described.file_descriptor_response.file_descriptor_proto
