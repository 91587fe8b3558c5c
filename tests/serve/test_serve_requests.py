"""What clients send and what they get, over real sockets: validation, forms, ids, protocol versions, limits."""

import json
from collections.abc import Iterator
from math import exp
from typing import Any

import pytest

from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, message, signature_of

COLUMNS = {"x": "number", "n": "integer", "b": "boolean", "when": "instant:America/Chicago", "t": "text"}
TOKEN = "a token"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedHome:
    home = ServedHome(tmp_path_factory.mktemp("home"))
    home.seal(1, signature_of(COLUMNS, key=("carrier", "when"), event_time="when"))
    home.release(1, unit="customer")
    return home


@pytest.fixture(scope="module")
def server(served: ServedHome) -> Iterator[ServerProcess]:
    with served.serve(token=TOKEN) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connection:
        yield connection


def test_a_row_is_answered_with_its_probability_and_version(client: Client) -> None:
    status, answer = client.post("/predict/made", {"x": 0.5, "n": 1, "b": True, "t": "yes"})
    assert status == 200
    assert answer["version"] == 1
    assert answer["decision"] is True
    assert answer["probability"]["true"] == pytest.approx(expected(3.5), rel=1e-12)
    assert answer["probability"]["false"] == pytest.approx(1 - expected(3.5), rel=1e-9)


def test_null_and_absent_are_both_missing(client: Client) -> None:
    _, absent = client.post("/predict", {})
    _, null = client.post("/predict", dict.fromkeys(COLUMNS))
    assert absent["probability"] == null["probability"] == {"false": 0.5, "true": 0.5}


def test_an_array_is_answered_by_an_array_in_order(client: Client) -> None:
    status, answers = client.post("/predict/made", [{"x": n / 10} for n in range(50)])
    assert status == 200
    assert [each["probability"]["true"] for each in answers] == pytest.approx([expected(n / 10) for n in range(50)])
    assert len({each["id"] for each in answers}) == 50
    assert client.post("/predict/made", []) == (200, [])


WRONG = [
    ({"x": "far"}, ["'x'", '"far"', "a number"]),
    ({"x": [1]}, ["'x'", "[1]", "a number"]),
    ({"n": 1.5}, ["'n'", "1.5", "integer"]),
    ({"n": True}, ["'n'", "true", "integer"]),
    ({"n": 2**63}, ["'n'", "9223372036854775808", "64-bit"]),
    ({"n": -(2**63)}, ["'n'", "64-bit"]),
    ({"b": 1}, ["'b'", "1", "true, false or null"]),
    ({"when": "yesterday"}, ["'when'", "yesterday", "ISO 8601"]),
    ({"when": 1.5}, ["'when'", "1.5", "instant"]),
    ({"t": 7}, ["'t'", "7", "a text"]),
    ({"t": "\x00"}, ["'t'", "NUL"]),
    ({"x": 1, "z": 2, "y": 3}, ["'y', 'z'", "known are 'x', 'n', 'b', 'when', 't'", "'carrier'", "'customer'"]),
    ([{"x": 1}, {"x": "a"}], ["'x'", '"a"', "row 1"]),
    ([{"x": 1}, 7], ["Row 1", "7"]),
    (7, ["Row 0", "7", "object"]),
    (b"{", ["not JSON"]),
    (b"", ["empty", "send a row"]),
    (b'{"x": NaN}', ["not JSON"]),
    (b'{"x": 1e999}', ["not JSON", "out of range"]),
    (b'{"t": "\xff"}', ["not JSON"]),
    (b"[" * 100_000, ["not JSON"]),
]


@pytest.mark.parametrize(("body", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_row_is_a_400_that_names_column_value_and_type(client: Client, body: Any, words: list[str]) -> None:
    status, answer = client.post("/predict/made", body)
    assert status == 400, answer
    for word in words:
        assert word in answer["error"]
    assert client.post("/predict/made", {"x": 1})[0] == 200  # the connection is still good


INSTANTS = [
    (5_000_000, 5.0),
    ("1970-01-01T00:00:05Z", 5.0),
    ("1970-01-01T01:00:05+01:00", 5.0),
    ("1969-12-31T18:00:05", 5.0),
    ("1969-12-31 18:00:05.000001", 5.000001),
]


@pytest.mark.parametrize(("value", "seconds"), INSTANTS, ids=range(len(INSTANTS)))
def test_instants_come_as_text_or_microseconds_and_naive_text_is_local(
    client: Client, value: Any, seconds: float
) -> None:
    _, answer = client.post("/predict/made", {"when": value, "x": -seconds * 1e6 - 0.5})
    assert answer["probability"]["true"] == pytest.approx(1 / (1 + exp(0.5)), rel=1e-6)


def test_the_id_is_the_key_or_the_header_or_made(client: Client) -> None:
    key = {"carrier": "AA", "when": "2013-01-01T06:00:00"}
    assert client.post("/predict/made", {**key, "when": "2013-01-01T12:00:00Z"})[1]["id"] == (
        "AA|2013-01-01T12:00:00+00:00"
    )
    made = [client.post("/predict/made", {"x": 1})[1]["id"] for _ in range(3)]
    assert made == sorted(made)
    assert len(set(made)) == 3
    assert client.post("/predict/made", {"x": 1}, x_prediction_id="mine")[1]["id"] == "mine"
    status, answer = client.post("/predict/made", {"x": 1}, x_prediction_id="m" * 1000)
    assert status == 400
    assert "x-prediction-id" in answer["error"]
    assert [each["id"] for each in client.post("/predict/made", [{"carrier": 7, "when": 0}])[1]] == (
        ["7|1970-01-01T00:00:00+00:00"]
    )


def test_event_times_are_taken_only_with_the_token(client: Client, served: ServedHome) -> None:
    for headers in (
        {"x_everloop_event_time": "5"},
        {"x_everloop_replay": "wrong", "x_everloop_event_time": "5"},
        {"x_everloop_replay": "wrong"},
    ):
        status, answer = client.post("/predict/made", {"x": 1}, **headers)
        assert status == 403
        assert "token" in answer["error"]
        assert client.post("/outcomes/made", {"id": "a", "value": 1}, **headers)[0] == 403
    assert client.post("/predict/made", {"rows": [{"x": 1}], "at": [5]})[0] == 400
    with_token = {"x_everloop_replay": TOKEN}
    assert client.post("/predict/made", {"x": 1}, **with_token, x_everloop_event_time="12345")[0] == 200
    status, answers = client.post("/predict/made", {"rows": [{"x": 1}, {"x": 2}], "at": [7, 8]}, **with_token)
    assert (status, len(answers)) == (200, 2)
    assert client.post("/predict/made", {"rows": [{"x": 1}], "at": []}, **with_token)[0] == 400
    assert client.post("/predict/made", {"rows": [{"x": "a"}], "at": [1]}, **with_token)[0] == 400
    assert client.post("/predict/made", [{"x": 1}], **with_token)[0] == 400
    assert client.post("/predict/made", {"x": 1}, **with_token, x_everloop_event_time="soon")[0] == 400


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    bodies = [{"x": n / 100} if n % 10 else {"x": "wrong"} for n in range(300)]
    client.send(b"".join(message("POST", "/predict/made", body) for body in bodies))
    answers = client.answers(300)
    for n, (status, body) in enumerate(answers):
        if n % 10:
            assert status == 200
            assert json.loads(body)["probability"]["true"] == pytest.approx(expected(n / 100))
        else:
            assert status == 400


def test_chunked_bodies_and_split_messages_are_read(client: Client) -> None:
    head = b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    client.send(head + b'4\r\n{"x"\r\n4;ext=1\r\n: 1}\r\n0\r\n\r\n')
    ((status, body),) = client.answers(1)
    assert status == 200
    assert json.loads(body)["probability"]["true"] == pytest.approx(expected(1))
    for byte in message("POST", "/predict/made", {"x": 2}):
        client.send(bytes([byte]))
    assert client.answers(1)[0][0] == 200
    client.send(b"POST /predict/made HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n")
    client.socket.settimeout(5)
    assert client.socket.recv(100).startswith(b"HTTP/1.1 100 ")
    client.send(b'{"x":1}')
    assert client.answers(1)[0][0] == 200


def test_an_offer_to_upgrade_is_ignored(client: Client) -> None:
    offer = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    chunked = b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n" + offer + b"\r\n7\r\n"
    client.send(
        b"GET /status HTTP/1.1\r\nhost: a\r\n" + offer + b"\r\n"
        + b"POST /predict/made HTTP/1.1\r\nhost: a\r\n" + offer + b'content-length: 7\r\n\r\n{"x":2}'
        + chunked + b'{"x":3}\r\n0\r\n\r\n'
    )  # fmt: skip
    client.send(message("POST", "/predict/made", {"x": 4}))
    answers = client.answers(4)
    assert [status for status, _ in answers] == [200] * 4
    found = [json.loads(body)["probability"]["true"] for _, body in answers[1:]]
    assert found == pytest.approx([expected(2), expected(3), expected(4)])
    client.send(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n")
    assert client.answers(1)[0][0] in (400, 404)


def test_http_1_0_closes_unless_it_is_asked_to_stay(server: ServerProcess) -> None:
    body = b'{"x":1}'
    with Client(server.port) as client:
        client.send(b"POST /predict/made HTTP/1.0\r\ncontent-length: 7\r\n\r\n" + body)
        assert client.answers(1)[0][0] == 200
        assert client.socket.recv(10) == b""
    with Client(server.port) as client:
        for _ in range(2):
            client.send(b"POST /predict/made HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 7\r\n\r\n" + body)
            assert client.answers(1)[0][0] == 200
            assert client.headers[b"connection"] == b"keep-alive"
    with Client(server.port) as client:
        assert client.ask("POST", "/predict/made", {"x": 1}, connection="close")[0] == 200
        assert client.headers[b"connection"] == b"close"
        assert client.socket.recv(10) == b""


def test_paths_and_methods_that_are_not_there_are_404_and_405(client: Client) -> None:
    assert client.get("/nowhere")[0] == 404
    assert client.post("/predict/other", {})[0] == 404
    assert client.get("/predict/made")[0] == 405
    assert client.headers[b"allow"] == b"POST"
    assert client.ask("DELETE", "/metrics")[0] == 405
    assert client.post("/predict/made?debug=1", {"x": 1})[0] == 200
    assert client.post("/predict/%6dade", {"x": 1})[0] == 200
    assert client.post("http://elsewhere/predict/made", {"x": 1})[0] == 200
    assert client.ask("POST", "/predict/made", {"x": 1}, content_encoding="gzip")[0] == 415


def test_too_large_a_body_or_header_is_refused_before_it_is_read(server: ServerProcess) -> None:
    with Client(server.port) as client:
        client.send(b"POST /predict/made HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n")
        assert [status for status, _ in client.answers(1)] in ([413], [400])
    with Client(server.port) as client:
        client.send(b"POST /predict/made HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n")
        assert client.answers(1)[0][0] == 413
    with Client(server.port) as client:
        client.send(b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"
        for _ in range(17):
            client.send(chunk)
        assert client.answers(1)[0][0] == 413
    for header in (b"x: " + b"a" * 100_000, b"x: a\r\n" * 20_000, b"a" * 100_000):
        with Client(server.port) as client:
            client.send(b"GET /status HTTP/1.1\r\nhost: a\r\n" + header)
            assert client.answers(1)[0][0] in (400, 431)
    rows = json.dumps([{}] * 20_001).encode()
    with Client(server.port) as client:
        assert client.post("/predict/made", rows)[0] == 413


def test_the_v2_protocol_answers_tensors_by_column(client: Client) -> None:
    assert client.get("/v2/health/live")[0] == 200
    assert client.get("/v2/health/ready")[0] == 200
    assert client.get("/v2")[1]["name"] == "everloop"
    assert client.get("/v2/models/made/ready")[0] == 200
    described = client.get("/v2/models/made")[1]
    assert [(each["name"], each["datatype"]) for each in described["inputs"][:5]] == (
        [("x", "FP64"), ("n", "INT64"), ("b", "BOOL"), ("when", "INT64"), ("t", "BYTES")]
    )
    inputs = [
        {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [[1.0], [None]]},
        {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["yes", "no"]},
    ]
    status, answer = client.post("/v2/models/made/infer", {"id": "q", "inputs": inputs})
    assert status == 200
    assert answer["id"] == "q"
    assert answer["model_version"] == "1"
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["decision"]["data"] == [True, True]
    assert outputs["probability"]["shape"] == [2, 2]
    assert outputs["probability"]["data"][1] == pytest.approx(expected(2))
    one = client.post("/v2/models/made/infer", {"inputs": inputs, "outputs": [{"name": "decision"}]})[1]
    assert [each["name"] for each in one["outputs"]] == ["decision"]


V2_WRONG = [
    ({"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1]}]}, "1 values"),
    ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}, "shape"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}, "FP64"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": ["a"]}]}, "'x'"),
    ({"inputs": [{"name": "q", "shape": [1], "datatype": "FP64", "data": [1]}]}, "'q'"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}] * 2}, "twice"),
    ({"inputs": [], "outputs": [{"name": "no"}]}, "no output"),
    ({"input": []}, "V2"),
    ({"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [[1], 2]}]}, "mixes"),
]


@pytest.mark.parametrize(("body", "word"), V2_WRONG, ids=range(len(V2_WRONG)))
def test_a_wrong_inference_request_is_a_400_that_says_why(client: Client, body: Any, word: str) -> None:
    status, answer = client.post("/v2/models/made/infer", body)
    assert status == 400
    assert word in answer["error"]


def test_metrics_and_status_say_what_happened(client: Client) -> None:
    client.post("/predict/made", {"x": 1})
    text = client.get("/metrics")[1].decode()
    assert 'everloop_request_seconds_count{model_name="made",model_version="1",variant="champion"}' in text
    assert "everloop_log_lost_rows_total" in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= -1
    status = client.get("/status")[1]["loops"]["made"]
    assert status["ready"] is True
    assert status["champion"]["version"] == 1


def test_head_is_answered_without_a_body(server: ServerProcess) -> None:
    with Client(server.port) as client:
        client.send(b"HEAD /status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        data = b""
        while part := client.socket.recv(1000):
            data += part
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"\r\n\r\n")


WRONG_OUTCOMES = [
    {"id": "", "value": 1}, {"value": 1}, {"id": "a"}, {"id": "a", "value": [1]}, {"id": 7, "value": 1},
    {"id": "a", "value": 1, "at": "late"}, {"id": "a", "value": 1, "at": "2026-01-01T00:00:00"},
    {"id": "a", "value": 2**64}, {"id": "a", "value": 1, "more": 2}, b"nothing",
    [{"id": "a", "value": 1}, {"id": "b", "value": "of no class"}],
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG_OUTCOMES, ids=range(len(WRONG_OUTCOMES)))
def test_a_wrong_outcome_is_a_400(client: Client, body: Any) -> None:
    assert client.post("/outcomes/made", body)[0] == 400
