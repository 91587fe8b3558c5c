"""The Open Inference Protocol V2 over gRPC: Triton's own client against a real server, and messages made by hand."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from everloop.errors import RequestError
from everloop.records import MISSING_INTEGER
from everloop.serve import grpc_messages, v2
from everloop.serve.grpc_calls import request_of
from everloop.serve.v2_values import ALL_DATATYPES
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, live_of, signature_of

COLUMNS = {"x": "number", "y": "number", "n": "integer", "b": "boolean", "t": "text", "image": "FP32[2,3,4]"}
IMAGE = np.random.default_rng(0).normal(0, 0.1, (2, 2, 3, 4)).astype(np.float32)
SUMS = IMAGE.astype(np.float64).sum(axis=(1, 2, 3))
LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
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
    with served.serve("--grpc-port", "0") as process:
        yield process


@pytest.fixture
def asked(server: ServerProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


def tensor(name: str, values: Array, datatype: str) -> Any:
    sent = triton.InferInput(name, list(values.shape), datatype)
    sent.set_data_from_numpy(values)
    return sent


def image() -> Any:
    return tensor("image", IMAGE, "FP32")


def positive(result: Any) -> list[float]:
    found: list[float] = result.as_numpy("probability")[:, 1].tolist()
    return found


# Triton's client, unchanged


def test_triton_asks_for_health_and_metadata(asked: Any) -> None:
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("made")
    assert asked.is_model_ready("made", "2")
    assert not asked.is_model_ready("made", "3")
    assert not asked.is_model_ready("other")
    told = asked.get_server_metadata()
    assert told.name == "everloop"
    assert "schedule_policy" in told.extensions
    model = asked.get_model_metadata("made")
    assert list(model.versions) == ["1", "2"]
    assert {each.name: (each.datatype, list(each.shape)) for each in model.inputs} == {
        "x": ("FP64", [-1]), "y": ("FP64", [-1]), "n": ("INT64", [-1]), "b": ("BOOL", [-1]), "t": ("BYTES", [-1]),
        "image": ("FP32", [-1, 2, 3, 4]),
    }  # fmt: skip
    assert [each.name for each in model.outputs] == ["id", "version", "decision", "probability"]
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        asked.get_model_metadata("other")


def test_triton_sends_and_gets_tensors(asked: Any) -> None:
    inputs = [
        tensor("x", np.array([0.25, np.nan]), "FP64"),
        tensor("n", np.array([1, 2], np.int32), "INT32"),
        tensor("b", np.array([True, False]), "BOOL"),
        tensor("t", np.array([b"yes", "nö".encode()], np.object_), "BYTES"),
        image(),
    ]
    result = asked.infer("made", inputs, request_id="a request")
    assert result.get_response().id == "a request"
    assert result.get_response().model_version == "1"
    assert positive(result) == pytest.approx([expected(3.25 + SUMS[0]), expected(2 + SUMS[1])], rel=1e-6)
    assert result.as_numpy("decision").tolist() == [True, True]
    assert result.as_numpy("version").tolist() == [1, 1]
    assert all(each.decode() for each in result.as_numpy("id"))
    one = asked.infer("made", inputs, outputs=[triton.InferRequestedOutput("decision")])
    assert [each.name for each in one.get_response().outputs] == ["decision"]


def test_triton_sends_all_of_a_kind_as_one_tensor_and_asks_for_a_version(asked: Any) -> None:
    numbers = tensor("numbers", np.array([[0.5, 0.25], [1.0, np.nan]]), "FP64")
    whole = tensor("integers", np.array([[3, 1], [2, MISSING_INTEGER]]), "INT64")
    wanted = np.array([0.75 + 4 + SUMS[0], 1 + 2 + SUMS[1]])
    assert positive(asked.infer("made", [numbers, whole, image()])) == pytest.approx(expected_of(wanted), rel=1e-6)
    newer = asked.infer("made", [numbers, whole, image()], model_version="2")
    assert positive(newer) == pytest.approx(expected_of(wanted + 1), rel=1e-6)
    assert newer.as_numpy("version").tolist() == [2, 2]


def expected_of(totals: Array) -> list[float]:
    return [expected(each) for each in totals]


def test_a_wrong_tensor_is_an_exception_that_says_what_is_wrong(asked: Any) -> None:
    wrong: list[tuple[list[Any], list[str]]] = [
        ([tensor("image", IMAGE[:, :1], "FP32")], ["'image'", "[2, 1, 3, 4]", "[n, 2, 3, 4]"]),
        ([tensor("x", np.array([1.0, 2.0, 3.0]), "FP64"), image()], ["2 rows", "3"]),
        ([tensor("x", np.array([1.0, np.inf]), "FP64"), image()], ["'x'", "infinite"]),
        ([tensor("t", np.array([b"\xff", b""], np.object_), "BYTES"), image()], ["'t'", "UTF-8"]),
        ([tensor("z", np.zeros(2), "FP64"), image()], ["'z'", "'x', 'y', 'n'"]),
        ([tensor("x", np.zeros(2), "FP64")], ["'image'", "missing"]),
        ([image(), image()], ["twice"]),
    ]
    for inputs, words in wrong:
        with pytest.raises(InferenceServerException) as refused:
            asked.infer("made", inputs)
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        for word in words:
            assert word in refused.value.message()
    others: list[tuple[dict[str, Any], str, list[str]]] = [
        ({"model_name": "other"}, "NOT_FOUND", ["'other'", "made"]),
        ({"model_version": "3"}, "NOT_FOUND", ["Version 3", "1, 2"]),
        ({"model_version": "new"}, "NOT_FOUND", ["'new'", "1, 2"]),
        ({"outputs": [triton.InferRequestedOutput("best")]}, "INVALID_ARGUMENT", ["'best'"]),
        ({"outputs": [triton.InferRequestedOutput("id", class_count=2)]}, "INVALID_ARGUMENT", ["classification"]),
        ({"priority": 9}, "INVALID_ARGUMENT", ["priority is 9"]),
        ({"sequence_id": "a"}, "INVALID_ARGUMENT", ["sequence"]),
    ]
    for more, status, words in others:
        with pytest.raises(InferenceServerException) as refused:
            asked.infer(**{"model_name": "made", "inputs": [image()], **more})
        assert refused.value.status() == f"StatusCode.{status}"
        for word in words:
            assert word in refused.value.message()
    assert asked.infer("made", [image()], priority=3, timeout=30_000_000, client_timeout=30.0) is not None


# Messages by hand


def our(name: str, **fields: Any) -> Any:
    return grpc_messages.message(name)(**fields)


def ask(channel: Any, request: Any, **more: Any) -> Any:
    return channel.unary_unary(
        INFER,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=grpc_messages.message("ModelInferResponse").FromString,
    )(request, timeout=30, **more)


def typed(name: str, datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


def test_every_message_has_the_fields_of_the_protocol() -> None:
    """Held against the messages that Triton's client brings: same names, numbers and types on the wire."""
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name in grpc_messages.MESSAGES:
        if name.startswith("HealthCheck"):
            continue
        outer, _, inner = name.partition(".")
        known = theirs[outer].nested_types_by_name[inner] if inner else theirs[outer]
        for field in grpc_messages.message(name).DESCRIPTOR.fields:
            other = known.fields_by_name[field.name]
            assert (other.number, other.type, other.is_repeated) == (field.number, field.type, field.is_repeated)
            if field.message_type is not None:
                assert other.message_type.full_name == field.message_type.full_name


def test_typed_contents_are_answered_by_typed_contents(channel: Any) -> None:
    inputs = [
        typed("x", "FP64", [2], fp64_contents=[0.5, 1.0]),
        typed("y", "FP32", [2, 1], fp32_contents=[1.5, 2.0]),
        typed("n", "UINT8", [2], uint_contents=[3, 4]),
        typed("b", "BOOL", [2], bool_contents=[True, False]),
        typed("t", "BYTES", [2], bytes_contents=[b"no", b"yes"]),
        typed("image", "FP32", [2, 2, 3, 4], fp32_contents=IMAGE.ravel().tolist()),
    ]
    answer = ask(channel, our("ModelInferRequest", model_name="made", id="q", inputs=inputs))
    assert answer.id == "q"
    assert not answer.raw_output_contents
    outputs = {each.name: each for each in answer.outputs}
    assert list(outputs["probability"].shape) == [2, 2]
    assert list(outputs["probability"].contents.fp64_contents)[1::2] == pytest.approx(
        [expected(6 + SUMS[0]), expected(8 + SUMS[1])], rel=1e-6
    )
    assert list(outputs["decision"].contents.bool_contents) == [True, True]
    assert list(outputs["version"].contents.int64_contents) == [1, 1]
    assert len(outputs["id"].contents.bytes_contents) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"inputs": [typed("x", "FP64", [1], fp32_contents=[1.0])]}, "send fp64_contents"),
    ({"inputs": [typed("x", "FP64", [2], fp64_contents=[1.0])]}, "1 values"),
    ({"inputs": [typed("n", "INT8", [1], int_contents=[300])]}, "127"),
    ({"inputs": [typed("x", "FP16", [1], fp32_contents=[1.0])]}, "raw_input_contents only"),
    ({"inputs": [typed("x", "BF16", [1])]}, "known are"),
    ({"inputs": [typed("x", "FP64", [1], fp64_contents=[1.0])], "raw_input_contents": [bytes(8)]}, "both"),
    ({"inputs": [typed("x", "FP64", [1], fp64_contents=[1.0])], "raw_input_contents": [b"", b""]}, "1 inputs and 2"),
    ({"inputs": [typed("image", "FP32", [1, 2, 3, 4], fp32_contents=[float("nan")] * 24)]}, "finite"),
    ({"inputs": [typed("t", "BYTES", [1], bytes_contents=[b"\xff"])]}, "UTF-8"),
    ({"inputs": [{**typed("x", "FP64", [1]), "parameters": {"shared_memory_region": {"string_param": "a"}}}]}, "shared"),
    ({"parameters": {"timeout": {"string_param": "soon"}}, "inputs": []}, "timeout"),
    ({"inputs": []}, "no inputs"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "word"), BAD, ids=range(len(BAD)))
def test_a_malformed_message_is_an_invalid_argument(channel: Any, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, our("ModelInferRequest", model_name="made", **fields))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert word in refused.value.details()


def test_a_refusal_is_no_longer_than_a_client_takes(channel: Any) -> None:
    wanted = [{"name": f"output-{n}" * 900} for n in range(3)]
    inputs = [typed("x" * 60_000, "FP64", [1], fp64_contents=[1.0])]
    for fields in ({"inputs": inputs}, {"inputs": inputs, "outputs": wanted}):
        with pytest.raises(grpc.RpcError) as refused:
            ask(channel, our("ModelInferRequest", model_name="made", **fields))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert len(refused.value.details()) < 2_100


def test_bytes_that_are_no_message_and_methods_that_are_none_are_refused(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(INFER)(b"\xff\xff\xff", timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"", timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as refused:  # also when it is small on the wire
            channel.unary_unary(INFER)(bytes(40 * 2**20), timeout=30, compression=compression)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_answer_that_would_come_too_late_is_refused_before_it_is_computed(asked: Any) -> None:
    for late in ({"timeout": 1}, {"headers": {"x-everloop-deadline-ms": "0.001"}}):
        with pytest.raises(InferenceServerException, match="to be answered within") as refused:
            asked.infer("made", [image()], **late)
        assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_probes_ask_the_standard_health_service(channel: Any) -> None:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=grpc_messages.message("HealthCheckResponse").FromString,
    )
    assert check(our("HealthCheckRequest"), timeout=30).status == grpc_messages.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        check(our("HealthCheckRequest", service="other"), timeout=30)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_http_and_grpc_are_answered_by_the_same_batches_and_log(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    with home.serve("--grpc-port", "0") as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as asked, Client(server.port) as client:
            sent = [tensor("x", np.array([1.0]), "FP64")]
            answers: list[Any] = []

            def later(result: Any, error: Any) -> None:
                answers.append(error or positive(result)[0])
                if len(answers) == 200:
                    done.set()

            done = threading.Event()
            for _ in range(200):
                asked.async_infer("made", sent, later, headers={"x-prediction-id": "mine"})
                assert client.post("/predict/made", {"x": 1})[1]["probability"]["true"] == pytest.approx(expected(1))
            assert done.wait(30)
            assert answers == [pytest.approx(expected(1))] * 200
        server.terminate()
    frames = home.predictions("champion")
    assert sum(len(frame.ids) for frame in frames) == 400
    assert sum(each == "mine" for frame in frames for each in frame.ids) == 200


# Whatever a message may be

LIVES = [live_of(signature_of(COLUMNS)), live_of(signature_of({"x": "number", "n": "integer", "t": "text"}))]
names = st.sampled_from([*COLUMNS, "numbers", "integers", "texts", ""])
contents = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "fp64_contents": st.lists(st.floats(), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=4),
    },
)
tensors = st.fixed_dictionaries(
    {
        "name": names,
        "datatype": st.sampled_from([*ALL_DATATYPES, ""]),
        "shape": st.lists(st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    },
    optional={"contents": contents},
)


@settings(max_examples=300, deadline=None)
@given(st.lists(tensors, max_size=3), st.lists(st.binary(max_size=40), max_size=3), st.binary(max_size=60))
def test_whatever_is_sent_is_read_or_refused_as_the_callers_mistake(
    inputs: list[dict[str, Any]], raws: list[bytes], junk: bytes
) -> None:
    read = grpc_messages.message("ModelInferRequest")
    messages = [read(inputs=inputs), read(inputs=inputs, raw_input_contents=raws)]
    with suppress(DecodeError):
        messages.append(read.FromString(junk))
    for message in messages:
        for live in LIVES:
            try:
                rows = v2.rows(request_of(message), live)
            except RequestError as error:
                refused = error
            else:
                packed = live.champion.packer.pack(rows)
                assert all(len(array) == len(rows) for array in packed.values())
                continue
            assert 400 <= refused.status < 500
