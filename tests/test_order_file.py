"""Files of orders: what is read of a good one, and what is said of a bad one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine.order_file import COLUMNS, OrderFileError, read_orders, survey
from tests.orders import write_rows, write_synthetic

GOOD = ["A-1", "2026-11-11T20:00:00Z", "mei", "night-market", "tea", "2", "500"]


def changed(**values: str) -> list[str]:
    return [values.get(column, value) for column, value in zip(COLUMNS, GOOD, strict=True)]


def test_orders_are_read_with_their_lines_together(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    rows = [GOOD, changed(sku_id="cup", quantity="1", amount_cents="0"), changed(order_id="A-2")]
    write_rows(path, [*rows, changed(order_id="A-3", placed_at="2026-11-12T08:00:00+08:00")])
    orders = list(read_orders(path))
    assert [(order.index, order.first.order_id, len(order.rows)) for order in orders] == [
        (0, "A-1", 2),
        (1, "A-2", 1),
        (2, "A-3", 1),
    ]
    assert (orders[0].units, orders[0].amount_cents, orders[0].placed_at_ms) == (3, 500, 1_794_427_200_000)
    assert [order.is_of_the_night for order in orders] == [True, True, False]

    contents = survey(path)
    assert (contents.orders, contents.lines, contents.units, contents.amount_cents) == (3, 4, 7, 1_500)
    assert (contents.night_orders, list(contents.shops)) == (2, ["night-market"])
    assert {key[1]: (sku.price_cents, sku.units) for key, sku in contents.skus.items()} == {
        "tea": (250, 6),
        "cup": (0, 1),
    }


def test_plain_csv_and_columns_in_another_order_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(",".join([*reversed(COLUMNS), "remark"]) + "\n" + ",".join([*reversed(GOOD), "-"]) + "\n")
    assert survey(path).units == 2


def test_synthetic_file_is_the_same_every_time(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "one.csv.gz")
    write_synthetic(tmp_path / "two.csv.gz")
    one, two = (gzip.decompress((tmp_path / name).read_bytes()) for name in ("one.csv.gz", "two.csv.gz"))
    assert one == two


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, changed(order_id="A-2", quantity="0")], "line 3: column quantity: '0' is not a whole number from 1 to"),
        ([changed(quantity="1_0")], "line 2: column quantity: '1_0'"),
        ([changed(quantity="9" * 5_000)], "line 2: column quantity"),
        ([changed(amount_cents="-1")], "line 2: column amount_cents: '-1'"),
        ([changed(amount_cents="1.5")], "line 2: column amount_cents: '1.5'"),
        ([changed(placed_at="yesterday")], "line 2: column placed_at: 'yesterday' is not a time"),
        ([changed(placed_at="1960-01-01")], "line 2: column placed_at: '1960-01-01' is before 1971"),
        ([changed(order_id="")], "line 2: column order_id: ''"),
        ([changed(sku_id="green tea")], "line 2: column sku_id: 'green tea'"),
        ([changed(shop_id="x" * 65)], "line 2: column shop_id"),
        ([changed(buyer_id="美")], "line 2: column buyer_id"),
        ([GOOD[:5]], "line 2: column quantity: 5 values for 7 columns"),
        ([[*GOOD, "more"]], "line 2: column amount_cents: 8 values for 7 columns"),
        ([GOOD, changed(shop_id="other")], "line 3: column shop_id: differs from line 2 of the same order"),
        ([GOOD, changed(order_id="A-2"), GOOD], "line 4: column order_id: order A-1 was there before"),
        ([GOOD] * 65, "line 2: column order_id: order A-1 has more than 64 lines"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_row_is_refused_with_line_and_column(tmp_path: Path, rows: list[list[str]], message: str) -> None:
    path = tmp_path / "orders.csv.gz"
    write_rows(path, rows)
    with pytest.raises(OrderFileError) as caught:
        survey(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    write_rows(path, [], header=COLUMNS[:-1])
    with pytest.raises(OrderFileError, match="line 1: column amount_cents: is missing"):
        survey(path)


def test_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    whole, cut, latin = (tmp_path / name for name in ("whole.csv.gz", "cut.csv.gz", "latin.csv"))
    write_synthetic(whole, orders=50)
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(OrderFileError, match="not a whole gzip file"):
        survey(cut)
    latin.write_bytes(",".join(COLUMNS).encode() + b"\nA-\xff")
    with pytest.raises(OrderFileError, match="not UTF-8"):
        survey(latin)
    cut.write_bytes(b"")
    with pytest.raises(OrderFileError, match="column order_id: is missing"):
        survey(cut)
