"""Messages and damaged bytes from a random source, which may be hypothesis's or a seeded one."""

import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.wire.requests import CLASSES

Rng = random.Random

TEXTS = [
    "",
    " ",
    "a b",
    "x" * 64,
    "x" * 65,
    "!~",
    "\x7f",
    "é",
    "订单",
    "\U0010ffff",
    "a\0b",
    "A",
    "CNY",
    "usd",
    "\x20abcdefg",
]
NUMBERS = [0, 1, 2, 9, 10, 63, 64, 127, 128, 16384, 10**8, 10**8 + 1, 2**31 - 1, 2**31, 2**32 - 1]
LARGE = [10**12, 10**12 + 1, 10**15, 10**15 + 1, 253402300799999, 253402300800000, 7776000000, 2592000001, 2**63 - 1]
REGULAR: dict[str, Callable[[Rng], Any]] = {
    "quantity": lambda rng: rng.choice([1, 2, 5, 127, 128, 10**8]),
    "line_index": lambda rng: rng.randrange(64),
    "priority_class": lambda rng: rng.randrange(10),
    "currency": lambda rng: rng.choice(["", "CNY", "USD"]),
    "level": lambda rng: 1,
    "delta": lambda rng: rng.choice([1, 5, 10**12, 300]),
    "kind": lambda rng: rng.choice([0, 0, 1]),
    "reason": lambda rng: rng.choice(["", "too late", "Größe"]),
    "buyer_window_ms": lambda rng: rng.choice([0, 1, 1000, 7776000000]),
    "reserve_ttl_ms": lambda rng: rng.choice([0, 1, 1000, 2592000000]),
}


def make_id(rng: Rng) -> str:
    return "".join(rng.choices("!-~azAZ09_", k=rng.choice([1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 17, 63, 64])))


def regular_value(rng: Rng, field: FieldDescriptor) -> Any:
    """A value that the field may well have in a request that passes."""
    if field.name in REGULAR:
        return REGULAR[field.name](rng)
    if field.type == FieldDescriptor.TYPE_STRING:
        return make_id(rng)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    return rng.choice([1, 2, 100, 127, 128, 20000, 1700000000])


def wild_value(rng: Rng, field: FieldDescriptor) -> Any:
    """Any value that the field can have, edges above all."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 16]))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([0, 1, 2, 3, 4, 5, 6, 300, -1, -(2**31), 2**31 - 1])
    if field.type == FieldDescriptor.TYPE_UINT32:
        return rng.choice(NUMBERS)
    if field.type == FieldDescriptor.TYPE_UINT64:
        return rng.choice([*NUMBERS, *LARGE, 2**64 - 1])
    return rng.choice([*NUMBERS, *LARGE, -1, -(10**12) - 1, -(2**63)])


def fill(rng: Rng, message: Any, wild: float, absent: float) -> Any:
    """Sets the fields: each is left out with the one probability and wild with the other."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < (absent if not field.name.endswith("_id") else wild / 4):
            continue
        value = wild_value if rng.random() < wild else regular_value
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(rng.choice([0, 1, 2, 3, 5])):
                getattr(message, field.name)[rng.choice(["", "a", "ab", "b", "cart_id", make_id(rng)])] = make_id(rng)[
                    :20
                ]
        elif field.message_type is not None and field.is_repeated:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                fill(rng, getattr(message, field.name).add(), wild / 2, absent / 2)
        elif field.message_type is not None:
            fill(rng, getattr(message, field.name), wild, absent)
        else:
            setattr(message, field.name, value(rng, field))
    return message


def request(rng: Rng, kind: str) -> Message:
    message: Message = fill(rng, CLASSES[kind](), rng.choice([0, 0, 0.05, 0.3]), rng.choice([0, 0.3, 0.6]))
    return message


def varint(value: int, padding: int = 0) -> bytes:
    """With padding, so many bytes longer than need be."""
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    if not padding:
        return bytes([*digits, value])
    return bytes([*digits, value | 0x80, *[0x80] * (padding - 1), 0])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


Field = tuple[int, int, int | bytes]


def split(data: bytes) -> list[Field]:
    """The fields of a well-formed message that has varints and sized fields only: number, wire type, value."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if tag & 7 == 2:
            fields.append((tag >> 3, 2, data[at : at + value]))
            at += value
        else:
            fields.append((tag >> 3, 0, value))
    return fields


def join(rng: Rng, fields: list[Field], padded: float) -> bytes:
    def some() -> int:
        return rng.choice([1, 1, 2, 4, 5, 9]) if rng.random() < padded else 0

    parts = []
    for number, wire, value in fields:
        parts.append(varint(number << 3 | wire, some()))
        if isinstance(value, bytes):
            if wire == 2:
                parts.append(varint(len(value), some()))
            parts.append(value)
        else:
            parts.append(varint(value, some()))
    return b"".join(parts)


def stray(rng: Rng) -> Field:
    """A field with a number that is unknown, or with a wire type that is wrong."""
    number = rng.choice([0, *range(1, 18), 100, 2**29 - 1])
    wire = rng.choice([0, 1, 2, 3, 5])
    if wire == 0:
        return number, 0, rng.choice([0, 1, 300, 2**32 + 1, 2**64 - 1])
    if wire == 2:
        return number, 2, rng.choice([b"", b"\xff", b"\xed\xa0\x80", b"\xc3\xa9", b"\x0a\x01a", b"\x08\x01\x10\x02"])
    if wire == 3:
        depth = rng.choice([0, 0, 1, 2, 98, 99, 100])
        inner = rng.choice([b"", b"\x08\x01", b"\x00\x00", b"\x12\x01\xff", b"\x0e"])
        return number, 3, b"\x0b" * depth + inner + b"\x0c" * depth + varint(number << 3 | 4)
    return number, wire, bytes(8 if wire == 1 else 4)


def rearrange(rng: Rng, data: bytes, nested: bool = True) -> bytes:
    """The same fields, but some twice, swapped, dropped, padded, with strays between, or rearranged inside."""
    fields = split(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        i, k = rng.randrange(len(fields) + 1), rng.randrange(len(fields) + 1)
        what = rng.randrange(6)
        if what == 0:
            fields.insert(i, stray(rng))
        elif i == len(fields) or k == len(fields):
            continue
        elif what == 1:
            fields.insert(k, fields[i])
        elif what == 2:
            fields[i], fields[k] = fields[k], fields[i]
        elif what == 3:
            del fields[i]
        elif what == 4 and nested:
            fields[i] = rearranged_inside(rng, fields[i])
        elif fields[i][1] == 0:
            fields[i] = (fields[i][0], 0, rng.choice([0, 1, 2**32, 2**32 + 1, 2**64 - 1]))
    return join(rng, fields, rng.choice([0, 0, 0, 0.2]))


def rearranged_inside(rng: Rng, field: Field) -> Field:
    number, wire, value = field
    if not isinstance(value, bytes):
        return field
    try:
        return number, wire, rearrange(rng, value, nested=False)
    except IndexError:  # a text that is no message
        return field


def damage(rng: Rng, data: bytes) -> bytes:
    """Bits flipped, bytes put in, taken out, cut off."""
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(damaged) + 1)
        what = rng.randrange(4)
        if what == 0 and at < len(damaged):
            damaged[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            damaged[at:at] = rng.randbytes(rng.choice([1, 2, 5]))
        elif what == 2:
            del damaged[at : at + rng.choice([1, 2, 8])]
        elif what == 3 and rng.random() < 0.3:
            del damaged[at:]
    return bytes(damaged)


def hostile(rng: Rng, data: bytes) -> bytes:
    what = rng.randrange(10)
    if what < 5:
        return rearrange(rng, data)
    if what < 9:
        return damage(rng, data)
    return rng.randbytes(rng.randrange(24))
