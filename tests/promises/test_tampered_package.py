"""Promise 6: a package with one changed byte is not loaded, the champion goes on."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from everloop.errors import PackageError, PackageTampered
from everloop.serve.model import load
from everloop.store import packages
from everloop.testing.serving import Client, ServedHome, ServerProcess, graph_of, signature_of

SIGNATURE = signature_of({"x": "number"})


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.02)


def problem(server: ServerProcess) -> str:
    return str(server.told().get("problems", {}).get("made", ""))


def test_any_one_changed_byte_in_any_file_is_found(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    folder = served.home.packages / served.seal(1, SIGNATURE)
    trusted = packages.trusted_keys(served.home.keys)
    packages.open_package(folder, trusted)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["evidence.json", "manifest.json", "model.onnx", "profile.json", "signature.json"]
    for name in names:
        whole = (folder / name).read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            (folder / name).write_bytes(bytes(changed))
            with pytest.raises(PackageTampered):
                packages.open_package(folder, trusted)
        (folder / name).write_bytes(whole)
    packages.open_package(folder, trusted)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "signature.json", "evidence.json"])
def test_a_server_keeps_its_champion_and_says_why(tmp_path: Path, name: str) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE)
    folder = served.home.packages / served.seal(2, SIGNATURE, bias=1.0)
    whole = (folder / name).read_bytes()
    middle = len(whole) // 2
    (folder / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        served.release(2)
        until(lambda: "not loaded" in problem(server) or bool(problem(server)))
        assert client.post("/predict", {"x": 1})[1]["version"] == 1
        assert server.told()["loops"] == {"made": 1}
        status = client.get("/status")[1]["loops"]["made"]
        assert status["refused"]["tampered"] == 1
        assert 'everloop_package_refused_total{model_name="made",reason="tampered"} 1' in (
            client.get("/metrics")[1].decode()
        )
        assert "release refused" in server.log.read_text()

        # As a challenger it is refused alone: the release is served with its champion.
        revision = served.release(1, 2, stage="canary", share=1.0)
        server.wait_for(revision)
        assert problem(server)
        assert client.post("/predict", {"x": 1})[1]["version"] == 1

        # Restored, it is served at the next release.
        (folder / name).write_bytes(whole)
        server.wait_for(served.release(2))
        assert client.post("/predict", {"x": 1})[1]["version"] == 2
        assert problem(server) == ""


def test_an_unknown_or_foreign_package_and_a_broken_release_file_change_nothing(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE)
    other = ServedHome(tmp_path, "other")
    other.seal(9, SIGNATURE)
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        served.release(77)  # no such package
        until(lambda: "no package" in problem(server))
        served.versions[78] = "../" + served.versions[1]
        served.release(78)
        until(lambda: "64 hexadecimal" in problem(server))
        served.versions[79] = other.versions[9]
        served.release(79)
        until(lambda: "belongs to loop other" in problem(server))
        served.home.release_file("made").write_bytes(b'{"loop": "made", "rev')
        until(lambda: "not a release file" in problem(server))
        assert client.post("/predict", {"x": 1})[1]["version"] == 1
        shutil.rmtree(served.home.packages / served.versions[1])  # what is loaded needs no folder
        assert client.post("/predict", {"x": 1})[1]["version"] == 1
        assert server.process.poll() is None


def test_a_server_that_starts_beside_a_tampered_challenger_serves_the_champion(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE)
    folder = served.home.packages / served.seal(2, SIGNATURE)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"!")
    served.release(1, 2, stage="canary", share=0.5)
    with served.serve() as server, Client(server.port) as client:
        assert client.post("/predict", {"x": 1})[1]["version"] == 1
        assert "not loaded" in problem(server)


def test_a_graph_that_reaches_for_files_outside_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(8))
    served = ServedHome(tmp_path / "home")
    served.seal(1, SIGNATURE)
    for version, place in enumerate((str(secret), "../secret.bin", "secret.bin"), start=2):
        model = onnx.load_from_string(graph_of(SIGNATURE))
        weight = next(each for each in model.graph.initializer if each.name == "bias")
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=place)
        folder = served.home.packages / served.seal(version, SIGNATURE, graph=model.SerializeToString())
        with pytest.raises(PackageError, match="keeps its data outside"):
            load(folder, packages.trusted_keys(served.home.keys))
