"""The mirror: all of a version in a real MLflow, nothing twice, whole again after a kill; and no loop that waits for it."""

import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import declared
from everloop.cli.app import run_app
from everloop.errors import MirrorError, SpecError
from everloop.loop.environment import Environment
from everloop.loop.installation import Installation, reopen
from everloop.loop.mirror import KEY, WHOLE, Mirroring, address_of, mirror
from everloop.store.mlflow import MLflow
from mlflow_server import mlflow_server
from small_loop import SmallLoop

SEARCHED = (
    "el.Train(__import__('lightgbm').LGBMClassifier(n_estimators=10), "
    "search=el.Search({'num_leaves': el.Integers(2, 9)}, trials=3))"
)


@contextmanager
def opened(loop: SmallLoop) -> Iterator[Installation]:
    installation = reopen(loop.home)
    try:
        yield installation
    finally:
        installation.close()


def asked(address: str, path: str, given: dict[str, Any] | None = None) -> Any:
    data = None if given is None else json.dumps(given).encode()
    request = urllib.request.Request(
        f"{address}/api/2.0/{path}", data=data, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_mlflow_holds_all_of_a_version_once_whatever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = SmallLoop(tmp_path / "loop", train=SEARCHED)
    with mlflow_server(tmp_path / "mlflow") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setattr(declared, "MIRROR_SECONDS", 120.0)
        monkeypatch.chdir(loop.folder)
        assert run_app(["run", str(loop.file)]) == 0
        with opened(loop) as installation:
            assert mirror(installation, address).sent == (), "the turn has sent it"
            digest = next(path.name for path in installation.home.packages.iterdir() if len(path.name) == 64)

        run = _only_run(address)
        tags = {each["key"]: each["value"] for each in run["data"]["tags"]}
        metrics = {each["key"]: each["value"] for each in run["data"]["metrics"]}
        parameters = {each["key"]: each["value"] for each in run["data"]["params"]}
        assert (tags["everloop.digest"], tags[KEY], tags[WHOLE]) == (digest, "1", "yes")
        assert run["info"]["status"] == "FINISHED"
        assert {"log_loss", "search/LGBMClassifier/score", "seconds/fit"} <= set(metrics)
        assert parameters["estimator"] == "LGBMClassifier"
        assert "num_leaves" in parameters
        id = run["info"]["run_id"]
        history = asked(address, f"mlflow/metrics/get-history?run_id={id}&metric_key=search/LGBMClassifier/score")
        assert [each["step"] for each in history["metrics"]] == [0, 1, 2]
        kept = asked(address, f"mlflow/artifacts/list?run_id={id}&path=package")
        assert {each["path"] for each in kept["files"]} == {"package/manifest.json", "package/evidence.json"}
        model = asked(address, "mlflow/registered-models/get?name=everloop-parcels")["registered_model"]
        assert model["aliases"] == [{"alias": "champion", "version": "1"}]
        (version,) = model["latest_versions"]
        assert {"key": "everloop.digest", "value": digest} in version["tags"]

        # A mirror that was killed while it sent left a run that is not whole: it is made anew, and nothing twice.
        server = MLflow(address)
        server.delete(id)
        server.begin(run["info"]["experiment_id"], "v1", 0, {KEY: "1", WHOLE: "no", "everloop.digest": digest})
        with opened(loop) as installation:
            assert mirror(installation, address, rebuild=True).sent == (1,)
            assert mirror(installation, address, rebuild=True).sent == ()
        assert _only_run(address)["info"]["run_id"] != id
        model = asked(address, "mlflow/registered-models/get?name=everloop-parcels")["registered_model"]
        assert len(model["latest_versions"]) == 1
        assert model["latest_versions"][0]["run_id"] == _only_run(address)["info"]["run_id"]
        assert run_app(["mirror", "--rebuild", "--home", str(loop.home)]) == 0


def _only_run(address: str) -> Any:
    found = asked(address, "mlflow/experiments/get-by-name?experiment_name=everloop/parcels")
    id = found["experiment"]["experiment_id"]
    (run,) = asked(address, "mlflow/runs/search", {"experiment_ids": [id]})["runs"]
    return run


# Servers that are none


@contextmanager
def answering(said: bytes, *, drip: bool = False) -> Iterator[str]:
    """Takes connections and says this, then nothing; with ``drip`` one byte at a time, for ever."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    held: list[socket.socket] = []

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        try:
            connection.sendall(said)
            while drip and not ended.wait(0.05):
                connection.sendall(b" ")
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        listening.close()
        for each in held:
            each.close()


PAGE = b"HTTP/1.1 200 OK\r\ncontent-length: 26\r\nconnection: close\r\n\r\n<html>not what you think!!</"
ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"
REFUSED = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
MOVED = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, bool, str]] = {
    "nothing": (b"", False, "does not answer"),
    "a page": (PAGE, False, "does not answer as MLflow does"),
    "an answer without an end": (ENDLESS, True, "without an end"),
    "a refusal": (REFUSED, False, "answers 403"),
    "another address": (MOVED, False, "answers 302"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", False, "does not answer"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_what_answers_otherwise_than_mlflow_is_said_in_time(what: str, turned_once: SmallLoop, tmp_path: Path) -> None:
    said, drip, words = ANSWERS[what]
    loop = turned_once.copy(tmp_path)
    with answering(said, drip=drip) as address, opened(loop) as installation:
        began = time.monotonic()
        with pytest.raises(MirrorError, match=words):
            mirror(installation, address, seconds=1.5)
        assert time.monotonic() - began < 30


def test_nobody_waits_for_a_server_that_hangs(turned_once: SmallLoop, tmp_path: Path) -> None:
    loop = turned_once.copy(tmp_path)
    told: list[str] = []
    with answering(b"") as address, opened(loop) as installation:
        mirroring = Mirroring(installation, address, told.append)
        began = time.monotonic()
        for _ in range(100):
            mirroring.look()
        assert time.monotonic() - began < 5
        assert not mirroring.wait(0.05)
    with opened(loop) as installation:
        mirroring = Mirroring(installation, "http://127.0.0.1:1", told.append)
        for _ in range(3):
            mirroring.look()
            assert mirroring.wait(60)
    assert sum("127.0.0.1:1 does not answer" in each for each in told) == 1, "said once, not at each look"


def test_a_turn_ends_well_though_its_mirror_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    loop = SmallLoop(tmp_path / "loop")
    monkeypatch.setattr(declared, "MIRROR_SECONDS", 0.5)
    with answering(b"") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert run_app(["run", str(loop.file)]) == 0
        assert "the mirror is slow" in capfd.readouterr().err


def test_where_the_mirror_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    toml = tmp_path / "everloop.toml"
    assert address_of(Environment.read(tmp_path, None)) is None
    for other in ("databricks", "sqlite:///a.db", "./mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        assert address_of(Environment.read(tmp_path, None)) is None, "somebody else's MLflow is no reason to fail"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here:5000")
    assert address_of(Environment.read(tmp_path, None)) == "http://here:5000"
    toml.write_text('[local]\nmlflow = "http://there:5000"\n')
    assert address_of(Environment.read(tmp_path, None)) == "http://there:5000"
    toml.write_text('[local]\nmlflow = ""\n')
    assert address_of(Environment.read(tmp_path, None)) is None
    toml.write_text('[local]\nmlflow = "sqlite:///a.db"\n')
    with pytest.raises(SpecError, match=r"mlflow is 'sqlite:///a.db'; write the address"):
        Environment.read(tmp_path, None)


def test_credentials_are_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    server = MLflow("http://me:secret@127.0.0.1:1")
    assert server.address == "http://127.0.0.1:1"
    with pytest.raises(MirrorError) as told:
        server.experiment("a")
    assert "secret" not in str(told.value)
    with pytest.raises(MirrorError) as told:
        MLflow("ftp://me:secret@here")
    assert "secret" not in str(told.value)


def test_without_a_mirror_the_command_says_what_to_set(
    turned_once: SmallLoop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_app(["mirror", "--home", str(turned_once.home)]) == 3
    assert "MLFLOW_TRACKING_URI is not set" in capfd.readouterr().err
