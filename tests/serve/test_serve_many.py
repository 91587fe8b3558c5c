"""Several loops in one server: each answers for itself, memory is bounded, and who waits for one holds up nobody else."""

import gc
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from everloop.errors import NotFound, RequestError
from everloop.serve.exchange import Exchange
from everloop.serve.memory import resident
from everloop.serve.models import LEAST_BYTES, Models
from everloop.serve.parked import BYTES, Parked
from everloop.serve.paths import place_of
from everloop.serve.service import LOADING
from everloop.serve.unloaded import Unloaded
from everloop.store.home import Home
from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of
from heavy_graph import heavy_graph

SIGNATURE = signature_of({"x": "number"}, task="regression", classes=())
MEGABYTES = 32
ROOM_FOR_TWO = "100MB"
"""What is measured is a little more than the weights, the first time most."""


def homes(path: Path, *names: str, megabytes: int = MEGABYTES) -> list[ServedHome]:
    """Loops that answer x + their place, all in one home."""
    found = []
    for place, name in enumerate(names):
        served = ServedHome(path, name)
        served.seal(1, SIGNATURE, graph=heavy_graph(megabytes, bias=place))
        served.release(1)
        found.append(served)
    return found


def states(client: Client) -> dict[str, str]:
    return {name: each["state"] for name, each in client.get("/status")[1]["loops"].items()}


def ask(client: Client, name: str, x: float = 1.0) -> Any:
    status, answer = client.post(f"/predict/{name}", {"x": x})
    assert status == 200, answer
    return answer["value"]


def loops(*names: str) -> list[str]:
    """After the first, which a test's home names itself."""
    return [each for name in names for each in ("--loop", name)]


def all_of(served: ServedHome, *more: str) -> ServerProcess:
    """A server that is told no loop: it serves what is released."""
    return served.serve(*more, every_loop=True)


# Which loops


def test_each_loop_answers_for_itself_and_logs_to_its_own_folder(tmp_path: Path) -> None:
    (first, second) = homes(tmp_path, "first", "second", megabytes=1)
    with first.serve(*loops("second")) as server, Client(server.port) as client:
        assert (ask(client, "first"), ask(client, "second")) == (1.0, 2.0)
        assert client.post("/predict", {"x": 1})[0] == 404, "which one?"
        assert client.get("/v2/models/second/ready")[0] == 200
        server.terminate()
    assert [len(frame.ids) for frame in first.predictions()] == [1]
    assert [len(frame.ids) for frame in second.predictions()] == [1]


def test_without_a_name_every_loop_that_is_released_is_served_and_new_ones_as_they_come(tmp_path: Path) -> None:
    (first,) = homes(tmp_path, "first", megabytes=1)
    for name in (".first.json.12", "a b.json", "first.json.tmp"):
        (first.home.releases / name).write_text("{}")
    with all_of(first) as server, Client(server.port) as client:
        assert server.told()["loops"] == {"first": 1}
        assert ask(client, "first") == 1.0
        assert client.post("/predict/second", {"x": 1})[0] == 404
        (_, second) = homes(tmp_path, "first", "second", megabytes=1)
        server.wait(lambda told: told["loops"] == {"first": 1, "second": 1})
        assert ask(client, "second") == 2.0
        assert client.get("/v2/health/ready")[0] == 200
        second.seal(2, SIGNATURE, graph=heavy_graph(1, bias=7))
        second.release(2)
        server.wait(lambda told: told["loops"] == {"first": 1, "second": 2})
        assert ask(client, "second") == 8.0


def test_a_server_without_any_release_waits_for_the_first(tmp_path: Path) -> None:
    served = ServedHome(tmp_path, "first")
    with all_of(served) as server, Client(server.port) as client:
        assert client.get("/v2/health/live")[0] == 200
        homes(tmp_path, "first", megabytes=1)
        server.wait(lambda told: told["loops"] == {"first": 1})
        assert ask(client, "first") == 1.0


# Memory


def test_loops_that_nobody_asked_for_longest_leave_memory_and_come_back_when_somebody_asks(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", "third")
    with all_of(first, "--memory", ROOM_FOR_TWO) as server, Client(server.port) as client:
        assert sorted(states(client).values()) == ["live", "live", "resting"]
        for name, value in (("first", 1.0), ("second", 2.0), ("third", 3.0)) * 2:
            assert ask(client, name) == value
            assert states(client)[name] == "live"
            assert sorted(states(client).values()).count("live") == 2
        ask(client, "second")
        ask(client, "third")
        ask(client, "first")
        assert states(client) == {"first": "live", "second": "resting", "third": "live"}
        assert client.get("/v2/health/ready")[0] == 200, "whoever asks is answered"
        assert client.get("/v2/models/second/ready")[0] == 200
        assert states(client)["second"] == "resting", "to ask whether it is ready loads nothing"
        text = client.get("/metrics")[1].decode()
        assert 'everloop_model_loaded{model_name="second"} 0' in text
        assert 'everloop_model_bytes{model_name="second"} 0' in text
        assert client.get("/v2/models/second")[1]["name"] == "second"
        assert states(client)["second"] == "live", "what it takes can only be told when it is there"
        sizes = [each["model_bytes"] for each in client.get("/status")[1]["loops"].values()]
        assert all(each == 0 or MEGABYTES * 1e6 <= each < 3 * MEGABYTES * 1e6 for each in sizes)


def test_a_pinned_loop_stays_whoever_else_is_asked_for(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", "third", "fourth")
    with all_of(first, "--memory", ROOM_FOR_TWO, "--pin", "third") as server, Client(server.port) as client:
        for name in ("first", "second", "fourth", "second", "first"):
            ask(client, name)
            assert states(client)["third"] == "live"
            assert states(client)[name] == "live"


def test_a_bound_that_even_one_loop_exceeds_still_lets_it_answer_and_is_said(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second")
    with all_of(first, "--memory", "1MB") as server, Client(server.port) as client:
        for name, value in (("first", 1.0), ("second", 2.0)) * 2:
            assert ask(client, name) == value
            assert sorted(states(client).values()) == ["live", "resting"]
        assert "more in memory than is allowed" in server.log.read_text()


def test_memory_of_loops_that_come_and_go_is_given_back(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", "third")
    with all_of(first, "--memory", "40MB") as server, Client(server.port) as client:

        def taken() -> int:
            return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096

        for name in ("first", "second", "third"):
            ask(client, name)
        before = taken()
        for _ in range(5):
            for name in ("first", "second", "third"):
                ask(client, name)
        server.wait(lambda told: taken() - before < MEGABYTES * 1e6)


def test_who_waits_for_a_loop_holds_up_nobody_and_everybody_who_waits_is_answered(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", megabytes=48)
    with all_of(first, "--memory", "70MB", "--pin", "first") as server, Client(server.port) as one:
        assert states(one) == {"first": "live", "second": "resting"}
        waiting = [Client(server.port) for _ in range(20)]
        for number, each in enumerate(waiting):
            each.send(message("POST", "/predict/second", {"x": float(number)}))
        for _ in range(3):
            assert ask(one, "first") == 1.0
        assert states(one)["second"] == "loading"
        assert not select.select([each.socket for each in waiting], [], [], 0)[0], "they still wait"
        for number, each in enumerate(waiting):
            ((status, body),) = each.answers(1)
            assert status == 200
            assert b'"value":%d.0' % (number + 1) in body
            each.close()
        assert server.log.read_text().count('"event":"unloaded"') == 0


def test_a_request_waits_no_longer_than_its_deadline(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", megabytes=48)
    with all_of(first, "--memory", "70MB", "--pin", "first") as server, Client(server.port) as client:
        status, answer = client.post("/predict/second", {"x": 1.0}, x_everloop_deadline_ms="5")
        assert status == 503
        assert client.headers[b"retry-after"]
        assert "deadline" in answer["error"] or "late" in answer["error"]
        assert ask(client, "second") == 2.0, "it was loaded all the same"
        assert 'everloop_refused_total{code="503",reason="deadline"} 1' in client.get("/metrics")[1].decode()


def test_a_resting_loop_follows_its_releases_and_serves_the_newest_to_whoever_asks(tmp_path: Path) -> None:
    (first, second) = homes(tmp_path, "first", "second")
    with all_of(first, "--memory", "40MB", "--pin", "first") as server, Client(server.port) as client:
        assert states(client)["second"] == "resting"
        second.seal(2, SIGNATURE, graph=heavy_graph(MEGABYTES, bias=10))
        second.release(2)
        server.wait(lambda told: told["loops"] == {"first": 1, "second": 2})
        assert states(client)["second"] == "resting"
        assert ask(client, "second") == 11.0


def test_a_resting_loop_whose_package_was_damaged_says_so_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    (first, second) = homes(tmp_path, "first", "second")
    place = second.home.packages / second.versions[1] / "model.onnx"
    sound = place.read_bytes()
    with all_of(first, "--memory", "40MB", "--pin", "first") as server, Client(server.port) as client:
        place.write_bytes(sound[:-1] + b"?")
        status, answer = client.post("/predict/second", {"x": 1.0})
        assert status == 503
        assert "model.onnx does not match the manifest" in answer["error"]
        assert client.post("/predict/second", {"x": 1.0})[0] == 503
        place.write_bytes(sound)
        status, answer = client.post("/v2/repository/models/second/load", {})
        assert status == 200, answer
        assert ask(client, "second") == 2.0


# By request


def test_tritons_client_lists_loads_and_unloads(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", megabytes=1)
    with (
        all_of(first) as server,
        InferenceServerClient(f"127.0.0.1:{server.port}") as triton,
        Client(server.port) as client,
    ):
        assert "model_repository" in triton.get_server_metadata()["extensions"]
        assert [(each["name"], each["version"], each["state"]) for each in triton.get_model_repository_index()] == [
            ("first", "1", "READY"),
            ("second", "1", "READY"),
        ]
        triton.unload_model("second")
        assert not triton.is_model_ready("second")
        assert triton.is_model_ready("first")
        assert triton.is_server_ready(), "who unloads a model does not want it"
        assert triton.get_model_repository_index()[1] == {
            "name": "second", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded",
        }  # fmt: skip
        status, answer = client.post("/predict/second", {"x": 1})
        assert status == 503
        assert "POST /v2/repository/models/second/load" in answer["error"]
        assert client.post("/v2/repository/index", {"ready": True})[1][0]["name"] == "first"
        triton.unload_model("second")
        triton.load_model("second")
        triton.load_model("second")
        assert triton.is_model_ready("second")
        assert ask(client, "second") == 2.0
        with pytest.raises(InferenceServerException, match="cannot be given here"):
            triton.load_model("second", config="{}")
        with pytest.raises(InferenceServerException, match="There is nothing at"):
            triton.load_model("fourth")
        assert client.post("/v2/repository/index", b"{nonsense")[0] == 400


def test_tritons_client_does_the_same_over_grpc_and_waits_for_a_loop_that_rests(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second")
    with (
        all_of(first, "--memory", "40MB", "--pin", "first", "--grpc-port", "0") as server,
        Client(server.port) as client,
        grpc.InferenceServerClient(f"127.0.0.1:{server.told()['grpc_port']}") as triton,
    ):
        assert states(client)["second"] == "resting"
        assert triton.is_model_ready("second")
        given = grpc.InferInput("x", [1], "FP64")
        given.set_data_from_numpy(np.array([1.0]))
        assert triton.infer("second", [given]).as_numpy("value").tolist() == [2.0]
        triton.unload_model("second")
        assert not triton.is_model_ready("second")
        index = triton.get_model_repository_index().models
        assert [(each.name, each.state) for each in index] == [("first", "READY"), ("second", "UNAVAILABLE")]
        with pytest.raises(InferenceServerException, match="was unloaded"):
            triton.infer("second", [given])
        triton.load_model("second")
        assert triton.infer("second", [given]).as_numpy("value").tolist() == [2.0]
        with pytest.raises(InferenceServerException, match="cannot be given here"):
            triton.load_model("second", config="{}")
        with pytest.raises(InferenceServerException, match="There is no model"):
            triton.unload_model("fourth")


def test_what_was_unloaded_stays_so_whatever_is_released_until_it_is_loaded(tmp_path: Path) -> None:
    (first, second) = homes(tmp_path, "first", "second", megabytes=1)
    with all_of(first) as server, Client(server.port) as client:
        assert client.post("/v2/repository/models/second/unload", b"")[0] == 200
        second.seal(2, SIGNATURE, graph=heavy_graph(1, bias=10))
        second.release(2)
        server.wait(lambda told: told["loops"]["second"] == 2)
        assert states(client)["second"] == "unloaded"
        assert client.post("/predict/second", {"x": 1})[0] == 503
        assert client.post("/outcomes/second", {"id": "a", "value": 1})[0] == 200, "what came true is always taken"
        assert client.post("/outcomes/second", {"id": "a", "value": "1"})[0] == 200, "nobody knows what it may be"
        second.release(2, label="late", task="binary", classes=(False, True))
        server.wait(lambda told: client.post("/outcomes/second", {"id": "b", "value": "maybe"})[0] == 400)
        status, answer = client.post("/outcomes/second", [{"id": "b", "value": True}, {"id": "c", "value": "maybe"}])
        assert (status, answer["error"]) == (
            400, "The outcome of 'c' is 'maybe', which is no late; it is false or true: send one of these."
        )  # fmt: skip
        assert client.post("/outcomes/second", {"id": "b", "value": "maybe", "name": "sold"})[0] == 200
        assert client.post("/outcomes/second", {"id": "b", "value": "true"})[0] == 200
        assert client.post("/v2/repository/models/second/load", b"")[0] == 200
        assert ask(client, "second") == 11.0


def test_what_one_process_is_told_to_unload_every_process_unloads_and_the_next_too(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", "second", megabytes=1)
    with all_of(first, "--processes", "2") as server:

        def answers(status: int) -> bool:
            found = []
            for _ in range(16):
                with Client(server.port) as client:
                    found.append(client.post("/predict/second", {"x": 1})[0])
            return found == [status] * len(found)

        with Client(server.port) as client:
            assert client.post("/v2/repository/models/second/unload", b"")[0] == 200
        server.wait(lambda told: answers(503))
        (killed, _) = server.told()["processes"]
        os.kill(killed, signal.SIGKILL)
        server.wait(lambda told: bool(told.get("ready")) and killed not in told["processes"])
        assert answers(503)
        with Client(server.port) as client:
            assert client.post("/v2/repository/models/second/load", b"")[0] == 200
        server.wait(lambda told: answers(200))
        assert server.terminate() == 0
    assert list((first.home.servers / "unloaded").iterdir()) == []


def test_a_loop_without_a_version_cannot_be_loaded(tmp_path: Path) -> None:
    served = ServedHome(tmp_path, "first")
    served.release(None)
    with served.serve() as server, Client(server.port) as client:
        status, answer = client.post("/v2/repository/models/first/load", b"")
        assert status == 400
        assert "no version of it is released" in answer["error"]
        assert client.post("/v2/repository/index", b"")[1] == [
            {"name": "first", "version": "", "state": "UNAVAILABLE", "reason": "none"}
        ]


def test_loading_and_unloading_is_for_operators() -> None:
    for path in (b"/v2/repository/index", b"/v2/repository/models/first/load", b"/v2/repository/models/first/unload"):
        assert place_of(path).about == "operate"


# The parts


def test_a_package_that_two_loops_need_is_loaded_once_and_goes_with_the_last(tmp_path: Path) -> None:
    (first, *_) = homes(tmp_path, "first", megabytes=4)
    package = first.versions[1]
    models = Models(first.home)
    assert models.expected([package]) >= 4_000_000
    model = models.get(package, owner="first", loop="first")
    assert models.get(package, owner="first", loop="second") is model, "another loop routes to it"
    models.hold("first", [model])
    models.hold("second", [model])
    assert models.loads == 1
    assert models.expected([package]) == 0
    assert model.bytes >= 4_000_000
    assert models.bytes == models.bytes_of("first") == models.bytes_of("second") == model.bytes
    with pytest.raises(NotFound, match="belongs to loop first"):
        models.get(package, owner="second", loop="second")
    models.let_go("first")
    assert models.bytes == model.bytes
    models.let_go("second")
    assert models.bytes == 0
    assert models.expected(["f" * 64, "no digest"]) == 0
    del model
    gc.collect()
    assert models.get(package, owner="first", loop="first").bytes > 0
    assert models.loads == 2


def test_the_versions_before_are_kept_for_a_way_back_unless_memory_is_wanted(tmp_path: Path) -> None:
    served = ServedHome(tmp_path, "first")
    for version in range(7):
        served.seal(version, SIGNATURE, graph=heavy_graph(1, bias=version))
    models = Models(served.home)
    for version in range(7):
        models.hold("first", [models.get(served.versions[version], owner="first", loop="first")])
    assert models.loads == 7
    for version in (3, 4, 5, 6):
        models.get(served.versions[version], owner="first", loop="first")
    assert models.loads == 7, "the last four are there"
    models.hold("first", [models.get(served.versions[6], owner="first", loop="first")])
    assert models.drop_spare()
    assert not models.drop_spare()
    assert models.bytes == models.bytes_of("first") >= LEAST_BYTES / 2


class Wire:
    """Takes the answers of exchanges."""

    draining = False

    def __init__(self) -> None:
        self.application = self
        self.refused: dict[tuple[int, str], int] = {}
        self.sent = 0

    def send(self) -> None:
        self.sent += 1


def test_no_more_wait_for_a_load_than_memory_is_good_for() -> None:
    parked = Parked(LOADING)
    wire: Any = Wire()
    went_on: list[int] = []
    for number in range(LOADING.requests):
        parked.add(Exchange(wire), 10, lambda number=number: went_on.append(number))  # type: ignore[misc]
    with pytest.raises(RequestError, match="too many wait"):
        parked.add(Exchange(wire), 10, lambda: None)
    parked.go_on()
    assert went_on == list(range(LOADING.requests))
    parked.add(Exchange(wire), BYTES - 10, lambda: None)
    with pytest.raises(RequestError, match="too many wait"):
        parked.add(Exchange(wire), 11, lambda: None)
    late = Exchange(wire)
    late.deadline = late.arrived - 1
    with pytest.raises(RequestError, match="late"):
        parked.add(late, 0, lambda: None)
    assert len(parked) == 1
    parked.refuse("It was not loaded.")
    assert wire.sent == 1
    assert not parked


def test_markers_of_servers_that_were_killed_are_nobody_elses(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, ours = Unloaded(Home(tmp_path), ended.pid), Unloaded(Home(tmp_path), os.getpid())
    left.add("first")
    ours.add("a-loop.with-signs")
    assert ours.names() == {"a-loop.with-signs"}
    ours.remove("first")
    ours.clear()
    assert list(ours.folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "two", "2XB", "-1GB", "0", "1e9", "1.2.3MB"])
def test_a_size_that_is_none_is_refused_with_what_to_write(text: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "everloop.serve", "--home", str(tmp_path), f"--memory={text}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert f"it is {text!r}; write a size such as 2GB" in found.stderr


def test_a_large_graph_is_handed_over_without_holding_up_the_interpreter(tmp_path: Path) -> None:
    other, first = homes(tmp_path, "other", "first", megabytes=4)
    models = Models(first.home)
    models.get(other.versions[1], owner="other", loop="other")  # the first one pays for what all share
    before = len(list(Path("/proc/self/fd").iterdir()))
    model = models.get(first.versions[1], owner="first", loop="first")
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "the file in memory is closed again"
    assert resident() > 0
    assert model.bytes < 3 * 4_000_000
