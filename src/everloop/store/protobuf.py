"""Walks protobuf as it lies in bytes. Knows the wire format and no schema.

Source: protobuf.dev/programming-guides/encoding. Stricter than the libraries where strictness costs nothing: groups,
field number 0 and tags of more than 32 bits are refused.
"""

import re
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIRES = {VARINT: "a number", FIXED64: "eight bytes", BYTES: "bytes", FIXED32: "four bytes"}
Field = tuple[int, int, int, int]
"""Number, wire type, and: the value of a number and where it ends, or where the content begins and ends."""


class Malformed(ValueError):
    """These bytes are no protobuf message."""


def varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """An unsigned integer of at most 64 bits, and the place after it. Raises Malformed."""
    value = shift = 0
    while place < end:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
        if shift > 63:
            raise Malformed(f"the number that ends at byte {place} has more than 64 bits")
    raise Malformed(f"a number is cut off at byte {end}")


def fields(data: bytes, start: int, end: int, runs: re.Pattern[bytes] | None = None) -> Iterator[Field]:
    """The fields of the message in ``data[start:end]``, one after the other. Raises Malformed.

    ``runs`` matches whole fields that nobody wants to see: a tree ensemble has hundreds of thousands of them.
    """
    place = start
    while place < end:
        if runs is not None and (match := runs.match(data, place, end)) is not None:
            place = match.end()
            continue
        tag = data[place]
        if tag < 0x80:
            place += 1
        else:
            tag, place = varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        if not number or tag >> 32:
            raise Malformed(f"there is no field {number}, as byte {place} says")
        if wire == BYTES:
            size, place = varint(data, place, end)
            stop = place + size
            if stop > end:
                raise Malformed(f"field {number} at byte {place} goes {stop - end} bytes beyond its end")
            yield number, wire, place, stop
            place = stop
        elif wire == VARINT:
            value, place = varint(data, place, end)
            yield number, wire, value, place
        elif wire in (FIXED32, FIXED64):
            stop = place + (4 if wire == FIXED32 else 8)
            if stop > end:
                raise Malformed(f"field {number} at byte {place} is cut off")
            yield number, wire, place, stop
            place = stop
        else:
            raise Malformed(f"field {number} at byte {place} has the wire type {wire}")


def varints(data: bytes, field: Field) -> list[int]:
    """The values of a repeated number, packed or not, as signed 64-bit integers."""
    _, wire, begin, end = field
    if wire == VARINT:
        return [_signed(begin)]
    if wire != BYTES:
        raise Malformed(f"field {field[0]} is {WIRES[wire]}, not a number")
    found = []
    while begin < end:
        value, begin = varint(data, begin, end)
        found.append(_signed(value))
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
