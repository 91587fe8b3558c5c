"""The access log: what stands in it, what never does, and that it follows its file without losing or delaying anything."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everloop.serve import keys
from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of

SIGNATURE = signature_of({"x": "number"})
PATIENCE = 10.0


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def guarded(served: ServedHome, *arguments: str, **fields: Any) -> ServerProcess:
    served.home.settings.write_bytes(encode(ServerSettings(**fields)))
    return served.serve("--settings", str(served.home.settings), *arguments)


def lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def eventually(said: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_line_says_who_asked_what_and_how_it_went(tmp_path: Path) -> None:
    served = home(tmp_path / "home")
    key = keys.add(served.home, "partner", now=time.time())
    log = tmp_path / "access.log"
    before = datetime.now(UTC)
    with guarded(served, keys=True, access_log=str(log)) as server, Client(server.port) as client:
        client.post("/predict/made?token=private", {"x": 4242}, x_api_key=key, x_request_id="mine")
        client.post("/predict/made", {"x": 1})
        client.post("/predict/made", {"y": 1}, x_api_key=key)
        client.send(b"nonsense\r\n\r\n")
        assert client.answers(1)[0][0] == 400
    good, stranger, mistaken, garbled = lines(log)
    assert (good["request_id"], good["key"], good["status"]) == ("mine", "partner", 200)
    assert (good["method"], good["path"], good["address"]) == ("POST", "/predict/made", "127.0.0.1")
    assert good["bytes"] > 50
    assert 0 < good["milliseconds"] < 60_000
    at = datetime.fromisoformat(good["at"])
    assert before - timedelta(seconds=1) <= at <= datetime.now(UTC) + timedelta(seconds=1)
    assert (stranger["status"], "key" in stranger) == (401, False)
    assert (mistaken["status"], mistaken["key"]) == (400, "partner")
    assert garbled["status"] == 400
    text = log.read_text()
    for private in (key, key.split("_", 2)[2], "private", "token", "4242", "probability"):
        assert private not in text


def test_without_a_declaration_nothing_is_written(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve() as server, Client(server.port) as client:
        client.post("/predict", {"x": 1})
        assert b"x-request-id" not in client.headers
    assert "/predict" not in server.log.read_text()


def test_stderr_is_a_place_for_it_too(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, access_log="stderr") as server, Client(server.port) as client:
        client.post("/predict", {"x": 1})
        eventually(lambda: '"path":"/predict"' in server.log.read_text())


def test_every_request_is_in_it_once_while_somebody_else_moves_the_file(tmp_path: Path) -> None:
    served = home(tmp_path / "home")
    log, moved = tmp_path / "access.log", tmp_path / "moved.log"
    with guarded(served, "--processes", "2", access_log=str(log)) as server:
        sent = 0
        for turn in range(4):
            with Client(server.port) as client:
                for _ in range(50):
                    client.send(message("POST", "/predict", {"x": 1}, x_request_id=f"request-{sent}"))
                    client.answers(1)
                    sent += 1
            if turn == 1:
                eventually(log.exists)
                log.rename(moved)
        with Client(server.port) as client:
            client.post("/predict", {"x": 1}, x_request_id=f"request-{sent}")
        eventually(log.exists)
    assert sorted(each["request_id"] for each in lines(log, moved)) == sorted(f"request-{n}" for n in range(201))
    assert lines(log)


def test_a_full_file_is_put_aside_and_few_are_kept(tmp_path: Path) -> None:
    served = home(tmp_path / "home")
    log = tmp_path / "access.log"
    with (
        guarded(served, "--processes", "2", access_log=str(log), access_log_bytes=4_000, access_log_files=2) as server,
        Client(server.port) as client,
    ):
        for _ in range(12):
            for _ in range(30):
                client.send(message("POST", "/predict", {"x": 1}))
                client.answers(1)
            time.sleep(0.08)  # longer than lines are gathered
    kept = sorted(path.name for path in tmp_path.glob("access.log*"))
    assert kept == ["access.log", "access.log.1", "access.log.2"]
    assert all(line["status"] == 200 for line in lines(*(tmp_path / name for name in kept)))


def test_a_disk_that_takes_no_more_stops_no_answer(tmp_path: Path) -> None:
    served = home(tmp_path / "home")
    with guarded(served, access_log="/dev/full") as server, Client(server.port) as client:
        for _ in range(20):
            assert client.post("/predict", {"x": 1})[0] == 200
        eventually(lambda: "access log not written" in server.log.read_text())
        assert client.post("/predict", {"x": 1})[0] == 200


def test_a_place_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    served = home(tmp_path / "home")
    with pytest.raises(TimeoutError) as caught:
        guarded(served, access_log=str(tmp_path / "home" / "settings.json" / "log"))
    assert "The access log" in str(caught.value)
    assert "Traceback" not in str(caught.value)
