"""The Open Inference Protocol V2: its tensors as rows, answers as its tensors. Knows nothing of HTTP, JSON or gRPC.

A column is a tensor [n] or [n, 1], a tensor column [n, *shape]; or all columns of one kind come together as one tensor
[n, k], named ``numbers``, ``integers`` or ``texts``. Outputs are ``id`` and ``version`` of each row, by task
``decision`` and ``probability`` or ``value``, and ``variant`` while an experiment or a route runs.
"""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from everloop.errors import RequestError
from everloop.measure.truth import class_name
from everloop.records import ColumnType, TensorColumn
from everloop.serve.live import Answer, Classified, Live
from everloop.serve.rows import KINDS, NAN, Row
from everloop.serve.urgency import HIGH
from everloop.serve.v2_values import (
    FLOATING,
    LENGTH,
    WHOLE,
    Given,
    as_column,
    booleans,
    check_datatype,
    flat,
    quoted,
    shown,
    sizes,
    tensor_rows,
)  # fmt: skip

EXTENSIONS = ("binary_tensor_data", "schedule_policy", "model_repository")
ACCEPTED: dict[ColumnType | None, frozenset[str]] = {
    "number": FLOATING | WHOLE,
    "integer": WHOLE,
    "boolean": frozenset({"BOOL"}),
    "instant": frozenset({"INT64", "BYTES"}),
    "text": frozenset({"BYTES"}),
    None: frozenset({"BOOL", "BYTES"}) | FLOATING | WHOLE,
}
PACKED = {"numbers": ACCEPTED["number"], "integers": WHOLE, "texts": ACCEPTED["text"]}
PREFERRED: dict[ColumnType | None, str] = {
    "number": "FP64", "integer": "INT64", "boolean": "BOOL", "instant": "INT64", "text": "BYTES", None: "BYTES",
}  # fmt: skip


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
        self._types = {column.name: column.type for column in live.reader.columns if column.tensor is None}
        self.kinds: dict[str, tuple[list[str], int]] = {}
        """Kind → its columns, the champion's first, and how many of them are the champion's."""
        signatures = [arm.model.signature for arm in live.arms]
        for kind, types in KINDS.items():
            names: dict[str, None] = {}
            first = 0
            for signature in signatures:
                ours = sorted(signature.of(*types), key=lambda column: column.index)
                names.update(dict.fromkeys(column.name for column in ours))
                first = first or len(names)
            if names and kind not in self.columns:
                self.kinds[kind] = (list(names), first)
        self.whole = self._whole_rows(live)
        classes = list(dict.fromkeys((type(each), each) for signature in signatures for each in signature.classes))
        self.classes = tuple(class_name(each) for _, each in classes)
        """Of all that may answer, the champion's first: a version that knows fewer gives the others 0."""
        self.outputs: dict[str, tuple[str, list[int]]] = {"id": ("BYTES", []), "version": ("INT64", [])}
        """Name → datatype and the shape of a row."""
        if signatures[0].task == "regression":
            self.outputs["value"] = ("FP64", [])
        else:
            self.outputs["decision"] = (_datatype([each for _, each in classes]), [])
            self.outputs["probability"] = ("FP64", [len(classes)])
        if live.way is not None and live.way.named:
            self.outputs["variant"] = ("BYTES", [])

    def __call__(self, request: Request, live: Live) -> list[Row]:
        """The rows of a request. Raises RequestError naming the tensor and what is wrong with it."""
        asked: set[str] = set()
        for wanted in request.outputs:
            if wanted.name not in self.outputs:
                raise RequestError(f"There is no output {quoted(wanted.name)}; outputs are {', '.join(self.outputs)}.")
            if wanted.name in asked:  # a million times, for a million rows?
                raise RequestError(f"Output {quoted(wanted.name)} is asked for twice; name it once.")
            asked.add(wanted.name)
        if not request.inputs:
            raise RequestError('The request has no inputs; send "inputs" with a tensor for each column.')
        if self.whole is not None and len(request.inputs) == 1 and request.inputs[0].name == "numbers":
            return self._read_whole(request.inputs[0], *self.whole)
        columns: dict[str, Sequence[Any]] = {}
        rows: int | None = None
        for given in request.inputs:
            name, shape, values = given.name, given.shape, given.data
            if (
                self._types.get(name) == "number" and not given.raw and given.datatype in FLOATING
                and len(shape) == 1 and len(values) == shape[0] and name not in columns
            ):  # fmt: skip
                columns[name] = values  # by far the most frequent, and ready as it is
            else:
                found = {name: _scalars(given, self._types[name])} if name in self._types else self._values(given)
                if twice := columns.keys() & found.keys():
                    raise RequestError(f"Input {quoted(min(twice))} is there twice.")
                columns.update(found)
            if rows is not None and shape[0] != rows:
                raise RequestError(f"Input {quoted(name)} has {shape[0]} rows, the one before it {rows}.")
            rows = shape[0]
        return live.reader.from_columns(columns, rows or 0)

    def _whole_rows(self, live: Live) -> tuple[int, Row] | None:
        """How many numbers a row begins with, and all that comes after them when they come alone; None: they do not."""
        names, _ = self.kinds.get("numbers", ([], 0))
        rest = live.reader.columns[len(names) :]
        if not names or live.reader.names[: len(names)] != tuple(names) or any(column.tensor for column in rest):
            return None
        return len(names), tuple(live.reader.absent.values())[len(names) :]

    def _read_whole(self, given: Given, most: int, rest: Row) -> list[Row]:
        """All numbers of each row at once, without taking them apart by column: by far the cheapest request."""
        width = self._packed_width(given, *self.kinds["numbers"])
        values = as_column(given, "number", flat(given, given.shape[0] * width))
        if width < most:
            rest = (NAN,) * (most - width) + rest
        if given.shape[0] == 1:
            return [(*values, *rest)]
        rows = zip(*[iter(values)] * width, strict=True)
        return [row + rest for row in rows] if rest else list(rows)

    def _values(self, given: Given) -> dict[str, Sequence[Any]]:
        column = self.columns.get(given.name)
        if column is not None and column.tensor is not None:
            return {given.name: tensor_rows(given, column.tensor)}
        names, first = self.kinds.get(given.name, ([], 0))
        if not names:
            raise RequestError(
                f"There is no input {quoted(given.name)}; inputs are {', '.join(map(repr, self.columns))}"
                f"{''.join(f', or all of a kind as {kind!r}' for kind in self.kinds)}."
            )
        return self._packed(given, names, first)

    def _packed(self, given: Given, names: list[str], first: int) -> dict[str, Sequence[Any]]:
        width = self._packed_width(given, names, first)
        values = flat(given, given.shape[0] * width)
        found: dict[str, Sequence[Any]] = {}
        for place, name in enumerate(names[:width]):
            ours = values[place::width]
            if self.columns[name].type == "boolean":
                ours = booleans(name, ours)
            found[name] = as_column(given, self.columns[name].type, ours)
        return found

    def _packed_width(self, given: Given, names: list[str], first: int) -> int:
        shape = given.shape
        check_datatype(given, PACKED[given.name])
        if len(shape) != 2 or shape[0] < 0 or not first <= shape[1] <= len(names):
            raise RequestError(
                f"Input {quoted(given.name)} has the shape {sizes(shape)}; it is [n, {first}], its columns "
                f"{', '.join(map(repr, names[:first]))}."
            )
        return shape[1]


def _scalars(given: Given, kind: ColumnType | None) -> Sequence[Any]:
    if given.datatype not in ACCEPTED[kind]:
        check_datatype(given, ACCEPTED[kind])
    shape = given.shape
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or shape[0] < 0:
        raise RequestError(f"Input {quoted(given.name)} has the shape {sizes(shape)}; it is [n] or [n, 1].")
    return as_column(given, kind, flat(given, shape[0]))


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
                "datatype": _tensor_type(column.tensor) if column.tensor else PREFERRED[column.type],
                "shape": [-1, *(column.tensor.shape if column.tensor and column.tensor.image is None else ())],
            }
            for column in live.reader.columns
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *shape]}
            for name, (datatype, shape) in described(live).outputs.items()
        ],
    }


def outputs(live: Live, answers: Sequence[Answer], wanted: Sequence[Wanted] = ()) -> list[Output]:
    """The tensors of the answers, in the order of ``wanted`` if it names any."""
    known = described(live).outputs
    count = len(answers)
    made: list[Output] = []
    for name in [each.name for each in wanted] or list(known):
        datatype, shape = known[name]
        if name == "probability":
            values: Sequence[Any] = _probabilities(answers, described(live).classes)
        else:
            values = [getattr(each, name, "") for each in answers]
            if name == "decision" and datatype == "BYTES":
                values = list(map(class_name, values))
        made.append(Output(name, datatype, [count, *shape], values))
    return made


def _probabilities(answers: Sequence[Answer], classes: tuple[str, ...]) -> list[float]:
    found: list[float] = []
    for each in answers:
        assert isinstance(each, Classified)
        names = each.probability.__struct_encode_fields__
        if names == classes:
            found += each.probability.values()
        else:
            known = dict(zip(names, each.probability.values(), strict=True))
            found += [known.get(name, 0.0) for name in classes]
    return found


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
        raise RequestError(f"The parameter priority is {shown(priority)}; send 1 (high), 2 or 3 (low), or 0.")
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 <= timeout < 2**63:
        raise RequestError(f"The parameter timeout is {shown(timeout)}; send microseconds, or 0 for none.")
    return (int(priority) + HIGH - 1 if priority else None), (timeout / 1e6 if timeout else None)


def _tensor_type(column: TensorColumn) -> str:
    return column.datatype if column.image is None else "BYTES"


def _datatype(classes: Sequence[Any]) -> str:
    kinds = {type(each) for each in classes}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"
