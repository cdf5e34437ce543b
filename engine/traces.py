"""From the ring of spans to a collector, by OTLP over HTTP.

The calls are over when Python hears of them: native code makes a whole request of the records, and it is posted here.
The ring is the queue, and it is bounded: while a collector does not answer it fills, and the front counts what it
drops. What a collector refuses is dropped here, and counted too.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import random
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
import urllib3

from engine._core import FRONT_METHOD_NAMES, Board, SpanEncoder
from engine.endpoints import headers_of, traces_url, variable
from everopen.v1.outcome_pb2 import Outcome

# Calls of one request to the collector.
BATCH: Final = 512
# Between two looks at the ring; and at one that had more than one request held.
PAUSE_S: Final = 1.0
PAUSE_BUSY_S: Final = 0.1
# What one request may take, with its repetitions.
EXPORT_S_MAX: Final = 10.0
# Before a repetition, and after a request that none took; each time twice as long, unless the collector says how long.
BACKOFF_S_MIN: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
# What is left at the end is sent if it takes no longer.
END_S_MAX: Final = 1.0
# Of an answer, which is not read further.
ANSWER_BYTES_MAX: Final = 65_536
# opentelemetry.io/docs/specs/otlp, "Retryable Response Codes".
WORTH_REPEATING: Final = frozenset({429, 502, 503, 504})
LOCK: Final = "spans.lock"

log = structlog.get_logger()


class Exporter:
    """A thread that takes and sends. Of all control processes there are, one at a time does."""

    def __init__(self, board: Board, endpoint: str, folder: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._board = board
        self._url = traces_url(endpoint)
        self._compress = variable(environ, "COMPRESSION") == "gzip"
        self._headers = headers_of(environ) | {"content-type": "application/x-protobuf", "user-agent": "everopen"}
        if self._compress:
            self._headers["content-encoding"] = "gzip"
        self._http = urllib3.PoolManager(
            num_pools=1,
            retries=False,
            ca_certs=variable(environ, "CERTIFICATE") or None,
            cert_file=variable(environ, "CLIENT_CERTIFICATE") or None,
            key_file=variable(environ, "CLIENT_KEY") or None,
        )
        self._lock_path = folder / LOCK
        resource = {
            "service.name": "everopen",
            "service.version": version("everopen"),
            "service.instance.id": folder.name,
        }
        outcomes = {number: name for name, number in Outcome.items() if number}
        self._encoder = SpanEncoder(resource, FRONT_METHOD_NAMES, outcomes)
        self._counts = {"exported": 0, "export_failed": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everopen-spans", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is in the ring is sent if that is quick, and whoever comes next finds the rest."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Spans, by what became of them."""
        return dict(self._counts)

    def _run(self) -> None:
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if self._alone(lock):
                self._export()
        except Exception:
            log.exception("spans are exported no more")
        finally:
            self._http.clear()
            os.close(lock)

    def _alone(self, lock: int) -> bool:
        """The ring has one reader. False: this one is to end before the other does."""
        while not self._stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stop.wait(PAUSE_S)
                continue
            return True
        return False

    def _export(self) -> None:
        failures = 0
        pause_s = PAUSE_S
        while True:
            ending = self._stop.is_set()
            request, calls, spans = self._encoder.encode_spans(self._board, BATCH)
            least_s = self._send(request, spans) if calls else None
            if least_s is not None:
                self._stop.wait(max(backoff_s(failures), least_s))
                failures += 1
            else:
                failures = 0
                if calls < BATCH:
                    self._stop.wait(pause_s)
                # A ring that holds more than is taken in a pause would lose the rest.
                pause_s = PAUSE_S if calls < BATCH else PAUSE_BUSY_S
            if ending:
                return

    def _send(self, request: bytes, spans: int) -> float | None:
        """None: the collector has them. Else they are dropped, and it wants to be left alone for so long."""
        body = gzip.compress(request, 1) if self._compress else request
        until = time.monotonic() + (END_S_MAX if self._stop.is_set() else EXPORT_S_MAX)
        tries = 0
        while True:
            failure, least_s = self._post(body, until)
            if not failure:
                self._counts["exported"] += spans
                return None
            if least_s is None:
                break
            wait_s = max(backoff_s(tries), least_s)
            if time.monotonic() + wait_s >= until or self._stop.wait(wait_s):
                break
            tries += 1
        self._counts["export_failed"] += spans
        log.warning("a collector did not take spans; they are dropped", spans=spans, failure=failure)
        return min(least_s or 0.0, BACKOFF_S_MAX)

    def _post(self, body: bytes, until: float) -> tuple[str, float | None]:
        """What went wrong, if anything did; and whether to try again, after how long at least.

        Not the text of an error, which has the address.
        """
        try:
            answer = self._http.request(
                "POST",
                self._url,
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(total=max(0.001, until - time.monotonic())),
                redirect=False,
                preload_content=False,
            )
            try:
                answer.read(ANSWER_BYTES_MAX, decode_content=False)
            finally:
                # It goes back to the pool if all was read, and else ends.
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            return type(error).__name__, 0.0
        if 200 <= answer.status < 300:
            return "", None
        return f"status {answer.status}", asked_s(answer) if answer.status in WORTH_REPEATING else None


def asked_s(answer: urllib3.BaseHTTPResponse) -> float:
    """What its Retry-After says; 0: nothing that can be read."""
    try:
        return urllib3.Retry().get_retry_after(answer) or 0.0
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return 0.0


def backoff_s(tries: int) -> float:
    """Not the same for all engines of a collector that comes back."""
    return min(BACKOFF_S_MIN * 2.0**tries, BACKOFF_S_MAX) * random.uniform(0.5, 1)  # noqa: S311
