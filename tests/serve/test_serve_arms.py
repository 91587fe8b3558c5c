"""Shares, shadows and failures: which arm answers, what the log says of it, and that a client never notices."""

from array import array
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from everloop.serve.arms import HOUR, draw, unit_point
from everloop.store.segments import PredictionFrame
from everloop.testing.serving import FAILS_ABOVE, Client, ServedHome, expected, graph_of, signature_of

SIGNATURE = signature_of({"x": "number"}, key=("k",))


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    served.seal(3, SIGNATURE, graph=graph_of(SIGNATURE, bias=1.0, fails=True))
    return served


def rows_of(frames: list[PredictionFrame]) -> dict[str, PredictionFrame]:
    return {id: frame for frame in frames for id in frame.ids}


def test_the_share_of_a_canary_is_as_declared_and_logged(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, stage="canary", share=0.1, epoch=7)
    with served.serve("--seed", "4") as server, Client(server.port) as client:
        versions = {}
        for start in range(0, 10_000, 500):
            _, answers = client.post("/predict/made", [{"x": 0.5, "k": n} for n in range(start, start + 500)])
            for answer in answers:
                versions[answer["id"]] = answer["version"]
                assert answer["probability"]["true"] == pytest.approx(expected(0.5 + (answer["version"] == 2)))
        assert server.terminate() == 0
    challenged = sum(version == 2 for version in versions.values())
    assert 1000 - 4 * 30 < challenged < 1000 + 4 * 30  # four standard deviations of a binomial
    champion, challenger = rows_of(served.predictions("champion")), rows_of(served.predictions("challenger"))
    assert len(champion) + len(challenger) == 10_000
    assert {id for id, version in versions.items() if version == 2} == set(challenger)
    frame = next(iter(challenger.values()))
    assert (frame.share, frame.epoch, frame.version, frame.package) == (0.1, 7, 2, served.versions[2])
    assert np.frombuffer(frame.prediction).reshape(-1, 2)[0, 1] == pytest.approx(expected(1.5))
    assert np.frombuffer(frame.numbers).tolist() == [0.5] * len(frame.ids)
    assert all(each > 0 for each in array("i", frame.latency))


def test_the_same_seed_draws_the_same_arms(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, stage="canary", share=0.5)
    seen = []
    for _ in range(2):
        with served.serve("--seed", "9") as server, Client(server.port) as client:
            seen.append([answer["version"] for answer in client.post("/predict", [{"x": 1}] * 200)[1]])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {1, 2}


def test_a_unit_stays_on_its_side_for_an_hour_or_for_good() -> None:
    units = [str(n) for n in range(2000)]

    def drawn(hour: int, sticky: str, salt: str = "s") -> list[bool]:
        at = [hour * HOUR + 5] * len(units)
        return draw(len(units), 0.3, lambda: 0.0, units=units, at=at, salt=salt, sticky=sticky)  # type: ignore[arg-type]

    assert drawn(1, "hour") == drawn(1, "hour")
    assert drawn(1, "always") == drawn(900, "always")
    assert drawn(1, "always", "other") != drawn(1, "always")
    both = sum(a and b for a, b in zip(drawn(1, "hour"), drawn(2, "hour"), strict=True)) / 2000
    assert both == pytest.approx(0.09, abs=0.03)  # the next hour is a new draw
    assert sum(drawn(3, "hour")) / 2000 == pytest.approx(0.3, abs=0.05)
    points = sorted(unit_point(unit, "s") for unit in units)
    assert max(b - a for a, b in pairwise([0.0, *points, 1.0])) < 0.01


def test_a_declared_unit_decides_and_is_logged(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, stage="canary", share=0.5, unit="customer", sticky="always")
    with served.serve() as server, Client(server.port) as client:
        sides: dict[int, set[int]] = {}
        for _ in range(5):
            rows = [{"x": 1.0, "customer": n} for n in range(100)]
            for row, answer in zip(rows, client.post("/predict", rows)[1], strict=True):
                sides.setdefault(int(row["customer"]), set()).add(answer["version"])
        assert server.terminate() == 0
    assert all(len(side) == 1 for side in sides.values())
    assert {version for side in sides.values() for version in side} == {1, 2}
    for frame in served.predictions():
        assert len(frame.units) == len(frame.ids)
        assert all(sides[int(unit)] == {frame.version} for unit in frame.units)


def test_a_shadow_answers_the_same_rows_and_no_client(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2)
    with served.serve() as server, Client(server.port) as client:
        for n in range(300):
            answer = client.post("/predict", {"x": n / 100, "k": n})[1]
            assert answer["version"] == 1
        client.post("/predict", [{"x": 1, "k": 1000 + n} for n in range(500)])
        assert server.terminate() == 0
    champion, shadow = rows_of(served.predictions("champion")), rows_of(served.predictions("shadow"))
    assert set(champion) == set(shadow)
    assert len(shadow) == 800
    frame = shadow["250"]
    at = frame.ids.index("250")
    assert frame.version == 2
    assert np.frombuffer(frame.prediction).reshape(-1, 2)[at, 1] == pytest.approx(expected(3.5))
    assert array("q", champion["250"].at)[champion["250"].ids.index("250")] == array("q", frame.at)[at]


def test_a_failing_challenger_is_answered_by_the_champion_and_counted(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 3, stage="canary", share=1.0)
    bad = FAILS_ABOVE * 2
    with served.serve() as server, Client(server.port) as client:
        status, answers = client.post("/predict", [{"x": 0.5, "k": 1}, {"x": bad, "k": 2}, {"x": 0.7, "k": 3}])
        assert status == 200
        assert [answer["version"] for answer in answers] == [3, 1, 3]
        assert client.post("/predict", {"x": bad, "k": 4})[1]["version"] == 1
        assert client.get("/status")[1]["loops"]["made"]["errors"]["challenger"]
        metrics = client.get("/metrics")[1].decode()
        assert 'failures_total{model_name="made",model_version="3",variant="challenger"} 2' in metrics
        assert server.terminate() == 0
    challenger, fallback = rows_of(served.predictions("challenger")), rows_of(served.predictions("fallback"))
    assert set(challenger) == {"1", "2", "3", "4"}
    assert set(fallback) == {"2", "4"}
    failed = {id: challenger[id].status[challenger[id].ids.index(id)] for id in challenger}
    assert failed == {"1": 0, "2": 1, "3": 0, "4": 1}
    frame = challenger["4"]
    assert np.isnan(np.frombuffer(frame.prediction).reshape(-1, 2)[frame.ids.index("4")]).all()
    assert all(frame.version == 1 and set(frame.status) == {0} for frame in fallback.values())


def test_a_failing_shadow_is_logged_and_harms_nobody(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 3)
    with served.serve() as server, Client(server.port) as client:
        assert client.post("/predict", {"x": FAILS_ABOVE * 2, "k": 1})[0] == 200
        assert server.terminate() == 0
    (frame,) = served.predictions("shadow")
    assert list(frame.status) == [1]


def test_a_failing_champion_spoils_only_its_own_rows(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(3)
    with served.serve() as server, Client(server.port) as client:
        status, answer = client.post("/predict", {"x": FAILS_ABOVE * 2})
        assert status == 500
        assert "model failed" in answer["error"]
        assert client.post("/predict", {"x": 1})[0] == 200


def test_a_large_request_does_not_keep_small_ones_waiting_for_the_loop(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve() as server, Client(server.port) as large, Client(server.port) as small:
        large.send(b"")
        status, answers = large.post("/predict", [{"x": n} for n in range(20_000)])
        assert (status, len(answers)) == (200, 20_000)
        assert small.post("/predict", {"x": 1})[0] == 200


def test_regression_and_text_classes_have_their_own_answers(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, signature_of({"x": "number"}, task="regression", classes=(), positive=None), bias=2.0)
    served.seal(2, signature_of({"x": "number"}, classes=("no", "yes")))
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        assert client.post("/predict", {"x": 1})[1]["value"] == 3.0
        outputs = client.post(
            "/v2/models/made/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}
        )[1]["outputs"]
        assert outputs[-1] == {"name": "value", "datatype": "FP64", "shape": [1], "data": [3.0]}
        server.wait_for(served.release(2))
        answer = client.post("/predict", {"x": 1})[1]
        assert answer["decision"] == "yes"
        assert set(answer["probability"]) == {"no", "yes"}
        assert server.terminate() == 0
    first, *_, second = served.predictions()
    assert (first.width, first.decision) == (1, b"")
    assert (second.width, len(second.decision)) == (2, 8)
