"""Closed orders on a whole engine: they leave memory, are found in the archive, and come back by a command."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine import datadir, rebuild
from engine._core import Engine
from engine.archive_store import FILE
from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2
from tests.server.test_followers import FOLLOWED, events, place, wait_for
from tests.server.test_supervisor import PATIENCE_S, eventually
from tests.serving import SEGMENT_BYTES, Client, Server, batch, everopen

# Orders that are closed at once, and more than one Evict takes.
CANCELLED = 2_000
WINDOW_MS = 50


@pytest.fixture
def short_window(data_dir: Path) -> Path:
    """The log says how long its window is, so one that was begun with a short one keeps it."""
    (directory,) = datadir.create_or_open(data_dir, 1)
    Engine(str(directory), segment_bytes=SEGMENT_BYTES, idempotency_window_ms=WINDOW_MS).close()
    return data_dir


def deliver(client: Client, order_id: str) -> None:
    of = {"shop_id": "shop", "order_id": order_id}
    place(client, order_id)
    client.orders.PayOrder(orders.PayOrderRequest(**of, payment_id="p", amount_minor=250))
    client.orders.ShipOrder(orders.ShipOrderRequest(**of, command_id="s"))
    client.orders.DeliverOrder(orders.DeliverOrderRequest(**of, command_id="d"))


def get(client: Client, order_id: str) -> Any:
    return client.orders.GetOrder(orders.GetOrderRequest(shop_id="shop", order_id=order_id), timeout=PATIENCE_S).order


def give_back(client: Client, order_id: str) -> Any:
    to_stock = orders.RETURN_DISPOSITION_TO_STOCK
    request = orders.ReturnOrderRequest(shop_id="shop", order_id=order_id, command_id="r", disposition=to_stock)
    return client.orders.ReturnOrder(request, timeout=PATIENCE_S)


def counts(server: Server) -> dict[str, int]:
    """Of what the leader has published."""
    log = rebuild.extent(server.shard)
    state = rebuild.newest_state(log, log.last_sequence)
    rebuild.replay(state, log, log.last_sequence)
    return state.counts()


def until(client: Client, holds: Callable[[], Any], what: str) -> None:
    """Windows end by the logged time, so something must be logged meanwhile."""
    ticks = itertools.count()

    def try_it() -> Any:
        place(client, f"tick-{next(ticks)}-{time.monotonic_ns()}")
        return holds()

    eventually(try_it, what)


def until_evicted(server: Server, client: Client, evicted: int) -> None:
    until(client, lambda: counts(server)["evicted_orders"] == evicted, f"{evicted} evicted orders")


def test_closed_orders_leave_memory_are_found_and_come_back(short_window: Path) -> None:
    with Server(short_window, *FOLLOWED) as server, Client(server.address) as client:
        client.seed()
        for name in ("kept", "returned", "for-the-next"):
            deliver(client, name)
        names = [f"cancelled-{n}" for n in range(CANCELLED)]
        for begin in range(0, CANCELLED, 1_000):
            list(client.orders.PlaceOrders(iter([batch(names[begin : begin + 1_000])])))
        cancels = (orders.CancelOrderRequest(shop_id="shop", order_id=name, command_id="c") for name in names)
        for cancelled in [client.orders.CancelOrder.future(request) for request in cancels]:
            assert cancelled.result(PATIENCE_S).outcome == outcome_pb2.OUTCOME_APPLIED
        before = {name: get(client, name) for name in ("kept", "cancelled-7")}
        until_evicted(server, client, CANCELLED + 3)
        assert counts(server)["orders"] < 500

        # As it was, from the archive.
        assert {name: get(client, name) for name in before} == before
        with pytest.raises(grpc.RpcError) as unknown:
            get(client, "nobody's")
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND

        # A command brings it back, and is not done twice.
        given_back = give_back(client, "returned")
        assert given_back.outcome == outcome_pb2.OUTCOME_APPLIED
        assert given_back.order.refund_due_minor == 250
        assert give_back(client, "returned").duplicate
        assert counts(server)["evicted_orders"] == CANCELLED + 2

        # Who takes over asks the same archive, and needs nobody who writes it.
        os.kill(server.children["archive"], signal.SIGKILL)
        wait_for(server, "following")
        os.kill(server.children["worker 0"], signal.SIGKILL)
        place(client, "after-the-takeover")
        assert get(client, "kept") == before["kept"]
        assert give_back(client, "for-the-next").outcome == outcome_pb2.OUTCOME_APPLIED
        assert server.stop() == 0
    done = everopen("audit", "--data-dir", short_window)
    assert done.returncode == 0, done.stderr


def test_lost_archive_makes_its_orders_unavailable_and_no_others(short_window: Path) -> None:
    with Server(short_window, *FOLLOWED) as server, Client(server.address) as client:
        client.seed()
        deliver(client, "gone")
        until_evicted(server, client, 1)
        store = server.shard / FILE
        store.rename(store.with_name("moved"))
        for call in (get, give_back):
            with pytest.raises(grpc.RpcError) as lost:
                call(client, "gone")
            assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
        deliver(client, "here")
        assert get(client, "here").order_id == "here"
        # Nothing leaves memory for a file that has lost what left before, and no new one is begun.
        damaged = "the archive is damaged: closed orders stay in memory"
        until(client, lambda: events(server, damaged), "the complaint")
        assert not store.exists()
        assert counts(server)["evicted_orders"] == 1
        assert server.stop() == 0
    failed = everopen("audit", "--data-dir", short_window)
    assert failed.returncode == 4
    assert FILE in failed.stderr
