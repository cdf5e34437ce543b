"""`everopen demo`: an engine, a night of orders in seconds, and the audit of what it logged."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# gRPC's own lines on stderr would tear the progress bar.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

import everopen
from engine import journal_tools, night
from engine._core import PLACE_ORDER
from engine.errors import DataDirectoryError
from engine.latency import Latencies
from engine.local import LocalEngine, Verdict, audit
from engine.report import Report, curve
from engine.seeding import Seeder
from everopen.v1.order_service_pb2 import (
    CancelOrderResponse,
    PayOrderResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    ShipOrderResponse,
)

DEFAULT_DIR = Path(".demo")
# Orders a second at the height of the evening; twice that while a live room is on.
PEAK_PER_S = 6_000.0
# How often orders are handed out; between two of these they are as if they came together.
STEP_S = 0.01
# Of the buyers whose order is placed, as many as these at a time pay, cancel, and see their goods leave.
FOLLOWERS = 4
WAITING_FOR_FOLLOWERS_MAX = 64
DONE = {"pay": "paid", "cancel": "cancelled", "ship": "shipped"}


@dataclass(slots=True)
class Tally:
    """What was sent and answered."""

    sent: int = 0
    answered: int = 0
    units: int = 0
    outcomes: Counter[int] = field(default_factory=Counter)
    commands: Counter[tuple[str, int]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    orders: Latencies = field(default_factory=Latencies)
    commands_took: Latencies = field(default_factory=Latencies)
    batches: Counter[int] = field(default_factory=Counter)
    per_second: Counter[int] = field(default_factory=Counter)
    seconds: float = 0


def demo(seconds: int, data_dir: Path | None = None) -> int:
    """Returns the exit code: 0 if the audit holds and the log has what was acknowledged."""
    console = Console()
    data_dir = data_dir or fresh_default()
    if data_dir.exists() and any(data_dir.iterdir()):
        raise DataDirectoryError(f"{data_dir}: is not empty; the demo needs a directory of its own")
    console.print(
        f"[bold]everopen demo[/bold]: one night of orders, {night.clock(night.BEGINS_HOUR)} to "
        f"{night.clock(night.ENDS_HOUR)}, in {seconds} s",
        highlight=False,
    )
    with LocalEngine(data_dir) as engine:
        console.print(f"engine: process {engine.pid} serves on {engine.address}, data in {data_dir}", highlight=False)
        tally = asyncio.run(Load(engine.address, seconds, console).run())
    verdict = audit(data_dir)
    logged = placed_in_log(data_dir)
    report(tally, verdict, logged).print(console)
    console.print(f"look closer: everopen journal dump --data-dir {data_dir}", style="dim", highlight=False)
    return 0 if verdict.holds and logged == tally.outcomes[everopen.PLACED] and not tally.errors else 1


def fresh_default() -> Path:
    """Only what an earlier demo made is removed: the directory has this name, and is in the working directory."""
    shutil.rmtree(DEFAULT_DIR, ignore_errors=True)
    DEFAULT_DIR.mkdir()
    return DEFAULT_DIR / "data"


def placed_in_log(data_dir: Path) -> int:
    return sum(
        record.kind == PLACE_ORDER and record.outcome == everopen.PLACED for _, record in journal_tools.dump(data_dir)
    )


class Load:
    """An open loop: orders come when the night has them, whether or not the earlier ones are answered."""

    def __init__(
        self, address: str, seconds: int, console: Console, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._seconds = seconds
        self._console = console
        self._now_s = now_s
        self._night = night.Night(PEAK_PER_S)
        self._tally = Tally()
        self._placed: asyncio.Queue[PlaceOrderResponse] = asyncio.Queue(WAITING_FOR_FOLLOWERS_MAX)
        self._began_s = 0.0
        self._open = 0
        self._all_answered = asyncio.Event()

    async def run(self) -> Tally:
        columns = (TextColumn("{task.description:<24}"), BarColumn(40), TextColumn("{task.fields[shown]}"))
        async with everopen.AsyncClient(
            self._address, on_batch=lambda orders, _: self._tally.batches.update([orders])
        ) as client:
            with Progress(*columns, console=self._console, transient=True) as progress:
                await self._seed(client, progress)
                await self._run_night(client, progress)
        return self._tally

    async def _seed(self, client: everopen.AsyncClient, progress: Progress) -> None:
        shops, locations, stocks = self._night.shops(), self._night.locations(), self._night.stocks()
        total = len(shops) + len(locations) + 2 * len(stocks)
        bar = progress.add_task("catalogue and stock", total=total, shown="")
        await Seeder(client, lambda count: progress.advance(bar, count)).seed(shops, locations, stocks)
        progress.remove_task(bar)

    async def _run_night(self, client: everopen.AsyncClient, progress: Progress) -> None:
        bar = progress.add_task(night.clock(night.BEGINS_HOUR), total=self._seconds, shown="")
        followers = [asyncio.create_task(self._follow(client)) for _ in range(FOLLOWERS)]
        self._began_s = before_s = self._now_s()
        owed = 0.0
        while (passed_s := self._now_s() - self._began_s) < self._seconds:
            hour = night.BEGINS_HOUR + (night.ENDS_HOUR - night.BEGINS_HOUR) * passed_s / self._seconds
            now_s = self._began_s + passed_s
            orders, owed = self._night.orders(hour, now_s - before_s, owed)
            before_s = now_s
            for order in orders:
                await self._send(client, order)
            self._show(progress, bar, hour, passed_s)
            await asyncio.sleep(max(0.0, now_s + STEP_S - self._now_s()))
        if self._open:
            self._all_answered.clear()
            await self._all_answered.wait()
        self._tally.seconds = self._now_s() - self._began_s
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)

    async def _send(self, client: everopen.AsyncClient, order: PlaceOrderRequest) -> None:
        sent_s = self._now_s()
        future = await client.enqueue_order(order)
        self._tally.sent += 1
        self._open += 1
        future.add_done_callback(partial(self._answered, sent_s))

    def _answered(self, sent_s: float, future: asyncio.Future[PlaceOrderResponse]) -> None:
        self._open -= 1
        if not self._open:
            self._all_answered.set()
        error = future.exception()
        if error is not None:
            self._tally.errors[str(error)] += 1
            return
        answer = future.result()
        tally = self._tally
        tally.answered += 1
        tally.outcomes[answer.outcome] += 1
        tally.orders.add(self._now_s() - sent_s)
        tally.per_second[int(self._now_s() - self._began_s)] += 1
        if answer.outcome == everopen.PLACED:
            tally.units += sum(line.quantity for line in answer.order.lines)
            if not self._placed.full():
                self._placed.put_nowait(answer)

    async def _follow(self, client: everopen.AsyncClient) -> None:
        """What becomes of a placed order: most are paid and shipped, some cancelled, some shipped before being paid."""
        while True:
            order = (await self._placed.get()).order
            shop_id, order_id = order.shop_id, order.order_id
            fate = self._tally.commands.total() % 10
            if fate == 0:
                await self._command("cancel", client.cancel_order(shop_id, order_id=order_id, command_id="c-1"))
                continue
            if fate == 1:
                await self._command("ship", client.ship_order(shop_id, order_id=order_id, command_id="too-early"))
            paid = client.pay_order(shop_id, order_id=order_id, payment_id="p-1", amount_minor=order.amount_minor)
            await self._command("pay", paid)
            await self._command("ship", client.ship_order(shop_id, order_id=order_id, command_id="s-1"))

    async def _command(
        self, name: str, call: Awaitable[PayOrderResponse | CancelOrderResponse | ShipOrderResponse]
    ) -> None:
        sent_s = self._now_s()
        try:
            answer = await call
        except everopen.EveropenError as error:
            self._tally.errors[str(error)] += 1
            return
        self._tally.commands[name, answer.outcome] += 1
        self._tally.commands_took.add(self._now_s() - sent_s)

    def _show(self, progress: Progress, bar: TaskID, hour: float, passed_s: float) -> None:
        room = " live room" if night.live_room(hour) is not None else ""
        rate, placed = self._tally.per_second[int(passed_s) - 1], self._tally.outcomes[everopen.PLACED]
        shown = f"{rate:>7,} orders/s {placed:>9,} placed"
        progress.update(bar, completed=passed_s, description=f"{night.clock(hour)}{room}", shown=shown)


def report(tally: Tally, verdict: Verdict, logged: int) -> Report:
    table = Report()
    table.section("Orders")
    seconds = [tally.per_second[second] for second in range(int(tally.seconds))]
    table.add("answered", tally.answered, f"of {tally.sent:,} sent in {tally.seconds:.1f} s")
    hours = f"{night.clock(night.BEGINS_HOUR)} {curve(seconds)} {night.clock(night.ENDS_HOUR)}"
    table.add("a second, mean", f"{tally.answered / tally.seconds:,.0f}", hours)
    table.add("a second, most", max(seconds, default=0), "while a live-stream room was on")
    batches = tally.batches.total()
    largest = max(tally.batches, default=0)
    table.add(
        "in a batch, mean", f"{tally.answered / max(1, batches):.1f}", f"{batches:,} batches, at most {largest:,}"
    )
    _add_answers(table, tally)
    table.section("Latency, from the call to the durable answer")
    table.add("order", f"{tally.orders.count:,}", str(tally.orders))
    table.add("pay, cancel, ship", f"{tally.commands_took.count:,}", str(tally.commands_took))
    table.section("Proof, after the engine stopped")
    placed = tally.outcomes[everopen.PLACED]
    same = logged == placed
    table.add("acknowledged", placed, "orders were answered PLACED")
    remark = "orders are in the log as PLACED, the same" if same else "orders are in the log as PLACED: NOT THE SAME"
    table.add("logged", logged, remark, style="green" if same else "bold red")
    table.section(verdict.text, style="bold green" if verdict.holds else "bold red")
    return table


def _add_answers(table: Report, tally: Tally) -> None:
    table.section("Answers")
    for outcome, count in sorted(tally.outcomes.items()):
        remark = f"orders, {tally.units:,} units" if outcome == everopen.PLACED else "orders refused"
        table.add(everopen.outcome_name(outcome), count, remark)
    for (name, outcome), count in sorted(tally.commands.items()):
        applied = outcome == everopen.APPLIED
        remark = f"orders {DONE[name]}" if applied else "refused as they should be: the order's state forbids it"
        table.add(name if applied else f"{name}, {everopen.outcome_name(outcome)}", count, remark)
    for error, count in tally.errors.most_common(3):
        table.add("ERRORS", count, error, style="bold red")
