"""`python -m tests.reference_front --data-dir DIR --listen ADDRESS`: serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import uvloop

from engine import datadir
from engine._core import Engine
from engine.limits import LIMITS
from tests.reference_front.acknowledger import Acknowledger
from tests.reference_front.calls import Calls, handlers
from tests.reference_front.health import Health, add_standard_services

# A caller that watches health or reflects at the end of the drain gets this long to see its last answer.
GRACE_S = 1.0
OPTIONS = [
    ("grpc.max_receive_message_length", LIMITS["MESSAGE_BYTES_MAX"]),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


async def serve(data_dir: Path, listen: str, segment_bytes: int) -> None:
    began = time.monotonic()
    [shard] = datadir.create_or_open(data_dir, 1)
    engine = Engine(str(shard), segment_bytes=segment_bytes)
    recovered_s = time.monotonic() - began
    acknowledger = Acknowledger(engine, asyncio.get_running_loop())
    calls, health = Calls(engine, acknowledger), Health()
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(handlers(calls))
    add_standard_services(server, health)
    port = server.add_insecure_port(listen)
    await server.start()
    await health.tell(serving=True)
    ticking = asyncio.create_task(_tick(engine))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    address = listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
    # The line of `everopen serve`, so that one reader serves both.
    print(
        f"everopen: serving on {address}, shard 0, log {engine.log_id.hex()}, "
        f"sequence {engine.sequence}, recovered in {recovered_s:.3f} s",
        flush=True,
    )

    await stop.wait()
    await health.tell(serving=False)
    health.end_watches()
    await calls.drain()
    await server.stop(GRACE_S)
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    acknowledger.close()
    engine.close()


async def _tick(engine: Engine) -> None:
    while True:
        wait_ms = engine.tick()
        engine.kick()
        await asyncio.sleep(max(wait_ms, 0) / 1_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="reference_front")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--segment-bytes", type=int, default=1024 * 1024)
    given = parser.parse_args()
    uvloop.run(serve(given.data_dir, given.listen, given.segment_bytes))


if __name__ == "__main__":
    main()
