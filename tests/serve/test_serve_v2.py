"""The Open Inference Protocol V2 over HTTP: Triton's own client against a real server, and whatever else a body may be."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from everloop.errors import RequestError
from everloop.records import MISSING_INTEGER
from everloop.serve import v2, v2_body
from everloop.serve.settings import ServerSettings, encode
from everloop.serve.v2_values import ALL_DATATYPES
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, live_of, message, signature_of

COLUMNS = {
    "x": "number", "y": "number", "n": "integer", "b": "boolean", "when": "instant:America/Chicago", "t": "text",
    "image": "FP32[2,3,4]",
}  # fmt: skip
IMAGE = np.random.default_rng(0).normal(0, 0.1, (2, 2, 3, 4)).astype(np.float32)
SUMS = IMAGE.astype(np.float64).sum(axis=(1, 2, 3))
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedHome:
    home = ServedHome(tmp_path_factory.mktemp("home"))
    home.seal(1, signature_of(COLUMNS))
    home.seal(2, signature_of(COLUMNS), bias=1.0)
    home.release(1, 2)
    return home


@pytest.fixture(scope="module")
def server(served: ServedHome) -> Iterator[ServerProcess]:
    with served.serve() as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connection:
        yield connection


@pytest.fixture
def asked(server: ServerProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=30.0) as connection:
        yield connection


def tensor(name: str, values: Array, datatype: str, *, binary: bool = True) -> Any:
    sent = triton.InferInput(name, list(values.shape), datatype)
    sent.set_data_from_numpy(values, binary_data=binary)
    return sent


def image(*, binary: bool = True) -> Any:
    return tensor("image", IMAGE, "FP32", binary=binary)


def positive(result: Any) -> list[float]:
    found: list[float] = result.as_numpy("probability")[:, 1].tolist()
    return found


# Triton's client, unchanged


def test_triton_asks_for_health_and_metadata(asked: Any) -> None:
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("made")
    assert asked.is_model_ready("made", "1")
    assert asked.is_model_ready("made", "2")
    assert not asked.is_model_ready("made", "3")
    assert not asked.is_model_ready("other")
    server = asked.get_server_metadata()
    assert server["name"] == "everloop"
    assert "binary_tensor_data" in server["extensions"]
    told = asked.get_model_metadata("made")
    assert told["versions"] == ["1", "2"]
    assert {each["name"]: (each["datatype"], each["shape"]) for each in told["inputs"]} == {
        "x": ("FP64", [-1]), "y": ("FP64", [-1]), "n": ("INT64", [-1]), "b": ("BOOL", [-1]), "when": ("INT64", [-1]),
        "t": ("BYTES", [-1]), "image": ("FP32", [-1, 2, 3, 4]),
    }  # fmt: skip
    assert {each["name"]: (each["datatype"], each["shape"]) for each in told["outputs"]} == {
        "id": ("BYTES", [-1]), "version": ("INT64", [-1]), "decision": ("BOOL", [-1]),
        "probability": ("FP64", [-1, 2]),
    }  # fmt: skip
    assert asked.get_model_metadata("made", "2")["versions"] == ["1", "2"]


@pytest.mark.parametrize("into", [True, False], ids=["binary in", "json in"])
@pytest.mark.parametrize("out", [True, False], ids=["binary out", "json out"])
def test_triton_sends_and_gets_every_form_of_data(asked: Any, into: bool, out: bool) -> None:
    inputs = [
        tensor("x", np.array([0.25, np.nan if into else 0.0]), "FP64", binary=into),
        tensor("n", np.array([1, 2], np.int64), "INT64", binary=into),
        tensor("b", np.array([True, False]), "BOOL", binary=into),
        tensor("t", np.array([b"yes", "nö".encode()], np.object_), "BYTES", binary=into),
        image(binary=into),
    ]
    outputs = [triton.InferRequestedOutput(name, binary_data=out) for name in ("probability", "decision", "id")]
    result = asked.infer("made", inputs, outputs=outputs, request_id="a request")
    assert result.get_response()["id"] == "a request"
    assert result.get_response()["model_version"] == "1"
    wanted = [expected(3.25 + SUMS[0]), expected(2 + SUMS[1])]
    assert positive(result) == pytest.approx(wanted, rel=1e-6)
    assert result.as_numpy("decision").tolist() == [True, True]
    assert len(result.as_numpy("id")) == 2
    assert result.as_numpy("version") is None


def test_triton_mixes_binary_and_json_and_gets_all_outputs_when_it_names_none(asked: Any) -> None:
    result = asked.infer("made", [tensor("x", np.array([1.0, 2.0]), "FP64", binary=False), image()])
    assert positive(result) == pytest.approx([expected(1 + SUMS[0]), expected(2 + SUMS[1])], rel=1e-6)
    assert result.as_numpy("version").tolist() == [1, 1]
    assert all("parameters" in each for each in result.get_response()["outputs"])
    mixed = [
        triton.InferRequestedOutput("probability", binary_data=True),
        triton.InferRequestedOutput("decision", binary_data=False),
    ]
    told = asked.infer("made", [image()], outputs=mixed).get_response()["outputs"]
    assert ["data" in each for each in told] == [False, True]


def test_triton_sends_all_numbers_as_one_tensor(asked: Any) -> None:
    numbers = np.array([[0.5, 0.25], [1.0, np.nan]])
    whole = np.array([[3, 1, 0], [2, 0, MISSING_INTEGER]])
    inputs = [tensor("numbers", numbers, "FP64"), tensor("integers", whole, "INT64"), image()]
    assert positive(asked.infer("made", inputs)) == pytest.approx(
        [expected(0.75 + 4 + SUMS[0]), expected(1 + 2 + SUMS[1])], rel=1e-6
    )
    texts = tensor("texts", np.array([["yes"], ["no"]], np.object_), "BYTES", binary=False)
    assert positive(asked.infer("made", [texts, image()])) == pytest.approx(
        [expected(1 + SUMS[0]), expected(SUMS[1])], rel=1e-6
    )


DATATYPES = ["FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_triton_sends_numbers_of_every_datatype(asked: Any, datatype: str) -> None:
    values = np.array([[3], [1]]).astype(triton_type(datatype))
    names = ("x",) if datatype.startswith("FP") else ("x", "n")
    for name in names:
        for binary in (True, False) if datatype != "FP16" else (True,):
            found = positive(asked.infer("made", [tensor(name, values, datatype, binary=binary), image()]))
            assert found == pytest.approx([expected(3 + SUMS[0]), expected(1 + SUMS[1])], rel=1e-6)


def triton_type(datatype: str) -> Any:
    return np.dtype({"F": "float", "I": "int", "U": "uint"}[datatype[0]] + datatype.strip("FPUINT"))


def test_a_wrong_tensor_is_an_exception_that_says_what_is_wrong(asked: Any) -> None:
    wrong = [
        ([tensor("image", IMAGE[:, :1], "FP32")], ["'image'", "[2, 1, 3, 4]", "[n, 2, 3, 4]"]),
        ([tensor("image", IMAGE.astype(np.float64), "FP64")], ["'image'", "FP64", "expected FP32"]),
        ([tensor("image", IMAGE * np.float32(np.inf), "FP32")], ["'image'", "finite"]),
        ([tensor("x", np.array([1.0, 2.0, 3.0]), "FP64"), image()], ["2 rows", "3"]),
        ([tensor("x", np.zeros((2, 2)), "FP64"), image()], ["'x'", "[2, 2]", "[n, 1]"]),
        ([tensor("x", np.array([1.0, np.inf]), "FP64"), image()], ["'x'", "infinite"]),
        ([tensor("n", np.array([2**63, 0], np.uint64), "UINT64"), image()], ["'n'", "9223372036854775808"]),
        ([tensor("t", np.array([b"\xff", b""], np.object_), "BYTES"), image()], ["'t'", "UTF-8"]),
        ([tensor("t", np.array([b"\x00", b""], np.object_), "BYTES"), image()], ["'t'", "NUL"]),
        ([tensor("when", np.array([b"soon", b""], np.object_), "BYTES"), image()], ["'when'", "ISO 8601"]),
        ([tensor("numbers", np.zeros((2, 3)), "FP64"), image()], ["'numbers'", "[2, 3]", "'x', 'y'"]),
        ([tensor("integers", np.full((2, 3), 7), "INT64"), image()], ["'b'", "0 or 1", "7"]),
        ([tensor("z", np.zeros(2), "FP64"), image()], ["'z'", "'x', 'y', 'n'", "'numbers'"]),
        ([tensor("x", np.zeros(2), "FP64")], ["'image'", "missing"]),
        ([image(), image()], ["twice"]),
        ([tensor("x", np.zeros(2), "FP64"), tensor("numbers", np.zeros((2, 2)), "FP64")], ["'x'", "twice"]),
    ]
    for inputs, words in wrong:
        with pytest.raises(InferenceServerException) as refused:
            asked.infer("made", inputs)
        assert refused.value.status() == "400"
        for word in words:
            assert word in refused.value.message(), (word, refused.value.message())
    with pytest.raises(InferenceServerException, match="no output 'best'"):
        asked.infer("made", [image()], outputs=[triton.InferRequestedOutput("best")])
    with pytest.raises(InferenceServerException, match="classification"):
        asked.infer("made", [image()], outputs=[triton.InferRequestedOutput("probability", class_count=2)])
    with pytest.raises(InferenceServerException, match="sequence"):
        asked.infer("made", [image()], sequence_id=7)
    with pytest.raises(InferenceServerException, match="priority is 9"):
        asked.infer("made", [image()], priority=9)
    assert asked.infer("made", [image()], priority=1, timeout=30_000_000).as_numpy("version") is not None
    assert asked.infer("made", [image()]).as_numpy("version") is not None


# Versions


def test_a_version_that_is_asked_for_answers_and_counts_for_nobody(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    for version in (1, 2):
        home.seal(version, signature_of({"x": "number"}), bias=float(version))
    home.release(1, 2, stage="canary", share=0.5)
    sent = [tensor("x", np.zeros(20), "FP64")]
    with home.serve("--seed", "7") as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
            for version in (1, 2):
                result = asked.infer("made", sent, model_version=str(version))
                assert result.as_numpy("version").tolist() == [version] * 20
                assert positive(result) == pytest.approx([expected(version)] * 20)
                assert result.get_response()["model_version"] == str(version)
            assert set(asked.infer("made", sent).as_numpy("version").tolist()) == {1, 2}
            for path in ("3", "one", "01x", "9" * 40):
                with pytest.raises(InferenceServerException, match="live are 1, 2") as refused:
                    asked.infer("made", sent, model_version=path)
                assert refused.value.status() == "404"
        server.terminate()
    assert sum(len(frame.ids) for frame in home.predictions("override")) == 40


def test_only_testers_may_ask_for_a_version_that_nobody_was_to_see_yet(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    for version in (1, 2):
        home.seal(version, signature_of({"x": "number"}))
    home.release(1, 2)
    home.home.settings.write_bytes(encode(ServerSettings(override="no")))
    sent = [tensor("x", np.zeros(1), "FP64")]
    with (
        home.serve("--settings", str(home.home.settings)) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked,
    ):
        assert asked.infer("made", sent, model_version="1").as_numpy("version").tolist() == [1]
        with pytest.raises(InferenceServerException, match="testers") as refused:
            asked.infer("made", sent, model_version="2")
        assert refused.value.status() == "403"


def test_an_answer_that_would_come_too_late_is_refused_before_it_is_computed(asked: Any) -> None:
    with pytest.raises(InferenceServerException, match="to be answered within") as refused:
        asked.infer("made", [image()], timeout=1)
    assert refused.value.status() == "503"


def test_the_only_version_counts_as_the_champion_when_it_is_asked_for(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(4, signature_of({"x": "number"}))
    home.release(4)
    with home.serve() as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
            asked.infer("made", [tensor("x", np.zeros(3), "FP64")], model_version="4")
        server.terminate()
    assert sum(len(frame.ids) for frame in home.predictions("champion")) == 3


CLASSES: list[tuple[dict[str, Any], str, Any]] = [
    ({"classes": (False, True)}, "BOOL", True),
    ({"classes": (3, 5)}, "INT64", 5),
    ({"classes": ("a", "ü")}, "BYTES", "ü".encode()),
    ({"classes": (0.5, 1.5)}, "FP64", 1.5),
    ({"task": "regression", "classes": (), "positive": None}, "FP64", 2.0),
]


@pytest.mark.parametrize(("changes", "datatype", "answer"), CLASSES, ids=lambda each: str(each)[:20])
def test_answers_have_the_datatype_of_their_classes(
    tmp_path: Path, changes: dict[str, Any], datatype: str, answer: Any
) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number"}, **changes))
    home.release(1)
    name = "value" if changes.get("task") else "decision"
    with home.serve() as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
        told = {each["name"]: each["datatype"] for each in asked.get_model_metadata("made")["outputs"]}
        assert told[name] == datatype
        for binary in (True, False):
            wanted = [triton.InferRequestedOutput(name, binary_data=binary)]
            found = asked.infer("made", [tensor("x", np.array([2.0]), "FP64")], outputs=wanted).as_numpy(name).tolist()
            assert found == [answer if binary or not isinstance(answer, bytes) else answer.decode()]


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


def test_the_examples_of_the_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "serving-protocols.md"
    examples = re.findall(r"```py\n(.*?)```", page.read_text("utf-8"), re.S)
    assert len(examples) == 2
    home = ServedHome(tmp_path, "parcels")
    home.seal(1, signature_of({"distance_km": "number", "carrier": "text"}))
    home.release(1)
    with home.serve("--grpc-port", "0") as server:
        for example in examples:
            code = example.replace("localhost:8700", f"127.0.0.1:{server.port}")
            code = code.replace("localhost:8701", f"127.0.0.1:{server.grpc_port}")
            exec(compile(f"{code}\nclient.close()", "example", "exec"), {})
    probabilities, decisions = capsys.readouterr().out.splitlines()
    assert probabilities.count("1.") == 2
    assert decisions == "[ True  True]"
