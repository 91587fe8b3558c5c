"""Bodies of the Open Inference Protocol V2: malformed ones by hand, and whatever else a body may be."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import RequestError
from everloop.records import MISSING_INTEGER
from everloop.serve import v2, v2_body
from everloop.serve.v2_values import ALL_DATATYPES
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, live_of, message, signature_of

COLUMNS = {
    "x": "number", "y": "number", "n": "integer", "b": "boolean", "when": "instant:America/Chicago", "t": "text",
    "image": "FP32[2,3,4]",
}  # fmt: skip
IMAGE = np.random.default_rng(0).normal(0, 0.1, (2, 2, 3, 4)).astype(np.float32)
SUMS = IMAGE.astype(np.float64).sum(axis=(1, 2, 3))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = ServedHome(tmp_path_factory.mktemp("home"))
    home.seal(1, signature_of(COLUMNS))
    home.release(1)
    with home.serve() as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connection:
        yield connection


# Bodies by hand


def framed(told: dict[str, Any], *parts: bytes) -> tuple[bytes, str]:
    head = json.dumps(told).encode()
    return b"".join((head, *parts)), str(len(head))


def one(name: str = "x", datatype: str = "FP64", shape: Any = (1,), **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), **more}]}


DOUBLE = struct.pack("<d", 1.5)
SIZED: dict[str, Any] = {"parameters": {"binary_data_size": 8}}
MALFORMED: list[tuple[tuple[bytes, str], list[str]]] = [
    (framed(one(**SIZED)), ["'x'", "beyond the 0 bytes"]),
    (framed(one(**SIZED), DOUBLE, b"more"), ["goes on for 4 bytes"]),
    (framed(one(shape=(2,), **SIZED), DOUBLE), ["'x'", "8 bytes", "16"]),
    (framed(one(shape=(), **SIZED), DOUBLE), ["'x'", "[]"]),
    (framed(one(shape=(-1,), **SIZED), DOUBLE), ["'x'", "[-1]"]),
    (framed(one(shape=(10**40,), **SIZED), DOUBLE), ["'x'", "8 bytes"]),
    (framed(one(shape=(1,) * 5000, **SIZED), DOUBLE), ["'x'", "[1, 1"]),
    (framed(one(data=[1.5], **SIZED), DOUBLE), ["'x'", "both"]),
    (framed(one()), ["'x'", "no data"]),
    (framed(one(parameters={"binary_data_size": -8}), DOUBLE), ["'x'", "binary_data_size"]),
    (framed(one(parameters={"binary_data_size": 8.0}), DOUBLE), ["'x'", "binary_data_size"]),
    (framed(one(parameters={"binary_data_size": True}), DOUBLE), ["'x'", "binary_data_size"]),
    (framed(one(parameters={"binary_data_size": 10**30}), DOUBLE), ["'x'", "beyond"]),
    (framed(one(parameters={"shared_memory_region": "a", "binary_data_size": 8}), DOUBLE), ["shared memory"]),
    (framed(one("b", "BOOL", parameters={"binary_data_size": 1}), b"\x02"), ["'b'", "0 and 1"]),
    (framed(one("t", "BYTES", parameters={"binary_data_size": 3}), b"abc"), ["'t'", "middle of a length"]),
    (framed(one("t", "BYTES", **SIZED), struct.pack("<I", 2**32 - 1) + b"abcd"), ["'t'", "4294967295"]),
    (framed(one("t", "BYTES", **SIZED), bytes(8)), ["'t'", "2 values", "says 1"]),
    (framed(one("x", "BF16", **SIZED), DOUBLE), ["'x'", "BF16", "known are"]),
    (framed({"inputs": []}), ["no inputs"]),
    (framed({**one(data=[1]), "parameters": {"binary_data_output": 1}}), ["binary_data_output"]),
    (framed({**one(data=[1]), "parameters": {"timeout": -1}}), ["timeout"]),
    (framed({**one(data=[1]), "parameters": {"timeout": "soon"}}), ["timeout"]),
    (framed({**one(data=[1]), "parameters": {"priority": True}}), ["priority"]),
    (framed({**one(data=[1]), "outputs": [{"name": "id", "parameters": {"binary_data": "yes"}}]}), ["binary_data"]),
    (framed({**one(data=[1]), "outputs": [{"name": "id"}, {"name": "version"}, {"name": "id"}]}), ["'id'", "twice"]),
    (framed(one(data=["a"])), ["'x'", '"a"', "a number"]),
    (framed(one(shape=(2, 1), data=[[1], [{}]])), ["'x'", "{}", "place 1"]),
    (framed(one(shape=(1, 1), data=[[1, 2]])), ["'x'", "nested"]),
    (framed(one(datatype="INT8", data=[300])), ["'x'", "300", "INT8", "127"]),
    (framed(one(datatype="UINT8", data=[-1])), ["'x'", "-1", "UINT8"]),
    (framed(one(datatype="INT64", data=[10**400])), ["'x'"]),
    (framed(one("n", "INT64", data=[MISSING_INTEGER])), ["'n'", "-9223372036854775808"]),
    (framed(one(data=7)), ["'x'", "no array"]),
    ((b"{}", "-2"), ["Inference-Header-Content-Length", "'-2'"]),
    ((b"{}", "3"), ["Inference-Header-Content-Length", "2 bytes"]),
    ((b"{}", "9" * 400), ["Inference-Header-Content-Length"]),
    ((b"{}", "0x2"), ["Inference-Header-Content-Length"]),
    ((b"{}", "\u00b2"), ["Inference-Header-Content-Length"]),
    ((b"{}", "0"), ["Open Inference Protocol"]),
    ((b"[" * 100_000, "100000"), ["Open Inference Protocol"]),
]


@pytest.mark.parametrize(("sent", "words"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_body_is_a_400_that_says_where(client: Client, sent: tuple[bytes, str], words: list[str]) -> None:
    body, length = sent
    head = f"POST /v2/models/made/infer HTTP/1.1\r\nhost: a\r\ninference-header-content-length: {length}\r\n"
    client.send(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    ((status, answer),) = client.answers(1)
    assert status == 400, answer
    for word in words:
        assert word in json.loads(answer)["error"]
    assert client.get("/v2/health/live")[0] == 200


def test_a_binary_input_needs_the_length_of_the_json(client: Client) -> None:
    status, answer = client.post("/v2/models/made/infer", one(**SIZED))
    assert status == 400
    assert "Inference-Header-Content-Length" in answer["error"]


def test_an_answer_with_bytes_says_where_they_begin(client: Client) -> None:
    told = {**one("image", "FP32", IMAGE.shape, data=IMAGE.tolist()), "parameters": {"binary_data_output": True}}
    told["outputs"] = [{"name": "version"}, {"name": "probability", "parameters": {"binary_data": False}}]
    client.send(message("POST", "/v2/models/made/infer", told))
    ((status, body),) = client.answers(1)
    assert status == 200
    assert client.headers[b"content-type"] == b"application/octet-stream"
    length = int(client.headers[b"inference-header-content-length"])
    outputs = json.loads(body[:length])["outputs"]
    assert [each["name"] for each in outputs] == ["version", "probability"]
    assert outputs[0]["parameters"] == {"binary_data_size": 16}
    assert len(outputs[1]["data"]) == 4
    assert np.frombuffer(body[length:], "<i8").tolist() == [1, 1]


def test_no_rows_are_answered_by_no_rows(client: Client) -> None:
    status, answer = client.post("/v2/models/made/infer", one(shape=(0,), data=[]))
    assert status == 200
    assert {each["name"]: each["shape"] for each in answer["outputs"]}["probability"] == [0, 2]


def test_requests_in_every_form_share_batches_and_connections(client: Client) -> None:
    """Pipelined: named columns, JSON tensors, bytes."""
    body, length = framed(one("image", "FP32", (1, 2, 3, 4), parameters={"binary_data_size": 96}), IMAGE[0].tobytes())
    mixed = [
        message("POST", "/predict/made", {"image": IMAGE[0].tolist()}),
        message("POST", "/v2/models/made/infer", one("image", "FP32", (1, 2, 3, 4), data=IMAGE[:1].tolist())),
        message("POST", "/v2/models/made/infer", body, inference_header_content_length=length),
    ] * 10
    client.send(b"".join(mixed))
    answers = [json.loads(body) for status, body in client.answers(30) if status == 200]
    wanted = pytest.approx(expected(SUMS[0]), rel=1e-6)
    for named, tensors, binary in zip(*[iter(answers)] * 3, strict=True):
        assert named["probability"]["true"] == wanted
        for answer in (tensors, binary):
            assert next(each for each in answer["outputs"] if each["name"] == "probability")["data"][1] == wanted


# Whatever a body may be


LIVE = live_of(signature_of(COLUMNS, key=("who",)))
SCALAR = {"x": "number", "y": "number", "n": "integer", "b": "boolean", "t": "text"}
PLAIN = live_of(signature_of(SCALAR))
names = st.sampled_from([*COLUMNS, "who", "numbers", "integers", "texts", "z"])
datatypes = st.sampled_from([*ALL_DATATYPES, "FP8", ""])
sizes = st.one_of(st.integers(-2, 4), st.sampled_from([24, 2**31, 2**63, 2**64, 10**30]))
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=8,
)
parameters = st.fixed_dictionaries(
    {}, optional={"binary_data_size": st.integers(-1, 40) | junk, "shared_memory_region": junk}
)
sent_tensors = st.fixed_dictionaries(
    {"name": names, "datatype": datatypes, "shape": st.lists(sizes, max_size=5) | junk},
    optional={"data": st.lists(junk, max_size=6) | junk, "parameters": parameters | junk},
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(sent_tensors, max_size=4) | junk},
    optional={
        "id": st.text(max_size=5) | junk,
        "parameters": st.dictionaries(
            st.sampled_from(["priority", "timeout", "sequence_id", "binary_data_output", "other"]), junk, max_size=4
        ),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["id", "decision", "no"]) | junk},
                optional={"parameters": st.dictionaries(st.sampled_from(["binary_data", "classification"]), junk)},
            ),
            max_size=3,
        ),
    },
)


@settings(max_examples=400, deadline=None)
@given(requests, st.binary(max_size=64), st.one_of(st.none(), st.binary(max_size=6), st.integers(-4, 4)))
def test_whatever_is_sent_is_read_or_refused_with_a_4xx(told: Any, rest: bytes, length: Any) -> None:
    head = json.dumps(told).encode()
    header = b"%d" % (len(head) + length) if isinstance(length, int) else length
    for live in (LIVE, PLAIN):
        try:
            request = v2_body.decode(head + rest, header)
            v2.urgency(request.parameters)
            rows = v2.rows(request, live)
        except RequestError as error:
            refused = error
        else:
            packed = live.champion.packer.pack(rows)
            assert all(len(array) == len(rows) for array in packed.values())
            assert all(np.isfinite(array).all() for name, array in packed.items() if name == "image")
            continue
        assert 400 <= refused.status < 500
        assert len(str(refused)) < 3000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.binary(max_size=5), st.integers(0, 200)))
def test_bytes_that_are_no_request_are_refused_with_a_400(body: bytes, length: Any) -> None:
    header = b"%d" % length if isinstance(length, int) else length
    with pytest.raises(RequestError) as refused:
        v2_body.decode(body, header)
    assert refused.value.status == 400


number = st.none() | st.floats(allow_infinity=False, allow_nan=False)
integer = st.none() | st.integers(MISSING_INTEGER + 1, 2**63 - 1)
values = st.fixed_dictionaries(
    {"x": number, "y": number, "n": integer, "b": st.none() | st.booleans(), "t": st.none() | st.text(max_size=5)}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, min_size=1, max_size=5))
def test_named_columns_json_tensors_and_bytes_give_the_graph_the_same(rows: list[dict[str, Any]]) -> None:
    count = len(rows)
    for row in rows:
        if row["t"] is not None:
            row["t"] = row["t"].replace("\x00", "0")
    read, _ = PLAIN.reader.read(msgspec.json.encode(rows))
    wanted = PLAIN.champion.packer.pack(read)
    columns = {name: [row[name] for row in rows] for name in SCALAR}
    kinds = {"x": "FP64", "y": "FP64", "n": "INT64", "b": "BOOL", "t": "BYTES"}
    tensors = [
        {"name": name, "datatype": kinds[name], "shape": [count], "data": data} for name, data in columns.items()
    ]
    found = [v2_body.decode(msgspec.json.encode({"inputs": tensors}), None)]

    # The same as bytes, all of a kind in one tensor: missing is NaN and the least integer; a missing text stays JSON.
    numbers = np.array([[np.nan if row[name] is None else row[name] for name in "xy"] for row in rows], "<f8")
    integers = np.array([[MISSING_INTEGER if row[name] is None else row[name] for name in "nb"] for row in rows], "<i8")
    told = {
        "inputs": [
            {"name": name, "datatype": kind, "shape": [count, 2], "parameters": {"binary_data_size": 16 * count}}
            for name, kind in (("numbers", "FP64"), ("integers", "INT64"))
        ]
        + [{"name": "texts", "datatype": "BYTES", "shape": [count, 1], "data": columns["t"]}]
    }
    head = msgspec.json.encode(told)
    found.append(v2_body.decode(head + numbers.tobytes() + integers.tobytes(), b"%d" % len(head)))
    for request in found:
        packed = PLAIN.champion.packer.pack(v2.rows(request, PLAIN))
        for kind, array in wanted.items():
            np.testing.assert_array_equal(packed[kind], array)
