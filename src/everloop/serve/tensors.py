"""Tensor columns: one array of fixed shape a row, as JSON brings it and as the graph takes it. Knows nothing of requests.

In a row a tensor is its little-endian bytes, row-major: what binary protocols bring is never copied before it is packed.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.errors import PackageError
from everloop.measure import images
from everloop.records import Signature, TensorColumn

Value = bytes | memoryview
FORMATS = {
    "FP64": "d", "FP32": "f", "FP16": "e", "INT64": "q", "INT32": "i", "INT16": "h", "INT8": "b",
    "UINT64": "Q", "UINT32": "I", "UINT16": "H", "UINT8": "B", "BOOL": "?",
}  # fmt: skip
"""V2's name of a datatype → how struct writes it."""
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(f"<{code}") for name, code in FORMATS.items()}
GRAPH_TYPES = {
    "FP64": "tensor(double)", "FP32": "tensor(float)", "FP16": "tensor(float16)", "BOOL": "tensor(bool)",
    **{f"{sign}INT{bits}": f"tensor({sign.lower()}int{bits})" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}  # fmt: skip
DIGEST_BYTES = 16
GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio: its multiples, cut to 64 bits, lie evenly."""


def words(column: TensorColumn) -> str:
    """What a request is told that sent something else.

    >>> words(TensorColumn(name="image", datatype="FP32", shape=(3, 64, 64)))
    'FP32 of shape [3, 64, 64]: nested lists, or base64 text of its 49152 little-endian bytes'
    """
    if column.image is not None:
        return "the bytes of a PNG or JPEG file: base64 in JSON, BYTES elsewhere"
    size = size_of(column)
    return f"{column.datatype} of shape {list(column.shape)}: nested lists, or base64 text of its {size} little-endian bytes"


def size_of(column: TensorColumn) -> int:
    """Bytes of one row."""
    return prod(column.shape) * DTYPES[column.datatype].itemsize


def annotation(column: TensorColumn) -> Any:
    """The type by which msgspec reads a row's tensor from JSON, its shape checked in the same pass."""
    if column.image is not None:
        return bytes
    kind = DTYPES[column.datatype].kind
    inner: Any = float if kind == "f" else bool if kind == "b" else int
    for size in reversed(column.shape):
        inner = Annotated[list[inner], msgspec.Meta(min_length=size, max_length=size)]
    return bytes | inner


@lru_cache(maxsize=256)
def packer(count: int, datatype: str) -> struct.Struct:
    return struct.Struct(f"<{count}{FORMATS[datatype]}")


def value(found: Any, column: TensorColumn, decoded: Iterator[bytes | Exception] | None = None) -> Value:
    """The bytes of what `annotation` let through. Raises ValueError with what is wrong.

    ``decoded``: what was made of the request's pictures before, in their order; empty where nothing was.
    """
    if column.image is not None:
        return pixels(found, column, decoded)
    if type(found) is not list:
        return checked(found, column, 1)
    for _ in column.shape[1:]:
        found = list(chain.from_iterable(found))
    return written(found, column)


def pixels(file: Value, column: TensorColumn, decoded: Iterator[bytes | Exception] | None = None) -> bytes:
    """The array of an image file, as bytes. Raises ValueError with what is wrong."""
    assert column.image is not None
    made = None if decoded is None else next(decoded, None)
    if isinstance(made, Exception):
        raise made if len(file) else ValueError("missing")
    if made is not None:
        return made
    return images.decode(file, column.image).tobytes() if len(file) else _missing()


def _missing() -> bytes:
    raise ValueError("missing")


def written(values: Sequence[Any], column: TensorColumn) -> bytes:
    """Flat values as bytes. Raises ValueError with what is wrong."""
    try:
        return packer(len(values), column.datatype).pack(*values)
    except (struct.error, OverflowError, TypeError):
        raise ValueError(f"a value that does not fit into {column.datatype}") from None


def checked(found: Value, column: TensorColumn, rows: int) -> Value:
    """``found`` if it can be ``rows`` rows of ``column``. Raises ValueError with what is wrong."""
    if len(found) != rows * size_of(column):
        raise ValueError(f"{len(found)} bytes" if len(found) else "missing")
    dtype = DTYPES[column.datatype]
    if dtype.kind == "b" and len(found) and np.frombuffer(found, np.uint8).max() > 1:
        raise ValueError("bytes other than 0 and 1")
    if dtype.kind == "f" and not np.isfinite(np.frombuffer(found, dtype)).all():
        raise ValueError("a value that is not a finite number")
    return found


def joined(values: Sequence[Value], column: TensorColumn) -> NDArray[Any]:
    """The rows' tensors as one array [rows, *shape]; of a single row nothing is copied."""
    together = values[0] if len(values) == 1 else b"".join(values)
    array = np.frombuffer(together, DTYPES[column.datatype]).reshape(len(values), *column.shape)
    return array if array.flags.aligned else array.copy()


def digests(array: NDArray[Any]) -> bytes:
    """Of each row 16 bytes of blake2b over its little-endian bytes: what the log keeps of a tensor."""
    return b"".join(
        hashlib.blake2b(memoryview(row).cast("B") if row.ndim else row.tobytes(), digest_size=DIGEST_BYTES).digest()
        for row in array
    )


def check(signature: Signature, inputs: Sequence[Any]) -> None:
    """That a graph takes the tensors of its signature. ``inputs``: what the session says of them. Raises PackageError."""
    known = {each.name: each for each in inputs}
    for column in signature.tensors:
        if column.datatype not in DTYPES or not column.shape or min(column.shape) < 1:
            raise PackageError(
                f"Tensor column {column.name!r} is {column.datatype} {list(column.shape)}; "
                f"sizes are at least 1, datatypes {', '.join(DTYPES)}."
            )
        taken = known.get(column.name)
        if taken is None:
            continue  # the caller says which inputs lack
        fits = len(taken.shape) == len(column.shape) + 1 and all(
            not isinstance(each, int) or each == size for each, size in zip(taken.shape[1:], column.shape, strict=True)
        )
        if taken.type != GRAPH_TYPES[column.datatype] or not fits or isinstance(taken.shape[0], int):
            raise PackageError(
                f"The graph takes {column.name!r} as {taken.type} {taken.shape}; "
                f"its signature says {column.datatype} [rows, {', '.join(map(str, column.shape))}]."
            )


def check_decoder(signature: Signature) -> None:
    """That images are decoded here as they were for the fit. Raises PackageError."""
    for column in signature.tensors:
        if column.image is None:
            continue
        try:
            same = images.same_decoder(column.image, column.probe)
        except ImportError as error:
            raise PackageError(f"{error}") from error
        if not same:
            raise PackageError(
                f"Images of {column.name!r} are decoded otherwise here than when the model was fitted; install the "
                "version of Pillow that the package's requirements name."
            )


def noise(*shape: int, seed: int) -> NDArray[np.float64]:
    """Numbers between 0 and 1 that lie evenly and in no order: to load numpy.random takes 7 MB and 15 ms of a start."""
    count = int(np.prod(shape))
    words = np.arange(1 + seed * count, 1 + (seed + 1) * count, dtype=np.uint64) * np.uint64(GOLDEN)
    return ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def made(column: TensorColumn, rows: int) -> NDArray[Any]:
    """Rows to warm a graph with: noise for floats, 0 and 1 for all else (a token id must be in the vocabulary)."""
    dtype = DTYPES[column.datatype]
    between = noise(rows, *column.shape, seed=rows)
    array = (between * 4 - 2 if dtype.kind == "f" else between >= 0.5).astype(dtype)
    array[0] = 0
    return array
