"""What a query is about and who goes first: the same as the declaration's own rendering, drawn and logged by the server."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import everloop as el
from everloop.data.features import render
from everloop.errors import ServeError, SpecError
from everloop.measure import space
from everloop.records import ColumnType, encode
from everloop.serve.meaning import MAKERS, ask, compiled, meaning_of
from everloop.serve.predictor import PredictionJob, Predictor, one
from everloop.serve.releases import MeaningFile
from everloop.serve.rows import Reader
from everloop.serve.urgency import HIGH, LOW, NEVER, NORMAL
from everloop.spec.serve import ASKED
from everloop.spec.tree import FeatureTree, to_json
from everloop.testing.serving import Client, ServedHome, graph_of, live_of, signature_of

SCHEMA: dict[str, ColumnType] = {"x": "number", "n": "integer", "b": "boolean", "t": "text"}
SIGNATURE = signature_of(dict(SCHEMA))
EXPRESSIONS: dict[str, Any] = {
    "comparison": lambda row: row.x > 0.5,
    "integer against number": lambda row: row.n <= row.x,
    "equal text": lambda row: row.t == "claims",
    "not equal": lambda row: row.n != 2,
    "and": lambda row: (row.x > 0) & row.b,
    "or": lambda row: (row.x > 0) | row.b,
    "xor": lambda row: row.b ^ (row.n > 1),
    "not": lambda row: ~row.b,
    "arithmetic": lambda row: abs(-(row.x * 2 + row.n) / row.x) > 1,
    "clip": lambda row: row.x.clip(0, 1) == 1,
    "choose": lambda row: el.when(row.b).then("yes").when(row.x > 1).then(row.t).otherwise("no"),
    "choose without otherwise": lambda row: el.when(row.x > 0).then("up").otherwise(None),
    "missing": lambda row: row.t.is_missing(),
    "fill": lambda row: row.t.fill_missing("none"),
    "in": lambda row: row.t.is_in(["claims", "news"]),
    "text of a boolean": lambda row: row.b.to_text(),
    "text of an integer": lambda row: row.n.to_text(),
    "contains": lambda row: row.t.str.contains("ai"),
    "starts": lambda row: row.t.str.starts_with("n"),
    "ends": lambda row: row.t.str.ends_with("s"),
    "length": lambda row: row.t.str.length() > 4,
}


def made(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)

    def one() -> dict[str, Any]:
        row = {
            "x": float(np.round(random.normal(0, 2), 1)) if random.random() < 0.9 else 0.0,
            "n": int(random.integers(-3, 4)),
            "b": bool(random.random() < 0.5),
            "t": str(random.choice(["claims", "news", "mail", "", "ünïcode s"])),
        }
        return {name: value for name, value in row.items() if random.random() < 0.8}

    return [one() for _ in range(count)]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_asked_of_a_request_an_expression_says_what_its_rendering_says(name: str) -> None:
    node = el.Meaning(EXPRESSIONS[name]).of
    assert not isinstance(node, str)
    rows = made(400, seed=1)
    reader = Reader([SIGNATURE])
    read, _ = reader.read(json.dumps(rows).encode())
    asked = compiled(to_json(node), reader.columns)
    types = {"x": pl.Float64, "n": pl.Int64, "b": pl.Boolean, "t": pl.String}
    frame = pl.DataFrame([{key: row.get(key) for key in types} for row in rows], schema=types)
    told = render(FeatureTree(columns=(("value", node),)), frame, SCHEMA)["value"].to_list()
    assert [asked(row) for row in read] == told


def test_what_may_be_declared_is_what_can_be_asked() -> None:
    assert frozenset(MAKERS) == ASKED
    with pytest.raises(SpecError, match="uses log, which is not asked of a request"):
        el.Serve(first=lambda row: row.x.log() > 1)
    with pytest.raises(SpecError, match=r"Serve\.first is 3; write a function of the row"):
        el.Serve(first=3)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"Meaning\.most is 0\.01; write more than least"):
        el.Meaning("t", most=0.01)
    with pytest.raises(ServeError, match="none that requests bring"):
        compiled({"input": "other"}, Reader([SIGNATURE]).columns)


def test_values_of_a_type_that_nobody_knows_have_no_meaning_and_break_nothing() -> None:
    reader = Reader([signature_of({"x": "number"})], unit="who")
    node = el.Meaning(lambda row: row.who > 3).of
    assert not isinstance(node, str)
    asked = compiled(to_json(node), reader.columns)
    rows, _ = reader.read(b'[{"who": "seven"}, {"who": 7}, {}, {"who": true}]')
    assert [asked(row) for row in rows] == [None, True, None, False]


def test_clusters_are_the_nearest_centroids_of_the_rows_that_were_learned_from() -> None:
    random = np.random.default_rng(2)
    middles = np.array([[8.0, 0, 0, 0], [0, 8.0, 0, 0], [0, 0, 8.0, 0]])
    learned = np.concatenate([middle + random.normal(0, 0.3, (200, 4)) for middle in middles]).astype(np.float32)
    found = space.of_arrays(space.summary(learned[random.permutation(len(learned))]))
    assert found is not None
    profile = encode({"spaces": {"e": found}, "columns": {}})
    reader = Reader([signature_of({"e": "FP32[4]"})])
    asked = meaning_of(MeaningFile(column="e", package="p"), reader.columns, profile)
    bodies = [{"e": (middle + random.normal(0, 0.3, 4)).tolist()} for middle in np.repeat(middles, 20, axis=0)]
    rows, _ = reader.read(json.dumps(bodies).encode())
    told = asked(rows)
    groups = [set(told[place : place + 20]) for place in (0, 20, 40)]
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups)), "no cluster is shared"
    with pytest.raises(ServeError, match="learned no clusters of 'x'"):
        meaning_of(MeaningFile(column="x", package="p"), reader.columns, profile)


@pytest.fixture
def served(tmp_path: Path) -> ServedHome:
    served = ServedHome(tmp_path)
    for version in (1, 2, 3):
        served.seal(version, SIGNATURE, bias=version - 1.0)
    served.seal(4, SIGNATURE, graph=graph_of(SIGNATURE, bias=3.0, fails=True))
    return served


def node_of(function: Any) -> dict[str, Any]:
    node = el.Meaning(function).of
    assert not isinstance(node, str)
    return to_json(node)


def routed(served: ServedHome, weights: dict[str, list[float]], versions: tuple[int, int] = (2, 3)) -> dict[str, Any]:
    arms = [
        {"name": name, "version": version, "package": served.versions[version]}
        for name, version in zip(("cheap", "dear"), versions, strict=True)
    ]
    return {"route": {"arms": arms, "weights": weights}, "meaning": {"node": node_of(lambda row: row.t)}}


def test_each_class_is_answered_by_its_weights_and_class_and_weight_are_logged(served: ServedHome) -> None:
    weights = {"claims": [0.05, 0.95], "news": [0.95, 0.05], "": [0.5, 0.5]}
    served.release(1, **routed(served, weights))
    count = Counter[tuple[str, str]]()
    with served.serve() as server, Client(server.port) as client:
        for n in range(600):
            topic = ("claims", "news", "mail")[n % 3]
            answer = client.post("/predict", {"x": 0.1, "t": topic}, x_prediction_id=str(n))[1]
            count[topic, answer["variant"]] += 1
            assert answer["version"] == {"cheap": 2, "dear": 3}[answer["variant"]]
        assert client.post("/predict", {"x": 0.1}, x_prediction_id="none")[0] == 200
        assert server.terminate() == 0
    assert count["claims", "dear"] >= 170
    assert count["news", "cheap"] >= 170
    assert 65 <= count["mail", "cheap"] <= 135
    logged = Counter[tuple[str, str]]()
    for frame in served.predictions("route"):
        certainty = np.frombuffer(frame.certainty)
        assert len(frame.meanings) == len(frame.ids) == len(certainty)
        for meaning, weight in zip(frame.meanings, certainty, strict=True):
            known = weights.get(meaning, weights[""])
            assert weight == known[0 if frame.variant == "cheap" else 1]
            logged[meaning, frame.variant] += 1
    assert {key: n for key, n in logged.items() if key[0]} == dict(count)
    assert sum(n for (meaning, _), n in logged.items() if not meaning) == 1


def test_an_arm_that_fails_leaves_its_rows_to_the_champion(served: ServedHome) -> None:
    served.release(1, **routed(served, {"": [0.5, 0.5]}, versions=(2, 4)))
    with served.serve() as server, Client(server.port) as client:
        answers = [client.post("/predict", {"x": 2e6, "t": "mail"})[1] for _ in range(30)]
        assert {answer["version"] for answer in answers} == {1, 2}
        assert server.terminate() == 0
    assert {frame.arm for frame in served.predictions()} == {"route", "fallback"}


def test_a_route_by_meaning_that_is_none_is_refused_and_the_champion_goes_on(served: ServedHome) -> None:
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        for weights in ({"": [0.5, 0.6]}, {"news": [0.5, 0.5]}, {"": [1.0]}, {"": [1.5, -0.5]}):
            served.release(1, **routed(served, weights))
            time.sleep(0.1)
            assert client.post("/predict", {"x": 0.1})[1]["version"] == 1
        assert client.get("/status")[1]["loops"]["made"]["problem"]
        # A meaning that this version cannot be asked for is left out; everybody is answered.
        server.wait_for(served.release(1, first={"input": "unknown"}, meaning={"column": "t", "package": "e" * 64}))
        assert client.post("/predict", {"x": 0.1})[0] == 200
        assert server.terminate() == 0


class Waits:
    """A request as the queue sees it."""

    def __init__(self, priority: int = NORMAL, caller: Any = None) -> None:
        self.arrived, self.deadline, self.priority, self.caller = time.perf_counter(), NEVER, priority, caller
        self.ran: tuple[float, float] | None = None

    def finish(self, status: int, body: bytes) -> None: ...

    def refuse(self, status: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None: ...


class Limited:
    priority = NORMAL


def test_who_goes_first_is_declared_and_goes_no_further_than_its_key_allows() -> None:
    live = live_of(SIGNATURE)
    form = {"node": node_of(lambda row: row.t), "first": ["claims"]}
    live.release = msgspec.structs.replace(
        live.release, first=node_of(lambda row: row.x > 100), meaning=msgspec.convert(form, MeaningFile)
    )
    assert ask(live, lambda package: b"{}") == []
    loop = asyncio.new_event_loop()
    log: Any = None
    predictor = Predictor(loop, log, Random(1))
    asked = {
        "plain": ({"x": 1.0, "t": "mail"}, Waits(), NORMAL),
        "large": ({"x": 101.0}, Waits(), HIGH),
        "class": ({"t": "claims"}, Waits(), HIGH),
        "nothing": ({}, Waits(), NORMAL),
        "asked to wait": ({"x": 101.0}, Waits(LOW), LOW),
        "limited by its key": ({"x": 101.0}, Waits(caller=Limited()), NORMAL),
    }
    for row, exchange, priority in asked.values():
        rows, _ = live.reader.read(json.dumps(row).encode())
        predictor.submit(PredictionJob(exchange, live, rows, None, None, one))
        assert exchange.priority == priority, row
    jobs, _ = predictor.batcher.queue.take(time.perf_counter())
    first: set[Any] = {job.exchange for job in jobs[:2]}
    assert first == {asked["large"][1], asked["class"][1]}, "they run before the others"
    loop.close()
