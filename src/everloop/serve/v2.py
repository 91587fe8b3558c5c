"""The Open Inference Protocol V2, as JSON: metadata, and tensors by column name. Knows nothing of HTTP.

Every column is a tensor of shape [n] or [n, 1]. Outputs are ``id`` and ``version`` of each row and, by task,
``decision`` and ``probability`` or ``value``.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec

from everloop.errors import RequestError
from everloop.records import ColumnType
from everloop.serve.live import Answer, Classified, Live
from everloop.serve.rows import Row

WHOLE = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
ACCEPTED: dict[ColumnType | None, frozenset[str]] = {
    "number": frozenset({"FP64", "FP32", "FP16"}) | WHOLE,
    "integer": WHOLE,
    "boolean": frozenset({"BOOL"}),
    "instant": frozenset({"INT64", "BYTES"}),
    "text": frozenset({"BYTES"}),
    None: frozenset({"FP64", "FP32", "FP16", "BOOL", "BYTES"}) | WHOLE,
}
PREFERRED: dict[ColumnType | None, str] = {
    "number": "FP64", "integer": "INT64", "boolean": "BOOL", "instant": "INT64", "text": "BYTES", None: "BYTES",
}  # fmt: skip


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class Inference(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


_decode: Callable[[bytes], Inference] = msgspec.json.Decoder(Inference).decode


def metadata(name: str, live: Live) -> dict[str, Any]:
    """What ``GET /v2/models/<name>`` answers."""
    versions = [live.champion.version, *([live.challenger.version] if live.challenger else [])]
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": "everloop_onnx",
        "inputs": [
            {"name": column.name, "datatype": PREFERRED[column.type], "shape": [-1]} for column in live.reader.columns
        ],
        "outputs": [{"name": each, "datatype": kind, "shape": shape} for each, kind, shape in _outputs(live)],
    }


def _outputs(live: Live) -> list[tuple[str, str, list[int]]]:
    common = [("id", "BYTES", [-1]), ("version", "INT64", [-1])]
    signature = live.champion.model.signature
    if signature.task == "regression":
        return [*common, ("value", "FP64", [-1])]
    first = signature.classes[0]
    kind = "BOOL" if isinstance(first, bool) else "INT64" if isinstance(first, int) else "BYTES"
    return [*common, ("decision", kind, [-1]), ("probability", "FP64", [-1, len(signature.classes)])]


def read(body: bytes, live: Live) -> tuple[list[Row], Inference]:
    """The rows of an inference request. Raises RequestError naming the tensor and what is wrong with it."""
    try:
        request = _decode(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"This is not an inference request of the Open Inference Protocol V2: {error}.") from None
    known = {column.name: column.type for column in live.reader.columns}
    columns: dict[str, list[Any]] = {}
    rows: int | None = None
    for tensor in request.inputs:
        if tensor.name in columns:
            raise RequestError(f"Input {tensor.name!r} is there twice.")
        count = _rows(tensor)
        if rows is not None and count != rows:
            raise RequestError(f"Input {tensor.name!r} has {count} rows, the one before it {rows}.")
        rows = count
        if tensor.name in known and tensor.datatype not in ACCEPTED[known[tensor.name]]:
            wanted = ", ".join(sorted(ACCEPTED[known[tensor.name]]))
            raise RequestError(f"Input {tensor.name!r} has the datatype {tensor.datatype[:20]!r}; expected {wanted}.")
        columns[tensor.name] = tensor.data
    available = {each for each, _, _ in _outputs(live)}
    unknown = [each.name for each in request.outputs or [] if each.name not in available]
    if unknown:
        raise RequestError(f"There is no output {unknown[0]!r}; outputs are {', '.join(sorted(available))}.")
    return live.reader.read_columns(columns, rows or 0), request


def _rows(tensor: Tensor) -> int:
    shape = tensor.shape
    if not shape or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1) or shape[0] < 0:
        raise RequestError(f"Input {tensor.name!r} has the shape {shape}; a column is [n] or [n, 1].")
    if tensor.data and isinstance(tensor.data[0], list):
        if not all(isinstance(each, list) for each in tensor.data):
            raise RequestError(f"Input {tensor.name!r} mixes rows and values in its data.")
        tensor.data = list(chain.from_iterable(tensor.data))
    if len(tensor.data) != shape[0]:
        raise RequestError(f"Input {tensor.name!r} has {len(tensor.data)} values; its shape says {shape[0]}.")
    return shape[0]


def answer(name: str, live: Live, request: Inference, answers: Sequence[Answer]) -> bytes:
    """The inference response."""
    wanted = {each.name for each in request.outputs or []}
    values: dict[str, list[Any]] = {
        "id": [each.id for each in answers],
        "version": [each.version for each in answers],
    }
    if live.champion.model.signature.task == "regression":
        values["value"] = [each.value for each in answers if not isinstance(each, Classified)]
    else:
        classified = [each for each in answers if isinstance(each, Classified)]
        values["decision"] = [each.decision for each in classified]
        values["probability"] = list(chain.from_iterable(each.probability.values() for each in classified))
    outputs = [
        {"name": output, "datatype": kind, "shape": [len(answers), *shape[1:]], "data": values[output]}
        for output, kind, shape in _outputs(live)
        if not wanted or output in wanted
    ]
    version = answers[0].version if answers else live.champion.version
    response: dict[str, Any] = {"model_name": name, "model_version": str(version), "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    return msgspec.json.encode(response)
