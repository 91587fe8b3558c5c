"""The server described as an OpenAPI 3.1 document, made from what is live now. Knows nothing of sockets.

Every loop has paths and schemas of its own: the columns of its signature, its classes, an example row like those it
was trained on.
"""

from dataclasses import dataclass
from typing import Any

from everloop import __version__
from everloop.serve import openapi_parts as parts
from everloop.serve import openapi_schemas as schemas
from everloop.serve.openapi_parts import JSON, PREFIX
from everloop.serve.openapi_schemas import Schema
from everloop.serve.service import REQUEST_OUTCOMES, Service
from everloop.serve.v2 import EXTENSIONS

TEXT, BYTES, HTML = "text/plain", "application/octet-stream", "text/html"
SERVER = "the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the document is about. ``root``: the path that stands before all others; ``keys``: callers need one."""

    services: tuple[Service, ...]
    keys: bool = False
    root: str = ""
    body_bytes: int = 16 * 2**20


def document(described: Described) -> dict[str, Any]:
    """The whole document. A loop with nothing live has its paths without columns."""
    paths: dict[str, Any] = {}
    components: dict[str, Any] = {
        "schemas": {"Error": parts.error(), "Outcome": parts.outcome(), **parts.v2_schemas()},
        "parameters": parts.parameters(),
        "headers": parts.headers(),
        "responses": {code: parts.refusal(code, words) for code, words in parts.REFUSALS.items()},
    }
    for service in described.services:
        _of_loop(service, described, paths, components)
    _of_server(described, paths)
    for each in paths.values():
        for operation in each.values():
            operation.setdefault("security", [{"bearer": []}, {"key": []}] if described.keys else [])
            operation["responses"] = dict(sorted(operation["responses"].items()))
    if described.keys:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "authorization: Bearer KEY"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "everloop",
            "version": __version__,
            "summary": _summary(described),
            "description": (
                "What is live now, and how to ask it. A body has at most "
                f"{described.body_bytes / 2**20:g} MiB; what is refused says why, and what to send instead."
            ),
        },
        "servers": [{"url": described.root or "/"}],
        "tags": [*map(_tag, described.services), {"name": SERVER}],
        "paths": paths,
        "components": components,
    }


def _tag(service: Service) -> dict[str, Any]:
    live = service.predictor.live
    if live is None:
        return {"name": service.name, "description": "nothing is live yet"}
    versions = [str(each) for each in live.versions]
    return {
        "name": service.name,
        "description": f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)} live",
    }


def _summary(described: Described) -> str:
    names = [each.name for each in described.services]
    return f"{'Loops' if len(names) > 1 else 'Loop'}: {', '.join(names) or 'none'}"


# Paths of a loop


def _of_loop(service: Service, described: Described, paths: dict[str, Any], components: dict[str, Any]) -> None:
    name = service.name
    known = components["schemas"]
    live = service.predictor.live
    asked: Schema = {}
    answered: Schema = {}
    example: Any = None
    shown: Any = None
    versions: list[int] = []
    if live is not None:
        row, answer = f"Row.{name}", f"Answer.{name}"
        known[row], known[answer] = schemas.row(live), schemas.answer(live)
        asked = schemas.rows(live, f"{PREFIX}/schemas/{row}")
        reference = {"$ref": f"{PREFIX}/schemas/{answer}"}
        answered = {"oneOf": [reference, {"type": "array", "items": reference}]}
        example, shown, versions = (
            schemas.example(live, service.home.packages),
            schemas.example_answer(live),
            live.versions,
        )
        known[row]["examples"] = [example]
    predict = {
        "post": {
            "operationId": f"predict {name}",
            "tags": [name],
            "summary": "Predict",
            "description": (
                "One row, or an array of rows; the answer has the same form. A column that is left out is missing. "
                + ("" if versions else "Nothing is live yet.")
            ),
            "parameters": parts.refer("id", "deadline", "priority", "version", "request", "trace"),
            "requestBody": parts.body(asked, {"one row": example, "two rows": [example, example]} if live else {}),
            "responses": {
                "200": parts.good(answered, {"one row": shown, "two rows": [shown, shown]} if live else {}),
                **parts.refused("400", "401", "403", "404", "413", "415", "429", "500", "503"),
            },
        }
    }
    outcomes = {
        "post": {
            "operationId": f"outcomes {name}",
            "tags": [name],
            "summary": "Report what came true",
            "description": (
                "By the id of a prediction, or by the key's columns joined with '|'. On disk when it is acknowledged. "
                "Late and corrected outcomes are normal: the last one counts."
            ),
            "parameters": parts.refer("request", "trace"),
            "requestBody": parts.body(
                {
                    "oneOf": [
                        parts.ref("Outcome"),
                        {"type": "array", "items": parts.ref("Outcome"), "maxItems": REQUEST_OUTCOMES},
                    ]
                },
                {"one": {"id": shown["id"] if shown else "id", "value": _outcome_example(shown)}},
            ),
            "responses": {
                "200": parts.good(
                    {"type": "object", "properties": {"outcomes": {"type": "integer"}}, "required": ["outcomes"]}
                ),
                **parts.refused("400", "401", "403", "413", "415", "429", "500", "507"),
            },
        }
    }
    paths[f"/predict/{name}"] = predict
    paths[f"/outcomes/{name}"] = outcomes
    if len(described.services) == 1:
        paths["/predict"] = {
            "post": {**predict["post"], "operationId": "predict", "summary": "Predict (the only loop)"}
        }
        paths["/outcomes"] = {
            "post": {**outcomes["post"], "operationId": "outcomes", "summary": "Report what came true (the only loop)"}
        }
    _of_model(name, versions, example, paths)


def _of_model(name: str, versions: list[int], example: Any, paths: dict[str, Any]) -> None:
    """The Open Inference Protocol V2."""
    base = f"/v2/models/{name}"
    shown = {"one row": _v2_example(example)} if example is not None and _flat(example) else {}
    version = {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "One that is live.",
        "schema": {"type": "string", **({"enum": [str(each) for each in versions]} if versions else {})},
    }
    for path, given, mark in (
        (base, [], name),
        (f"{base}/versions/{{version}}", [version], f"{name} version"),
    ):
        refusals = parts.refused("401", "403", "429", "503", *(["404"] if given else []))
        told = [*given, *parts.refer("request")]
        paths[path] = {
            "get": {
                "operationId": f"metadata {mark}", "tags": [name], "summary": "Columns of a version (V2)" if given else "Columns and outputs (V2)",
                "parameters": told, "responses": {"200": parts.good(parts.ref("ModelMetadata")), **refusals},
            }
        }  # fmt: skip
        paths[f"{path}/ready"] = {
            "get": {
                "operationId": f"ready {mark}", "tags": [name], "summary": "Is a version live? (V2)" if given else "Is it live? (V2)",
                "parameters": told, "responses": {"200": parts.good(parts.ref("ModelReady")), **refusals},
            }
        }  # fmt: skip
        infer = {
            "operationId": f"infer {mark}",
            "tags": [name],
            "summary": "Predict by a version (V2)" if given else "Predict (V2)",
            "description": (
                f"The Open Inference Protocol with {' and '.join(EXTENSIONS)}. Each column is a tensor [n] or [n, 1]; "
                "all columns of a kind may come as one tensor [n, k] named numbers, integers or texts."
            ),
            "parameters": [
                *given,
                *parts.refer(
                    "length", "id", "deadline", "priority", "request", "trace", *([] if given else ["version"])
                ),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    JSON: parts.media(parts.ref("InferenceRequest"), shown),
                    BYTES: {"schema": {}},
                },
            },
            "responses": {
                "200": {
                    **parts.good(parts.ref("InferenceResponse")),
                    "content": {JSON: {"schema": parts.ref("InferenceResponse")}, BYTES: {"schema": {}}},
                },
                **parts.refused("400", "401", "403", "404", "413", "415", "429", "500", "503"),
            },
        }
        paths[f"{path}/infer"] = {"post": infer}


def _flat(example: dict[str, Any]) -> bool:
    return bool(example) and not any(isinstance(value, list) for value in example.values())


def _v2_example(row: dict[str, Any]) -> dict[str, Any]:
    kinds = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": kinds[type(value)], "data": [value]} for name, value in row.items()
        ]
    }


def _outcome_example(answer: dict[str, Any] | None) -> Any:
    return None if answer is None else answer.get("decision", answer.get("value"))


# Paths of the server


def _of_server(described: Described, paths: dict[str, Any]) -> None:
    def get(path: str, name: str, summary: str, good: Any, *refused: str, **more: Any) -> None:
        operation = {"operationId": name, "tags": [SERVER], "summary": summary, "parameters": parts.refer("request")}
        paths[path] = {"get": {**operation, "responses": {"200": good, **parts.refused(*refused)}, **more}}

    def flag(name: str) -> Schema:
        return {"type": "object", "properties": {name: {"const": True}}, "required": [name]}

    text = {
        "description": "The text exposition format of Prometheus.",
        "content": {TEXT: {"schema": {"type": "string"}}},
    }
    page = {"description": "This document as a page.", "content": {HTML: {"schema": {"type": "string"}}}}
    get("/v2", "server", "Name, version, extensions (V2)", parts.good(parts.ref("ServerMetadata")), "401", "429")
    get("/v2/health/live", "live", "Does the process answer?", parts.good(flag("live")), security=[])
    get("/v2/health/ready", "ready", "Is every loop live?", parts.good(flag("ready")), "503", security=[])
    get("/metrics", "metrics", "Counters and histograms", text, "401", "403")
    get("/status", "status", "What each loop does now", parts.good({"type": "object"}), "401", "403")
    get("/openapi.json", "document", "This document", parts.good({"type": "object"}), "401", "429")
    get("/docs", "page", "This document as a page", page, security=[])
