"""`everopen serve`: wires the stages in the order in which a call passes them, and takes them down likewise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# gRPC's own lines on stderr repeat what its exceptions say.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import structlog
import uvloop

from engine import datadir
from engine._core import Engine
from engine.admission import Gate
from engine.durability import Acknowledger
from engine.errors import EveropenError
from engine.limits import DRAIN_S_MAX, LIMITS, STREAMS_PER_CONNECTION_MAX, TICK_MS_MAX
from engine.listen import Address
from engine.pipeline import Pipeline
from engine.services import Health, add_standard_services, handlers
from engine.streams import PlaceOrdersHandler

# A caller that watches health or reflects at the end of the drain gets this long to see its last answer.
GRACE_S = 1.0
# Callers count as gone once none has come for this long.
QUIET_S = 0.05

log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    listen: Address
    segment_bytes: int | None = None
    # One-line orders whose memory is asked for at the start, so that the peak pays no page faults.
    expect_orders: int = 0


class ListenError(EveropenError):
    """The address cannot be listened on."""


def serve(settings: Settings) -> int:
    """Serves until a signal; returns the exit code."""
    # Until the log is recovered there is nothing to drain, so a signal ends the process as it ends any other.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    [shard] = datadir.create_or_open(settings.data_dir, 1)
    # Before the port: whoever starts a second one at the same address should hear of the directory, not of the address.
    datadir.refuse_if_locked([shard])

    # wire -> admit -> match, log, ack -> (events, projections: not yet)
    gate = Gate()
    pipeline = Pipeline(gate)
    place_orders = PlaceOrdersHandler(pipeline)
    health = Health()
    await health.tell(serving=False)
    server, address = _listen(settings.listen, pipeline, place_orders, health)
    await server.start()

    try:
        began = time.monotonic()
        engine = await asyncio.to_thread(_open_engine, shard, settings)
    except BaseException:
        await server.stop(None)
        raise
    recovered_s = time.monotonic() - began
    acknowledger = Acknowledger(engine, asyncio.get_running_loop())
    pipeline.begin(engine, acknowledger)
    stop = _stop_signal()
    ticking = asyncio.create_task(_tick(engine))
    await health.tell(serving=True)
    _tell_ready(address, engine, recovered_s)

    await _first_of(stop, ticking)
    log.info("draining", calls=gate.calls)
    await _drain(server, gate, place_orders, health)
    ticking.cancel()
    acknowledger.close()
    await asyncio.to_thread(engine.close)
    log.info("stopped", sequence=engine.sequence)
    return 0


def _listen(
    address: Address, pipeline: Pipeline, place_orders: PlaceOrdersHandler, health: Health
) -> tuple[grpc.aio.Server, Address]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", LIMITS["MESSAGE_BYTES_MAX"]),
            # A batch's answer may be longer than its request; what a client accepts is its own to say.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
            # Two servers on one port would share its connections silently.
            ("grpc.so_reuseport", 0),
            # Idle clients may keep their connection alive with a ping every ten seconds.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
    )
    server.add_generic_rpc_handlers(handlers(pipeline, place_orders))
    add_standard_services(server, health)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError:
        raise ListenError(f"cannot listen on {address}: is the port in use, and the address this machine's?") from None
    if not address.is_loopback:
        log.warning("serving in plaintext to other machines", address=str(address))
    return server, Address(address.host, port)


def _open_engine(shard: Path, settings: Settings) -> Engine:
    sizes = {} if settings.segment_bytes is None else {"segment_bytes": settings.segment_bytes}
    engine = Engine(str(shard), **sizes)
    if settings.expect_orders:
        engine.expect(settings.expect_orders)
    return engine


async def _tick(engine: Engine) -> NoReturn:
    """Lets the core log the ticks that are due, when it says so. The core itself cuts long work into several."""
    alarms = 0
    while True:
        wait_ms = engine.tick()
        if engine.clock_alarms != alarms:
            alarms = engine.clock_alarms
            log.warning("the wall clock stepped by more than a second; logged time is slewed", alarms=alarms)
        engine.kick()
        await asyncio.sleep(min(max(wait_ms, 0), TICK_MS_MAX) / 1_000)


async def _first_of(stop: asyncio.Event, ticking: asyncio.Task[NoReturn]) -> None:
    """Waits for the signal. Ticks have no end: if they break, no hold would expire, so that ends the process too."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, ticking}, return_when=asyncio.FIRST_COMPLETED)
    if ticking.done():
        ticking.result()


async def _drain(server: grpc.aio.Server, gate: Gate, place_orders: PlaceOrdersHandler, health: Health) -> None:
    """No new calls; those in flight are answered, which means that what they did is synced."""
    await health.tell(serving=False)
    gate.drain()
    place_orders.drain()
    health.end_watches()
    try:
        async with asyncio.timeout(DRAIN_S_MAX):
            await place_orders.ended()
            await gate.empty()
    except TimeoutError:
        log.warning("calls are cut off", calls=gate.calls, seconds=DRAIN_S_MAX)
    await _callers_left(gate)
    await server.stop(GRACE_S)


async def _callers_left(gate: Gate) -> None:
    """Goes on refusing until nobody calls any more, within a bound.

    A call that gRPC has taken in when the port closes ends as CANCELLED, which tells its caller nothing; what the gate
    says does.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            before = -1
            while gate.turned_away != before:
                before = gate.turned_away
                await asyncio.sleep(QUIET_S)


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second one ends the process at once; the log is made for that."""
    stop = asyncio.Event()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("signal", name=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
    return stop


def _tell_ready(address: Address, engine: Engine, recovered_s: float) -> None:
    """The one line that programs wait for."""
    print(
        f"everopen: serving on {address}, shard 0, log {engine.log_id.hex()}, "
        f"sequence {engine.sequence}, recovered in {recovered_s:.3f} s",
        flush=True,
    )
    log.info("serving", address=str(address), pid=os.getpid(), python=sys.version.split()[0])
