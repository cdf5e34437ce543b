"""Who calls, in the tests of the front: callers, and a thread in the place of engine/identity.py."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from engine import _core
from tests.front.calls import (
    PLACE_ORDER,
    details,
    place,
)
from tests.front.handing import Front, ask, until
from tests.front.http2 import Answer, Connection

PERMISSION_DENIED, UNAUTHENTICATED = 7, 16
BEARER, KEY, CERTIFICATE = 1, 2, 3
ALL = frozenset(_core.SCOPE_NAMES)
TOKEN = ("authorization", "Bearer good")


@dataclass(frozen=True)
class Caller:
    name: str = "caller"
    scopes: frozenset[str] = ALL
    shops: frozenset[str] | None = None
    expires_unix_ms: int = 0
    orders_per_s: int = 0
    burst: int = 0
    bytes_in_flight: int = 0
    connections: int = 0


@dataclass
class Answerer:
    """Answers what a front asks, from a table, as a thread; while `held` it leaves the questions lying."""

    front: _core.NativeFront
    callers: dict[bytes, Caller | None]
    asked: list[tuple[int, bytes]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Answerer:
        self.front.authenticate(True, 1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def _run(self) -> None:
        lying: list[tuple[int, bytes]] = []
        while not self.over.is_set():
            if select.select([self.front.credential_fd], [], [], 0.01)[0]:
                for token, kind, secret in self.front.take_credentials():
                    self.asked.append((kind, secret))
                    lying.append((token, secret))
            while lying and not self.held.is_set():
                token, secret = lying.pop()
                self.front.answer_credential(token, self.callers.get(secret))


def refused_anonymously(front: Front) -> bool:
    with Connection(front.address) as connection:
        return connection.call(PLACE_ORDER, place()).code == UNAUTHENTICATED


def call(front: Front, request: Message, *more: tuple[str, str]) -> Answer:
    with Connection(front.address) as connection:
        return connection.answer(ask(connection, request, *(more or (TOKEN,))))


def reason(answer: Answer) -> str:
    info = error_details_pb2.ErrorInfo()
    assert details(answer).details[0].Unpack(info)
    return str(info.reason)


@pytest.fixture
def answerer(front: Front) -> Iterator[Answerer]:
    with Answerer(front.native, {b"good": Caller()}) as answers:
        until(lambda: refused_anonymously(front))
        yield answers
