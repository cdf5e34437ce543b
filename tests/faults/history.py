"""Concurrent callers on a real engine, and a record of what each of them saw.

All orders are of one line, so that the SKU of an operation says which history it belongs to. A call that fails is sent
again with the same id until it is answered: it is one operation, from its first beginning to its last answer. Some
callers lose their patience, and leave an operation of which nobody knows.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, Self

import grpc

import everopen
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2 as outcome
from everopen.v1.inventory_service_pb2_grpc import InventoryServiceStub
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.faults.linearizability import ACCEPTED, ADJUST, CANCEL, PLACE, READ, REFUSED, Operation, Stock, check_skus
from tests.serving import adjustment, order

SKUS = ("tea", "rice", "lamp")
STOCK = 60
# One try; a frozen process answers nobody, and its callers come again.
TRY_S = 1.0
# All tries of a call. A call that is not answered by then fails the test: the door must open again.
PATIENCE_S = 30.0
PAUSE_S = 0.02
# Of one SKU. Each doubles what the checker has to try in the worst case.
ABANDONED_MAX = 6
# Of what the callers over raw stubs do: so many orders in one message of a stream.
BATCH_SHARE = 0.1
BATCH = 5
# What grpc.aio says itself where a stream broke under a read.
BROKEN = "Internal error from Core"
CODES = {code.value[0]: code for code in grpc.StatusCode}
METHODS = {PLACE: "PlaceOrder", ADJUST: "AdjustStock", CANCEL: "CancelOrder", READ: "GetStock"}
# After these nobody knows whether anything was decided, or nothing was: the same id is sent again.
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
]
ANSWERS = {
    outcome.OUTCOME_PLACED: ACCEPTED,
    outcome.OUTCOME_APPLIED: ACCEPTED,
    outcome.OUTCOME_INSUFFICIENT_STOCK: REFUSED,
    outcome.OUTCOME_ILLEGAL_STATE: REFUSED,
}


@dataclass(slots=True)
class Call:
    """An operation under way."""

    kind: str
    name: str
    sku_id: str
    units: int
    request: Any
    impatient: bool = False
    called: int = field(default_factory=time.monotonic_ns)
    tries: int = 0


class History:
    """What all callers saw, of however many threads. Times are CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        # (called, returned, sequence, is a read), of what was answered.
        self.sequences: list[tuple[int, int, int, bool]] = []
        # By order id: outcome and sequence.
        self.orders: dict[str, tuple[int, int]] = {}
        self.log_ids: set[bytes] = set()
        # What no engine may do, and no fault excuses.
        self.faults: list[str] = []
        self.repeats = 0
        # How often which kind of failure was met.
        self.failures: Counter[grpc.StatusCode] = Counter()
        # Nobody waits for anything any more.
        self.over = False
        self._abandoned: dict[str, int] = {}
        self._changed = threading.Condition()

    def may_abandon(self, sku_id: str) -> bool:
        with self._changed:
            self._abandoned[sku_id] = self._abandoned.get(sku_id, 0) + 1
            return self._abandoned[sku_id] <= ABANDONED_MAX

    def answer(self, call: Call, answer: Any, returned: int) -> bool:
        """Books it. True: it was accepted."""
        seen: Any = None
        if call.kind == READ:
            seen = Stock(answer.on_hand, answer.reserved)
            if answer.available != answer.on_hand - answer.reserved:
                self.fault(f"{call.name}: {answer}")
        elif answer.outcome in ANSWERS:
            seen = ANSWERS[answer.outcome]
        else:
            self.fault(f"{call.name}: {answer}")
        if call.tries == 1 and call.kind != READ and answer.duplicate:
            self.fault(f"{call.name}: a duplicate at the first try")
        operation = Operation(call.kind, call.units, call.called, returned, seen, call.name, call.sku_id)
        with self._changed:
            self.operations.append(operation)
            self.sequences.append((call.called, returned, answer.sequence, call.kind == READ))
            self.log_ids.add(answer.log_id)
            self.repeats += call.kind != READ and answer.duplicate
            if call.kind == PLACE:
                self.orders[call.name] = (answer.outcome, answer.sequence)
            self._changed.notify_all()
        return bool(seen == ACCEPTED)

    def lose(self, call: Call) -> None:
        """Nobody knows. A read that nobody saw says nothing."""
        if call.kind != READ:
            with self._changed:
                self.operations.append(
                    Operation(call.kind, call.units, call.called, None, None, call.name, call.sku_id)
                )

    def fault(self, text: str) -> None:
        with self._changed:
            self.faults.append(text)
            self._changed.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many more were answered."""
        with self._changed:
            aim = len(self.sequences) + more
            came = self._changed.wait_for(lambda: self.faults or len(self.sequences) >= aim, PATIENCE_S)
            assert not self.faults, self.faults[:3]
            assert came, f"{aim - len(self.sequences)} of {more} answers did not come in {PATIENCE_S:g} s"

    def longest_gap_s(self) -> float:
        """Between two answers that came one after the other."""
        times = sorted(returned for _, returned, _, _ in self.sequences)
        return max((later - earlier for earlier, later in pairwise(times)), default=0) / 1e9

    def check(self) -> None:
        assert not self.faults, self.faults[:3]
        assert len(self.log_ids) <= 1
        self._check_sequences()
        for sku_id, verdict in check_skus(self.operations, Stock(STOCK, 0)).items():
            assert verdict.holds, f"{sku_id}: no moment for {verdict.stuck}, after {verdict.order[-5:]}"

    def _check_sequences(self) -> None:
        """What began after an answer has a higher sequence, or, if it reads, shows at least that one."""
        ends = sorted((returned, sequence) for _, returned, sequence, _ in self.sequences)
        highest = at = 0
        for called, _, sequence, reads in sorted(self.sequences):
            while at < len(ends) and ends[at][0] < called:
                highest = max(highest, ends[at][1])
                at += 1
            assert sequence >= highest + (not reads), f"sequence {sequence} after {highest} was answered"


class Caller:
    """Decides what to ask next, from its seed, and books what came; how it is asked is another's business."""

    def __init__(self, history: History, name: str, seed: int) -> None:
        self.history = history
        self.rng = Random(seed)
        self._name = name
        self._count = 0
        # Accepted orders that were not cancelled: (order_id, sku_id, units).
        self._placed: list[tuple[str, str, int]] = []

    def next(self) -> Call:
        kind = self.rng.choices((PLACE, ADJUST, READ, CANCEL), (10, 3, 4, 4))[0]
        if kind == PLACE or (kind == CANCEL and not self._placed):
            return self.place()
        if kind == CANCEL:
            order_id, sku_id, units = self._placed.pop(self.rng.randrange(len(self._placed)))
            asked = orders.CancelOrderRequest(shop_id="shop", order_id=order_id, command_id="c")
            return Call(kind, f"cancel {order_id}", sku_id, units, asked, self._impatient())
        name, sku_id = self._new()
        if kind == READ:
            return Call(kind, name, sku_id, 0, inventory.GetStockRequest(shop_id="shop", sku_id=sku_id))
        # More goes out by orders than comes back by cancellations, so most adjustments bring something.
        units = self.rng.choice((-2, 1, 5, 8))
        return Call(kind, name, sku_id, units, adjustment(name, units, sku_id=sku_id), self._impatient())

    def place(self) -> Call:
        name, sku_id = self._new()
        units = self.rng.randrange(1, 5)
        return Call(PLACE, name, sku_id, units, order(name, units, sku_id=sku_id), self._impatient())

    def _new(self) -> tuple[str, str]:
        self._count += 1
        return f"{self._name}-{self._count}", self.rng.choice(SKUS)

    def _impatient(self) -> bool:
        return self.rng.random() < 0.2

    def answered(self, call: Call, answer: Any) -> None:
        accepted = self.history.answer(call, answer, time.monotonic_ns())
        if accepted and call.kind == PLACE:
            self._placed.append((call.name, call.sku_id, call.units))

    def failed(self, call: Call, code: grpc.StatusCode, text: str | None) -> bool:
        """True: try again."""
        self.history.failures[code] += 1
        if self.history.over:
            pass
        elif code not in AGAIN:
            self.history.fault(f"{call.name}: {code} {text}")
        elif time.monotonic_ns() - call.called > PATIENCE_S * 1e9:
            self.history.fault(f"{call.name}: no answer for {PATIENCE_S:g} s, last {code} {text}")
        elif not call.impatient or not self.history.may_abandon(call.sku_id):
            return True
        self.history.lose(call)
        return False


class Load:
    """Callers on the event loop of one thread, over raw stubs, and the library's client on threads of their own."""

    def __init__(self, address: str, seed: int = 1, *, tasks: int = 6, threads: int = 2, pace_s: float = 0.002) -> None:
        self.history = History()
        self._address = address
        self._pace_s = pace_s
        self._stop = threading.Event()
        callers = [Caller(self.history, f"{seed}-{number}", seed * 1_000 + number) for number in range(tasks + threads)]
        self._threads = [threading.Thread(target=self._guarded, args=(self._run_tasks, callers[:tasks]))]
        self._threads += [
            threading.Thread(target=self._guarded, args=(self._run_client, caller)) for caller in callers[tasks:]
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.abort()

    def stop(self) -> None:
        """What is under way is brought to its end first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def abort(self) -> None:
        """What is under way is left as it is. Does nothing after `stop`."""
        self.history.over = True
        self.stop()

    def _guarded(self, run: Callable[[Any], None], argument: Any) -> None:
        try:
            run(argument)
        except BaseException as error:
            self.history.fault(repr(error))
            raise

    def _run_tasks(self, callers: list[Caller]) -> None:
        asyncio.run(self._callers(callers))

    async def _callers(self, callers: list[Caller]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(self._caller(caller))

    async def _caller(self, caller: Caller) -> None:
        async with grpc.aio.insecure_channel(self._address, options=CHANNEL) as channel:
            stubs: dict[str, Any] = {
                **vars(OrderServiceStub(channel)),  # type: ignore[no-untyped-call]
                **vars(InventoryServiceStub(channel)),  # type: ignore[no-untyped-call]
            }
            while not self._stop.is_set():
                calls = [caller.next()]
                if caller.rng.random() < BATCH_SHARE:
                    calls = await self._place_batch(stubs, caller, [caller.place() for _ in range(BATCH)])
                for call in calls:
                    await self._until_answered(stubs, caller, call)
                await asyncio.sleep(self._pace_s)

    async def _until_answered(self, stubs: dict[str, Any], caller: Caller, call: Call) -> None:
        again = True
        while again:
            call.tries += 1
            try:
                answer = await stubs[METHODS[call.kind]](call.request, timeout=TRY_S)
            except grpc.aio.AioRpcError as error:
                again = caller.failed(call, error.code(), error.details())
                await asyncio.sleep(PAUSE_S)
            else:
                caller.answered(call, answer)
                again = False

    async def _place_batch(self, stubs: dict[str, Any], caller: Caller, calls: list[Call]) -> list[Call]:
        """Over a stream of one batch. Returns those that were not answered."""
        for call in calls:
            call.tries += 1
        stream = stubs["PlaceOrders"](timeout=TRY_S)
        try:
            await stream.write(orders.PlaceOrdersRequest(orders=[call.request for call in calls]))
            answer = await stream.read()
            await stream.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # What became of the stream says its status; which write or read noticed it does not matter.
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            code, details = await stream.code(), await stream.details()
            if code == grpc.StatusCode.INTERNAL and details == BROKEN:
                code = grpc.StatusCode.UNAVAILABLE
            return [call for call in calls if caller.failed(call, code, details)]
        left = []
        for call, item in zip(calls, answer.results, strict=True):
            if item.WhichOneof("answer") == "result":
                caller.answered(call, item.result)
            elif caller.failed(call, CODES[item.status.code], item.status.message):
                left.append(call)
        return left

    def _run_client(self, caller: Caller) -> None:
        policy = everopen.RetryPolicy(timeout_s=TRY_S)
        with everopen.connect(self._address, policy=policy) as client:
            methods = {
                PLACE: client.place_order,
                ADJUST: client.adjust_stock,
                CANCEL: client.cancel_order,
                READ: client.get_stock,
            }
            while not self._stop.wait(self._pace_s):
                call = caller.next()
                again = True
                while again:
                    # What the library repeats is not counted here, so that a duplicate is never a surprise.
                    call.tries += 2
                    try:
                        answer = methods[call.kind](call.request)
                    except everopen.EveropenError as error:
                        again = caller.failed(call, error.code, str(error))
                    else:
                        caller.answered(call, answer)
                        again = False


def seed(address: str) -> None:
    """The shop and the SKUs, each with STOCK units at one location."""
    with everopen.connect(address) as client:
        client.put_shop("shop")
        client.put_location("shop", location_id="near", region="east")
        for sku_id in SKUS:
            client.put_sku("shop", sku_id=sku_id, price_minor=250)
            client.adjust_stock(adjustment(f"seed-{sku_id}", STOCK, sku_id=sku_id))
