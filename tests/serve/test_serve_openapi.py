"""The document says what the server does: every path, every column, every refusal; the page shows it and nothing else."""

import hashlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from everloop.records import InputColumn, TensorColumn
from everloop.serve import keys as api_keys
from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, graph_of, signature_of

COLUMNS = {"x": "number", "n": "integer", "b": "boolean", "w": "instant:America/Chicago", "t": "text"}
EXAMPLES = 12


def served(folder: Path, loop: str = "made", columns: dict[str, str] = COLUMNS, **changes: Any) -> ServedHome:
    home = ServedHome(folder, loop)
    home.seal(1, signature_of(columns, **changes))
    home.release(1)
    return home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with served(tmp_path_factory.mktemp("home")).serve() as running:
        yield running


def document(port: int) -> dict[str, Any]:
    with Client(port) as client:
        status, found = client.get("/openapi.json")
    assert status == 200
    return dict(found)


def is_sound(found: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(found).validate()
    names = [operation["operationId"] for item in found["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    for reference in re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(found)):
        at: Any = found
        for key in reference.split("/"):
            at = at[key]


def test_the_document_is_openapi(server: ServerProcess) -> None:
    is_sound(document(server.port))


def test_columns_types_and_classes_are_those_of_the_signature(server: ServerProcess) -> None:
    schemas = document(server.port)["components"]["schemas"]
    row = schemas["Row.made"]
    assert list(row["properties"]) == list(COLUMNS)
    assert row["additionalProperties"] is False
    assert row["properties"]["x"]["type"] == ["number", "null"]
    assert row["properties"]["n"]["maximum"] == 2**63 - 1
    assert [each["type"] for each in row["properties"]["w"]["oneOf"]] == ["string", "integer", "null"]
    answer = schemas["Answer.made"]
    assert answer["properties"]["decision"] == {"enum": [False, True], "type": "boolean"}
    assert list(answer["properties"]["probability"]["properties"]) == ["false", "true"]


def test_every_path_that_is_documented_answers_and_every_route_is_documented(server: ServerProcess) -> None:
    paths = document(server.port)["paths"]
    with Client(server.port) as client:
        for path, item in paths.items():
            for method, operation in item.items():
                body = None
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                if "examples" in content:
                    body = next(iter(content["examples"].values()))["value"]
                place = path.replace("{version}", "1")
                status, found = client.ask(method.upper(), place, body)
                assert status == 200, (method, path, found)
        for wrong in ("POST", "DELETE"):
            status, _ = client.ask(wrong, "/metrics")
            assert status == 405
    from everloop.serve import application, v2_routes

    source = Path(str(application.__file__)).read_text() + Path(str(v2_routes.__file__)).read_text()
    routes = {path.rstrip("/") for path in re.findall(r'b"(/[a-z0-9/.]+)"', source)} - {
        "/settled",
        "/ready",
        "/infer",
        "/versions",
    }
    documented = "\n".join(paths)
    assert [route for route in routes if route not in documented] == []


def test_every_example_is_answered(server: ServerProcess) -> None:
    found = document(server.port)
    with Client(server.port) as client:
        for example in found["paths"]["/predict/made"]["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ].values():
            status, answer = client.post("/predict/made", example["value"])
            assert status == 200, answer


def test_an_example_is_like_the_rows_of_the_fit(tmp_path: Path) -> None:
    from everloop.store import packages

    home = ServedHome(tmp_path)
    signature = signature_of({"x": "number", "n": "integer", "t": "text"})
    profile = {
        "columns": {
            "x": {"quantiles": [0.0, 2.25, 9.0]},
            "n": {"quantiles": [1.0, 4.0, 5.0]},
            "t": {"values": ["often", "rarely"]},
        }
    }
    files = {packages.MODEL: graph_of(signature), "profile.json": json.dumps(profile).encode()}
    from datetime import UTC, datetime

    home.versions[1] = packages.seal(
        home.home.packages, files, loop="made", created_at=datetime(2026, 1, 1, tzinfo=UTC), signature=signature,
        key=packages.load_signing_key(home.home.keys),
    )  # fmt: skip
    home.release(1)
    with home.serve() as server:
        row = document(server.port)["components"]["schemas"]["Row.made"]
        assert row["examples"] == [{"x": 2.25, "n": 4, "t": "often"}]
        place = home.home.packages / home.versions[1] / "profile.json"
        place.write_text(place.read_text().replace("often", "never"))
        home.seal(2, signature)
        home.release(2)
        server.wait_for(2)
        home.release(1)
        server.wait_for(3)
        assert document(server.port)["components"]["schemas"]["Row.made"]["examples"][0]["t"] != "never"


def test_the_document_follows_what_is_live(tmp_path: Path) -> None:
    home = served(tmp_path)
    with home.serve() as server:
        assert document(server.port)["tags"][0]["description"] == "version 1 live"
        home.seal(2, signature_of({**COLUMNS, "more": "number"}))
        server.wait_for(home.release(2))
        found = document(server.port)
        assert "more" in found["components"]["schemas"]["Row.made"]["properties"]
        path = found["paths"]["/v2/models/made/versions/{version}"]["get"]
        assert path["parameters"][0]["schema"]["enum"] == ["2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "regression", "classes": (), "positive": None},
        {"classes": ("no", "yes")},
        {"classes": (3, 5)},
        {"key": ("x", "id")},
        {"carried": (InputColumn(name="id", type="text", index=-1),), "key": ("id",), "event_time": "w"},
    ],
    ids=["regression", "texts", "integers", "key", "carried"],
)
def test_every_kind_of_signature_has_a_sound_document(changes: dict[str, Any], tmp_path: Path) -> None:
    with served(tmp_path, **changes).serve() as server, Client(server.port) as client:
        found = document(server.port)
        is_sound(found)
        content = found["paths"]["/predict/made"]["post"]["requestBody"]["content"]["application/json"]
        assert client.post("/predict/made", content["examples"]["two rows"]["value"])[0] == 200


def test_tensors_are_nested_lists_of_their_shape(tmp_path: Path) -> None:
    from everloop.serve import openapi_schemas
    from everloop.serve.rows import Column

    tensor = TensorColumn(name="image", datatype="UINT8", shape=(2, 3))
    schema = openapi_schemas._tensor(tensor)
    assert schema["oneOf"][0] == {
        "type": "array", "minItems": 2, "maxItems": 2,
        "items": {"type": "array", "minItems": 3, "maxItems": 3,
                  "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    }  # fmt: skip
    assert openapi_schemas._example(Column("image", None, None, tensor), {}) == [[0, 0, 0], [0, 0, 0]]


def test_with_keys_the_document_needs_one_and_says_how_and_the_page_needs_none(tmp_path: Path) -> None:
    home = served(tmp_path)
    key = api_keys.add(home.home, "reader", now=time.time())
    home.home.settings.write_bytes(encode(ServerSettings(keys=True)))
    with home.serve("--settings", str(home.home.settings)) as server, Client(server.port) as client:
        assert client.get("/openapi.json")[0] == 401
        assert client.get("/docs")[0] == 200
        status, found = client.ask("GET", "/openapi.json", x_api_key=key)
        assert status == 200
    is_sound(found)
    assert set(found["components"]["securitySchemes"]) == {"bearer", "key"}
    assert found["paths"]["/predict/made"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert found["paths"]["/v2/health/live"]["get"]["security"] == []


def test_several_loops_have_paths_of_their_own_and_none_without_a_name(tmp_path: Path) -> None:
    home = served(tmp_path)
    other = served(tmp_path, "other", {"area": "number"}, task="regression", classes=(), positive=None)
    with home.serve("--loop", "other") as server:
        found = document(server.port)
        is_sound(found)
        assert {"/predict/made", "/predict/other"} <= set(found["paths"])
        assert "/predict" not in found["paths"]
        assert list(found["components"]["schemas"]["Row.other"]["properties"]) == ["area"]
    assert other.loop == "other"


def test_a_loop_with_nothing_live_is_described_without_columns(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.release(None)
    with home.serve() as server:
        found = document(server.port)
        is_sound(found)
        assert found["tags"][0]["description"] == "nothing is live yet"


# The page


def test_the_page_runs_its_own_script_and_style_and_nothing_from_elsewhere(server: ServerProcess) -> None:
    with Client(server.port) as client:
        status, page = client.get("/docs")
        headers = dict(client.headers)
    assert status == 200
    text = bytes(page)
    policy = headers[b"content-security-policy"].decode()
    for kind in ("script", "style"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>".encode(), text, re.DOTALL)
        assert f"{kind}-src 'sha256-{b64encode(hashlib.sha256(inline).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert re.findall(rb"https?://|src=|@import|innerHTML| on[a-z]+=\"", text) == []
    assert len(text) < 64_000


# What the document promises, held against the server


def with_integers(body: Any) -> Any:
    """JSON Schema takes 2.0 for an integer; a column of integers does not."""
    if isinstance(body, list):
        return [with_integers(each) for each in body]
    if not isinstance(body, dict):
        return body
    whole = {n: int(v) for n, v in body.items() if n in ("n", "w") and isinstance(v, float) and v.is_integer()}
    return {**body, **whole}


def promises(port: int, path: str, method: str, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(document(port))
    schema.config.update(base_url=f"http://127.0.0.1:{port}")
    operation = schema[path][method]
    checks = [
        status_code_conformance, content_type_conformance, response_schema_conformance,
        response_headers_conformance,
    ]  # fmt: skip

    @given(case=operation.as_strategy())
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: Any) -> None:
        case.body = with_integers(case.body)
        response = case.call()
        late = response.status_code == 503 and "x-everloop-deadline-ms" in (case.headers or {})
        assert response.status_code < 500 or late, response.text
        case.validate_response(response, checks=checks)
        if path.startswith("/predict") and case.meta is not None and case.meta.generation.mode.is_positive:
            assert late or response.status_code in (200, 404), (case.body, response.text)

    holds()


PATHS = [
    ("/predict/made", "POST", 200), ("/predict", "POST", 20), ("/outcomes/made", "POST", 100), ("/v2", "GET", 3),
    ("/v2/models/made", "GET", 3), ("/v2/models/made/infer", "POST", 40), ("/v2/models/made/ready", "GET", 3),
    ("/v2/models/made/versions/{version}", "GET", 5), ("/v2/models/made/versions/{version}/infer", "POST", 20),
    ("/v2/health/live", "GET", 3), ("/v2/health/ready", "GET", 3), ("/metrics", "GET", 3), ("/status", "GET", 3),
    ("/openapi.json", "GET", 3), ("/docs", "GET", 3),
]  # fmt: skip


@pytest.mark.parametrize(("path", "method", "examples"), PATHS, ids=lambda each: str(each))
def test_answers_are_as_the_document_says_whatever_is_sent(
    path: str, method: str, examples: int, server: ServerProcess
) -> None:
    promises(server.port, path, method, examples)
