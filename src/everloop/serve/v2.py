"""The Open Inference Protocol V2: its tensors as rows, answers as its tensors. Knows nothing of HTTP, JSON or gRPC.

A column is a tensor [n] or [n, 1], a tensor column [n, *shape]; or all columns of one kind come together as one tensor
[n, k], named ``numbers``, ``integers`` or ``texts``. Outputs are ``id`` and ``version`` of each row and, by task,
``decision`` and ``probability`` or ``value``.
"""

import struct
from array import array
from collections.abc import Sequence
from itertools import chain
from math import inf, isfinite
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.errors import RequestError
from everloop.records import MISSING_INTEGER, ColumnType, TensorColumn
from everloop.serve import tensors
from everloop.serve.http import HIGH
from everloop.serve.live import Answer, Classified, Live, class_name
from everloop.serve.rows import KINDS, Column, Row

EXTENSIONS = ("binary_tensor_data", "schedule_policy")
WHOLE = frozenset({f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)})
FLOATING = frozenset({"FP16", "FP32", "FP64"})
ACCEPTED: dict[ColumnType | None, frozenset[str]] = {
    "number": FLOATING | WHOLE,
    "integer": WHOLE,
    "boolean": frozenset({"BOOL"}),
    "instant": frozenset({"INT64", "BYTES"}),
    "text": frozenset({"BYTES"}),
    None: frozenset({"BOOL", "BYTES"}) | FLOATING | WHOLE,
}
PREFERRED: dict[ColumnType | None, str] = {
    "number": "FP64", "integer": "INT64", "boolean": "BOOL", "instant": "INT64", "text": "BYTES", None: "BYTES",
}  # fmt: skip
ALL_DATATYPES = (*tensors.DTYPES, "BYTES")
LENGTH = struct.Struct("<I")


class Given(msgspec.Struct):
    """One input. ``data`` is a flat list of values (None: missing), or with ``raw`` the bytes of all, little-endian."""

    name: str
    datatype: str
    shape: list[int]
    data: Any
    raw: bool = False


class Wanted(msgspec.Struct):
    """One output that a request names. ``binary`` None: as the request says for all."""

    name: str
    binary: bool | None = None


class Request(msgspec.Struct):
    inputs: list[Given]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []
    """Empty: all."""
    binary: bool = False
    """Outputs go out as bytes unless they say otherwise."""


class Output(msgspec.Struct):
    """One output with the values of all rows, flat."""

    name: str
    datatype: str
    shape: list[int]
    values: Sequence[Any]

    @property
    def raw(self) -> bytes:
        if self.datatype == "BYTES":
            parts = [each.encode(errors="surrogatepass") for each in self.values]
            return b"".join(chain.from_iterable((LENGTH.pack(len(part)), part) for part in parts))
        return array({"BOOL": "B", "INT64": "q", "FP64": "d"}[self.datatype], self.values).tobytes()


class Described:
    """What the protocol makes of one state of what is live: made once, at the first request."""

    def __init__(self, live: Live) -> None:
        self.columns = {column.name: column for column in live.reader.columns}
        self.kinds: dict[str, tuple[list[str], int]] = {}
        """Kind → its columns, the champion's first, and how many of them are the champion's."""
        signatures = [arm.model.signature for arm in (live.champion, live.challenger) if arm is not None]
        for kind, types in KINDS.items():
            names: dict[str, None] = {}
            first = 0
            for signature in signatures:
                ours = sorted(signature.of(*types), key=lambda column: column.index)
                names.update(dict.fromkeys(column.name for column in ours))
                first = first or len(names)
            if names and kind not in self.columns:
                self.kinds[kind] = (list(names), first)
        signature = live.champion.model.signature
        self.outputs: list[tuple[str, str, list[int]]] = [("id", "BYTES", []), ("version", "INT64", [])]
        if signature.task == "regression":
            self.outputs.append(("value", "FP64", []))
        else:
            self.outputs.append(("decision", _datatype(signature.classes), []))
            self.outputs.append(("probability", "FP64", [len(signature.classes)]))

    def __call__(self, request: Request, live: Live) -> list[Row]:
        """The rows of a request. Raises RequestError naming the tensor and what is wrong with it."""
        for wanted in request.outputs:
            if not any(wanted.name == name for name, _, _ in self.outputs):
                known = ", ".join(name for name, _, _ in self.outputs)
                raise RequestError(f"There is no output {_quoted(wanted.name)}; outputs are {known}.")
        if not request.inputs:
            raise RequestError('The request has no inputs; send "inputs" with a tensor for each column.')
        columns: dict[str, Sequence[Any]] = {}
        rows: int | None = None
        for given in request.inputs:
            count = given.shape[0] if given.shape else -1
            found = self._values(given)
            if rows is not None and count != rows:
                raise RequestError(f"Input {_quoted(given.name)} has {count} rows, the one before it {rows}.")
            rows = count
            for name, values in found.items():
                if name in columns:
                    raise RequestError(f"Input {_quoted(name)} is there twice.")
                columns[name] = values
        return live.reader.from_columns(columns, rows or 0)

    def _values(self, given: Given) -> dict[str, Sequence[Any]]:
        column = self.columns.get(given.name)
        if column is not None and column.tensor is not None:
            return {given.name: _tensor_rows(given, column.tensor)}
        if column is not None:
            _check_datatype(given, ACCEPTED[column.type])
            shape = given.shape
            if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or shape[0] < 0:
                raise RequestError(f"Input {_quoted(given.name)} has the shape {_sizes(shape)}; it is [n] or [n, 1].")
            return {given.name: _scalars(given, column, flat(given, shape[0]))}
        names, first = self.kinds.get(given.name, ([], 0))
        if not names:
            raise RequestError(
                f"There is no input {_quoted(given.name)}; inputs are {', '.join(map(repr, self.columns))}"
                f"{''.join(f', or all of a kind as {kind!r}' for kind in self.kinds)}."
            )
        return self._packed(given, names, first)

    def _packed(self, given: Given, names: list[str], first: int) -> dict[str, Sequence[Any]]:
        shape, most = given.shape, len(names)
        accepted = {"numbers": ACCEPTED["number"], "integers": WHOLE, "texts": ACCEPTED["text"]}[given.name]
        _check_datatype(given, accepted)
        if len(shape) != 2 or shape[0] < 0 or not first <= shape[1] <= most:
            raise RequestError(
                f"Input {_quoted(given.name)} has the shape {_sizes(shape)}; it is [n, {first}], its columns "
                f"{', '.join(map(repr, names[:first]))}."
            )
        width = shape[1]
        values = flat(given, shape[0] * width)
        found: dict[str, Sequence[Any]] = {}
        for place, name in enumerate(names[:width]):
            ours = values[place::width]
            if self.columns[name].type == "boolean":
                ours = _booleans(name, ours)
            found[name] = _scalars(given, self.columns[name], ours)
        return found


def described(live: Live) -> Described:
    if live.described is None:
        live.described = Described(live)
    found: Described = live.described
    return found


def rows(request: Request, live: Live) -> list[Row]:
    """The rows of a request. Raises RequestError naming the tensor and what is wrong with it."""
    return described(live)(request, live)


def metadata(name: str, live: Live) -> dict[str, Any]:
    """The metadata of a model; a size of −1 is the number of rows."""
    return {
        "name": name,
        "versions": [str(version) for version in live.versions],
        "platform": "everloop_onnx",
        "inputs": [
            {
                "name": column.name,
                "datatype": column.tensor.datatype if column.tensor else PREFERRED[column.type],
                "shape": [-1, *(column.tensor.shape if column.tensor else ())],
            }
            for column in live.reader.columns
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *shape]}
            for name, datatype, shape in described(live).outputs
        ],
    }


def outputs(live: Live, answers: Sequence[Answer], wanted: Sequence[Wanted] = ()) -> list[Output]:
    """The tensors of the answers, in the order of ``wanted`` if it names any."""
    known = {name: (datatype, shape) for name, datatype, shape in described(live).outputs}
    count = len(answers)
    made: list[Output] = []
    for name in [each.name for each in wanted] or list(known):
        datatype, shape = known[name]
        if name == "probability":
            values: Sequence[Any] = list(
                chain.from_iterable(each.probability.values() for each in answers if isinstance(each, Classified))
            )
        else:
            values = [getattr(each, name) for each in answers]
            if name == "decision" and datatype == "BYTES":
                values = list(map(class_name, values))
        made.append(Output(name, datatype, [count, *shape], values))
    return made


def version_of(live: Live, answers: Sequence[Answer]) -> str:
    return str(answers[0].version if answers else live.champion.version)


def urgency(parameters: dict[str, Any]) -> tuple[int | None, float | None]:
    """Priority and seconds from the parameters of Triton's schedule policy; None where they say nothing.

    ``priority``: 1 (high), 2, 3 (low), 0 for the default; ``timeout``: microseconds, 0 for none. Raises RequestError.
    """
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise RequestError("There are no sequences here: each request stands alone. Send it without sequence_id.")
    priority, timeout = parameters.get("priority", 0), parameters.get("timeout", 0)
    if isinstance(priority, bool) or priority not in (0, 1, 2, 3):
        raise RequestError(f"The parameter priority is {_shown(priority)}; send 1 (high), 2 or 3 (low), or 0.")
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 <= timeout < 2**63:
        raise RequestError(f"The parameter timeout is {_shown(timeout)}; send microseconds, or 0 for none.")
    return (int(priority) + HIGH - 1 if priority else None), (timeout / 1e6 if timeout else None)


# Values


def flat(given: Given, count: int) -> list[Any]:
    """The values of a tensor that is no tensor column, as Python's own. Raises RequestError."""
    if given.datatype == "BYTES":
        return _texts(given, count)
    if given.raw:
        read: list[Any] = _read(given, count).tolist()
        return read
    values: list[Any] = given.data
    if len(values) != count:
        raise RequestError(
            f"Input {_quoted(given.name)} has {len(values)} values; its shape {_sizes(given.shape)} says {count}."
        )
    _check_range(given, values)
    return values


def _read(given: Given, count: int) -> NDArray[Any]:
    dtype = tensors.DTYPES[given.datatype]
    if len(given.data) != count * dtype.itemsize:
        raise RequestError(
            f"Input {_quoted(given.name)} has {len(given.data)} bytes; its shape {_sizes(given.shape)} of "
            f"{given.datatype} says {count * dtype.itemsize}."
        )
    values: NDArray[Any] = np.frombuffer(given.data, dtype)
    if given.datatype == "BOOL" and count and values.view(np.uint8).max() > 1:
        raise RequestError(f"Input {_quoted(given.name)} has bytes other than 0 and 1; BOOL is one of them.")
    if dtype.kind == "f" and np.isinf(values).any():
        raise RequestError(f"Input {_quoted(given.name)} has an infinite value; a missing one is NaN.")
    if given.datatype == "UINT64" and count and values.max() > 2**63 - 1:
        raise RequestError(f"Input {_quoted(given.name)} has the value {values.max()}; at most {2**63 - 1} is taken.")
    return values


def _check_range(given: Given, values: Sequence[Any]) -> None:
    if given.datatype in WHOLE:
        limits = np.iinfo(tensors.DTYPES[given.datatype])
        # What stands for a missing integer can be said in bytes only; there is null for it here.
        least, most = max(int(limits.min), MISSING_INTEGER + 1), min(int(limits.max), 2**63 - 1)
        for value in values:
            if value is not None and not least <= value <= most:
                raise RequestError(
                    f"Input {_quoted(given.name)} has the value {_shown(value)}; {given.datatype} goes from {least} "
                    f"to {most} here."
                )
    elif given.datatype in FLOATING and (inf in values or -inf in values):
        raise RequestError(f"Input {_quoted(given.name)} has an infinite value; a missing one is NaN.")


def _texts(given: Given, count: int) -> list[Any]:
    parts: list[Any] = split(given) if given.raw else given.data
    if len(parts) != count:
        raise RequestError(
            f"Input {_quoted(given.name)} has {len(parts)} values; its shape {_sizes(given.shape)} says {count}."
        )
    try:
        return [part if part is None or isinstance(part, str) else str(part, "utf-8") for part in parts]
    except UnicodeDecodeError as error:
        raise RequestError(f"Input {_quoted(given.name)} holds a text that is not UTF-8: {error.reason}.") from None


def split(given: Given) -> list[Any]:
    """The elements of a raw BYTES tensor: each with its length before it, four bytes little-endian."""
    data, place, parts = memoryview(given.data), 0, []
    while place < len(data):
        if len(data) - place < LENGTH.size:
            raise RequestError(f"Input {_quoted(given.name)} ends in the middle of a length.")
        (length,) = LENGTH.unpack_from(data, place)
        place += LENGTH.size
        if length > len(data) - place:
            raise RequestError(f"Input {_quoted(given.name)} says that {length} bytes follow; {len(data) - place} do.")
        parts.append(data[place : place + length])
        place += length
    return parts


def _scalars(given: Given, column: Column, values: list[Any]) -> Sequence[Any]:
    if column.type == "number" and given.datatype in WHOLE:
        return [None if value is None else float(value) for value in values]
    return values


def _booleans(name: str, values: list[Any]) -> list[Any]:
    found = {0: False, 1: True, None: None, MISSING_INTEGER: None}
    try:
        return [found[value] for value in values]
    except KeyError as error:
        raise RequestError(f"Column {name!r} is boolean; among the integers it is 0 or 1, not {error}.") from None


def _tensor_rows(given: Given, column: TensorColumn) -> list[tensors.Value]:
    shape = list(column.shape)
    _check_datatype(given, frozenset({column.datatype}))
    if len(given.shape) != len(shape) + 1 or given.shape[1:] != shape or given.shape[0] < 0:
        raise RequestError(
            f"Input {_quoted(given.name)} has the shape {_sizes(given.shape)}; it is [n, {', '.join(map(str, shape))}]."
        )
    count, size = given.shape[0], tensors.size_of(column)
    try:
        data = tensors.checked(given.data if given.raw else tensors.written(given.data, column), column, count)
    except ValueError as error:
        raise RequestError(
            f"Input {_quoted(given.name)} is {error}; its shape {_sizes(given.shape)} of {given.datatype} says "
            f"{count * size} bytes or {count * size // tensors.DTYPES[column.datatype].itemsize} values."
        ) from None
    if count == 1:
        return [data]
    view = memoryview(data)
    return [view[begin : begin + size] for begin in range(0, count * size, size)]


def _check_datatype(given: Given, accepted: frozenset[str]) -> None:
    if given.datatype not in accepted:
        wanted = ", ".join(each for each in ALL_DATATYPES if each in accepted)
        raise RequestError(
            f"Input {_quoted(given.name)} has the datatype {_quoted(given.datatype)}; expected {wanted}."
        )


def _datatype(classes: Sequence[Any]) -> str:
    kinds = {type(each) for each in classes}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "…")


def _sizes(shape: Sequence[int]) -> str:
    """A shape as text; a client may send one of any length, of numbers of any length."""
    shown = [str(size) if -(2**63) <= size < 2**64 else "…" for size in shape[:8]]
    return f"[{', '.join(shown)}{', …' if len(shape) > 8 else ''}]"


def _shown(value: Any) -> str:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "beyond 64 bits"
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
