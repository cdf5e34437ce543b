"""What --listen may say."""

from __future__ import annotations

import pytest

from engine.listen import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0), True),
        ("127.8.9.1:65535", Address("127.8.9.1", 65535), True),
        ("localhost:7400", Address("localhost", 7400), True),
        ("[::1]:7400", Address("::1", 7400), True),
        ("0.0.0.0:7400", Address("0.0.0.0", 7400), False),
        ("[::]:7400", Address("::", 7400), False),
        ("orders.example:7400", Address("orders.example", 7400), False),
    ],
)
def test_address_is_read_and_written_back(text: str, address: Address, loopback: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize(
    "text", ["", "7400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:7400", "[x]:1", "a b:1"]
)
def test_address_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is more than"):
        parse_address(text)
