"""Experiments, routes and testers' overrides over a real server: who answers, what is logged, what can be said again."""

import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everloop.errors import ServeError
from everloop.serve import keys, releases, settings
from everloop.serve.arms import HOUR, assign, bounds
from everloop.serve.settings import ServerSettings, overriding
from everloop.store.files import write_atomically
from everloop.store.segments import PredictionFrame, decode, encode
from everloop.testing.serving import FAILS_ABOVE, Client, ServedHome, expected, graph_of, signature_of

SIGNATURE = signature_of({"x": "number"}, key=("k",))
BAD = FAILS_ABOVE * 2


@pytest.fixture
def served(tmp_path: Path) -> ServedHome:
    """Version n answers sigmoid(x + n − 1); version 4 fails on large rows."""
    served = ServedHome(tmp_path)
    for version in (1, 2, 3):
        served.seal(version, SIGNATURE, bias=version - 1.0)
    served.seal(4, SIGNATURE, graph=graph_of(SIGNATURE, bias=3.0, fails=True))
    return served


def arm(served: ServedHome, name: str, version: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "package": served.versions[version], **more}


def experiment(served: ServedHome, **more: Any) -> dict[str, Any]:
    shares = {"control": (1, 0.5), "second": (2, 0.3), "third": (3, 0.2)}
    arms = [arm(served, name, version, share=share) for name, (version, share) in shares.items()]
    return {"name": "price", "salt": "made:price:5a17", "arms": arms, **more}


def rows_of(frames: list[PredictionFrame]) -> Iterator[tuple[str, int, str, int, PredictionFrame]]:
    """Id, time, unit, place and frame of every logged row."""
    for frame in frames:
        units = frame.units or [""] * len(frame.ids)
        for place, row in enumerate(zip(frame.ids, array("q", frame.at), units, strict=True)):
            yield *row, place, frame


def of_arm(frames: list[PredictionFrame], name: str) -> set[str]:
    return {id for frame in frames if frame.arm == name for id in frame.ids}


# Experiments


@pytest.mark.parametrize("sticky", ["always", "hour"])
def test_every_row_of_an_experiment_has_the_arm_that_its_unit_or_id_is_assigned(
    served: ServedHome, sticky: Any
) -> None:
    declared = experiment(served, unit="customer", sticky=sticky)
    served.release(1, experiment=declared)
    told: dict[str, tuple[str, int]] = {}
    with served.serve() as server, Client(server.port) as client:
        for start in range(0, 3_000, 250):
            rows: list[dict[str, Any]] = [{"x": 0.5, "k": n, "customer": n % 97} for n in range(start, start + 250)]
            for row in rows[::5]:
                del row["customer"]  # nobody's: its own id decides
            for answer in client.post("/predict", rows)[1]:
                told[answer["id"]] = (answer["variant"], answer["version"])
                assert answer["probability"]["true"] == pytest.approx(expected(0.5 + answer["version"] - 1))
        for n in range(3_000, 3_100):
            answer = client.post("/predict", {"x": 0.5, "k": n, "customer": n})[1]
            told[answer["id"]] = (answer["variant"], answer["version"])
        assert server.terminate() == 0

    ends = bounds([each["share"] for each in declared["arms"]])
    sides: dict[tuple[str, int], set[str]] = {}
    seen = 0
    for id, at, unit, _, frame in rows_of(served.predictions()):
        place = assign(unit or id, ends, salt=declared["salt"], at=at, sticky=sticky)
        chosen = declared["arms"][place]
        assert (frame.arm, frame.experiment) == ("experiment", "price")
        assert (frame.variant, frame.version, frame.share) == (chosen["name"], chosen["version"], chosen["share"])
        assert told[id] == (frame.variant, frame.version)
        if unit:
            sides.setdefault((unit, at // HOUR if sticky == "hour" else 0), set()).add(frame.variant)
        seen += 1
    assert seen == len(told) == 3_100
    assert all(len(side) == 1 for side in sides.values()), "a unit stays on its side"
    assert {variant for variant, _ in told.values()} == {"control", "second", "third"}


def test_without_a_unit_the_id_decides_with_the_declared_shares(served: ServedHome) -> None:
    served.release(1, experiment=experiment(served))
    with served.serve() as server, Client(server.port) as client:
        ids = {}
        for start in range(0, 10_000, 500):
            for answer in client.post("/predict", [{"x": 0.5, "k": n} for n in range(start, start + 500)])[1]:
                ids[answer["id"]] = answer["variant"]
        again = client.post("/predict", {"x": 0.5, "k": 77})[1]
        metrics = client.get("/metrics")[1].decode()
        status = client.get("/status")[1]["loops"]["made"]
    for name, share in (("control", 0.5), ("second", 0.3), ("third", 0.2)):
        found = sum(variant == name for variant in ids.values())
        assert abs(found - 10_000 * share) < 4 * (10_000 * share * (1 - share)) ** 0.5  # of a binomial
        assert (
            f'everloop_predictions_total{{model_name="made",model_version="{2 if name == "second" else 3 if name == "third" else 1}",variant="{name}"}}'
            in metrics
        )
        assert f'variant="{name}"}} ' in metrics
    assert 'everloop_live_version{model_name="made",variant="third"} 3' in metrics
    assert again["variant"] == ids["77"], "the same id, the same arm"
    assert status["experiment"]["name"] == "price"


def test_an_arm_that_fails_is_answered_by_the_champion_on_the_arm_s_account(served: ServedHome) -> None:
    arms = [arm(served, "control", 1, share=0.5), arm(served, "treatment", 4, share=0.5)]
    served.release(1, experiment={"name": "e", "salt": "s", "arms": arms})
    with served.serve() as server, Client(server.port) as client:
        status, answers = client.post("/predict", [{"x": BAD, "k": n} for n in range(40)])
        assert status == 200
        assert {answer["version"] for answer in answers} == {1}
        assert {answer["variant"] for answer in answers} == {"control", "treatment"}
        assert server.terminate() == 0
    frames = served.predictions()
    treated = {id for frame in frames if frame.variant == "treatment" and frame.arm == "experiment" for id in frame.ids}
    assert of_arm(frames, "fallback") == treated != set()
    for frame in frames:
        failed = frame.arm == "experiment" and frame.variant == "treatment"
        assert set(frame.status) == {int(failed)}
        assert frame.experiment == "e"


def test_an_experiment_with_an_unsound_arm_leaves_the_champion_answering(served: ServedHome) -> None:
    arms = [arm(served, "control", 1, share=0.5), {"name": "b", "version": 9, "package": "f" * 64, "share": 0.5}]
    served.release(1, experiment={"name": "e", "salt": "s", "arms": arms})
    with served.serve() as server, Client(server.port) as client:
        answer = client.post("/predict", {"x": 0.5, "k": 1})[1]
        assert (answer["version"], "variant" in answer) == (1, False)
        assert client.get("/status")[1]["loops"]["made"]["problem"]
        assert server.terminate() == 0
    assert [(frame.arm, frame.experiment) for frame in served.predictions()] == [("champion", "")]


def test_an_experiment_begins_and_ends_while_requests_come(served: ServedHome) -> None:
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        assert "variant" not in client.post("/predict", {"x": 1, "k": 1})[1]
        server.wait_for(served.release(1, experiment=experiment(served)))
        assert "variant" in client.post("/predict", {"x": 1, "k": 1})[1]
        server.wait_for(served.release(1))
        assert "variant" not in client.post("/predict", {"x": 1, "k": 1})[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiment": {"name": "e", "salt": "s", "arms": []}},
        {"experiment": {"name": "e", "salt": "s", "arms": [{"name": "a", "version": 1, "package": "p", "share": 0.5}]}},
        {"route": {"arms": []}},
        {"route": {"arms": [{"name": "a", "version": 1, "package": "p"}]}},
    ],
)
def test_a_release_file_that_divides_the_traffic_wrongly_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "made.json"
    write_atomically(path, msgspec.json.encode({"loop": "made", "revision": 1, **wrong}))
    with pytest.raises(ServeError, match=str(path)):
        releases.read(path)


def test_a_frame_of_before_there_were_experiments_is_still_read() -> None:
    frame = PredictionFrame(
        loop="made", version=1, package="p", arm="champion", revision=1, epoch=1, share=0.0, ids=["a"],
        at=b"\0" * 8, latency=b"\0" * 4, status=b"\0",
    )  # fmt: skip
    old = msgspec.msgpack.decode(encode(frame))
    for name in ("experiment", "variant", "certainty"):
        del old[name]
    assert decode(msgspec.msgpack.encode(old)) == frame


# Testers


def test_a_tester_may_name_any_version_that_is_live(served: ServedHome) -> None:
    served.release(1, 2, stage="canary", share=0.5)
    with served.serve() as server, Client(server.port) as client:
        for wanted, version in (("2", 2), ("v2", 2), ("challenger", 2), ("1", 1), ("champion", 1)):
            for _ in range(8):
                answer = client.post("/predict", {"x": 0.5}, x_everloop_version=wanted)[1]
                assert (answer["version"], answer["variant"]) == (version, "override")
        server.wait_for(served.release(1, experiment=experiment(served)))
        for wanted, version in (("third", 3), ("3", 3), ("champion", 1)):
            assert client.post("/predict", {"x": 0.5}, x_everloop_version=wanted)[1]["version"] == version
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}
        answer = client.post("/v2/models/made/infer", body, x_everloop_version="third")[1]
        assert answer["model_version"] == "3"
        server.wait_for(served.release(1))
        assert client.post("/predict", {"x": 0.5}, x_everloop_version="1")[1]["variant"] == "override"
        for wanted in ("7", "third", "", "99999999999999999999", "é", "v"):
            status, answer = client.post("/predict", {"x": 0.5}, x_everloop_version=wanted)
            assert (status, "live are" in answer["error"]) == (404, True), wanted
        assert 'reason="version"} 6' in client.get("/metrics")[1].decode()
        assert server.terminate() == 0
    assert {(frame.arm, frame.experiment) for frame in served.predictions()} == {("override", "")}


def test_what_testers_send_is_no_part_of_a_shadow(served: ServedHome) -> None:
    served.release(1, 2)
    with served.serve() as server, Client(server.port) as client:
        client.post("/predict", {"x": 0.5, "k": 1}, x_everloop_version="1")
        client.post("/predict", {"x": 0.5, "k": 2}, x_everloop_version="challenger")
        client.post("/predict", {"x": 0.5, "k": 3})
        assert server.terminate() == 0
    frames = served.predictions()
    assert of_arm(frames, "shadow") == of_arm(frames, "champion") == {"3"}
    assert of_arm(frames, "override") == {"1", "2"}


def test_the_former_champion_answers_aside_in_a_role_of_its_own(served: ServedHome) -> None:
    former = {"version": 1, "package": served.versions[1]}
    served.release(2, former=former)
    with served.serve() as server, Client(server.port) as client:
        for n in range(40):
            assert client.post("/predict", {"x": 0.5, "k": n})[1]["version"] == 2
        client.post("/predict", {"x": 0.5, "k": 99}, x_everloop_version="2")
        status, _ = client.post("/predict", {"x": 0.5}, x_everloop_version="1")
        assert status == 404, "it is asked by nobody"
        server.wait_for(served.release(2))
        client.post("/predict", {"x": 0.5, "k": 100})
        assert server.terminate() == 0
    frames = served.predictions()
    assert of_arm(frames, "former") == {str(n) for n in range(40)}
    assert {frame.version for frame in frames if frame.arm == "former"} == {1}
    assert of_arm(frames, "champion") == {*(str(n) for n in range(40)), "100"}


def test_a_former_champion_that_is_broken_or_reads_otherwise_is_left_out_and_nobody_is_told_of_trouble(
    served: ServedHome,
) -> None:
    served.seal(5, signature_of({"x": "text"}, key=("k",)))
    for former in ({"version": 5, "package": served.versions[5]}, {"version": 9, "package": "e" * 64}):
        served.release(2, former=former)
        with served.serve() as server, Client(server.port) as client:
            assert client.post("/predict", {"x": 0.5, "k": 1})[1]["version"] == 2
            told: Any = client.get("/status")[1]
            assert told["loops"]["made"]["problem"] is None
            assert server.terminate() == 0
    assert not of_arm(served.predictions(), "former")


def test_a_tester_hears_that_the_version_failed(served: ServedHome) -> None:
    served.release(1, 4, stage="canary", share=0.5)
    with served.serve() as server, Client(server.port) as client:
        status, answer = client.post("/predict", {"x": BAD}, x_everloop_version="4")
        assert (status, "model failed" in answer["error"]) == (500, True)


class Key:
    def __init__(self, key: Any, *, operates: bool = False) -> None:
        self.key = key
        self.operates = operates


@pytest.mark.parametrize(
    ("setting", "host", "caller", "may"),
    [
        ("loopback", "127.0.0.1", None, True),
        ("loopback", "127.0.0.1", Key(None), True),  # a client address that is counted
        ("loopback", "127.0.0.1", Key("k"), False),
        ("loopback", "0.0.0.0", None, False),
        ("loopback", "0.0.0.0", Key("k", operates=True), True),
        ("key", "127.0.0.1", None, False),
        ("key", "0.0.0.0", Key("k"), False),
        ("key", "0.0.0.0", Key("k", operates=True), True),
        ("no", "127.0.0.1", None, False),
        ("no", "0.0.0.0", Key("k", operates=True), False),
    ],
)
def test_who_may_name_a_version_is_a_setting(setting: Any, host: str, caller: Any, may: bool) -> None:
    assert overriding(ServerSettings(override=setting), host)(caller) is may


def test_where_it_is_not_allowed_the_header_is_refused(served: ServedHome, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"override": "no"}')
    served.release(1)
    with served.serve("--settings", str(file)) as server, Client(server.port) as client:
        status, answer = client.post("/predict", {"x": 0.5}, x_everloop_version="1")
        assert (status, "for testers" in answer["error"]) == (403, True)
        assert client.post("/predict", {"x": 0.5})[0] == 200


def test_a_key_that_may_operate_may_name_a_version_and_another_one_may_not(served: ServedHome) -> None:
    served.release(1, 2, stage="canary", share=0.5)
    now = time.time()
    asks = keys.add(served.home, "client", now=now)
    operates = keys.add(served.home, "tester", now=now, scopes=("predict", "operate"))
    served.home.settings.write_bytes(settings.encode(ServerSettings(keys=True)))
    with served.serve("--settings", str(served.home.settings)) as server, Client(server.port) as client:
        for key, status in ((asks, 403), (operates, 200)):
            assert client.post("/predict", {"x": 0.5}, x_api_key=key, x_everloop_version="2")[0] == status
            assert client.post("/predict", {"x": 0.5}, x_api_key=key)[0] == 200


# Routes


@pytest.fixture
def router(served: ServedHome) -> ServedHome:
    """A loop of its own: "hard" for rows whose words are many, else "easy"; it fails on large rows."""
    other = ServedHome.__new__(ServedHome)
    other.home, other.loop, other.revision, other.versions = served.home, "difficulty", 0, {}
    other._key = served._key
    signature = signature_of({"words": "number"}, classes=("easy", "hard"))
    other.seal(1, signature, graph=graph_of(signature, fails=True))
    return other


def routed(served: ServedHome, router: ServedHome, *arms: dict[str, Any]) -> dict[str, Any]:
    return {"loop": "difficulty", "by": {"version": 1, "package": router.versions[1]}, "arms": list(arms)}


def test_a_small_model_decides_who_answers_and_each_decision_is_logged(served: ServedHome, router: ServedHome) -> None:
    served.release(1, route=routed(served, router, arm(served, "easy", 2), arm(served, "hard", 3)))
    with served.serve() as server, Client(server.port) as client:
        rows = [{"x": 0.5, "words": n - 100.5, "k": n} for n in range(200)]
        _, answers = client.post("/predict", rows)
        assert [answer["variant"] for answer in answers] == ["easy"] * 101 + ["hard"] * 99
        assert [answer["version"] for answer in answers] == [2] * 101 + [3] * 99
        assert answers[150]["probability"]["true"] == pytest.approx(expected(0.5 + 2))
        assert client.post("/predict", {"x": 0.5, "words": 7.0, "k": 200})[1]["variant"] == "hard"
        metrics = client.get("/metrics")[1].decode()
        assert 'everloop_predictions_total{model_name="made",model_version="1",variant="router"} 201' in metrics
        assert 'everloop_request_seconds_count{model_name="made",model_version="3",variant="hard"} 1' in metrics
        assert server.terminate() == 0
    seen = {}
    for id, _, _, place, frame in rows_of(served.predictions()):
        assert (frame.arm, frame.experiment) == ("route", "")
        seen[id] = (frame.variant, np.frombuffer(frame.certainty)[place])
    assert len(seen) == 201
    assert seen["150"] == ("hard", pytest.approx(expected(49.5)))
    assert seen["100"] == ("easy", pytest.approx(1 - expected(-0.5)))


def test_a_router_that_fails_leaves_the_row_to_the_champion_and_is_counted(
    served: ServedHome, router: ServedHome
) -> None:
    served.release(1, route=routed(served, router, arm(served, "hard", 4)))
    with served.serve() as server, Client(server.port) as client:
        rows = [
            {"x": 0.5, "words": BAD, "k": "lost"},
            {"x": 0.5, "words": -5.0, "k": "no arm"},
            {"x": BAD, "words": 5.0, "k": "arm fails"},
            {"x": 0.5, "words": 5.0, "k": "well"},
        ]
        status, answers = client.post("/predict", rows)
        assert (status, [answer["version"] for answer in answers]) == (200, [1, 1, 1, 4])
        metrics = client.get("/metrics")[1].decode()
        assert 'failures_total{model_name="made",model_version="1",variant="router"} 1' in metrics
        assert 'failures_total{model_name="made",model_version="4",variant="hard"} 1' in metrics
        assert server.terminate() == 0
    logged = {(id, frame.arm): (frame.variant, frame.version, frame.status[place], np.frombuffer(frame.certainty)[place])
              for id, _, _, place, frame in rows_of(served.predictions())}  # fmt: skip
    sure = pytest.approx(expected(5.0))
    assert logged == {
        ("lost", "fallback"): ("", 1, 0, pytest.approx(np.nan, nan_ok=True)),
        ("no arm", "route"): ("easy", 1, 0, sure),
        ("arm fails", "route"): ("hard", 4, 1, sure),
        ("arm fails", "fallback"): ("hard", 1, 0, sure),
        ("well", "route"): ("hard", 4, 0, sure),
    }


def test_a_cascade_asks_the_dear_arm_only_where_the_cheap_one_is_not_sure(served: ServedHome) -> None:
    served.release(1, route={"threshold": 0.9, "arms": [arm(served, "cheap", 4), arm(served, "dear", 2)]})
    with served.serve() as server, Client(server.port) as client:
        xs = [-9.0, -4.0, -3.0, 0.0, 3.0, BAD]  # cheap: sigmoid(x + 3)
        _, answers = client.post("/predict", [{"x": x, "k": n} for n, x in enumerate(xs)])
        assert [answer["variant"] for answer in answers] == ["cheap", "dear", "dear", "cheap", "cheap", "cheap"]
        assert [answer["version"] for answer in answers] == [4, 2, 2, 4, 4, 1]
        assert answers[1]["probability"]["true"] == pytest.approx(expected(-3.0))
        assert client.post("/predict", {"x": -3.5, "k": "alone"})[1]["variant"] == "dear"
        assert server.terminate() == 0
    logged: dict[str, list[tuple[str, str, int]]] = {}
    for id, _, _, place, frame in rows_of(served.predictions()):
        logged.setdefault(id, []).append((frame.arm, frame.variant, frame.status[place]))
        cheap = max(expected(xs[int(id)] + 3), 1 - expected(xs[int(id)] + 3)) if id.isdigit() and id != "5" else None
        if cheap is not None:
            assert np.frombuffer(frame.certainty)[place] == pytest.approx(cheap), "what the cheap one was sure of"
    assert logged.pop("5") == [("route", "cheap", 1), ("fallback", "cheap", 0)]
    assert all(len(each) == 1 for each in logged.values()), "each row is logged once, as it was answered"
    assert logged["alone"] == [("route", "dear", 0)]


def test_a_router_of_another_loop_than_the_release_says_is_refused(served: ServedHome, router: ServedHome) -> None:
    wrong = {"loop": "made", "by": {"version": 1, "package": router.versions[1]}, "arms": [arm(served, "easy", 2)]}
    served.release(1, route=wrong)
    with served.serve() as server, Client(server.port) as client:
        assert client.post("/predict", {"x": 0.5})[1]["version"] == 1
        assert "belongs to loop difficulty" in client.get("/status")[1]["loops"]["made"]["problem"]
