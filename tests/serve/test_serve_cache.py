"""The cache: what was predicted before is answered again, never from another version, within its bytes and its time."""

import re
import select
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.records import MISSING_INTEGER
from everloop.serve.cache import Cache, Recall, unpacked
from everloop.serve.rows import Packed, Reader
from everloop.testing.serving import FAILS_ABOVE, Client, ServedHome, expected, graph_of, message, signature_of
from slow_graph import slow_graph

SIGNATURE = signature_of({"x": "number", "note": "text"}, key=("k",))
CACHE = {"bytes": 1_000_000, "seconds": 300.0}
PACKAGE = "ab" * 32


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    return served


def counted(client: Client, name: str, **labels: str) -> float:
    """The sum of the samples of a metric that have these labels."""
    text = client.get("/metrics")[1].decode()
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if re.match(rf"{name}[ {{]", line) and all(f'{key}="{value}"' in line for key, value in labels.items())
    ]
    return sum(found)


def rows_run(client: Client, **labels: str) -> float:
    """How often a graph was run."""
    return counted(client, "everloop_compute_seconds_count", **labels)


# In the server


def test_the_same_columns_are_answered_without_running_the_model_and_logged_with_an_id_of_their_own(
    tmp_path: Path,
) -> None:
    served = home(tmp_path)
    served.release(1, cache=CACHE)
    with served.serve() as server, Client(server.port) as client:
        answers = [client.post("/predict", {"x": 0.25, "note": "yes", "k": n})[1] for n in range(5)]
        assert rows_run(client) == 1, "the key is no column of the graph: five keys, one run"
        assert counted(client, "everloop_cache_hits_total") == 4
        assert counted(client, "everloop_cache_misses_total") == 1
        assert counted(client, "everloop_cache_entries") == 1
        assert client.post("/predict", {"x": 0.25, "note": "no", "k": 9})[1]["probability"]["true"] == pytest.approx(
            expected(0.25)
        )
        assert rows_run(client) == 2
        server.terminate()
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3", "4"]
    for answer in answers:
        assert answer["decision"] is True
        assert answer["probability"]["true"] == pytest.approx(expected(1.25))
    logged = [
        (id, prediction, decision)
        for frame in served.predictions("champion")
        for id, prediction, decision in zip(
            frame.ids,
            np.frombuffer(frame.prediction).reshape(-1, 2)[:, 1].tolist(),
            np.frombuffer(frame.decision, np.int64).tolist(),
            strict=True,
        )
    ]
    assert sorted(id for id, _, _ in logged) == ["0", "1", "2", "3", "4", "9"]
    assert {(prediction, decision) for id, prediction, decision in logged if id != "9"} == {(logged[0][1], 1)}
    numbers = [value for frame in served.predictions() for value in np.frombuffer(frame.numbers).tolist()]
    assert numbers == [0.25] * 6, "the columns of each row are logged, run or not"


def test_nothing_is_kept_unless_the_loop_declares_a_cache(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        for _ in range(3):
            client.post("/predict", {"x": 1.0})
        assert rows_run(client) == 3
        assert b"everloop_cache" not in client.get("/metrics")[1]


def test_no_version_ever_answers_with_what_another_one_predicted(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, cache=CACHE)
    with served.serve() as server, Client(server.port) as client:
        for champion, bias in ((1, 0.0), (2, 1.0), (1, 0.0), (2, 1.0)):
            server.wait_for(served.release(champion, cache=CACHE))
            for _ in range(3):
                answer = client.post("/predict", {"x": 0.5})[1]
                assert answer["version"] == champion
                assert answer["probability"]["true"] == pytest.approx(expected(0.5 + bias))
        assert rows_run(client) == 4, "once a switch: what the other version predicted is gone"
        server.wait_for(served.release(2))
        for _ in range(3):
            client.post("/predict", {"x": 0.5})
        assert rows_run(client) == 7, "a release without a cache runs them all"


def test_the_same_row_twice_in_one_batch_is_run_once_and_answered_twice(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, cache=CACHE)
    rows = [
        {"x": x, "note": note, "k": n}
        for n, (x, note) in enumerate([(1, "yes"), (2, "yes"), (1, "yes"), (2, "no")] * 100)
    ]
    with served.serve() as server, Client(server.port) as client:
        status, answers = client.post("/predict", rows)
        assert status == 200
        assert counted(client, "everloop_cache_misses_total") == 3
        assert counted(client, "everloop_cache_hits_total") == 397
        status, again = client.post("/predict", rows[:200])
        assert rows_run(client) == 1
        mixed = client.post("/predict", [{"x": 7}, *rows[:3]])[1]
        server.terminate()
    sent: list[dict[str, Any]] = [*rows, *rows[:200], {"x": 7}, *rows[:3]]
    for row, answer in zip(sent, [*answers, *again, *mixed], strict=True):
        total = row["x"] + (row.get("note") == "yes")
        assert answer["probability"]["true"] == pytest.approx(expected(total))
    assert len({answer["id"] for answer in answers}) == 400
    assert sum(len(frame.ids) for frame in served.predictions()) == 604


def test_a_row_on_which_the_model_fails_is_not_kept_and_spoils_no_other(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    signature = signature_of({"x": "number"})
    served.seal(1, signature, graph=graph_of(signature, fails=True))
    served.release(1, cache=CACHE)
    with served.serve() as server, Client(server.port) as client:
        for _ in range(2):
            assert client.post("/predict", {"x": FAILS_ABOVE * 2})[0] == 500
        assert client.post("/predict", {"x": 1.0})[0] == 200
        client.send(b"".join(message("POST", "/predict", {"x": x}) for x in (1.0, FAILS_ABOVE * 2, 3.0)))
        assert [status for status, _ in client.answers(3)] == [200, 500, 200]
        assert counted(client, "everloop_prediction_failures_total") == 3


def test_what_is_known_does_not_wait_behind_a_slow_model(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    signature = signature_of({"x": "number"}, task="regression", classes=())
    served.seal(1, signature, graph=slow_graph())
    served.release(1, cache=CACHE)
    with served.serve() as server, Client(server.port) as one, Client(server.port) as other:
        assert one.post("/predict", {"x": 3.0})[1]["value"] == 3.0
        one.send(b"".join(message("POST", "/predict", {"x": float(n)}) for n in range(10, 14)))
        assert other.get("/v2/health/live")[0] == 200
        for _ in range(5):
            assert other.post("/predict", {"x": 3.0})[1]["value"] == 3.0
        assert not select.select([one.socket], [], [], 0)[0], "the slow ones are still at it"
        assert [status for status, _ in one.answers(4)] == [200] * 4


def test_in_a_canary_each_arm_keeps_its_own_and_each_answer_is_its_arms(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, stage="canary", share=0.5, cache=CACHE)
    with served.serve("--seed", "1") as server, Client(server.port) as client:
        versions = set()
        for _ in range(40):
            answer = client.post("/predict", {"x": 0.5})[1]
            versions.add(answer["version"])
            assert answer["probability"]["true"] == pytest.approx(expected(0.5 + (answer["version"] == 2)))
        assert versions == {1, 2}
        assert rows_run(client) == 2
        server.terminate()
    assert sum(len(frame.ids) for frame in served.predictions()) == 40
    assert {frame.arm for frame in served.predictions()} == {"champion", "challenger"}


def test_the_shadow_answers_what_the_cache_answered_too(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, cache=CACHE)
    with served.serve(token="secret") as server, Client(server.port) as client:
        ids = [client.post("/predict", {"x": 0.5, "k": n})[1]["id"] for n in range(20)]
        assert client.post("/settled/made", b"", x_everloop_replay="secret")[0] == 200
        pairs = {arm: [id for frame in served.predictions(arm) for id in frame.ids] for arm in ("champion", "shadow")}
        assert sorted(pairs["champion"]) == sorted(pairs["shadow"]) == sorted(ids)
        assert rows_run(client, variant="champion") == 1
        assert rows_run(client, variant="shadow") == 1


def test_what_waits_to_be_logged_is_in_the_log_when_the_server_ends(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, cache=CACHE)
    with served.serve() as server, Client(server.port) as client:
        client.post("/predict", {"x": 1.0, "k": "first"})
        client.send(b"".join(message("POST", "/predict", {"x": 1.0, "k": n}) for n in range(50)))
        answers = client.answers(50)
        assert server.terminate() == 0
    assert [status for status, _ in answers] == [200] * 50
    assert sum(len(frame.ids) for frame in served.predictions()) == 51


# By itself


class Graph:
    """A graph that doubles and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[float] = []

    def run(self, packed: Packed) -> tuple[Any, Any]:
        self.given += packed["numbers"][:, 0].tolist()
        return packed["numbers"] * 2, None


class Kept:
    def __init__(self, *, limit: int = 1_000_000, seconds: float = 10.0) -> None:
        self.now = 0.0
        self.cache = Cache(limit, seconds, lambda: self.now)
        self.signature = signature_of({"x": "number"}, task="regression", classes=())
        self.reader = Reader([self.signature])
        self.graph = Graph()

    def ask(self, *values: float, package: str = PACKAGE) -> list[float]:
        recall = Recall(self.cache, package, self.reader.columns, self.signature)
        packed = {"numbers": np.array(values, np.float64)[:, None]}
        prediction, decision = recall.through([(value,) for value in values], packed, self.graph.run)
        assert decision is None
        answered: list[float] = prediction[:, 0].tolist()
        return answered


def test_what_is_too_old_is_predicted_again() -> None:
    kept = Kept(seconds=10)
    assert kept.ask(1, 2) == [2, 4]
    kept.now = 9.9
    assert kept.ask(1) == [2]
    kept.now = 10
    assert kept.ask(1) == [2]
    assert kept.graph.given == [1, 2, 1]
    assert kept.cache.evicted["expired"] == 1


def test_the_bytes_are_bounded_and_the_least_recently_used_goes_first() -> None:
    kept = Kept(limit=10 * 380)
    for value in range(1000):
        kept.ask(value)
        kept.ask(0)
        assert kept.cache.bytes <= 10 * 380
    assert kept.graph.given == list(range(1000)), "0 was used all the time and stayed"
    assert kept.cache.entries == 10
    assert kept.cache.evicted == {"full": 990, "expired": 0, "released": 0}
    kept.ask(995)
    assert len(kept.graph.given) == 1000, "a new one is still there"


def test_a_cache_too_small_for_one_prediction_still_lets_everything_be_answered() -> None:
    kept = Kept(limit=10)
    assert kept.ask(1, 2, 1) == [2, 4, 2]
    assert kept.cache.entries == kept.cache.bytes == 0


def test_predictions_of_a_version_that_went_are_not_found_and_their_memory_comes_back() -> None:
    kept = Kept()
    kept.ask(*range(500))
    before = kept.cache.bytes
    kept.cache.retain({"cd" * 32})
    kept.ask(1)
    assert kept.graph.given == [*range(500), 1]
    for value in range(40):
        kept.ask(value, package="cd" * 32)
    assert kept.cache.evicted["released"] == 500
    assert kept.cache.entries == 41
    assert kept.cache.bytes < before / 10


def test_missing_and_present_values_and_near_ones_are_told_apart() -> None:
    signature = signature_of({"a": "number", "b": "integer", "c": "text", "d": "boolean"})
    reader = Reader([signature])
    recall = Recall(Cache(1000, 1), PACKAGE, reader.columns, signature)
    rows, _ = reader.read(
        b'[{"a":1},{"b":1},{"a":1,"b":1},{"a":1.0000000000000002},{"c":"1"},{"d":true},{"c":""},{"c":"a"},{"a":0},{}]'
    )
    keys = recall.keys(rows)
    assert len(set(keys)) == len(rows)
    assert keys == recall.keys(rows)
    other = Recall(Cache(1000, 1), "cd" * 32, reader.columns, signature)
    assert not set(keys) & set(other.keys(rows))


def test_a_row_is_known_by_its_columns_whatever_stands_beside_them() -> None:
    """Beside a champion with its columns the other way round a challenger is kept; later it is champion alone."""
    ours = signature_of({"a": "number", "b": "number"})
    other = signature_of({"b": "number", "c": "number", "a": "number"})
    beside, alone = Reader([other, ours]), Reader([ours])
    assert beside.names != alone.names
    cache = Cache(1000, 1)
    before, after = (Recall(cache, PACKAGE, reader.columns, ours) for reader in (beside, alone))

    def key(recall: Recall, reader: Reader, body: bytes) -> bytes:
        return recall.keys(reader.read(body)[0])[0]

    assert key(before, beside, b'{"a":1,"b":2}') == key(after, alone, b'{"a":1,"b":2}')
    assert key(before, beside, b'{"a":1,"b":2}') != key(after, alone, b'{"a":2,"b":1}')


def test_what_is_kept_comes_back_exactly() -> None:
    cache = Cache(1000, 1)
    prediction = np.random.default_rng(0).normal(size=(7, 3))
    decision = np.array([0, 1, 2, 2, 1, 0, MISSING_INTEGER])
    back = unpacked(cache.packed(prediction, decision))
    assert np.array_equal(back[0], prediction)
    assert np.array_equal(back[1], decision)
