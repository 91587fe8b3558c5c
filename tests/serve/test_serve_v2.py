"""The Open Inference Protocol V2 over HTTP: Triton's own client against a real server, and whatever else a body may be."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from everloop.records import MISSING_INTEGER
from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, signature_of

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


def test_rows_beyond_one_batch_come_back_whole_and_in_order(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number", "image": "FP32[2,3]"}))
    home.release(1)
    count = 9000
    x = np.linspace(-3, 3, count)
    images = np.zeros((count, 2, 3), np.float32)
    with home.serve() as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
        result = asked.infer("made", [tensor("x", x, "FP64"), tensor("image", images, "FP32")])
    np.testing.assert_allclose(result.as_numpy("probability")[:, 1], 1 / (1 + np.exp(-x)), rtol=1e-12)
    assert len(set(result.as_numpy("id").tolist())) == count


def test_the_arm_of_an_experiment_is_an_output(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    for version in (1, 2):
        home.seal(version, signature_of({"x": "number"}), bias=float(version))
    arms = [
        {"name": name, "version": version, "package": home.versions[version], "share": 0.5}
        for name, version in (("control", 1), ("treatment", 2))
    ]
    home.release(1, experiment={"name": "e", "salt": "s", "arms": arms})
    with home.serve() as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
        assert "variant" in {each["name"] for each in asked.get_model_metadata("made")["outputs"]}
        result = asked.infer("made", [tensor("x", np.zeros(50), "FP64")])
        found = set(zip(result.as_numpy("variant").tolist(), result.as_numpy("version").tolist(), strict=True))
        assert found == {(b"control", 1), (b"treatment", 2)}
        assert asked.is_model_ready("made", "2")


def test_the_cache_knows_a_tensor_by_its_content(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"image": "FP32[2,3,4]"}))
    home.release(1, cache={"bytes": 1_000_000, "seconds": 60.0})
    with home.serve() as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as asked:
        first = positive(asked.infer("made", [image()]))
        second = positive(asked.infer("made", [image(binary=False)]))
        with Client(server.port) as client:
            status, named = client.post("/predict/made", {"image": IMAGE[1].tolist()})
            text = client.get("/metrics")[1].decode()
    assert status == 200
    assert first == second == pytest.approx([expected(SUMS[0]), expected(SUMS[1])], rel=1e-6)
    assert named["probability"]["true"] == first[1]
    assert re.search(r"everloop_cache_hits_total\{[^}]*\} 3\b", text)


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
