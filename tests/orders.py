"""Files of orders for the tests: the real one where it is at hand, or else a small synthetic one."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from engine.order_file import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
REAL_NAME = "order_lines.csv.gz"


def order_file(folder: Path) -> tuple[Path, str]:
    """A file of orders and what it is. EVEROPEN_ORDERS names the folder of the real one, or the file itself."""
    given = os.environ.get("EVEROPEN_ORDERS")
    place = Path(given) if given else ROOT.parent / "shared/data/orders"
    real = place if place.is_file() else place / REAL_NAME
    if real.is_file():
        return real, f"real orders: {real.name}"
    synthetic = folder / "synthetic.csv.gz"
    write_synthetic(synthetic)
    return synthetic, f"synthetic orders, because there is no {REAL_NAME} in EVEROPEN_ORDERS or beside the repository"


def write_synthetic(path: Path, orders: int = 3_000, seed: int = 7) -> None:
    """Orders of 20 shops, with many lines on few SKUs, quantities in the thousands and prices that change."""
    random = Random(seed)
    placed_at = datetime(2026, 11, 10, 18, tzinfo=UTC)
    rows = []
    for number in range(orders):
        placed_at += timedelta(seconds=random.randrange(1, 30))
        shop = random.randrange(20)
        buyer = random.randrange(500)
        for _ in range(random.choice([1, 1, 1, 2, 3, 12])):
            quantity = random.choice([1, 1, 2, 5, 32_000])
            rows.append(
                (
                    f"{10_000_000 + number}",
                    placed_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    f"buyer-{buyer}",
                    f"shop-{shop}",
                    f"sku-{min(random.randrange(200), random.randrange(200))}",
                    quantity,
                    random.randrange(10_000),
                )
            )
    write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[Iterable[object]], header: Iterable[str] = COLUMNS) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
