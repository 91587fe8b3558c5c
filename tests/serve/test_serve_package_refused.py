"""A package that is not what it should be is refused with its reason; the champion goes on as if nothing had been."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from everloop.records import InputColumn, Signature, TensorColumn, digest_of, encode
from everloop.store import packages
from everloop.store.packages import File, Manifest, Seal
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, graph_of, signature_of

SIGNATURE = signature_of({"x": "number"})
GRAPH = graph_of(SIGNATURE)
MEGABYTE = 2**20
MODEL_BYTES = 256 * MEGABYTE
PACKAGE_BYTES = 64 * MEGABYTE


class Stage:
    """A server whose champion is version 1; `refused` releases something else beside or instead of it."""

    def __init__(self, root: Path) -> None:
        self.served = ServedHome(root)
        self.served.seal(1, SIGNATURE, bias=1.0)
        self.served.release(1)
        self.versions = iter(range(2, 10_000))
        settings = root / "settings.json"
        settings.write_text(
            json.dumps({"package_bytes": PACKAGE_BYTES, "model_bytes": MODEL_BYTES, "load_seconds": 1.5})
        )
        self.server: ServerProcess = self.served.serve("--settings", str(settings))
        self.key = packages.load_signing_key(self.served.home.keys)

    def seal(
        self, files: Mapping[str, bytes], *, key: Ed25519PrivateKey | None = None, named: str | None = None,
        listed: Mapping[str, File] | None = None, **changes: Any,
    ) -> str:  # fmt: skip
        """Write what a careful hand would: signed whatever it says. Returns the name of its folder."""
        manifest = Manifest(
            loop="made", created_at=datetime(2026, 1, 1, tzinfo=UTC), signature=SIGNATURE,
            files={name: File(sha256=digest_of(data), size=len(data)) for name, data in files.items()} | dict(listed or {}),
        )  # fmt: skip
        content = encode(replace(manifest, **changes))
        digest = named or digest_of(content)
        key = key or self.key
        sealed = Seal(
            key=packages.key_id(key.public_key()), manifest=digest_of(content),
            signature=key.sign(packages.CONTEXT + content).hex(),
        )  # fmt: skip
        folder = self.served.home.packages / digest
        folder.mkdir()
        for name, data in {**files, packages.MANIFEST: content, packages.SEAL: encode(sealed)}.items():
            if "/" not in name and "\0" not in name:
                (folder / name).write_bytes(data)
        return digest

    def graph(self, made: bytes, **changes: Any) -> str:
        return self.seal({packages.MODEL: made}, **changes)

    def folder(self, digest: str) -> Path:
        return self.served.home.packages / digest

    def refused(self, package: str) -> str:
        """Why the server does not serve it, as challenger and as champion."""
        version = next(self.versions)
        self.served.versions[version] = package
        with Client(self.server.port) as client:
            self.server.wait_for(self.served.release(1, version, stage="canary", share=0.5))
            beside = self.problem()
            self.goes_on(client)
            self.server.wait_for(self.served.release(1))
            assert self.problem() == ""
            self.served.release(version)
            self.until(lambda: bool(self.problem()))
            instead = self.problem()
            self.goes_on(client)
        self.server.wait_for(self.served.release(1))
        assert beside == instead
        return instead

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 90
        while not reached():
            assert time.monotonic() < end, "the server did not look at the release within 90 s"
            time.sleep(0.01)

    def problem(self) -> str:
        return str(self.server.told().get("problems", {}).get("made", ""))

    def goes_on(self, client: Client) -> None:
        for _ in range(3):
            status, answer = client.post("/predict/made", {"x": 0.5})
            assert (status, answer["version"]) == (200, 1), answer
            assert answer["probability"]["true"] == pytest.approx(expected(1.5), rel=1e-12)
        assert self.server.process.poll() is None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    with made.server:
        yield made
        assert "Traceback" not in made.server.log.read_text()


# What signs, and what is signed


def test_a_sound_package_made_by_the_same_hand_is_served(stage: Stage) -> None:
    version = next(stage.versions)
    stage.served.versions[version] = stage.graph(graph_of(SIGNATURE, bias=5.0))
    stage.server.wait_for(stage.served.release(version))
    with Client(stage.server.port) as client:
        assert client.post("/predict", {"x": 0})[1]["version"] == version
    stage.server.wait_for(stage.served.release(1))


def test_a_key_that_is_not_trusted_signs_for_nothing(stage: Stage) -> None:
    stranger = Ed25519PrivateKey.generate()
    assert "which is not trusted here" in stage.refused(stage.graph(GRAPH, key=stranger))


def test_a_signature_that_is_wrong_missing_or_of_another_package_is_refused(stage: Stage) -> None:
    other = stage.graph(graph_of(SIGNATURE, bias=7.0))
    seal = (stage.folder(other) / packages.SEAL).read_bytes()
    told = json.loads(seal)
    for number, (content, word) in enumerate(
        {
            seal: "belongs to another package",
            b"": "cannot be read",
            b"{": "cannot be read",
            b"[" * 100_000: "cannot be read",
            b'{"key":' + b"[" * 100_000: "cannot be read",
            encode({**told, "signature": "00" * 64}): "",
            encode({**told, "algorithm": "none"}): "not in its one form",
            encode({**told, "signature": told["signature"].upper()}): "not in its one form",
            json.dumps(told, indent=1).encode(): "not in its one form",
        }.items()
    ):
        digest = stage.graph(GRAPH, score=float(number))
        own = json.loads((stage.folder(digest) / packages.SEAL).read_bytes())
        if word == "":  # its own seal, but nothing that the key ever wrote
            content = encode({**own, "signature": "00" * 64})
            word = "its signature is wrong"
        (stage.folder(digest) / packages.SEAL).write_bytes(content)
        assert word in stage.refused(digest)
    digest = stage.graph(GRAPH, score=-1.0)
    (stage.folder(digest) / packages.SEAL).unlink()
    assert "signature.json is not there" in stage.refused(digest)


def test_another_manifest_under_the_same_name_is_refused(stage: Stage) -> None:
    assert "does not match the package's name" in stage.refused(stage.graph(GRAPH, named="d" * 64))


# The files


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\0b", "model.onnx\n", "ﬁle", "a\u202eb", "ä",
             "manifest.json", "signature.json", "CON:", "x" * 200],
)  # fmt: skip
def test_a_name_that_is_not_plain_is_refused_before_anything_is_read(stage: Stage, name: str) -> None:
    digest = stage.seal({packages.MODEL: GRAPH}, listed={name: File(sha256="0" * 64, size=1)})
    assert "is not a plain file name" in stage.refused(digest)


def test_sizes_that_lie_are_refused(stage: Stage) -> None:
    sound = File(sha256=digest_of(GRAPH), size=len(GRAPH))
    for size, word in (
        (len(GRAPH) - 1, "more than the"),
        (len(GRAPH) + 1, "does not match the manifest"),
        (-1, "negative size"),
        (2**70, "at most 67108864 are read"),
        (PACKAGE_BYTES + 1, "at most 67108864 are read"),
    ):
        assert word in stage.refused(stage.graph(GRAPH, listed={packages.MODEL: replace(sound, size=size)}))


def test_a_file_more_less_linked_or_strange_is_refused(stage: Stage) -> None:
    def package(score: float) -> Path:
        return stage.folder(stage.graph(GRAPH, score=score))

    extra = package(1.1)
    (extra / "weights.bin").write_bytes(b"")
    assert "weights.bin is not in the manifest" in stage.refused(extra.name)
    odd = package(1.2)
    Path(os.fsdecode(os.fsencode(odd) + b"/\xff\n\x01")).write_bytes(b"")
    assert "is not in the manifest" in stage.refused(odd.name)
    many = package(1.3)
    for number in range(500):
        (many / f"extra-{number}").touch()
    told = stage.refused(many.name)
    assert "and 492 more" in told
    assert len(told) < 1_000
    link = package(1.4)
    (link / packages.MODEL).rename(stage.served.home.root / "elsewhere.onnx")
    (link / packages.MODEL).symlink_to(stage.served.home.root / "elsewhere.onnx")
    assert "model.onnx cannot be read" in stage.refused(link.name)
    gone = package(1.5)
    (gone / packages.MODEL).unlink()
    assert "model.onnx is not there" in stage.refused(gone.name)
    pipe = package(1.6)
    (pipe / packages.MODEL).unlink()
    os.mkfifo(pipe / packages.MODEL)
    assert "not a regular file" in stage.refused(pipe.name)
    folder = package(1.7)
    (folder / packages.MODEL).unlink()
    (folder / packages.MODEL).mkdir()
    assert "model.onnx" in stage.refused(folder.name)
    large = package(1.8)
    with (large / packages.MANIFEST).open("ab") as file:
        file.truncate(9 * MEGABYTE)
    assert "more than the 8388608 it may have" in stage.refused(large.name)
    assert "it has no model.onnx" in stage.refused(stage.seal({"other.onnx": GRAPH}))


def test_what_was_checked_is_what_is_served_whoever_else_holds_the_file(stage: Stage) -> None:
    """A file with two names can be written behind our back: what is loaded was read once, and that was checked."""
    folder = stage.folder(stage.graph(graph_of(SIGNATURE, bias=9.0)))
    behind = stage.served.home.root / "behind.onnx"
    os.link(folder / packages.MODEL, behind)
    version = next(stage.versions)
    stage.served.versions[version] = folder.name
    stage.server.wait_for(stage.served.release(version))
    behind.write_bytes(graph_of(SIGNATURE, bias=-9.0))
    with Client(stage.server.port) as client:
        answer = client.post("/predict", {"x": 0})[1]
    assert answer["probability"]["true"] == pytest.approx(expected(9.0))
    stage.server.wait_for(stage.served.release(1))


def test_a_manifest_that_is_signed_and_absurd_is_refused(stage: Stage) -> None:
    def signature(*inputs: InputColumn, **changes: Any) -> Signature:
        return replace(SIGNATURE, inputs=inputs, **changes)

    number = InputColumn(name="x", type="number", index=0)
    for absurd in (
        {"loop": "other"},
        {"loop": "../made"},
        {"format": 2},
        {"signature": signature()},
        {"signature": signature(number, replace(number, index=1))},
        {"signature": signature(replace(number, type="text"))},
        {"signature": signature(replace(number, name=""), replace(number, name="\ud800".encode("utf-8", "replace").decode()))},
        {"signature": replace(SIGNATURE, classes=(1, 2, 3))},
        {"signature": replace(SIGNATURE, task="regression", classes=())},
        {"signature": replace(SIGNATURE, tensors=(TensorColumn(name="image", datatype="FP32", shape=(10**6, 10**6)),))},
        {"signature": replace(SIGNATURE, tensors=(TensorColumn(name="image", datatype="FP32", shape=(0, -1)),))},
        {"lineage": {"deep": json.loads("[" * 900 + "]" * 900)}, "loop": "x"},
    ):  # fmt: skip
        assert stage.refused(stage.graph(GRAPH, **absurd))


# The release file


def test_a_release_file_that_is_not_one_changes_nothing(stage: Stage) -> None:
    place = stage.served.home.release_file("made")
    sound = json.loads(place.read_bytes())
    for content, word in (
        ({**sound, "champion": {"version": 9, "package": "../x"}}, "not the name of a package"),
        ({**sound, "champion": {"version": 9, "package": "/" + "a" * 64}}, "not the name of a package"),
        ({**sound, "champion": {"version": 9, "package": "A" * 64}}, "not the name of a package"),
        ({**sound, "champion": {"version": 9, "package": "a" * 64 + "\n"}}, "not the name of a package"),
        ({**sound, "champion": {"version": 2**70, "package": "a" * 64}}, "not a release file"),
        ({**sound, "champion": {"version": -1, "package": "a" * 64}}, "not a release file"),
        ({**sound, "revision": -5}, "not a release file"),
        ({**sound, "loop": "../made"}, "is about the loop '../made'"),
        ({**sound, "loop": "other"}, "is about the loop 'other'"),
        ({**sound, "share": 7}, "between 0 and 1"),
        ({**sound, "stage": "gone"}, "not a release file"),
        ([[]], "not a release file"),
    ):
        place.write_bytes(json.dumps(content).encode())
        stage.until(lambda word=word: word in stage.problem())  # type: ignore[misc]
    for raw, word in (
        (b"", "not a release file"),
        (b"{", "not a release file"),
        (b"[" * 100_000, "not a release file"),
        (b'{"x":' * 100_000, "not a release file"),
        (b" " * (2**20 + 2), "more than 1048576 bytes"),
        (b"\xff\xfe", "not a release file"),
    ):
        place.write_bytes(raw)
        stage.until(lambda word=word: word in stage.problem())  # type: ignore[misc]
    with Client(stage.server.port) as client:
        stage.goes_on(client)
    stage.server.wait_for(stage.served.release(1))


# The graph


def tensor(name: str, values: Any, kind: Any = np.float64) -> Any:
    return numpy_helper.from_array(np.array(values, kind), name)


def grown(*nodes: Any, initializers: list[Any], **more: Any) -> bytes:
    """The sound graph, its bias replaced by what ``nodes`` make: a single number called "evil"."""
    made = onnx.load_from_string(GRAPH)
    for each in list(made.graph.initializer):
        if each.name == "bias":
            made.graph.initializer.remove(each)
    for first in reversed(nodes):
        made.graph.node.insert(0, first)
    made.graph.initializer.extend(initializers)
    for key, value in more.items():
        getattr(made, key).extend(value)
    return bytes(made.SerializeToString())


def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operation, inputs, [output], **attributes)


def summed(name: str) -> Any:
    return node("ReduceSum", [name], "bias", keepdims=0)


def outside(place: str) -> Any:
    made = tensor("bias", 0.0)
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=place)
    return made


def test_a_graph_that_reaches_outside_is_refused(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(8))
    for place in (str(secret), "../secret.bin", "model.onnx", "weights.bin", "*/_ORT_MEM_ADDR_/*"):
        assert "outside the graph" in stage.refused(stage.graph(grown(initializers=[outside(place)])))
    body = helper.make_graph(
        [node("Constant", [], "o", value=outside(str(secret)))], "b", [],
        [helper.make_tensor_value_info("o", TensorProto.DOUBLE, None)],
    )  # fmt: skip
    hidden = node("If", ["always"], "bias", then_branch=body, else_branch=body)
    assert "outside the graph" in stage.refused(
        stage.graph(grown(hidden, initializers=[tensor("always", True, np.bool_)]))
    )
    inside = {packages.MODEL: grown(initializers=[outside("weights.bin")]), "weights.bin": bytes(8)}
    assert "outside the graph" in stage.refused(stage.seal(inside))


def test_operators_that_nobody_declared_are_refused(stage: Stage) -> None:
    strange = grown(node("Evil", [], "bias", domain="com.evil"), initializers=[])
    assert "which its manifest does not declare" in stage.refused(stage.graph(strange))
    lower = grown(node("StringUpper", ["word"], "loud", domain="ai.onnx.contrib"), initializers=[
        tensor("bias", 0.0), tensor("word", ["a"], object)
    ])  # fmt: skip
    assert "which its manifest does not declare" in stage.refused(stage.graph(lower))
    assert "does not run here" in stage.refused(stage.graph(strange, opset={"com.evil": 1}))


def doubled(times: int) -> list[Any]:
    return [node("Concat", ["one" if not n else f"c{n - 1}"] * 2, f"c{n}", axis=0) for n in range(times)]


def looped(turns: int) -> tuple[Any, list[Any]]:
    body = helper.make_graph(
        [node("Identity", ["go"], "going"), node("Identity", ["value"], "next")],
        "b",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.DOUBLE, []),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.DOUBLE, []),
        ],
    )
    return node("Loop", ["turns", "", "zero"], "bias", body=body), [tensor("turns", turns, np.int64)]


def resident(server: ServerProcess, what: str = "VmHWM") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what)) * 1024


def bombs() -> dict[str, Callable[[], bytes]]:
    """Small files that would fill the machine or never end."""
    size = 10**12
    one = tensor("one", [1.0])
    loop, turns = looped(2**62)
    huge = tensor("bias", 0.0)
    huge.dims.extend([10**6, 10**6])
    sparse = helper.make_sparse_tensor(tensor("s", [1.0]), tensor("i", [5], np.int64), [10**6, 10**6])

    def with_sparse() -> bytes:
        made = onnx.load_from_string(grown(summed("s"), initializers=[]))
        made.graph.sparse_initializer.append(sparse)
        return bytes(made.SerializeToString())

    def deep() -> bytes:
        inner = helper.make_graph([], "b", [], [helper.make_tensor_value_info("zero", TensorProto.DOUBLE, [])])
        empty = helper.make_graph([], "e", [], [helper.make_tensor_value_info("zero", TensorProto.DOUBLE, [])])
        for _ in range(20):
            chosen = node("If", ["always"], "o", then_branch=inner, else_branch=empty)
            inner = helper.make_graph([chosen], "b", [], [helper.make_tensor_value_info("o", TensorProto.DOUBLE, [])])
        return grown(
            node("If", ["always"], "bias", then_branch=inner, else_branch=inner),
            initializers=[tensor("always", True, np.bool_)],
        )

    def laughs() -> bytes:
        made = onnx.load_from_string(grown(node("f9", ["zero"], "bias", domain="own"), initializers=[]))
        opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.opset_import.add(domain="own", version=1)
        made.functions.append(helper.make_function("own", "f0", ["a"], ["o"], [node("Neg", ["a"], "o")], opset))
        for level in range(1, 10):
            calls = [node(f"f{level - 1}", ["a"], f"o{n}", domain="own") for n in range(9)]
            calls.append(node(f"f{level - 1}", ["a"], "o", domain="own"))
            made.functions.append(helper.make_function("own", f"f{level}", ["a"], ["o"], calls, opset))
        return bytes(made.SerializeToString())

    return {
        "a shape filled": lambda: grown(
            node("ConstantOfShape", ["size"], "c"), node("Cast", ["c"], "d", to=TensorProto.DOUBLE), summed("d"),
            initializers=[tensor("size", [size], np.int64)],
        ),
        "a number expanded": lambda: grown(
            node("Expand", ["one", "size"], "c"), summed("c"), initializers=[one, tensor("size", [size], np.int64)]
        ),
        "a number tiled": lambda: grown(
            node("Tile", ["one", "size"], "c"), summed("c"), initializers=[one, tensor("size", [size], np.int64)]
        ),
        "a range": lambda: grown(
            node("Range", ["zero", "size", "one_"], "c"), summed("c"), initializers=[tensor("size", 1e12), tensor("one_", 1.0)]
        ),
        "doubled forty times": lambda: grown(*doubled(40), summed("c39"), initializers=[one]),
        "words doubled forty times": lambda: grown(
            *[node("StringConcat", ["w" if not n else f"s{n - 1}"] * 2, f"s{n}") for n in range(40)],
            node("Equal", ["s39", "w"], "same"), node("Cast", ["same"], "bias", to=TensorProto.DOUBLE),
            initializers=[tensor("w", "everloop", object)],
        ),
        "a loop that never ends": lambda: grown(loop, initializers=turns),
        "a tensor larger than the file": lambda: grown(initializers=[huge]),
        "a sparse tensor made dense": with_sparse,
        "branches in branches": deep,
        "functions of functions": laughs,
    }  # fmt: skip


@pytest.mark.parametrize("bomb", [*bombs()])
def test_a_small_file_that_would_fill_the_machine_or_never_end_is_refused(stage: Stage, bomb: str) -> None:
    graph = bombs()[bomb]()
    if "words" in bomb:
        made = onnx.load_from_string(graph)
        made.opset_import[0].version = 20
        graph = made.SerializeToString()
    assert len(graph) < MEGABYTE
    told = stage.refused(stage.graph(graph))
    assert "is not loaded" in told or "does not run here" in told
    assert resident(stage.server) < 4 * MODEL_BYTES


def test_garbage_for_a_graph_is_refused(stage: Stage) -> None:
    for content in (
        b"",
        b"\0" * 1000,
        b"PK\x03\x04" + bytes(100),
        b"ORTM" * 50,
        GRAPH[:-10],
        GRAPH + b"\xff",
        b"\x3a" * 5000,
    ):
        assert "is not ONNX" in stage.refused(stage.graph(content))


def test_a_load_that_cannot_be_stopped_keeps_nobody_from_anything(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    for version in (1, 2, 3):
        served.seal(version, SIGNATURE, bias=float(version))
    served.release(1)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"load_seconds": 0.2}))
    stuck = f"""
import time
from everloop.serve import loading, models
loading.GRACE_SECONDS = 0.2
real = models.load
def load(folder, *more, **options):
    if folder.name == {served.versions[2]!r}:
        time.sleep(10_000)
    return real(folder, *more, **options)
models.load = load
"""
    with served.serve("--settings", str(settings), before=stuck) as server, Client(server.port) as client:
        served.release(2)
        server.wait(lambda told: "could not be stopped" in str(told.get("problems")))
        assert client.post("/predict", {"x": 0})[1]["version"] == 1
        server.wait_for(served.release(3))
        assert client.post("/predict", {"x": 0})[1]["version"] == 3
        assert server.terminate() == 0
    assert "Traceback" not in server.log.read_text()
