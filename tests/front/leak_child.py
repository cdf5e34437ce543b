"""Two linked fronts in one process, callers of every kind, an end with work in flight: is all memory given back?

Run under the address sanitizer with detect_leaks=1:leak_check_at_exit=0. Exit code 0: nothing is lost.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from engine import _core, front_settings
from engine.partition_map import hosted_by
from tests.front.mischief import Mischief
from tests.front.test_stress import SETTINGS, SHARDS, Caller, seed
from tests.front.workers import PATIENCE_S

FRONTS = 2
SESSIONS_PER_LINK = 25


def link(fronts: list[_core.NativeFront]) -> None:
    """A link, or a new one in place of the one before."""
    ends = socket.socketpair()
    rings = [_core.ring_create() for _ in range(2)]
    wakes = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
    copies = [os.dup(fd) for fd in (rings[1], rings[0], wakes[1], wakes[0])]
    fronts[0].link(1, ends[0].detach(), *rings, *wakes)
    fronts[1].link(0, ends[1].detach(), *copies)


def run(folder: Path, sessions: int) -> None:
    with ExitStack() as stack:
        stack.enter_context(Mischief(folder / "control", 1))
        board = _core.board_create(FRONTS)
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(FRONTS)]
        fronts, engines = [], []
        for number, listener in enumerate(listeners):
            listener.setblocking(False)
            settings = front_settings.defaults() | SETTINGS
            front = _core.NativeFront(worker=number, workers=FRONTS, shards=SHARDS, board_fd=board, settings=settings)
            front.listen(listener.fileno(), True)
            front.relay_to(str(folder / "control"))
            for shard in hosted_by(number, FRONTS, SHARDS):
                directory = folder / f"shard-{shard}"
                directory.mkdir()
                engines.append(_core.Engine(str(directory)))
                front.host(shard, engines[-1])
            fronts.append(front)
        link(fronts)
        loops = [threading.Thread(target=front.run) for front in fronts]
        for loop in loops:
            loop.start()
        addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        seed(addresses[0])
        finished: queue.Queue[BaseException | None] = queue.Queue()
        callers = [Caller(number, addresses, finished) for number in range(4)]
        for caller in callers:
            caller.thread.start()
        for session in range(1, sessions + 1):
            failure = finished.get(timeout=PATIENCE_S)
            assert failure is None, failure
            if session % SESSIONS_PER_LINK == 0:
                link(fronts)
        for front in fronts:
            front.stop()
        for loop in loops:
            loop.join()
        for front in fronts:
            front.close()
        for caller in callers:
            caller.stop.set()
        for listener in listeners:
            listener.close()
        for caller in callers:
            caller.thread.join()
        for engine in engines:
            engine.close()
        os.close(board)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
    gc.collect()
    # Not at the end of the process: what Python itself keeps until then would be lost, too.
    os._exit(ctypes.CDLL(None).__lsan_do_recoverable_leak_check())
