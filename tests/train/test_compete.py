"""Search and competitors are judged on the newest training rows, and the winner is fitted on all."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from everloop.errors import TrainError
from everloop.spec.metric import Accuracy, LogLoss, RocAuc, RootMeanSquaredError
from everloop.spec.train import Choice, Integers, LogUniform, Search, Train, Uniform
from everloop.train import compete
from everloop.train.compete import Rows
from everloop.train.judging import Goal
from everloop.train.search import Plan, Report, search


@pytest.fixture
def rows() -> Rows:
    random = np.random.default_rng(5)
    x, z = random.normal(size=600), random.normal(size=600)
    target = (x * z + 0.2 * random.normal(size=600) > 0).astype(np.int64)
    return Rows(
        features={"x": x, "z": z},
        types={"x": "number", "z": "number"},
        target=target,
        event_time=random.permutation(600).astype(np.int64),
        columns={},
    )


BINARY = Goal(task="binary", metric=LogLoss(), classes=(0, 1))


def test_several_competitors_run_and_the_best_on_the_newest_rows_wins(rows: Rows) -> None:
    trains = (Train(LogisticRegression()), Train(LGBMClassifier(n_estimators=30)), Train(DummyClassifier()))
    trained = compete.train(trains, rows, BINARY, cores=1)
    assert trained.estimator == "LGBMClassifier"
    assert [entry.estimator for entry in trained.entries] == ["LogisticRegression", "LGBMClassifier", "DummyClassifier"]
    scores = [entry.score or 0.0 for entry in trained.entries]
    assert scores[1] == min(scores)


def test_a_single_estimator_without_search_is_fitted_at_once(rows: Rows) -> None:
    trained = compete.train(Train(LogisticRegression()), rows, BINARY, cores=1)
    assert trained.entries == ()
    assert trained.parameters == {}
    assert set(trained.seconds) == {"search", "encode", "fit"}


def test_a_competitor_that_fails_is_told_and_the_others_go_on(rows: Rows) -> None:
    trained = compete.train((Train(LogisticRegression(C=-1.0)), Train(DummyClassifier())), rows, BINARY, cores=1)
    assert trained.estimator == "DummyClassifier"
    assert "could not be fitted" in (trained.entries[0].problem or "")
    with pytest.raises(TrainError, match="could not be fitted"):
        compete.train((Train(LogisticRegression(C=-1.0)), Train(LogisticRegression(C=-2.0))), rows, BINARY, cores=1)


def test_a_search_returns_its_best_parameters_with_the_table_of_trials(rows: Rows) -> None:
    space: dict[str, Any] = {"learning_rate": LogUniform(0.01, 0.5), "num_leaves": Integers(2, 31)}
    declared = Train(LGBMClassifier(n_estimators=20), search=Search(space, trials=6), seed=2)
    goal = Goal(task="binary", metric=RocAuc(), classes=(0, 1))
    seen: list[dict[str, Any]] = []
    first = compete.train(declared, rows, goal, progress=seen.append, cores=1)
    again = compete.train(declared, rows, goal, cores=1)
    entry = first.entries[0]
    assert len(entry.trials) == 6
    assert entry.trials[0]["parameters"] == {"learning_rate": 0.1, "num_leaves": 31}
    assert entry.score == max(trial["score"] for trial in entry.trials)
    assert first.parameters == again.parameters
    assert first.fitted.model.get_params()["num_leaves"] == first.parameters["num_leaves"]
    assert [each["trial"] for each in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1]["best"] == entry.score


def test_the_winner_is_fitted_on_other_rows_with_what_its_search_found(rows: Rows) -> None:
    searched = Train(LGBMClassifier(n_estimators=20), search=Search({"num_leaves": Integers(2, 5)}, trials=2))
    trains = (Train(DummyClassifier()), searched)
    half = rows.taken(np.arange(300))
    made = compete.train(trains, half, BINARY, cores=1)
    again = compete.refit(trains, made, rows, BINARY, cores=1)
    assert (made.winner, again.estimator, again.parameters) == (1, "LGBMClassifier", made.parameters)
    assert again.fitted.model.get_params()["num_leaves"] == made.parameters["num_leaves"]
    assert again.seconds["search"] == 0.0


def test_the_judging_part_is_the_newest_by_time_and_instants_stay_together() -> None:
    older, newer = compete._split(np.array([5, 1, 4, 4, 2, 3, 0, 4, 1, 2]))
    assert sorted(newer.tolist()) == [0, 2, 3, 7]
    assert len(older) + len(newer) == 10
    same_older, same_newer = compete._split(np.zeros(10, dtype=np.int64))
    assert (len(same_older), len(same_newer)) == (8, 2)


def test_a_killed_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    declared = Search({"x": Uniform(-1.0, 1.0), "kind": Choice("a", "b")}, trials=8)
    plan = Plan(declared=declared, greater_is_better=False, seed=1)
    seen: list[dict[str, Any]] = []

    def objective(parameters: dict[str, Any], report: Report) -> float:
        if len(seen) == 4:
            seen.append(parameters)
            raise KeyboardInterrupt
        seen.append(parameters)
        return float(parameters["x"] ** 2)

    with pytest.raises(KeyboardInterrupt):
        search(plan, objective, folder=tmp_path)
    found = search(plan, objective, folder=tmp_path)
    assert sum(trial.score is not None for trial in found.trials) == 8
    assert len(seen) == 4 + 1 + 4
    assert seen[5] == seen[4], "the trial that was running is tried again"


def test_a_search_ends_at_its_timeout_with_what_it_has() -> None:
    declared = Search({"x": Uniform(-1.0, 1.0)}, trials=10_000, timeout=timedelta(milliseconds=1))
    plan = Plan(declared=declared, greater_is_better=False, seed=1)
    found = search(plan, lambda parameters, report: float(parameters["x"] ** 2))
    assert 1 <= len(found.trials) < 10_000


def test_a_search_whose_trials_all_fail_says_why(rows: Rows) -> None:
    declared = Train(LogisticRegression(), search=Search({"C": Uniform(-2.0, -1.0)}, trials=2))
    with pytest.raises(TrainError, match="none of 2 trials"):
        compete.train(declared, rows, BINARY, cores=1)


def test_regressors_and_accuracy_are_judged_the_right_way_round(rows: Rows) -> None:
    values = Rows(features=rows.features, types=rows.types, target=3.0 * rows.features["x"], event_time=rows.event_time)
    goal = Goal(task="regression", metric=RootMeanSquaredError())
    trained = compete.train((Train(Ridge(alpha=1e6)), Train(Ridge(alpha=1e-6))), values, goal, cores=1)
    assert trained.fitted.model.alpha == 1e-6
    goal = Goal(task="binary", metric=Accuracy(), classes=(0, 1))
    trained = compete.train((Train(DummyClassifier()), Train(LGBMClassifier(n_estimators=20))), rows, goal, cores=1)
    assert trained.estimator == "LGBMClassifier"
