import random

import pytest

from tests.journal.logs import native


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_known_vectors_match(data: bytes, crc: int) -> None:
    assert native.crc32c(data) == native.crc32c_by_table(data) == crc


def test_crc32c_instruction_and_table_agree_at_every_length() -> None:
    data = random.Random(1).randbytes(300)
    for size in range(300):
        assert native.crc32c(data[size:]) == native.crc32c_by_table(data[size:])


def test_crc32c_seed_continues_what_came_before() -> None:
    data = random.Random(2).randbytes(1000)
    for at in (0, 1, 7, 8, 500, 1000):
        assert native.crc32c(data[at:], native.crc32c(data[:at])) == native.crc32c(data)
