"""The values of the Open Inference Protocol V2's tensors, read from flat lists or bytes. Knows nothing of requests.

All that is wrong with a tensor is a RequestError that names it.
"""

import struct
from base64 import b64decode
from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import msgspec
import numpy as np

from everloop.errors import RequestError
from everloop.records import MISSING_INTEGER, ColumnType, TensorColumn
from everloop.serve import aside, tensors

WHOLE = frozenset({f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)})
FLOATING = frozenset({"FP16", "FP32", "FP64"})
ALL_DATATYPES = (*tensors.DTYPES, "BYTES")
LENGTH = struct.Struct("<I")
"""Before each element of a BYTES tensor."""
LARGEST = 2**63 - 1
FEW = 64


class Given(msgspec.Struct):
    """One input. ``data`` is a flat list of finite values (None or NaN: missing), or with ``raw`` the bytes of all."""

    name: str
    datatype: str
    shape: list[int]
    data: Any
    raw: bool = False


def flat(given: Given, count: int) -> list[Any]:
    """The values of a tensor that is no tensor column, as Python's own. Raises RequestError."""
    if given.datatype == "BYTES":
        return _texts(given, count)
    if given.raw:
        return _few(given, count) if count <= FEW else _read(given, count)
    values: list[Any] = given.data
    if len(values) != count:
        raise RequestError(
            f"Input {quoted(given.name)} has {len(values)} values; its shape {sizes(given.shape)} says {count}."
        )
    _check_range(given, values)
    return values


def _few(given: Given, count: int) -> list[Any]:
    """The same as `_read`: for a handful of values numpy costs more than they do."""
    layout = tensors.packer(count, given.datatype)
    data = given.data
    if len(data) != layout.size:
        raise _other_length(given, layout.size)
    if given.datatype == "BOOL" and max(data, default=0) > 1:
        raise _no_boolean(given)
    values = list(layout.unpack(data))
    if given.datatype in FLOATING:
        check_finite(given.name, values)
    elif given.datatype == "UINT64" and max(values, default=0) > LARGEST:
        raise _too_large(given, max(values))
    return values


def _read(given: Given, count: int) -> list[Any]:
    dtype = tensors.DTYPES[given.datatype]
    if len(given.data) != count * dtype.itemsize:
        raise _other_length(given, count * dtype.itemsize)
    array = np.frombuffer(given.data, dtype)
    if given.datatype == "BOOL" and array.view(np.uint8).max() > 1:
        raise _no_boolean(given)
    if dtype.kind == "f" and np.isinf(array).any():
        raise _infinite(given.name)
    if given.datatype == "UINT64" and array.max() > LARGEST:
        raise _too_large(given, int(array.max()))
    values: list[Any] = array.tolist()
    return values


def _other_length(given: Given, size: int) -> RequestError:
    return RequestError(
        f"Input {quoted(given.name)} has {len(given.data)} bytes; its shape {sizes(given.shape)} of {given.datatype} "
        f"says {size}."
    )


def _no_boolean(given: Given) -> RequestError:
    return RequestError(f"Input {quoted(given.name)} has bytes other than 0 and 1; BOOL is one of them.")


def _too_large(given: Given, value: int) -> RequestError:
    return RequestError(f"Input {quoted(given.name)} has the value {value}; at most {LARGEST} is taken.")


def _infinite(name: str) -> RequestError:
    return RequestError(f"Input {quoted(name)} has an infinite value; a missing one is NaN.")


def check_finite(name: str, values: list[Any]) -> None:
    """Raises RequestError; NaN is missing."""
    if inf in values or -inf in values:
        raise _infinite(name)


def _check_range(given: Given, values: list[Any]) -> None:
    if given.datatype in WHOLE:
        limits = np.iinfo(tensors.DTYPES[given.datatype])
        # What stands for a missing integer can be said in bytes only; there is null for it here.
        least, most = max(int(limits.min), MISSING_INTEGER + 1), min(int(limits.max), LARGEST)
        for value in values:
            if value is not None and not least <= value <= most:
                raise RequestError(
                    f"Input {quoted(given.name)} has the value {shown(value)}; {given.datatype} goes from {least} "
                    f"to {most} here."
                )


def _texts(given: Given, count: int) -> list[Any]:
    parts: list[Any] = split(given) if given.raw else given.data
    if len(parts) != count:
        raise RequestError(
            f"Input {quoted(given.name)} has {len(parts)} values; its shape {sizes(given.shape)} says {count}."
        )
    try:
        return [part if part is None or isinstance(part, str) else str(part, "utf-8") for part in parts]
    except UnicodeDecodeError as error:
        raise RequestError(f"Input {quoted(given.name)} holds a text that is not UTF-8: {error.reason}.") from None


def split(given: Given) -> list[Any]:
    """The elements of a raw BYTES tensor: each with its length before it, four bytes little-endian."""
    data, place, parts = memoryview(given.data), 0, []
    while place < len(data):
        if len(data) - place < LENGTH.size:
            raise RequestError(f"Input {quoted(given.name)} ends in the middle of a length.")
        (length,) = LENGTH.unpack_from(data, place)
        place += LENGTH.size
        if length > len(data) - place:
            raise RequestError(f"Input {quoted(given.name)} says that {length} bytes follow; {len(data) - place} do.")
        parts.append(data[place : place + length])
        place += length
    return parts


def as_column(given: Given, kind: ColumnType | None, values: list[Any]) -> Sequence[Any]:
    """The values as a row holds those of a column of ``kind``."""
    if kind == "number" and given.datatype in WHOLE:
        return [None if value is None else float(value) for value in values]
    return values


def booleans(name: str, values: list[Any]) -> list[Any]:
    found = {0: False, 1: True, None: None, MISSING_INTEGER: None}
    try:
        return [found[value] for value in values]
    except KeyError as error:
        raise RequestError(f"Column {name!r} is boolean; among the integers it is 0 or 1, not {error}.") from None


def tensor_rows(given: Given, column: TensorColumn) -> list[tensors.Value]:
    if column.image is not None:
        return _image_rows(given, column)
    shape = list(column.shape)
    check_datatype(given, frozenset({column.datatype}))
    if len(given.shape) != len(shape) + 1 or given.shape[1:] != shape or given.shape[0] < 0:
        raise RequestError(
            f"Input {quoted(given.name)} has the shape {sizes(given.shape)}; it is [n, {', '.join(map(str, shape))}]."
        )
    count, size = given.shape[0], tensors.size_of(column)
    try:
        data = tensors.checked(given.data if given.raw else tensors.written(given.data, column), column, count)
    except ValueError as error:
        raise RequestError(
            f"Input {quoted(given.name)} is {error}; its shape {sizes(given.shape)} of {given.datatype} says "
            f"{count * size} bytes or {count * size // tensors.DTYPES[column.datatype].itemsize} values."
        ) from None
    if count == 1:
        return [data]
    view = memoryview(data)
    return [view[begin : begin + size] for begin in range(0, count * size, size)]


def _image_rows(given: Given, column: TensorColumn) -> list[tensors.Value]:
    """Files as BYTES [n] or [n, 1]; in JSON base64."""
    check_datatype(given, frozenset({"BYTES"}))
    shape = given.shape
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or shape[0] < 0:
        raise RequestError(f"Input {quoted(given.name)} has the shape {sizes(shape)}; it is [n] or [n, 1].")
    parts: list[Any] = split(given) if given.raw else given.data
    if len(parts) != shape[0]:
        raise RequestError(
            f"Input {quoted(given.name)} has {len(parts)} values; its shape {sizes(shape)} says {shape[0]}."
        )
    assert column.image is not None
    rows: list[tensors.Value] = []
    files = [_file(part) for part in parts]
    decoded = iter(aside.pictures([(each, column.image) for each in files if isinstance(each, bytes)]) or ())
    for number, file in enumerate(files):
        try:
            if isinstance(file, ValueError):
                raise file
            rows.append(tensors.pixels(file, column, decoded))
        except ValueError as error:
            where = f" in row {number}" if len(parts) > 1 else ""
            raise RequestError(
                f"Input {quoted(given.name)} is {error}{where}; expected {tensors.words(column)}."
            ) from None
    return rows


def _file(part: Any) -> bytes | ValueError:
    try:
        return b64decode(part, validate=True) if isinstance(part, str) else bytes(part or b"")
    except ValueError as error:
        return error


def check_datatype(given: Given, accepted: frozenset[str]) -> None:
    if given.datatype not in accepted:
        wanted = ", ".join(each for each in ALL_DATATYPES if each in accepted)
        raise RequestError(f"Input {quoted(given.name)} has the datatype {quoted(given.datatype)}; expected {wanted}.")


def quoted(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "…")


def sizes(shape: Sequence[int]) -> str:
    """A shape as text; a client may send one of any length, of numbers of any length."""
    shown = [str(size) if -(2**63) <= size < 2**64 else "…" for size in shape[:8]]
    return f"[{', '.join(shown)}{', …' if len(shape) > 8 else ''}]"


def shown(value: Any) -> str:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "beyond 64 bits"
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
