"""`everopen serve`, before and after its loop: what is taken from a former supervisor, and what is made anew."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.metadata import version

import structlog

from engine import adoption, datadir, dumps, run_dir, runtime
from engine._core import board_create
from engine.audit_trail import recorded
from engine.errors import FilesBroken
from engine.identity import Authenticator
from engine.listen import Listeners, parse_address
from engine.settings import Settings
from engine.supervisor import EXEC, STOPPING, Supervisor

log = structlog.get_logger()


def serve(settings: Settings) -> int:
    """Serves until a signal; returns the exit code. Raises EveropenError for what keeps it from starting."""
    dumps.withhold()
    # What would keep every worker from starting is better said once, and by this process.
    callers = Authenticator(settings.identity)
    broken = [] if settings.tls is None else settings.tls.failures()
    # Without keys it can be served: whoever has another credential gets in.
    broken += [failure for failure in callers.failures if failure != callers.lost]
    unusable = FilesBroken("; ".join(broken)) if broken else None
    if unusable is not None and not runtime.living(settings.data_dir):
        raise unusable
    with ExitStack() as stack:
        directories = datadir.create_or_open(settings.data_dir, settings.shards)
        lock = stack.enter_context(runtime.exclusive(settings.data_dir))
        folder = run_dir.make(settings.data_dir, lock)
        meeting = stack.enter_context(closing(runtime.supervisor_socket(folder)))
        children = stack.enter_context(closing(runtime.Children(settings.data_dir)))
        orphans = adoption.gather(children, meeting, settings.fingerprint, unusable)
        if unusable is not None:
            log.error("files cannot be used: workers that are adopted go on with what they have", error=str(unusable))
        callers.tell()
        settings = replace(settings, identity=replace(settings.identity, had_keys=callers.had_keys))
        if not orphans:
            children.wait_for_all()
            datadir.refuse_if_locked(directories)
        children.hold()
        listeners = Listeners()
        stack.callback(listeners.close)
        inherited = adoption.listening(orphans)
        listeners.open(settings.listen, settings.workers, inherited)
        if "metrics_listen" in settings.observing:
            listeners.open_metrics(parse_address(settings.observing["metrics_listen"]), inherited.metrics)
        for address in settings.listen:
            if settings.tls is None and not address.is_loopback:
                log.warning("serving in plaintext to other machines", listen=str(address))
        board = adoption.board(orphans)
        if board is None:
            board = board_create(settings.workers)
        stack.callback(os.close, board)
        # A terminal that goes away is no reason to stop. Once it runs, the supervisor hears it as a wish to read files.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        supervisor = Supervisor(settings, directories, listeners, board, folder, meeting, children)
        with recorded(settings.data_dir, "serve", strict=False, version=version("everopen"), pid=os.getpid()) as line:
            code = asyncio.run(supervisor.run(orphans))
            line["exit"] = "its program is replaced" if code == EXEC else code
        if code == EXEC:
            _replace_program(lock)
        shutil.rmtree(folder, ignore_errors=True)
        return code


def _replace_program(lock: int) -> None:
    """The same process goes on with the program as it is on the disk now. All that it has open is closed, but the lock.

    A signal that comes meanwhile waits until there is somebody to hear it.
    """
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    # The loop gave this one back when it ended.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_inheritable(lock, True)
    os.environ[runtime.LOCK_VARIABLE] = str(lock)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
