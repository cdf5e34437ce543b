"""A server under load is killed again and again; what it answered must be there, whole, and the audit must hold.

One data directory lives through all rounds, so that each recovery stands on the ones before it. The seed decides the
load and when each kill comes; where in the server's work it lands is up to the scheduler.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from everopen.v1 import order_service_pb2 as orders
from tests.serving import ROOT, SEGMENT_BYTES, Client, Server, adjustment, everopen, order

ROUNDS = 55
THREADS = 4
BATCH = 25
SKUS = ("plenty", "scarce")


@dataclass
class Book:
    """What was sent and what was answered, over all rounds. Keys are (method, id)."""

    sent: dict[tuple[str, str], Any] = field(default_factory=dict)
    answered: dict[tuple[str, str], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, method: str, name: str, request: Any) -> None:
        with self.lock:
            self.sent[method, name] = request

    def answer(self, method: str, name: str, answer: Any) -> int:
        with self.lock:
            self.answered[method, name] = answer
            return len(self.answered)


class Load:
    """One round: threads that send until the server dies, which it does after a number of answers."""

    def __init__(self, book: Book, server: Server, name: str, rng: Random) -> None:
        self.book = book
        self.server = server
        self.name = name
        self.kill_at = len(book.answered) + rng.randrange(1, 400)
        self.seeds = [rng.randrange(2**32) for _ in range(THREADS)]

    def run(self) -> None:
        with Client(self.server.address) as client:
            with concurrent.futures.ThreadPoolExecutor(THREADS + 1) as pool:
                work = [pool.submit(self._calls, client, thread) for thread in range(THREADS)]
                work.append(pool.submit(self._stream, client))
            for part in work:
                part.result()
        assert self.server.wait() == -signal.SIGKILL

    def _count(self, answers: int) -> None:
        if answers >= self.kill_at:
            # All of it: workers would outlive their supervisor. Others may have come before.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.process.pid, signal.SIGKILL)

    def _calls(self, client: Client, thread: int) -> None:
        rng = Random(self.seeds[thread])
        n = 0
        while True:
            n += 1
            order_id = f"{self.name}-{thread}-{n}"
            request = order(order_id, rng.randrange(1, 4), sku_id=rng.choice(SKUS))
            calls = [("PlaceOrder", order_id, request)]
            of = {"shop_id": "shop", "order_id": order_id}
            if rng.random() < 0.3:
                pay = orders.PayOrderRequest(**of, payment_id="p", amount_minor=250 * request.lines[0].quantity)
                calls.append(("PayOrder", order_id, pay))
            if rng.random() < 0.3:
                calls.append(("CancelOrder", order_id, orders.CancelOrderRequest(**of, command_id="c")))
            if rng.random() < 0.1:
                calls.append(("AdjustStock", order_id, adjustment(order_id, 5, sku_id="scarce")))
            if not all(self._call(client, *call) for call in calls):
                return

    def _call(self, client: Client, method: str, name: str, request: Any) -> bool:
        """False once the server is dead."""
        self.book.send(method, name, request)
        try:
            answer = call(client, method, request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return True  # the order was refused, so there is nothing to pay or cancel
            return self._is_dead(error)
        self._count(self.book.answer(method, name, answer))
        return True

    def _is_dead(self, error: Any) -> bool:
        """False, which ends the load: what the death of the server looks like. Any other error is one of ours."""
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            # All of it: workers would outlive their supervisor. Others may have come before.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.process.pid, signal.SIGKILL)
            raise error
        return False

    def _stream(self, client: Client) -> None:
        """Batches with two in flight: the second is executed while the first waits for its sync."""
        sent: queue.SimpleQueue[orders.PlaceOrdersRequest | None] = queue.SimpleQueue()
        requests: Iterator[orders.PlaceOrdersRequest] = iter(sent.get, None)
        answers = client.orders.PlaceOrders(requests)
        batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        n = 0

        def send() -> None:
            nonlocal n
            ids = [f"{self.name}-s-{n + item}" for item in range(BATCH)]
            n += BATCH
            placed = [order(order_id, sku_id=SKUS[0]) for order_id in ids]
            for request in placed:
                self.book.send("PlaceOrder", request.order_id, request)
            batches.put(ids)
            sent.put(orders.PlaceOrdersRequest(orders=placed))

        send()
        send()
        try:
            for answer in answers:
                for order_id, item in zip(batches.get(), answer.results, strict=True):
                    assert item.WhichOneof("answer") == "result", item
                    self._count(self.book.answer("PlaceOrder", order_id, item.result))
                send()
        except grpc.RpcError as error:
            self._is_dead(error)
        finally:
            sent.put(None)


def call(client: Client, method: str, request: Any) -> Any:
    stub = client.inventory if method == "AdjustStock" else client.orders
    return getattr(stub, method)(request, timeout=60)


def essence(method: str, answer: Any) -> Any:
    """What of an answer a retry must repeat to the letter; an order's state may have moved on since."""
    allocations: list[Any] = []
    if method == "PlaceOrder":
        allocations = [(part.line_index, part.location_id, part.quantity) for part in answer.order.allocations]
        return answer.outcome, answer.sequence, allocations, answer.order.amount_minor, answer.log_id
    return answer.outcome, answer.sequence, answer.log_id


def check_answered(client: Client, book: Book, keys: list[tuple[str, str]]) -> None:
    """Every acknowledged command, sent again, is a duplicate with the same answer."""
    placed = [key for key in keys if key[0] == "PlaceOrder"]
    requests = [
        orders.PlaceOrdersRequest(orders=[book.sent[key] for key in placed[at : at + 500]])
        for at in range(0, len(placed), 500)
    ]
    results = [item.result for answer in client.orders.PlaceOrders(iter(requests)) for item in answer.results]
    again = dict(zip(placed, results, strict=True))
    again |= {key: call(client, key[0], book.sent[key]) for key in keys if key[0] != "PlaceOrder"}
    for key in keys:
        assert again[key].duplicate, f"{key} was answered, and is lost"
        assert essence(key[0], again[key]) == essence(key[0], book.answered[key]), key


def settle_unanswered(client: Client, book: Book, keys: list[tuple[str, str]]) -> int:
    """What was sent and not answered happened or did not: a retry tells. Returns how often it had."""
    happened = 0
    for method, name in keys:
        try:
            answer = call(client, method, book.sent[method, name])
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            del book.sent[method, name]
            continue
        happened += answer.duplicate
        book.answer(method, name, answer)
    return happened


def kill_while_starting(data_dir: Path, rng: Random) -> None:
    """Recovery itself is cut off somewhere, or is over already."""
    command = [sys.executable, "-m", "engine", "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
    command += ["--segment-bytes", str(SEGMENT_BYTES)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        try:
            process.wait(timeout=rng.uniform(0.2, 0.6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def audit(data_dir: Path) -> None:
    done = everopen("audit", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("audit: holds, ")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3, 4))])
def test_kill_under_load_loses_nothing_that_was_answered(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    data_dir = tmp_path / "data"
    book = Book()
    happened = unanswered = 0
    fresh: list[tuple[str, str]] = []
    for number in range(ROUNDS):
        with Server(data_dir) as server:
            with Client(server.address) as client:
                if number == 0:
                    client.seed(skus=SKUS, stock=200)
                    client.inventory.AdjustStock(adjustment("more", 1_000_000, sku_id="plenty"))
                old = rng.sample(sorted(book.answered), min(200, len(book.answered)))
                check_answered(client, book, [*(key for key in fresh if key in book.answered), *old])
                open_keys = [key for key in fresh if key not in book.answered]
                unanswered += len(open_keys)
                happened += settle_unanswered(client, book, open_keys)
            before = set(book.sent)
            Load(book, server, f"r{number}", rng).run()
            fresh = [key for key in book.sent if key not in before]
        if number % 11 == 5:
            kill_while_starting(data_dir, rng)
        if number % 10 == 9:
            audit(data_dir)
        if number % 20 == 19:
            assert everopen("snapshot", "--data-dir", data_dir, "--drop-segments").returncode == 0
    with Server(data_dir) as server, Client(server.address) as client:
        check_answered(client, book, sorted(book.answered))
        assert server.stop() == 0
    audit(data_dir)
    assert unanswered > 0, "the load must be cut off in the middle, or nothing was shown"
    print(f"{len(book.answered)} answered; of {unanswered} sent and not answered, {happened} had happened")
