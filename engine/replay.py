"""`everopen replay`: sends the orders of a file, as fast as the engine takes them or at a multiple of their own pace.

    survey the file -> seed catalogue and stock -> send -> report

All ids come from the file or are made from it, so that a run that broke off is simply run again: what was decided is
answered as a duplicate, and the engine ends up with the business digest of a run that never broke off. One ordered
stream keeps the order of each shop, also when it breaks (see order_stream.py in the client); the sequences of the
answers prove it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# gRPC's own lines on stderr would tear the progress bar.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import everopen
from engine.errors import EveropenError
from engine.latency import Latencies
from engine.limits import LIMITS
from engine.order_file import Contents, FileOrder, read_orders, survey
from engine.report import Report
from engine.seeding import Seeder, Stock
from everopen.methods import BATCH_ITEMS_MAX
from everopen.v1.inventory_pb2 import BackorderPolicy
from everopen.v1.inventory_service_pb2 import PutLocationRequest, PutShopRequest, PutSkuRequest
from everopen.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest, PlaceOrderResponse

LOCATION_ID = "replay"
# How long an order may take while the server is up but sheds it.
PATIENCE_S = 60.0
# Orders between two looks at the progress bar.
STRIDE = 256
# Orders between two turns of the event loop: without a turn, what is enqueued is not sent and no answer is read.
TURN = 32


class ReplayError(EveropenError):
    """The replay cannot go on, or found something wrong."""


class ServerGone(ReplayError):
    """The server cannot be reached (any more)."""


@dataclass(frozen=True, slots=True)
class Options:
    """stock: units per SKU, None for what the file orders. speed: multiple of the file's own pace, None for as fast as
    it goes. window: batches in flight. retry_for_s: how long an outage may last."""

    file: Path
    target: str
    speed: float | None = None
    stock: int | None = None
    backorders: bool = False
    window: int = 2
    retry_for_s: float = 0


@dataclass(slots=True)
class Result:
    """What the engine answered. Units and amounts are those of accepted and of refused orders."""

    contents: Contents
    acknowledged: int = 0
    duplicates: int = 0
    outcomes: Counter[int] = field(default_factory=Counter)
    accepted_units: int = 0
    accepted_cents: int = 0
    refused_units: int = 0
    refused_cents: int = 0
    other_amounts: int = 0
    out_of_order: int = 0
    seconds: float = 0
    orders: Latencies = field(default_factory=Latencies)
    batches: Latencies = field(default_factory=Latencies)
    # Of each shop the place in the file and the sequence of the last order answered.
    last: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, order: FileOrder, answer: PlaceOrderResponse, seconds: float) -> None:
        self.acknowledged += 1
        self.duplicates += answer.duplicate
        self.outcomes[answer.outcome] += 1
        self.orders.add(seconds)
        if answer.outcome in (everopen.PLACED, everopen.BACKORDERED):
            self.accepted_units += order.units
            self.accepted_cents += answer.order.amount_minor
            self.other_amounts += answer.order.amount_minor != order.amount_cents
        else:
            self.refused_units += order.units
            self.refused_cents += order.amount_cents
        here = (order.index, answer.sequence)
        before = self.last.get(order.first.shop_id, (-1, 0))
        if here[0] < before[0] or here[1] <= before[1]:
            self.out_of_order += 1
        else:
            self.last[order.first.shop_id] = here

    @property
    def is_complete(self) -> bool:
        return self.acknowledged == self.contents.orders

    @property
    def holds(self) -> bool:
        """Every order is answered, in its shop's order, and units and amounts add up to those of the file."""
        units = self.accepted_units + self.refused_units == self.contents.units
        cents = self.accepted_cents + self.refused_cents == self.contents.amount_cents
        return self.is_complete and units and cents and not self.other_amounts and not self.out_of_order


def replay(options: Options, console: Console, on_answer: Callable[[int], None] | None = None) -> Result:
    """Runs to the end, with a progress bar on the console. on_answer is told the number of answers after each.

    Raises OrderFileError, SeedingError, ServerGone or ReplayError.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        reading = progress.add_task("reading the file", total=None)
        contents = survey(options.file)
        progress.remove_task(reading)
        return asyncio.run(_replay(options, contents, progress, on_answer or (lambda _: None)))


async def _replay(options: Options, contents: Contents, progress: Progress, on_answer: Callable[[int], None]) -> Result:
    result = Result(contents)
    policy = everopen.RetryPolicy(
        timeout_s=options.retry_for_s or PATIENCE_S,
        unavailable_max=10**9 if options.retry_for_s else 0,
    )
    async with everopen.AsyncClient(
        options.target,
        policy=policy,
        batches_in_flight=options.window,
        # One batch gathers while the window is on its way.
        orders_waiting_max=(options.window + 1) * BATCH_ITEMS_MAX,
        on_batch=lambda _, seconds: result.batches.add(seconds),
    ) as client:
        try:
            await _seed(client, options, contents, progress)
            await Sender(client, options, result, progress, on_answer).run()
        except everopen.Unavailable as error:
            raise ServerGone(
                f"the server at {options.target} cannot be reached after {result.acknowledged:,} of "
                f"{contents.orders:,} orders were acknowledged ({error}). Run the same command again once it is up: "
                "what it decided is answered as a duplicate, and nothing is placed twice"
            ) from error
        except everopen.EveropenError as error:
            raise ReplayError(f"the server refused what it should take: {error}") from error
    return result


async def _seed(client: everopen.AsyncClient, options: Options, contents: Contents, progress: Progress) -> None:
    shops = [PutShopRequest(shop_id=shop_id) for shop_id in contents.shops]
    locations = [PutLocationRequest(shop_id=shop_id, location_id=LOCATION_ID) for shop_id in contents.shops]
    policy = BackorderPolicy.BACKORDER_POLICY_ALLOW if options.backorders else BackorderPolicy.BACKORDER_POLICY_DENY
    stocks = [
        Stock(
            put=PutSkuRequest(
                shop_id=shop_id,
                sku_id=sku_id,
                price_minor=sku.price_cents,
                backorder_policy=policy,
                # No hold may end while the file is sent, or what came later would find stock that it should not.
                reserve_ttl_ms=LIMITS["RESERVE_TTL_MS_MAX"],
            ),
            location_id=LOCATION_ID,
            units=sku.units if options.stock is None else options.stock,
        )
        for (shop_id, sku_id), sku in contents.skus.items()
    ]
    bar = progress.add_task("seeding catalogue and stock", total=len(shops) + len(locations) + 2 * len(stocks))
    seeder = Seeder(client, lambda count: progress.advance(bar, count), options.retry_for_s)
    await seeder.seed(shops, locations, stocks)
    progress.remove_task(bar)


class Sender:
    """Sends the orders of a file through one client, and gathers the answers."""

    def __init__(
        self,
        client: everopen.AsyncClient,
        options: Options,
        result: Result,
        progress: Progress,
        on_answer: Callable[[int], None],
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._options = options
        self._result = result
        self._progress = progress
        self._on_answer = on_answer
        self._now_s = now_s
        self._sleep = sleep
        self._failure: BaseException | None = None
        self._sent = 0
        self._open = 0
        self._all_answered = asyncio.Event()

    async def run(self) -> None:
        bar = self._progress.add_task("sending orders", total=self._result.contents.orders)
        began_s = self._now_s()
        first_ms: int | None = None
        for order in read_orders(self._options.file):
            first_ms = order.placed_at_ms if first_ms is None else first_ms
            await self._keep_pace(began_s, order.placed_at_ms - first_ms)
            if self._failure is not None:
                break
            sent_s = self._now_s()
            future = await self._client.enqueue_order(request_of(order))
            self._open += 1
            self._sent += 1
            future.add_done_callback(partial(self._done, bar, order, sent_s))
        while self._open:
            self._all_answered.clear()
            await self._all_answered.wait()
        self._result.seconds = self._now_s() - began_s
        if self._failure is not None:
            raise self._failure

    async def _keep_pace(self, began_s: float, since_first_ms: int) -> None:
        if self._options.speed is not None:
            wait_s = began_s + since_first_ms / 1000 / self._options.speed - self._now_s()
            if wait_s > 0:
                await self._sleep(wait_s)
        elif self._sent % TURN == 0:
            await self._sleep(0)

    def _done(self, bar: TaskID, order: FileOrder, sent_s: float, future: asyncio.Future[PlaceOrderResponse]) -> None:
        self._open -= 1
        if not self._open:
            self._all_answered.set()
        error = future.exception()
        if error is not None:
            self._failure = self._failure or error
            return
        self._result.add(order, future.result(), self._now_s() - sent_s)
        if self._result.acknowledged % STRIDE == 0 or not self._open:
            self._progress.update(bar, completed=self._result.acknowledged)
        self._on_answer(self._result.acknowledged)


def request_of(order: FileOrder) -> PlaceOrderRequest:
    return PlaceOrderRequest(
        order_id=order.first.order_id,
        shop_id=order.first.shop_id,
        buyer_id=order.first.buyer_id,
        lines=[
            PlaceOrderLine(sku_id=row.sku_id, quantity=row.quantity, amount_minor=row.amount_cents)
            for row in order.rows
        ],
        placed_at_ms=order.placed_at_ms,
    )


def report(result: Result) -> Report:
    """The table at the end."""
    contents, table = result.contents, Report()
    table.section("The file")
    sizes = f"{contents.lines:,} lines, {len(contents.shops):,} shops, {len(contents.skus):,} SKUs"
    table.add("orders", contents.orders, sizes)
    share = f"{contents.night_orders / max(1, contents.orders):.1%}"
    table.add("between 20:00 and 08:00", share, f"{contents.night_orders:,} orders, by the time they were placed")
    table.section("Answers")
    for outcome in (everopen.PLACED, everopen.BACKORDERED):
        table.add(everopen.outcome_name(outcome).lower(), result.outcomes[outcome], "orders")
    refused = {number: count for number, count in sorted(result.outcomes.items()) if number > everopen.APPLIED}
    for number, count in refused.items():
        table.add("refused", count, f"orders: {everopen.outcome_name(number)}")
    if not refused:
        table.add("refused", 0, "orders")
    table.add("duplicates", result.duplicates, "of all these; decided by an earlier run or try")
    _add_totals(table, result)
    table.section("Speed")
    rate = f"{result.acknowledged / max(result.seconds, 1e-9):,.0f}"
    table.add("orders a second", rate, f"in {result.seconds:,.1f} s, without catalogue and stock")
    batches = f"{result.batches.count:,} batches"
    table.add("latency of an order", "", f"{result.orders}  from handing it to the client to its durable answer")
    table.add("latency of a batch", "", f"{result.batches}  from sending it to its durable answer; {batches}")
    return table


def _add_totals(table: Report, result: Result) -> None:
    contents = result.contents

    def compared(accepted: int, refused: int, total: int) -> str:
        if accepted == total:
            return "equal to the file's"
        verdict = "equal to" if accepted + refused == total else "NOT EQUAL to"
        return f"with {refused:,} refused {verdict} the file's {total:,}"

    table.add("units", result.accepted_units, compared(result.accepted_units, result.refused_units, contents.units))
    amounts = compared(result.accepted_cents, result.refused_cents, contents.amount_cents)
    table.add("amount, cents", result.accepted_cents, amounts)
    if result.other_amounts:
        table.add("other amounts", result.other_amounts, "orders were accepted at ANOTHER AMOUNT than the file's")
    if result.out_of_order:
        # The server shed single orders, or had forgotten refusals of an earlier run and decided them anew.
        table.add("order within shops", result.out_of_order, "orders were decided BEFORE EARLIER ONES of their shop")
    else:
        table.add("order within shops", "kept", "by the sequences of the answers")
