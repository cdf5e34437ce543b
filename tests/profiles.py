"""What the seeded sequences of tests/generate.py are rich in, one after the other by seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """What a run is rich in."""

    name: str
    locations: int = 4
    skus: int = 6
    lines: tuple[int, ...] = (1, 1, 1, 2, 2, 3, 5)
    quantity_max: int = 6
    restock_max: int = 25
    backorders: float = 0.4
    limits: float = 0.2
    entries_max: int = 10_000
    window_ms: int = 60_000
    money: bool = False
    restock_rarely: bool = False
    retire: float = 0.0


PROFILES = (
    Profile("plain"),
    Profile("scarce", restock_max=8, backorders=0.8),
    Profile("many locations", locations=12, skus=4, quantity_max=20, restock_max=10),
    Profile("limits", limits=0.9, skus=3, restock_max=60),
    Profile("full tables", entries_max=12, window_ms=4_000),
    Profile("money", money=True, restock_max=80),
    Profile("one SKU", skus=1, locations=2, backorders=0.9, restock_max=10),
    Profile(
        "passing goods", skus=8, locations=2, lines=(1, 1, 2), restock_max=4, window_ms=3_000, limits=0.0, retire=0.4
    ),
    Profile(
        "long queues",
        skus=3,
        lines=(1, 20, 40, 64),
        quantity_max=2,
        restock_max=900,
        backorders=1.0,
        limits=0.0,
        restock_rarely=True,
    ),
)
