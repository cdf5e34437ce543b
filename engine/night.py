"""A made-up night of orders: who buys what, and how many a second. Pure; the same seed gives the same night.

From 18:00 to 08:00 demand rises to the evening's peak, has a second one at midnight, and never ends. At some hours a
live-stream room shows one SKU, and for a quarter of an hour most orders are for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from engine.seeding import Stock
from everopen.v1.inventory_service_pb2 import PutLocationRequest, PutShopRequest, PutSkuRequest
from everopen.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest

BEGINS_HOUR, ENDS_HOUR = 18.0, 32.0

SHOPS = 40
SKUS_PER_SHOP = 50
BUYERS = 200_000
# (location, region): stock lies at the first, and the others have some too.
LOCATIONS = (("hangzhou", "east"), ("chengdu", "west"), ("guangzhou", "south"))
REGIONS = ("east", "west", "south", "north")

STOCK_UNITS = 100_000
# A live room sells out: more want it than there is, and nobody gets more than two.
HOT_STOCK_UNITS = 2_000
HOT_BUYER_LIMIT = 2
LIVE_HOURS = (20.0, 22.0, 24.0)
LIVE_LASTS_HOURS = 0.5
LIVE_FACTOR = 2.0
LIVE_SHARE = 0.7

# Peaks of demand: hour, width in hours, height.
PEAKS = ((21.0, 1.5, 0.75), (24.2, 1.2, 0.55), (31.5, 1.5, 0.2))
QUIET = 0.15


@dataclass(frozen=True, slots=True)
class Sku:
    shop_id: str
    sku_id: str
    price_minor: int
    is_hot: bool


class Night:
    """Catalogue and demand. `peak_per_s` is the rate of orders at the height of the evening, live rooms aside."""

    def __init__(self, peak_per_s: float, seed: int = 1) -> None:
        self._peak_per_s = peak_per_s
        self._random = Random(seed)  # noqa: S311 - a load must be repeatable, not secret
        self._number = 0
        self.skus = [
            Sku(f"shop-{shop:02}", f"sku-{sku:03}", self._random.randrange(900, 30_000), sku == 0)
            for shop in range(SHOPS)
            for sku in range(SKUS_PER_SHOP)
        ]
        self._hot = [sku for sku in self.skus if sku.is_hot]
        self._greatest = max(self._demand(BEGINS_HOUR + step / 60) for step in range(14 * 60))

    def shops(self) -> list[PutShopRequest]:
        return [PutShopRequest(shop_id=f"shop-{shop:02}") for shop in range(SHOPS)]

    def locations(self) -> list[PutLocationRequest]:
        return [
            PutLocationRequest(shop_id=shop.shop_id, location_id=location_id, region=region, priority=priority)
            for shop in self.shops()
            for priority, (location_id, region) in enumerate(LOCATIONS)
        ]

    def stocks(self) -> list[Stock]:
        """Hot SKUs lie at one location only, as those of live rooms do."""
        return [
            Stock(
                PutSkuRequest(
                    shop_id=sku.shop_id,
                    sku_id=sku.sku_id,
                    price_minor=sku.price_minor,
                    buyer_limit_per_order=HOT_BUYER_LIMIT if sku.is_hot else 0,
                ),
                LOCATIONS[0][0] if sku.is_hot else LOCATIONS[index % len(LOCATIONS)][0],
                HOT_STOCK_UNITS if sku.is_hot else STOCK_UNITS,
            )
            for index, sku in enumerate(self.skus)
        ]

    def rate_per_s(self, hour: float) -> float:
        rate = self._peak_per_s * self._demand(hour) / self._greatest
        return rate * LIVE_FACTOR if live_room(hour) is not None else rate

    def order(self, hour: float) -> PlaceOrderRequest:
        """The next order. One or more lines of one shop; a popular SKU is more popular than its neighbour."""
        random = self._random
        self._number += 1
        room = live_room(hour)
        if room is not None and random.random() < LIVE_SHARE:
            chosen = [self._hot[room % len(self._hot)]]
            quantity_max = HOT_BUYER_LIMIT + 1
        else:
            shop = random.randrange(SHOPS) * SKUS_PER_SHOP
            lines = random.choice((1, 1, 1, 2, 3))
            chosen = [self.skus[shop + int(SKUS_PER_SHOP * random.random() ** 2)] for _ in range(lines)]
            quantity_max = 2
        return PlaceOrderRequest(
            order_id=f"night-{self._number:08}",
            shop_id=chosen[0].shop_id,
            buyer_id=f"buyer-{random.randrange(BUYERS)}",
            lines=[PlaceOrderLine(sku_id=sku.sku_id, quantity=random.randint(1, quantity_max)) for sku in chosen],
            region=random.choice(REGIONS),
        )

    def orders(self, hour: float, seconds: float, owed: float) -> tuple[Iterator[PlaceOrderRequest], float]:
        """The orders of the next seconds, and the part of an order that is owed to the time after them."""
        owed += self.rate_per_s(hour) * seconds
        count = int(owed)
        return (self.order(hour) for _ in range(count)), owed - count

    def _demand(self, hour: float) -> float:
        return QUIET + sum(height * math.exp(-(((hour - at) / width) ** 2)) for at, width, height in PEAKS)


def live_room(hour: float) -> int | None:
    """The number of the live-stream room that is on at this hour, if any."""
    for number, begins in enumerate(LIVE_HOURS):
        if begins <= hour < begins + LIVE_LASTS_HOURS:
            return number
    return None


def clock(hour: float) -> str:
    """21.5 as 21:30, 25 as 01:00."""
    minutes = int(hour * 60 + 1e-6)
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"
