"""Columns that are whole arrays: what a request may send, what the graph gets, what the log keeps."""

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.errors import PackageError, ServeError
from everloop.measure.space import summary
from everloop.records import Signature, TensorColumn
from everloop.serve.model import Model
from everloop.serve.rows import Packer, Reader
from everloop.serve.tensors import DTYPES, digests, joined, value
from everloop.store.packages import Manifest
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, graph_of, signature_of
from everloop.watch.fold import prediction_rows

COLUMNS = {"x": "number", "image": "FP32[3,4,5]", "tokens": "INT64[6]", "mask": "BOOL[2]", "t": "text"}
TOKENS = [3, -1, 0, 2, 0, -4]
MASK = [True, False]


def image(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 0.1, (3, 4, 5)).astype(np.float32)


def row(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"x": 0.5, "image": image(seed).tolist(), "tokens": TOKENS, "mask": MASK, **changes}


def total(seed: int = 0) -> float:
    return 0.5 + float(image(seed).astype(np.float64).sum()) + sum(TOKENS) + sum(MASK)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedHome:
    home = ServedHome(tmp_path_factory.mktemp("home"))
    home.seal(1, signature_of(COLUMNS))
    home.release(1)
    return home


@pytest.fixture(scope="module")
def server(served: ServedHome) -> Iterator[ServerProcess]:
    with served.serve() as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connection:
        yield connection


def test_a_tensor_comes_as_nested_lists_beside_other_columns(client: Client) -> None:
    status, answer = client.post("/predict/made", row(t="yes"))
    assert status == 200
    assert answer["probability"]["true"] == pytest.approx(expected(total() + 1), rel=1e-6)


def test_a_tensor_comes_as_base64_of_its_bytes(client: Client) -> None:
    sent = row(
        image=base64.b64encode(image().tobytes()).decode(),
        tokens=base64.b64encode(np.array(TOKENS, "<i8").tobytes()).decode(),
    )
    assert client.post("/predict/made", sent)[1]["probability"] == pytest.approx(
        client.post("/predict/made", row())[1]["probability"], rel=1e-6
    )


def test_rows_of_one_request_and_of_several_keep_their_own_tensors(client: Client) -> None:
    status, answers = client.post("/predict/made", [row(seed) for seed in range(9)])
    assert status == 200
    assert [each["probability"]["true"] for each in answers] == pytest.approx(
        [expected(total(seed)) for seed in range(9)], rel=1e-5
    )


WRONG: list[tuple[Any, list[str]]] = [
    (row(image=[[1.0]]), ["'image'", "[3, 4, 5]", "FP32"]),
    (row(image=image()[:2].tolist()), ["'image'", "[3, 4, 5]"]),
    (row(image=[[["a"] * 5] * 4] * 3), ["'image'", "FP32"]),
    (row(image=[[[1e300] * 5] * 4] * 3), ["'image'", "does not fit into FP32"]),
    (row(image="AAAA"), ["'image'", "3 bytes", "240 little-endian bytes"]),
    (row(image="not base64!"), ["'image'", "base64"]),
    (row(image=None), ["'image'", "null"]),
    ({"x": 1}, ["'image'", "missing", "[3, 4, 5]"]),
    (row(tokens=[1, 2, 3, 4, 5, 2**63]), ["'tokens'", "INT64"]),
    (row(tokens=[1, 2, 3, 4, 5, 0.5]), ["'tokens'", "INT64"]),
    (row(tokens=[1, 2, 3]), ["'tokens'", "[6]"]),
    (row(mask=[1, 0]), ["'mask'", "BOOL"]),
    (row(mask=base64.b64encode(b"\x00\x02").decode()), ["'mask'", "0 and 1"]),
    ([row(), row(tokens="AA==")], ["'tokens'", "row 1", "1 bytes"]),
]


@pytest.mark.parametrize(("body", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_tensor_is_a_400_that_names_the_column_and_what_it_should_be(
    client: Client, body: Any, words: list[str]
) -> None:
    status, answer = client.post("/predict/made", body)
    assert status == 400, answer
    for word in words:
        assert word in answer["error"]


def test_the_log_keeps_a_digest_of_each_tensor_and_its_rows_fold(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    signature = signature_of(COLUMNS)
    package = home.seal(1, signature)
    home.release(1)
    with home.serve() as server, Client(server.port) as client:
        client.post("/predict/made", [row(seed) for seed in range(3)])
        client.post("/predict/made", row(0))
        server.terminate()
    frames = home.predictions()
    assert all(set(frame.tensors) == {"image", "tokens", "mask"} for frame in frames)
    wanted = [hashlib.blake2b(image(seed).tobytes(), digest_size=16) for seed in (0, 1, 2, 0)]
    assert b"".join(frame.tensors["image"] for frame in frames) == b"".join(each.digest() for each in wanted)
    rows, unknown = prediction_rows(frames, {package: signature})
    assert unknown == 0
    assert rows["input_image"].to_list() == [each.hexdigest() for each in wanted]
    assert rows["input_x"].to_list() == [0.5] * 4
    assert rows["input_tokens"].n_unique() == 1
    assert rows.schema["input_image"] == pl.String()
    # And of each what drift is seen in.
    kept = [np.frombuffer(each, "<f4") for each in rows["summary_image"].to_list()]
    assert np.allclose(kept, summary(np.stack([image(seed) for seed in (0, 1, 2, 0)])), atol=1e-5)


# Without a server


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_reads_and_packs_exactly(datatype: str) -> None:
    dtype = DTYPES[datatype]
    column = TensorColumn(name="a", datatype=datatype, shape=(2, 2))
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        wanted = np.array([[info.min, info.max], [0, 1]], dtype)
    else:
        wanted = np.array([[0, 1], [1, 0]], dtype)
    reader = Reader([Signature(inputs=(), tensors=(column,), task="regression")])
    nested = str(wanted.tolist()).lower()
    rows, _ = reader.read(f'[{{"a": {nested}}}, {{"a": "{base64.b64encode(wanted.tobytes()).decode()}"}}]'.encode())
    packed = Packer(reader.columns, Signature(inputs=(), tensors=(column,), task="regression")).pack(rows)
    assert packed["a"].dtype == dtype
    assert packed["a"].tolist() == [wanted.tolist()] * 2


def test_a_single_row_is_not_copied_and_an_unaligned_one_once() -> None:
    column = TensorColumn(name="a", datatype="FP32", shape=(4,))
    body = bytes(64)
    aligned = joined([memoryview(body)[16:32]], column)
    assert np.shares_memory(aligned, np.frombuffer(body, np.uint8))
    unaligned = joined([memoryview(body)[17:33]], column)
    assert unaligned.flags.aligned
    assert not np.shares_memory(unaligned, np.frombuffer(body, np.uint8))


def test_a_digest_is_of_one_row_whoever_else_is_in_the_batch() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3, 2))
    alone = [digests(rows[n : n + 1]) for n in range(5)]
    assert digests(rows) == b"".join(alone)
    assert len(set(alone)) == 5


def test_nested_lists_are_flattened_in_row_order() -> None:
    column = TensorColumn(name="a", datatype="INT16", shape=(2, 1, 3))
    assert value([[[1, 2, 3]], [[4, 5, 6]]], column) == np.arange(1, 7, dtype="<i2").tobytes()


def manifest_of(signature: Signature) -> Manifest:
    return Manifest(loop="made", created_at=datetime(2026, 1, 1, tzinfo=UTC), files={}, signature=signature)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"a": "FP32[3,4,4]"}, "signature says FP32"),
        ({"a": "FP64[3,4,5]"}, "signature says FP64"),
        ({"a": "FP32[60]"}, "signature says FP32"),
        ({"b": "FP32[3,4,5]"}, "takes ['a'] but its signature says ['b']"),
    ],
)
def test_a_graph_that_takes_another_tensor_than_its_signature_is_refused(told: dict[str, str], words: str) -> None:
    graph = graph_of(signature_of({"a": "FP32[3,4,5]"}))
    with pytest.raises(PackageError) as refused:
        Model("f" * 64, manifest_of(signature_of(told)), graph)
    assert words in str(refused.value)


def test_two_versions_with_other_shapes_cannot_be_live_together() -> None:
    small, large = signature_of({"a": "FP32[3,4,4]"}), signature_of({"a": "FP32[3,8,8]"})
    with pytest.raises(ServeError, match="'a' is a tensor"):
        Reader([small, large])
    with pytest.raises(ServeError, match="'a' is a tensor"):
        Reader([small, signature_of({"a": "number"})])
    assert Reader([small, signature_of({"x": "number"})]).names == ("x", "a")
