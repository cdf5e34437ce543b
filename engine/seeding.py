"""Puts a catalogue and its stock into an engine. Doing it twice, or breaking off and beginning again, does no harm.

Each entity is made only if it is missing, and each SKU restocked only if it never received anything. The ids of the
restocks are fixed besides, for the case that one was carried out and its answer lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

import everopen
from engine.errors import EveropenError
from everopen.methods import BATCH_ITEMS_MAX
from everopen.v1.inventory_service_pb2 import (
    AdjustStockRequest,
    GetStockRequest,
    PutLocationRequest,
    PutShopRequest,
    PutSkuRequest,
)

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
BatchCall = Callable[[Iterable[Req]], Awaitable[list[Resp | everopen.EveropenError]]]

# What was not decided is sent again after this long; the client's own retries have waited before.
PAUSE_S = 0.1


class SeedingError(EveropenError):
    """The engine holds something else than what was to be put into it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """A SKU as it should be there before the first order."""

    put: PutSkuRequest
    location_id: str
    units: int


class Seeder:
    """Seeds through one client. `step` is told how many items are done; an outage may last `retry_for_s`."""

    def __init__(
        self,
        client: everopen.AsyncClient,
        step: Callable[[int], None],
        retry_for_s: float = 0,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._step = step
        self._retry_for_s = retry_for_s
        self._now_s = now_s
        self._sleep = sleep

    async def seed(
        self, shops: Sequence[PutShopRequest], locations: Sequence[PutLocationRequest], stocks: Sequence[Stock]
    ) -> None:
        await self._make(self._client.batch_put_shops, shops)
        await self._make(self._client.batch_put_locations, locations)
        await self._make(self._client.batch_put_skus, [stock.put for stock in stocks])
        for begin in range(0, len(stocks), BATCH_ITEMS_MAX):
            await self._restock(stocks[begin : begin + BATCH_ITEMS_MAX])

    async def _make(self, call: BatchCall[Req, Resp], puts: Sequence[Req]) -> None:
        """Revision 0 says: only if it does not exist. So a conflict means that it does."""
        for put in puts:
            put.if_revision = 0  # type: ignore[attr-defined]
        for begin in range(0, len(puts), BATCH_ITEMS_MAX):
            await self._settle(call, puts[begin : begin + BATCH_ITEMS_MAX])

    async def _restock(self, stocks: Sequence[Stock]) -> None:
        reads = [GetStockRequest(shop_id=stock.put.shop_id, sku_id=stock.put.sku_id) for stock in stocks]
        answers = await self._settle(self._client.batch_get_stock, reads)
        adjustments = []
        for stock, answer in zip(stocks, answers, strict=True):
            received = sum(row.received for row in answer.locations if row.location_id == stock.location_id)
            if received == 0 < stock.units:
                adjustments.append(restock_of(stock))
            elif received != stock.units:
                raise SeedingError(
                    f"SKU {stock.put.sku_id} of shop {stock.put.shop_id} has received {received} units before, "
                    f"and this run needs {stock.units}: use another data directory, or the stock of the run before"
                )
        await self._settle(self._client.batch_adjust_stock, adjustments)

    async def _settle(self, call: BatchCall[Req, Resp], requests: Sequence[Req]) -> list[Resp]:
        """The answer to each request that is no conflict; those without a decision are sent again.

        The client itself does not repeat a conditional Put after an outage. Here a conflict is as good as an answer.
        """
        answers: dict[int, Resp] = {}
        waiting = list(range(len(requests)))
        patience_ends_s = self._now_s() + self._retry_for_s
        while waiting:
            results = await call([requests[index] for index in waiting])
            undecided = []
            for index, result in zip(waiting, results, strict=True):
                if not isinstance(result, everopen.EveropenError):
                    answers[index] = result
                elif isinstance(result, everopen.Overloaded) or (
                    isinstance(result, everopen.Unavailable) and self._now_s() < patience_ends_s
                ):
                    undecided.append(index)
                elif not isinstance(result, everopen.RevisionConflict):
                    raise result
            self._step(len(waiting) - len(undecided))
            waiting = undecided
            if waiting:
                await self._sleep(PAUSE_S)
        return [answers[index] for index in sorted(answers)]


def restock_of(stock: Stock) -> AdjustStockRequest:
    digest = hashlib.blake2b(stock.put.sku_id.encode(), digest_size=16).hexdigest()
    return AdjustStockRequest(
        adjustment_id=f"seed-{digest}",
        shop_id=stock.put.shop_id,
        sku_id=stock.put.sku_id,
        location_id=stock.location_id,
        delta=stock.units,
    )
