"""A leader to be killed: `python -m tests.leader_child DIR SEGMENT_BYTES` places orders for ever.

It prints each order that is durable, by its number.
"""

import sys
from typing import Any

from engine._core import ADJUST_STOCK, PLACE_ORDER, PUT_LOCATION, PUT_SHOP, PUT_SKU, Engine
from tests.reference_fields import REQUESTS

BATCH = 40


def request(method: int, **values: Any) -> bytes:
    return REQUESTS[method](**{"shop_id": "shop", **values}).SerializeToString()


def order(number: int) -> bytes:
    lines = [{"sku_id": "sku", "quantity": 1}]
    return request(PLACE_ORDER, order_id=f"order{number}", buyer_id=f"buyer{number % 7}", lines=lines)


def open_shop(engine: Engine) -> None:
    for method, values in (
        (PUT_SHOP, {}),
        (PUT_LOCATION, {"location_id": "here", "region": "r"}),
        (PUT_SKU, {"sku_id": "sku", "price_minor": 5}),
        (ADJUST_STOCK, {"sku_id": "sku", "location_id": "here", "adjustment_id": "first", "delta": 10**9}),
    ):
        code, answer, _ = engine.execute(method, request(method, **values))
        assert code == 0, answer


def place(engine: Engine, number: int) -> None:
    code, answer, _ = engine.execute(PLACE_ORDER, order(number))
    # The log has no room while the next segment is being prepared.
    while code == 8:
        engine.kick()
        code, answer, _ = engine.execute(PLACE_ORDER, order(number))
    assert code == 0, answer


def main() -> None:
    engine = Engine(sys.argv[1], segment_bytes=int(sys.argv[2]))
    if engine.sequence == 1:
        open_shop(engine)
    number = engine.counts()["orders"]
    while True:
        for _ in range(BATCH):
            place(engine, number)
            number += 1
        engine.kick()
        assert engine.wait_durable(engine.sequence, 30)
        print(number - 1, flush=True)


if __name__ == "__main__":
    main()
