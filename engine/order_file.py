"""Reads files of real orders: CSV, gzipped or not, one line of an order per row.

Columns order_id, placed_at (ISO 8601), buyer_id, shop_id, sku_id, quantity, amount_cents (of the whole line). Lines of
one order stand together and agree in everything but SKU, quantity and amount.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from engine.errors import EveropenError
from engine.limits import LIMITS

COLUMNS = ("order_id", "placed_at", "buyer_id", "shop_id", "sku_id", "quantity", "amount_cents")
GZIP_MAGIC = b"\x1f\x8b"

# Evening to morning, by the clock of placed_at as the file writes it.
NIGHT_BEGINS_HOUR, NIGHT_ENDS_HOUR = 20, 8


class OrderFileError(EveropenError):
    """The file is not one of orders. The message names file, line and column."""


class Row(NamedTuple):
    """One line of an order, checked. `number` is its line in the file, from 1."""

    number: int
    order_id: str
    placed_at: datetime
    buyer_id: str
    shop_id: str
    sku_id: str
    quantity: int
    amount_cents: int


@dataclass(frozen=True, slots=True)
class FileOrder:
    """One order. `index` counts from 0."""

    index: int
    rows: list[Row]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def units(self) -> int:
        return sum(row.quantity for row in self.rows)

    @property
    def amount_cents(self) -> int:
        return sum(row.amount_cents for row in self.rows)

    @property
    def placed_at_ms(self) -> int:
        return int(self.first.placed_at.timestamp() * 1000)

    @property
    def is_of_the_night(self) -> bool:
        hour = self.first.placed_at.hour
        return hour >= NIGHT_BEGINS_HOUR or hour < NIGHT_ENDS_HOUR


@dataclass(slots=True)
class Sku:
    """What a file says about a SKU: the price of its first line per unit, and all that was ordered of it."""

    price_cents: int
    units: int = 0


@dataclass(slots=True)
class Contents:
    """Totals of a file, and what has to be in stock for it. `skus` has (shop_id, sku_id) as keys."""

    orders: int = 0
    lines: int = 0
    units: int = 0
    amount_cents: int = 0
    night_orders: int = 0
    shops: dict[str, None] = field(default_factory=dict)
    skus: dict[tuple[str, str], Sku] = field(default_factory=dict)

    def add(self, order: FileOrder) -> None:
        self.orders += 1
        self.lines += len(order.rows)
        self.night_orders += order.is_of_the_night
        self.shops[order.first.shop_id] = None
        for row in order.rows:
            self.units += row.quantity
            self.amount_cents += row.amount_cents
            sku = self.skus.setdefault((row.shop_id, row.sku_id), Sku(row.amount_cents // row.quantity))
            sku.units += row.quantity


def survey(path: Path) -> Contents:
    """Reads the whole file once, so that nothing is sent of a file that is broken further down."""
    contents = Contents()
    seen: set[tuple[str, str]] = set()
    for order in read_orders(path):
        key = (order.first.shop_id, order.first.order_id)
        if key in seen:
            raise wrong(
                path, order.first.number, "order_id", f"order {key[1]} was there before: keep its lines together"
            )
        seen.add(key)
        contents.add(order)
    return contents


def read_orders(path: Path) -> Iterator[FileOrder]:
    """The orders of the file, in its order, with bounded memory."""
    together = itertools.groupby(read_rows(path), key=attrgetter("order_id"))
    for index, (_, rows) in enumerate(together):
        order = FileOrder(index, list(itertools.islice(rows, LIMITS["LINES_MAX"] + 1)))
        check_order(path, order)
        yield order


def check_order(path: Path, order: FileOrder) -> None:
    first = order.first
    if len(order.rows) > LIMITS["LINES_MAX"]:
        raise wrong(path, first.number, "order_id", f"order {first.order_id} has more than {LIMITS['LINES_MAX']} lines")
    for row in order.rows:
        for column in ("placed_at", "buyer_id", "shop_id"):
            if getattr(row, column) != getattr(first, column):
                raise wrong(path, row.number, column, f"differs from line {first.number} of the same order")


def read_rows(path: Path) -> Iterator[Row]:
    try:
        with open_text(path) as text:
            yield from parse_rows(path, text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OrderFileError(f"{path}: not a whole gzip file: {error}") from None
    except UnicodeDecodeError as error:
        raise OrderFileError(f"{path}: not UTF-8 at byte {error.start}") from None


def open_text(path: Path) -> io.TextIOBase:
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    if is_gzip:
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def parse_rows(path: Path, text: io.TextIOBase) -> Iterator[Row]:
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        for column in COLUMNS:
            if column not in header:
                raise wrong(path, 1, column, "is missing in the header")
        places = [header.index(column) for column in COLUMNS]
        for values in reader:
            if len(values) != len(header):
                column = header[min(len(values), len(header) - 1)]
                raise wrong(path, reader.line_num, column, f"{len(values)} values for {len(header)} columns")
            yield parse_row(path, reader.line_num, [values[place] for place in places])
    except csv.Error as error:
        raise wrong(path, reader.line_num, "any", str(error)) from None


def parse_row(path: Path, number: int, values: list[str]) -> Row:
    order_id, placed_at, buyer_id, shop_id, sku_id, quantity, amount = values
    ids = {"order_id": order_id, "buyer_id": buyer_id, "shop_id": shop_id, "sku_id": sku_id}
    for column, value in ids.items():
        if not is_id(value):
            raise wrong(path, number, column, f"{value!r} is not 1 to 64 printable ASCII characters without space")
    return Row(
        number,
        order_id,
        parse_time(path, number, placed_at),
        buyer_id,
        shop_id,
        sku_id,
        parse_integer(path, number, "quantity", quantity, 1, LIMITS["QUANTITY_MAX"]),
        parse_integer(path, number, "amount_cents", amount, 0, LIMITS["AMOUNT_MINOR_MAX"]),
    )


def is_id(value: str) -> bool:
    return 0 < len(value) <= LIMITS["ID_BYTES_MAX"] and value.isascii() and value.isprintable() and " " not in value


def parse_time(path: Path, number: int, value: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise wrong(path, number, "placed_at", f"{value!r} is not a time in ISO 8601") from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if time.year < 1971:
        raise wrong(path, number, "placed_at", f"{value!r} is before 1971")
    return time


def parse_integer(path: Path, number: int, column: str, value: str, least: int, most: int) -> int:
    # int() alone would take underscores, signs and other scripts' digits, and refuse thousands of digits its own way.
    if not (value.isascii() and value.isdigit() and len(value) < 20 and least <= int(value) <= most):
        raise wrong(path, number, column, f"{value!r} is not a whole number from {least:,} to {most:,}")
    return int(value)


def wrong(path: Path, number: int, column: str, reason: str) -> OrderFileError:
    return OrderFileError(f"{path}: line {number}: column {column}: {reason}")
