"""Fits from the canonical form: every library, functions from a stored source, labels and weights."""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from xgboost import XGBClassifier

from everloop.errors import TrainError
from everloop.measure import encode
from everloop.records import Encoding, digest_of
from everloop.spec.function import Function
from everloop.spec.train import Train
from everloop.train import sklearn, threads
from everloop.train.fit import fit, needs
from everloop.train.labels import row_weights, to_target


@pytest.fixture
def rows() -> tuple[Encoding, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    features: dict[str, np.ndarray] = {
        "x": random.normal(size=400),
        "c": random.choice(np.array(["a", "b", "c"], dtype=object), 400),
    }
    target = (features["x"] + (features["c"] == "a") + random.normal(size=400) * 0.3 > 0.3).astype(np.int64)
    encoding = encode.learn(features, {"x": "number", "c": "text"}, native_categories=True, accepts_missing=True)
    return encoding, encode.apply(encoding, features), target


@pytest.mark.parametrize(
    "estimator",
    [
        LGBMClassifier(n_estimators=20, subsample=0.7, subsample_freq=1),
        XGBClassifier(n_estimators=20, subsample=0.7),
        RandomForestClassifier(20),
        MLPClassifier((5,), max_iter=20),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_same_rows_seed_and_parameters_give_the_same_model(
    estimator: Any, rows: tuple[Encoding, np.ndarray, np.ndarray]
) -> None:
    encoding, matrix, target = rows
    answers = [
        fit(Train(estimator, seed=seed), encoding, matrix, target, task="binary", classes=2).predict(matrix)
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_a_pipeline_is_built_again_from_its_canonical_form_with_its_tuples() -> None:
    declared = make_pipeline(MinMaxScaler((0.0, 2.0)), MLPClassifier((4, 3)))
    form = Train(declared).estimator
    built = sklearn.build(form)
    assert str(built) == str(declared)
    assert built.steps[0][1].feature_range == (0.0, 2.0)
    voting = sklearn.build(
        Train(VotingClassifier([("a", LogisticRegression()), ("b", RandomForestClassifier(5))])).estimator
    )
    assert [type(each).__name__ for _, each in voting.estimators] == ["LogisticRegression", "RandomForestClassifier"]


@pytest.mark.parametrize(
    ("estimator", "native", "missing"),
    [
        (LGBMClassifier(), True, True),
        (XGBClassifier(), False, True),
        (LogisticRegression(), False, False),
        (HistGradientBoostingClassifier(), False, True),
        (make_pipeline(StandardScaler(), LogisticRegression()), False, False),
        (make_pipeline(SimpleImputer(), LogisticRegression()), False, True),
        (make_pipeline(StandardScaler(), LGBMClassifier()), False, True),
    ],
    ids=str,
)
def test_what_an_estimator_needs_is_known_before_the_fit(estimator: Any, native: bool, missing: bool) -> None:
    wants = needs(Train(estimator))
    assert (wants.native_categories, wants.accepts_missing) == (native, missing)


def test_lightgbm_splits_on_sets_of_categories(rows: tuple[Encoding, np.ndarray, np.ndarray]) -> None:
    encoding, matrix, target = rows
    fitted = fit(Train(LGBMClassifier(n_estimators=5)), encoding, matrix, target, task="binary", classes=2)
    assert re.search(r"num_cat=[1-9]", fitted.model.booster_.model_to_string())


def test_a_label_on_the_log1p_scale_comes_back_in_its_units() -> None:
    x = np.linspace(0.0, 5.0, 200)
    encoding = encode.learn({"x": x}, {"x": "number"}, native_categories=False, accepts_missing=False)
    matrix, target = encode.apply(encoding, {"x": x}), np.expm1(2.0 * x)
    fitted = fit(Train(Ridge(alpha=1e-9)), encoding, matrix, target, task="regression", scale="log1p")
    assert np.allclose(fitted.predict(matrix), target, rtol=1e-5, atol=1e-4)
    with pytest.raises(TrainError, match="log1p"):
        fit(Train(Ridge()), encoding, matrix, target - 5.0, task="regression", scale="log1p")


def test_one_class_only_is_a_clear_error(rows: tuple[Encoding, np.ndarray, np.ndarray]) -> None:
    encoding, matrix, target = rows
    with pytest.raises(TrainError, match="same label"):
        fit(Train(LGBMClassifier()), encoding, matrix, np.zeros_like(target), task="binary", classes=2)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LGBMRegressor(), "no classifier"),
        (LinearSVC(), "CalibratedClassifierCV"),
        (LogisticRegression(C=-1.0), "could not be fitted"),
    ],
    ids=str,
)
def test_an_estimator_that_cannot_do_the_task_says_what_to_do(
    estimator: Any, words: str, rows: tuple[Encoding, np.ndarray, np.ndarray]
) -> None:
    encoding, matrix, target = rows
    with pytest.raises(TrainError) as caught:
        fit(Train(estimator), encoding, matrix, target, task="binary", classes=2)
    assert words in str(caught.value)


SOURCE = """
    from sklearn.linear_model import LogisticRegression


    def careful(samples, params, context):
        context.progress({"rows": len(samples.X)})
        return LogisticRegression(C=params.get("C", 1.0)).fit(samples.X, samples.y, sample_weight=samples.weights)


    def boosted(samples, params, context):
        import lightgbm

        data = lightgbm.Dataset(samples.X, samples.y, categorical_feature=list(samples.categorical))
        return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": context.threads}, data, 10)


    boosted.native_categories = boosted.accepts_missing = True


    def broken(samples, params, context):
        return samples.nothing
"""


def test_a_function_is_imported_from_its_stored_source(
    tmp_path: Path, rows: tuple[Encoding, np.ndarray, np.ndarray]
) -> None:
    source = tmp_path / "declaration.py"
    source.write_text(textwrap.dedent(SOURCE))
    digest = digest_of(source.read_bytes())
    encoding, matrix, target = rows
    for name in ("careful", "boosted"):
        declared = Train(Function(name=name, module_file_digest=digest))
        assert needs(declared, source=source).native_categories == (name == "boosted")
        fitted = fit(declared, encoding, matrix, target, task="binary", classes=2, source=source)
        answers = fitted.predict(matrix)
        assert answers.shape == (400, 2)
        assert np.allclose(answers.sum(axis=1), 1.0)
    with pytest.raises(TrainError, match=r"broken failed at line \d+ of declaration\.py: AttributeError"):
        fit(
            Train(Function(name="broken", module_file_digest=digest)), encoding, matrix, target, task="binary",
            classes=2, source=source,
        )  # fmt: skip
    with pytest.raises(TrainError, match="changed since it was declared"):
        needs(Train(Function(name="careful", module_file_digest="0" * 64)), source=source)
    with pytest.raises(TrainError, match="no function 'absent'"):
        needs(Train(Function(name="absent", module_file_digest=digest)), source=source)


def test_labels_become_class_indices_and_a_strange_one_is_named() -> None:
    assert to_target([True, False], task="binary", classes=(False, True)).tolist() == [1, 0]
    with pytest.raises(TrainError, match="'maybe'"):
        to_target(["yes", "maybe"], task="binary", classes=("no", "yes"))
    with pytest.raises(TrainError, match="row 1"):
        to_target([1.0, None], task="regression")


def test_weights_are_balanced_or_by_class_or_by_column() -> None:
    target = np.array([0, 0, 0, 1])
    balanced = row_weights("balanced", target, classes=("no", "yes"), columns={})
    assert balanced is not None
    assert np.isclose(balanced[target == 0].sum(), balanced[target == 1].sum())
    by_class = row_weights({"yes": 3}, target, classes=("no", "yes"), columns={})
    assert by_class is not None
    assert by_class.tolist() == [1.0, 1.0, 1.0, 3.0]
    by_column = row_weights("w", target, classes=("no", "yes"), columns={"w": np.array([1, 2, 3, 4])})
    assert by_column is not None
    assert by_column.tolist() == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(TrainError, match="'v'"):
        row_weights("v", target, classes=("no", "yes"), columns={"w": target})


def test_weights_move_the_model(rows: tuple[Encoding, np.ndarray, np.ndarray]) -> None:
    encoding, matrix, target = rows
    pipeline = Train(make_pipeline(StandardScaler(), LogisticRegression()))
    plain = fit(pipeline, encoding, matrix, target, task="binary", classes=2).predict(matrix)
    heavy = fit(
        pipeline, encoding, matrix, target, task="binary", classes=2, weights=np.where(target == 1, 20.0, 1.0)
    ).predict(matrix)
    assert heavy[:, 1].mean() > plain[:, 1].mean() + 0.05


def test_this_process_has_at_least_one_thread() -> None:
    assert threads.share() >= 1
