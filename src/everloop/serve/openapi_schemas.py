"""Rows and answers of what is live as JSON Schema, and examples of them. Knows nothing of paths.

The schemas say what `everloop.serve.rows` takes and refuses; the tests hold one against the other.
"""

from collections.abc import Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any

import msgspec

from everloop.measure.images import KNOWN
from everloop.measure.truth import class_name
from everloop.records import MISSING_INTEGER, MISSING_TEXT, TensorColumn, digest_of
from everloop.serve.live import Key, Live
from everloop.serve.model import Model
from everloop.serve.rows import REQUEST_ROWS, Column
from everloop.serve.tensors import DTYPES

Schema = dict[str, Any]
PROFILE = "profile.json"
LARGEST_PROFILE = 16 * 2**20
LARGEST_EXAMPLE = 64
"""Values of a tensor that an example shows; larger ones are shown as base64 text."""
PLAIN: dict[str | None, Any] = {
    "number": 1.5, "integer": 3, "boolean": True, "text": "text", "instant": "2026-01-31T08:00:00Z", None: "text",
}  # fmt: skip
"""Examples of columns that no profile knows."""


def row(live: Live) -> Schema:
    """One row of a request."""
    columns = live.reader.columns
    return {
        "type": "object",
        "properties": {column.name: _column(column, live) for column in columns},
        "required": [column.name for column in columns if column.tensor is not None],
        "additionalProperties": False,
    }


def rows(live: Live, one: str) -> Schema:
    """What a request brings: a row, named by its reference, or several."""
    return {"oneOf": [{"$ref": one}, {"type": "array", "items": {"$ref": one}, "maxItems": REQUEST_ROWS}]}


def answer(live: Live) -> Schema:
    """What one row is answered."""
    properties: dict[str, Schema] = {
        "id": {"type": "string", "description": "Of this prediction; its outcome is reported under it."},
        "version": {"type": "integer", "description": "Which version answered."},
    }
    classes = classes_of(live)
    if not classes:
        properties["value"] = {"type": "number"}
    else:
        properties["decision"] = {"enum": list(classes), **_scalar(classes)}
        share = {"type": "number", "minimum": 0, "maximum": 1}
        properties["probability"] = {
            "type": "object",
            "properties": {class_name(each): share for each in classes},
            "additionalProperties": False,
        }
    required = list(properties)
    if live.way is not None and live.way.named:
        properties["variant"] = {"type": "string", "description": "The arm of the experiment or route that answered."}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def classes_of(live: Live) -> tuple[Key, ...]:
    """Of all versions that may answer; empty for regression."""
    known = {(type(each), each): each for arm in live.arms for each in arm.model.signature.classes}
    return tuple(known.values())


def _scalar(classes: tuple[Key, ...]) -> Schema:
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kinds = list(dict.fromkeys(names[type(each)] for each in classes))
    return {"type": kinds[0] if len(kinds) == 1 else kinds}


def _column(column: Column, live: Live) -> Schema:
    role = _role(column.name, live)
    schema = _tensor(column.tensor) if column.tensor is not None else _typed(column)
    return {**schema, "description": f"{column.words[0].upper()}{column.words[1:]}.{role}"}


def _role(name: str, live: Live) -> str:
    signatures = [arm.model.signature for arm in live.arms]
    if any(name in signature.key for signature in signatures):
        return " Part of the key: the prediction's id."
    if any(name == signature.event_time for signature in signatures):
        return " The event time."
    inputs = {each.name for signature in signatures for each in signature.inputs}
    if name in inputs | {each.name for signature in signatures for each in signature.tensors}:
        return ""
    return " Not looked at by the model."


def _typed(column: Column) -> Schema:
    integer = {"minimum": MISSING_INTEGER + 1, "maximum": 2**63 - 1}
    text = {"not": {"const": MISSING_TEXT}}
    match column.type:
        case "number":
            return {"type": ["number", "null"]}
        case "integer":
            return {"type": ["integer", "null"], "format": "int64", **integer}
        case "boolean":
            return {"type": ["boolean", "null"]}
        case "text":
            return {"type": ["string", "null"], **text}
        case "instant":
            return {
                "oneOf": [
                    {"type": "string", "format": "date-time"},
                    {"type": "integer", "format": "int64", **integer},
                    {"type": "null"},
                ]
            }
    return {"type": ["string", "number", "boolean", "null"], **text}


def _tensor(column: TensorColumn) -> Schema:
    if column.image is not None:
        return {"type": "string", "contentEncoding": "base64", "description": "A PNG or JPEG file."}
    kind = DTYPES[column.datatype].kind
    inner: Schema = {"type": "number" if kind == "f" else "boolean" if kind == "b" else "integer"}
    if kind in "iu":
        bits = DTYPES[column.datatype].itemsize * 8
        inner |= {"minimum": -(2 ** (bits - 1)) if kind == "i" else 0, "maximum": 2 ** (bits - (kind == "i")) - 1}
    for size in reversed(column.shape):
        inner = {"type": "array", "items": inner, "minItems": size, "maxItems": size}
    return {"oneOf": [inner, {"type": "string", "contentEncoding": "base64"}]}


# Examples


def example(live: Live, packages: Path) -> dict[str, Any]:
    """A row as the champion's training rows were in the middle; made up where no profile tells."""
    known = _profile(live.champion.model, packages)
    return {column.name: _example(column, known.get(column.name, {})) for column in live.reader.columns}


def example_answer(live: Live) -> dict[str, Any]:
    head = {"id": "00064fd0c2a3b1-1f2c-7", "version": live.champion.version}
    classes = live.champion.model.signature.classes
    if not classes:
        return {**head, "value": 12.5}
    shares = [round(1 / len(classes), 4)] * len(classes)
    shares[-1] = round(1 - sum(shares[:-1]), 4)
    return {**head, "decision": classes[-1], "probability": dict(zip(map(class_name, classes), shares, strict=True))}


def _example(column: Column, known: Mapping[str, Any]) -> Any:
    if column.tensor is not None and column.tensor.image is not None:
        from base64 import b64encode

        return b64encode(KNOWN[0]).decode()
    if column.tensor is not None:
        return _zeros(column.tensor)
    values, quantiles = known.get("values") or (), known.get("quantiles") or ()
    if column.type in ("number", "integer") and quantiles:
        middle = float(quantiles[len(quantiles) // 2])
        if isfinite(middle):
            return round(middle) if column.type == "integer" else float(f"{middle:.6g}")
    if column.type in ("text", None) and values:
        return str(values[0])
    if column.type == "boolean" and values:
        return str(values[0]).lower() == "true"
    return PLAIN[column.type]


def _zeros(column: TensorColumn) -> Any:
    from base64 import b64encode

    dtype = DTYPES[column.datatype]
    if prod(column.shape) > LARGEST_EXAMPLE:
        return b64encode(bytes(prod(column.shape) * dtype.itemsize)).decode() if prod(column.shape) < 4096 else ""
    value: Any = False if dtype.kind == "b" else 0.0 if dtype.kind == "f" else 0
    for size in reversed(column.shape):
        value = [value] * size
    return value


def _profile(model: Model, packages: Path) -> Mapping[str, Mapping[str, Any]]:
    """What the package says of its training rows, if it is still as it was signed; nothing otherwise."""
    file = model.manifest.files.get(PROFILE)
    if file is None or file.size > LARGEST_PROFILE:
        return {}
    try:
        data = (packages / model.digest / PROFILE).read_bytes()
        found = msgspec.json.decode(data) if digest_of(data) == file.sha256 else {}
    except (OSError, ValueError):
        return {}
    columns = found.get("columns") if isinstance(found, dict) else None
    return columns if isinstance(columns, dict) else {}
