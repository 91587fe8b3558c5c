"""What the document's operations share: parameters, headers, refusals, the shapes of V2. Knows nothing of loops."""

from collections.abc import Iterable
from typing import Any

from everloop.serve.openapi_schemas import Schema
from everloop.serve.service import ID_LENGTH

JSON = "application/json"
REFUSALS = {
    "400": "The request cannot be read; the message says which column, which value and what was expected.",
    "401": "A key is needed, or the one that was sent is not known here.",
    "403": "The key is not for this, or this is not for callers from elsewhere.",
    "404": "There is no such path, loop or version.",
    "413": "The body, or the number of rows, is more than is taken at once.",
    "415": "The body is compressed, which is not undone here.",
    "429": "Too many requests with this key or from this address, or a quota is used up.",
    "500": "The model failed on these rows, or the server did; the server's log says more.",
    "503": "Nothing is live yet, too much waits, or the answer would come too late.",
    "507": "The server's disk is full: the outcome was not kept.",
}
PREFIX = "#/components"


def ref(name: str) -> Schema:
    return {"$ref": f"{PREFIX}/schemas/{name}"}


def refer(*names: str) -> list[Schema]:
    return [{"$ref": f"{PREFIX}/parameters/{name}"} for name in names]


def refused(*codes: str) -> dict[str, Schema]:
    return {code: {"$ref": f"{PREFIX}/responses/{code}"} for code in codes}


def media(schema: Schema, examples: dict[str, Any]) -> Schema:
    return {"schema": schema, **({"examples": {n: {"value": v} for n, v in examples.items()}} if examples else {})}


def body(schema: Schema, examples: dict[str, Any]) -> Schema:
    return {"required": True, "content": {JSON: media(schema, examples)}}


def good(schema: Schema, examples: dict[str, Any] | None = None) -> Schema:
    return {
        "description": "The answer.",
        "headers": {"x-request-id": {"$ref": f"{PREFIX}/headers/request"}},
        "content": {JSON: media(schema, examples or {})},
    }


def refusal(code: str, words: str) -> Schema:
    names = {
        "401": ("www-authenticate",),
        "403": ("www-authenticate",),
        "429": ("retry-after", "ratelimit"),
        "503": ("retry-after",),
    }
    headers = {name: {"$ref": f"{PREFIX}/headers/{name}"} for name in names.get(code, ())}
    return {"description": words, "headers": headers, "content": {JSON: {"schema": ref("Error")}}}


def headers() -> dict[str, Schema]:
    def text(words: str) -> Schema:
        return {"description": words, "schema": {"type": "string"}}

    return {
        "request": text("The request's id, where request ids are on."),
        "retry-after": {"description": "Seconds after which it is of use to ask again.", "schema": {"type": "integer"}},
        "ratelimit": text("What is left for a limited caller (draft-ietf-httpapi-ratelimit-headers)."),
        "www-authenticate": text("How to bring a key."),
    }


def parameters() -> dict[str, Schema]:
    def header(name: str, words: str, schema: Schema) -> Schema:
        return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}

    text = {"type": "string", "pattern": "^[!-~]{1,128}$"}
    return {
        "id": header(
            "x-prediction-id", "The id that this one prediction gets, where the loop has no key or the row lacks it.",
            {"type": "string", "pattern": f"^[!-~]{{1,{ID_LENGTH}}}$"},
        ),
        "deadline": header(
            "x-everloop-deadline-ms", "Milliseconds within which the answer is of use; what would be late is refused.",
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
        ),
        "priority": header(
            "x-everloop-priority", "Who goes first where many wait.", {"type": "string", "enum": ["high", "normal", "low"]}
        ),
        "version": header(
            "x-everloop-version", "For testers: the version, or arm, that answers.", {"type": "string", "pattern": "^[!-~]{1,64}$"}
        ),
        "request": header("x-request-id", "Comes back with the answer, where request ids are on.", text),
        "trace": header("traceparent", "W3C trace context.", {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$"}),
        "length": header(
            "inference-header-content-length", "Bytes of JSON before the binary tensors.", {"type": "integer", "minimum": 0}
        ),
    }  # fmt: skip


def error() -> Schema:
    return {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
        "examples": [{"error": "Column 'miles' is 'far'; expected a number or null."}],
    }


def outcome() -> Schema:
    whole = {"type": "integer", "minimum": -(2**63) + 1, "maximum": 2**63 - 1}
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "description": "Of the prediction."},
            "value": {"oneOf": [whole, *({"type": t} for t in ("string", "boolean", "null")), {"type": "number", "not": {"type": "integer"}}],
                      "description": "What came true."},
            "name": {"type": ["string", "null"], "description": "Which outcome; the label unless named."},
            "at": {
                "oneOf": [{"type": "string", "format": "date-time"}, {**whole, "description": "Microseconds since 1970, UTC."}, {"type": "null"}],
                "description": "When it came true; now unless given.",
            },
        },
        "required": ["id", "value"],
        "additionalProperties": False,
    }  # fmt: skip


def v2_schemas() -> dict[str, Schema]:
    def record(required: Iterable[str], **properties: Schema) -> Schema:
        return {"type": "object", "properties": properties, "required": list(required)}

    text, names = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor = record(("name", "datatype", "shape"), name=text, datatype=text, shape=shape)
    filled = record(
        ("name", "datatype", "shape"),
        name=text,
        datatype=text,
        shape=shape,
        data={"type": "array"},
        parameters={"type": "object"},
    )
    return {
        "ServerMetadata": record(("name", "version", "extensions"), name=text, version=text, extensions=names),
        "ModelMetadata": record(
            ("name", "versions", "platform", "inputs", "outputs"), name=text, versions=names, platform=text,
            inputs={"type": "array", "items": tensor}, outputs={"type": "array", "items": tensor},
        ),
        "ModelReady": record(("name", "ready"), name=text, ready={"const": True}),
        "InferenceRequest": record(
            ("inputs",), id=text, parameters={"type": "object"}, inputs={"type": "array", "items": filled, "minItems": 1},
            outputs={"type": "array", "items": record(("name",), name=text, parameters={"type": "object"})},
        ),
        "InferenceResponse": record(
            ("model_name", "outputs"), model_name=text, model_version=text, id=text, parameters={"type": "object"},
            outputs={"type": "array", "items": filled},
        ),
    }  # fmt: skip
