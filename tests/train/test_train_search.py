"""What is tried depends on the seed and the number of a trial alone; hopeless trials end early; several processes share."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

import everloop as el
from everloop.errors import SpecError
from everloop.measure.encode import apply
from everloop.records import ColumnType
from everloop.spec.metric import LogLoss, RootMeanSquaredError
from everloop.spec.train import Choice, Integers, LogUniform, Search, Train, Uniform
from everloop.train import compete, trials
from everloop.train.compete import Given, Rows
from everloop.train.judging import Goal, Judging
from everloop.train.search import Plan, Report, search, work

SPACE: dict[str, Any] = {"x": Uniform(-1.0, 1.0), "rate": LogUniform(0.01, 1.0), "kind": Choice("a", "b", None)}


def bowl(parameters: dict[str, Any], report: Report) -> float:
    value = (parameters["x"] - 0.3) ** 2 + np.log10(parameters["rate"]) ** 2 + (parameters["kind"] != "b")
    for step in (5, 10, 20):
        report(step, value + 1 / step)
    return float(value)


def plan(**changed: Any) -> Plan:
    return Plan(declared=Search(SPACE, **{"trials": 24, **changed}), greater_is_better=False, seed=3)


def essence(found: Any) -> list[Any]:
    return [(each.number, each.parameters, each.state, each.score, each.steps) for each in found.trials]


@pytest.mark.parametrize("pruner", [None, "median", "hyperband", "halving"])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_one_worker_and_several_find_the_same(sampler: str, pruner: str | None, tmp_path: Path) -> None:
    declared = plan(sampler=sampler, pruner=pruner)
    alone = search(declared, bowl)
    helpers = [threading.Thread(target=work, args=(declared, bowl, tmp_path)) for _ in range(3)]
    for each in helpers:
        each.start()
    for each in helpers:
        each.join()
    assert essence(search(declared, bowl, folder=tmp_path)) == essence(alone)
    if pruner is not None:
        assert any(each.state == "pruned" for each in alone.trials)


def test_tpe_comes_nearer_than_chance() -> None:
    assert search(plan(trials=40), bowl).score < search(plan(trials=40, sampler="random"), bowl).score


def test_a_grid_tries_every_combination_once() -> None:
    space: dict[str, Any] = {"a": Integers(1, 3), "b": Choice("x", "y")}
    declared = Search(space, sampler="grid")
    found = search(Plan(declared=declared, greater_is_better=True, seed=0), lambda p, report: float(p["a"]))
    tried = [(each.parameters["a"], each.parameters["b"]) for each in found.trials]
    assert sorted(tried) == [(a, b) for a in (1, 2, 3) for b in ("x", "y")]
    assert found.parameters["a"] == 3


MISTAKES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a grid over a range of numbers": (
        lambda: el.Search({"a": el.Uniform(0, 1)}, sampler="grid"),
        ("Uniform(low=0.0", "Choice or Integers"),
    ),
    "a grid larger than its trials": (
        lambda: el.Search({"a": el.Integers(1, 30)}, sampler="grid"),
        ("30 points and trials is 20", "trials=30"),
    ),
    "a sampler nobody knows": (lambda: el.Search({"a": el.Uniform(0, 1)}, sampler="bayes"), ("'bayes'", "tpe")),  # type: ignore[arg-type]
    "a pruner nobody knows": (lambda: el.Search({"a": el.Uniform(0, 1)}, pruner="asha"), ("'asha'", "median")),  # type: ignore[arg-type]
    "no workers": (lambda: el.Search({"a": el.Uniform(0, 1)}, workers=0), ("workers is 0", "from 1 to 256")),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(what: str) -> None:
    make, words = MISTAKES[what]
    with pytest.raises(SpecError) as told:
        make()
    assert all(word in str(told.value) for word in words), told.value


def test_a_search_begins_with_what_was_declared_and_then_with_what_earlier_ones_found() -> None:
    first = ({"x": 0.5, "rate": 0.5, "kind": "a", "other": 1}, {"x": 0.3, "rate": 1.0, "kind": "b"}, {"x": 7.0})
    declared = Plan(declared=Search(SPACE, trials=6), greater_is_better=False, seed=3, first=first)
    found = search(declared, bowl)
    assert [each.parameters for each in found.trials[:2]] == [{"x": 0.5, "rate": 0.5, "kind": "a"}, first[1]]
    assert found.parameters == first[1]


def test_a_trial_that_was_begun_three_times_and_never_ended_is_left_out(tmp_path: Path) -> None:
    declared = plan(trials=6)
    for _ in range(trials.MOST_ATTEMPTS):
        with declared.trials(tmp_path).claim() as claim:
            assert claim is not None
    found = search(declared, bowl, folder=tmp_path)
    assert [each.state for each in found.trials] == ["failed", *["complete"] * 5]
    assert "was killed 3 times" in (found.trials[0].problem or "")


def test_a_damaged_trial_is_done_again(tmp_path: Path) -> None:
    declared = plan(trials=6)
    whole = search(declared, bowl, folder=tmp_path)
    (tmp_path / "trial-0002.json").write_bytes(b'{"number": 2, "para')
    (tmp_path / "claim-0002").write_bytes(b"\xff")
    assert essence(search(declared, bowl, folder=tmp_path)) == essence(whole)


def test_a_trial_that_another_process_does_is_not_done_twice(tmp_path: Path) -> None:
    declared = plan(trials=6)
    with declared.trials(tmp_path).claim() as held:
        assert held is not None
        with declared.trials(tmp_path).claim() as other:
            assert other is not None
            assert (held.number, other.number) == (0, 1)


# What estimators tell on their way


@pytest.fixture(scope="module")
def rows() -> Rows:
    random = np.random.default_rng(5)
    x, z = random.normal(size=600), random.normal(size=600)
    target = (x * z + 0.2 * random.normal(size=600) > 0).astype(np.int64)
    types: dict[str, ColumnType] = {"x": "number", "z": "number"}
    return Rows(
        features={"x": x, "z": z}, types=types, target=target,
        event_time=np.arange(600, dtype=np.int64), columns={},
    )  # fmt: skip


TELLING: dict[str, tuple[Any, dict[str, Any], set[int]]] = {
    "lightgbm": (LGBMClassifier(n_estimators=20), {"num_leaves": Integers(2, 31)}, {5, 6, 8, 10, 12, 15, 20}),
    "xgboost": (XGBClassifier(n_estimators=20), {"max_depth": Integers(1, 6)}, {5, 6, 8, 10, 12, 15, 20}),
    "a forest": (RandomForestClassifier(n_estimators=30), {"max_depth": Integers(1, 9)}, {10, 20}),
    "a network": (
        make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=16)),
        {"mlpclassifier__alpha": LogUniform(1e-4, 1.0)},
        {1, 2, 4},
    ),
    "passes": (SGDClassifier(loss="log_loss", max_iter=16), {"alpha": LogUniform(1e-4, 1.0)}, {1, 2, 4}),
}


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_looking_at_a_fit_does_not_change_it_and_tells_its_score_on_the_way(name: str, rows: Rows) -> None:
    estimator, space, steps = TELLING[name]
    goal = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
    blind, watched = (
        compete.train(Train(estimator, search=Search(space, trials=3, pruner=pruner)), rows, goal, cores=1)
        for pruner in (None, "median")
    )
    assert [each["score"] for each in watched.entries[0].trials] == [each["score"] for each in blind.entries[0].trials]
    seen: dict[int, float] = {}
    task = _judging(Train(estimator, search=Search(space, trials=3, pruner="median")), rows, goal)
    score = task({}, lambda step, value: seen.update({step: value}))
    assert set(seen) == steps
    if name in ("lightgbm", "xgboost"):
        assert seen[20] == pytest.approx(score, rel=1e-5), "the last score of all trees is the score"


def test_a_regressor_of_a_logarithm_is_judged_in_its_own_units(rows: Rows) -> None:
    values = Rows(
        features=rows.features, types=rows.types, target=np.exp(np.abs(rows.features["x"])), event_time=rows.event_time
    )
    goal = Goal(task="regression", metric=RootMeanSquaredError(), scale="log1p")
    declared = Train(
        LGBMRegressor(n_estimators=20), search=Search({"num_leaves": Integers(2, 9)}, trials=1, pruner="median")
    )
    seen: list[float] = []
    score = _judging(declared, values, goal)({}, lambda step, value: seen.append(value))
    assert seen[-1] == pytest.approx(score)


def _judging(train: Train, rows: Rows, goal: Goal) -> Judging:
    older, newer = (rows.taken(places) for places in compete._split(rows.event_time))
    encoding = compete._learn(train, older, Given())
    return Judging(
        train=train, goal=goal, encoding=encoding, matrix=apply(encoding, older.features), target=older.target,
        weights=None, held=apply(encoding, newer.features), truth=newer.target, columns={}, threads=1,
    )  # fmt: skip


def test_what_is_judged_is_the_same_when_another_process_reads_it(rows: Rows, tmp_path: Path) -> None:
    train = Train(LGBMClassifier(n_estimators=9), search=Search({"num_leaves": Integers(2, 9)}, trials=1))
    goal = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
    task = _judging(train, rows, goal)
    task.leave(tmp_path, [{"estimator": "LGBMClassifier", "parameters": {"num_leaves": 3}}])
    again, planned = Judging.read(tmp_path, train, goal, source=None)
    assert again({"num_leaves": 4}, None) == task({"num_leaves": 4}, None)
    assert planned.first[1:] == ({"num_leaves": 3},)
