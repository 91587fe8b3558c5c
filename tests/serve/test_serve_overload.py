"""Deadlines, classes and large requests over real sockets, with a graph that takes its time."""

import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from everloop.serve.cores import cores
from everloop.testing.burning import burning_graph, turn_seconds
from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, message, signature_of

SIGNATURE = signature_of({"x": "number"})
ROW_SECONDS = 0.015


@cache
def slow() -> bytes:
    """A row takes `ROW_SECONDS` of processor time, on whatever machine this is."""
    return burning_graph(SIGNATURE, fixed=0, each=round(ROW_SECONDS / turn_seconds(SIGNATURE)))


def home(path: Path, **release: Any) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE, graph=slow())
    served.seal(2, SIGNATURE, bias=1.0)
    served.release(1, **release)
    return served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedHome:
    return home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def server(served: ServedHome) -> Iterator[ServerProcess]:
    with served.serve() as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.port) as connection:
        yield connection


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)


def waiting(client: Client) -> int:
    status: int = client.get("/status")[1]["loops"]["made"]["waiting_rows"]
    return status


def refused(client: Client, code: int, reason: str) -> float:
    _, page = client.get("/metrics")
    line = f'everloop_refused_total{{code="{code}",reason="{reason}"}}'
    found = [each.rpartition(" ")[2] for each in page.decode().splitlines() if each.startswith(line)]
    return float(found[0]) if found else 0.0


@pytest.mark.parametrize("value", ["soon", "", "0", "-5", "nan", "inf", "1e999", "1_000", "5 ms", f"{1:.31f}ms"])
def test_a_deadline_that_says_nothing_is_a_mistake_of_the_client(client: Client, value: str) -> None:
    status, answer = client.post("/predict", {"x": 1}, x_everloop_deadline_ms=value)
    assert status == 400
    assert "x-everloop-deadline-ms" in answer["error"]
    assert "milliseconds" in answer["error"]


def test_an_unknown_priority_is_a_mistake_of_the_client(client: Client) -> None:
    status, answer = client.post("/predict", {"x": 1}, x_everloop_priority="highest")
    assert (status, answer["error"]) == (400, "x-everloop-priority is 'highest'; send high, normal or low.")
    for known in ("high", "Normal", "LOW"):
        assert client.post("/predict", {"x": 1}, x_everloop_priority=known)[0] == 200


def test_a_request_with_time_enough_is_answered(client: Client) -> None:
    status, answer = client.post("/predict", {"x": 2}, x_everloop_deadline_ms="20000", x_everloop_priority="high")
    assert status == 200
    assert answer["probability"]["true"] == pytest.approx(expected(2))


def test_a_late_request_is_refused_before_it_runs(served: ServedHome, client: Client) -> None:
    before = refused(client, 503, "deadline")
    status, answer = client.post("/predict", [{"x": 77}] * 500, x_everloop_deadline_ms="50")
    assert status == 503
    assert "by itself" in answer["error"]
    assert int(client.headers[b"retry-after"]) >= 5  # it would take about seven seconds
    assert refused(client, 503, "deadline") == before + 1
    assert client.get("/status")[1]["loops"]["made"]["waiting_rows"] == 0


def test_the_high_class_overtakes_what_waits(server: ServerProcess) -> None:
    with Client(server.port) as normal, Client(server.port) as low, Client(server.port) as high:
        normal.send(message("POST", "/predict", [{"x": 1}] * 120))
        low.send(message("POST", "/predict", [{"x": 1}] * 4, x_everloop_priority="low"))
        until(lambda: waiting(high) > 0)
        assert high.post("/predict", {"x": 3}, x_everloop_priority="high")[0] == 200
        assert waiting(high) > 16  # of them, most have not run
        assert normal.answers(1)[0][0] == 200
        assert low.answers(1)[0][0] == 200


def test_a_small_request_need_not_wait_for_a_large_one(server: ServerProcess) -> None:
    with Client(server.port) as large, Client(server.port) as small:
        large.send(message("POST", "/predict", [{"x": n / 100} for n in range(200)]))
        until(lambda: waiting(small) > 0)
        assert small.post("/predict", {"x": 1})[0] == 200
        assert waiting(small) > 32
        ((status, answer),) = large.answers(1)
        assert status == 200
        got = [each["probability"]["true"] for each in json.loads(answer)]
        assert got == pytest.approx([expected(n / 100) for n in range(200)])


def test_what_becomes_late_while_it_waits_is_dropped_and_said(server: ServerProcess) -> None:
    """It has time enough when it comes; then many of the high class come before it."""
    with Client(server.port) as first, Client(server.port) as patient:
        first.send(message("POST", "/predict", [{"x": 1}] * 20))
        with Client(server.port) as looking:
            until(lambda: waiting(looking) > 0)
            cost = looking.get("/status")[1]["loops"]["made"]["cost"]
        hundred = f"{100 * cost['row_ms'] * cost['stretch']:.0f}"  # rows, as this server predicts them
        patient.send(
            message("POST", "/predict", {"x": 55}, x_everloop_deadline_ms=hundred)
            + message("POST", "/predict", [{"x": 1}] * 200, x_everloop_priority="high")
        )
        (status, answer), (other, _) = patient.answers(2)
        assert (status, other) == (503, 200)
        assert b"Too much else was waiting" in answer
        assert patient.headers[b"content-type"] == b"application/json"
        assert first.answers(1)[0][0] == 200


def test_a_request_whose_client_has_left_is_not_run(served: ServedHome, server: ServerProcess, client: Client) -> None:
    with Client(server.port) as leaving:
        client.send(message("POST", "/predict", [{"x": 1}] * 30))
        leaving.send(message("POST", "/predict", [{"x": 99}] * 10))
        with Client(server.port) as looking:
            until(lambda: waiting(looking) >= 10)
    assert client.answers(1)[0][0] == 200
    until(lambda: waiting(client) == 0)
    assert client.post("/predict", {"x": 1})[0] == 200
    assert refused(client, 499, "gone") >= 1
    server_rows = client.get("/status")[1]["loops"]["made"]["errors"]
    assert server_rows == {}


def test_the_release_gives_every_request_its_deadline(tmp_path: Path) -> None:
    served = home(tmp_path, p99_ms=200)
    with served.serve() as server, Client(server.port) as one, Client(server.port) as other:
        assert one.post("/predict", {"x": 1})[0] == 200
        burst = b"".join(message("POST", "/predict", {"x": n}) for n in range(100))
        one.send(burst)
        statuses = [status for status, _ in one.answers(100)]
        assert set(statuses) == {200, 503}  # 100 rows take more than a second
        assert statuses[0] == 200
        other.send(message("POST", "/predict", {"x": 1}, x_everloop_deadline_ms="20000"))
        assert other.answers(1)[0][0] == 200
        # Alone it takes longer than the release promises: it is run all the same, for it could never be in time.
        assert other.post("/predict", [{"x": 1}] * 60)[0] == 200


def test_a_release_switched_to_meanwhile_does_not_touch_what_waits(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve() as server, Client(server.port) as large, Client(server.port) as small:
        large.send(message("POST", "/predict", [{"x": 0.5}] * 120))
        until(lambda: waiting(small) > 0)
        server.wait_for(served.release(2))
        assert small.post("/predict", {"x": 0.5}, x_everloop_priority="high")[1]["version"] == 2
        assert waiting(small) > 0
        ((status, answer),) = large.answers(1)
        assert status == 200
        assert {each["version"] for each in json.loads(answer)} == {1}
        assert [each["probability"]["true"] for each in json.loads(answer)] == pytest.approx([expected(0.5)] * 120)
    logged = {frame.version: 0 for frame in served.predictions()}
    for frame in served.predictions():
        logged[frame.version] += len(frame.ids)
    assert logged == {1: 120, 2: 1}


def test_one_bad_row_in_a_large_request_refuses_it_once_and_runs_no_more(tmp_path: Path) -> None:
    from everloop.testing.serving import graph_of

    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE, graph=graph_of(SIGNATURE, fails=True))
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        rows = [{"x": 1.0}] * 20_000
        rows[7000] = {"x": 1e9}
        status, answer = client.post("/predict", rows)
        assert status == 500
        assert "failed" in answer["error"]
        status, answers = client.post("/predict", [{"x": 1.0}] * 20_000)
        assert (status, len(answers)) == (200, 20_000)
        assert client.post("/predict", [{"x": 1.0}] * 20_001)[0] == 413


def test_a_run_may_use_all_cores_and_answers_the_same(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve() as server, Client(server.port) as client:

        def threads() -> int:
            return sum(1 for _ in Path(f"/proc/{server.process.pid}/task").iterdir())

        single = client.post("/predict", {"x": 0.25})[1]
        before = threads()
        server.wait_for(served.release(1, mode="latency"))
        several = client.post("/predict", {"x": 0.25})[1]
        assert several["probability"] == single["probability"]
        if len(cores()) > 1:
            assert threads() > before
