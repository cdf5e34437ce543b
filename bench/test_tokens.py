"""What it takes to prove a bearer token that was never seen, and what those who are known feel of it.

First the judge alone, on one core: distinct tokens of one key, each proved once, by algorithm. Then a whole engine
(`--workers 1 --followers 0`) on the server's core: a caller whose token is known places orders at a fixed rate, open
loop, from the generator's core: alone, beside a second one who shows one token with each GetOrder, and beside
strangers, who show one that was never seen; both have as many calls under way. Rounds alternate. The second one is what
strangers are compared with, since both work on the generator's core (grpcio), which is a bound of proved tokens a
second too: those that were answered meanwhile. Signing them is not counted. Checks: every token is proved, every
stranger is let in (NOT_FOUND), the audit, and that the log has what was acknowledged.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from bench.conftest import TINY, Figures
from bench.front import GENERATOR_CORE, MAIN, SERVER_CORE, Served, Spread, pinned, served
from engine.grants import SCOPES
from engine.loadgen import Options
from engine.tokens import Tokens, parse_keys
from everopen.v1 import order_service_pb2 as orders
from everopen.v1.order_service_pb2_grpc import OrderServiceStub
from tests.tokens import AUDIENCE, BY_ALGORITHM, ED, ISSUER, jwk, jwks, token, write

DISTINCT = 20 if TINY else 5_000
ROUNDS = 1 if TINY else 5
SECONDS = 0.2 if TINY else 3
UNDER_WAY = 4 if TINY else 64
# Of strangers, for one round; more than there is time for.
STRANGERS = 200 if TINY else 20_000
KNOWN = Options(rate=100 if TINY else 5_000, streams=64, seconds=SECONDS, warmup_s=0)


@pytest.mark.parametrize("algorithm", BY_ALGORITHM)
def test_judge_alone(figures: Figures, algorithm: str) -> None:
    key = BY_ALGORITHM[algorithm]
    shown = [token(key, algorithm, sub=f"stranger-{number}") for number in range(DISTINCT)]
    judge = Tokens(ISSUER, AUDIENCE, parse_keys(jwks(jwk(key)), "keys"))
    with pinned(SERVER_CORE):
        began = time.perf_counter()
        proved = [judge.prove(each) for each in shown]
        seconds = time.perf_counter() - began
    assert {claims.subject for claims in proved if claims} == {f"stranger-{number}" for number in range(DISTINCT)}
    figures.add(f"distinct tokens proved on one core, {algorithm}", DISTINCT, "tokens", seconds)


class Others(threading.Thread):
    """Calls with one token after another for the while."""

    def __init__(self, address: str, shown: Iterator[bytes]) -> None:
        super().__init__()
        self._address = address
        self._shown = shown
        self._enough = threading.Event()
        self.let_in = 0
        self.seconds = 0.0
        self.refused: list[str] = []

    def run(self) -> None:
        with (
            pinned(GENERATOR_CORE),
            grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            ask: Any = OrderServiceStub(channel).GetOrder  # type: ignore[no-untyped-call]
            request = orders.GetOrderRequest(shop_id="nobody's", order_id="none")
            under_way: deque[Any] = deque()
            began = time.perf_counter()
            for shown in self._shown:
                if self._enough.is_set():
                    break
                under_way.append(ask.future(request, metadata=[("authorization", f"Bearer {shown.decode()}")]))
                if len(under_way) == UNDER_WAY:
                    self._hear(under_way.popleft())
            while under_way:
                self._hear(under_way.popleft())
            self.seconds = time.perf_counter() - began

    def _hear(self, call: Any) -> None:
        if call.code() == grpc.StatusCode.NOT_FOUND:
            self.let_in += 1
        else:
            self.refused.append(f"{call.code()}: {call.details()}")

    @property
    def rate(self) -> float:
        return self.let_in / self.seconds

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._enough.set()
        self.join()
        assert self.let_in
        assert not self.refused, self.refused[:3]


def p99_ms(engine: Served, options: Options) -> float:
    return engine.load(replace(options, run_id=secrets.token_hex(5)), spin=False).percentile_ns(99) / 1e6


def test_known_callers_beside_strangers(data_dir: Path, figures: Figures) -> None:
    folder = Path(tempfile.mkdtemp(dir=data_dir))
    keys = write(folder / "keys.jwks", jwks(jwk(ED)))
    guarded = ("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-keys", str(keys))
    own = token(scope=" ".join(SCOPES), exp=int(time.time()) + 86_400).decode()
    options = replace(KNOWN, headers=(("authorization", f"Bearer {own}"),))
    alone_ms, known_ms, strange_ms, rates = [], [], [], []
    with served(folder / "data", arguments=(*MAIN, *guarded)) as engine:
        p99_ms(engine, options)
        for number in range(ROUNDS):
            shown = [token(sub=f"stranger-{number}-{each}", scope="orders:read") for each in range(STRANGERS)]
            alone_ms.append(p99_ms(engine, options))
            with Others(engine.engine.address, repeat(own.encode())):
                known_ms.append(p99_ms(engine, options))
            with Others(engine.engine.address, iter(shown)) as strangers:
                strange_ms.append(p99_ms(engine, options))
            rates.append(strangers.rate)
    figures.note("strangers' tokens proved beside known callers, tokens/s", str(Spread(rates)))
    title = f"p99 of known callers at {KNOWN.rate:,}/s"
    figures.note(f"{title}, alone, ms", str(Spread(alone_ms)))
    figures.note(f"{title}, beside strangers, ms", str(Spread(strange_ms)))
    ratios = [strange / known for strange, known in zip(strange_ms, known_ms, strict=True)]
    figures.note(f"{title}, beside strangers over beside one who is known", str(Spread(ratios)))
