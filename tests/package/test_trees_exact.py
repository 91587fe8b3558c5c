"""Trees in the graph follow their libraries split by split: sets, missing values, zeros, stopping early."""

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import polars as pl
import pytest
import xgboost
from lightgbm import LGBMClassifier
from onnx import helper
from sklearn.ensemble import RandomForestClassifier

from everloop.measure import encode
from everloop.package import lightgbm_trees, parity, sklearn_trees, xgboost_trees
from everloop.package.graph import IR_VERSION, OPSET, TREE_DOMAIN, TREE_OPSET, Graph
from everloop.package.parity import session
from everloop.train.fit import Fitted


def opened(write: Callable[[Graph, str], str], width: int) -> onnxruntime.InferenceSession:
    graph = Graph()
    answer = write(graph, "matrix")
    graph.node("Identity", [answer], output="answer")
    body = helper.make_graph(
        graph.nodes, "test", [helper.make_tensor_value_info("matrix", 11, ["rows", width])],
        [helper.make_tensor_value_info("answer", 11, ["rows", None])], graph.initializers,
    )  # fmt: skip
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(TREE_DOMAIN, TREE_OPSET)]
    return session(helper.make_model(body, ir_version=IR_VERSION, opset_imports=imports).SerializeToString())


def asked(write: Callable[[Graph, str], str], matrix: np.ndarray) -> np.ndarray:
    answer: np.ndarray = opened(write, matrix.shape[1]).run(None, {"matrix": matrix})[0]
    return answer


@pytest.mark.parametrize("categories", [3, 40, 300])
def test_lightgbm_sets_of_any_size_are_followed_for_known_missing_and_unseen_codes(categories: int) -> None:
    random = np.random.default_rng(categories)
    codes = random.integers(0, categories, 20_000).astype(np.float64)
    effect = random.normal(size=categories + 2)
    target = effect[codes.astype(int)] + 0.3 * random.normal(size=len(codes))
    matrix = np.stack([codes, random.normal(size=len(codes))], axis=1)
    data = lightgbm.Dataset(matrix, target, categorical_feature=[0])
    options = {
        "objective": "regression",
        "verbosity": -1,
        "max_cat_threshold": 200,
        "min_data_per_group": 5,
        "cat_l2": 0,
    }
    booster = lightgbm.train(options, data, 30)
    rows = np.stack([np.arange(categories + 2.0), np.zeros(categories + 2)], axis=1)
    answer = asked(lambda graph, name: lightgbm_trees.prediction(graph, name, booster), rows)
    assert np.allclose(answer[:, 0], booster.predict(rows), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"use_missing": False}, {"zero_as_missing": True}], ids=str)
@pytest.mark.parametrize("holes", [False, True])
def test_lightgbm_missing_values_and_zeros_take_the_branch_they_took_in_training(
    options: dict[str, Any], holes: bool
) -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(4000, 3)).astype(np.float32).astype(np.float64)
    matrix[random.random(matrix.shape) < 0.2] = 0.0
    if holes:
        matrix[random.random(matrix.shape) < 0.2] = np.nan
    target = np.where(np.isnan(matrix[:, 0]), 2.0, matrix[:, 0]) + (matrix[:, 1] == 0.0) * 3.0
    booster = lightgbm.train(
        {"objective": "regression", "verbosity": -1, **options}, lightgbm.Dataset(matrix, target), 20
    )
    edges = np.array([0.0, -0.0, np.nan, 1e-36, -1e-36, 1e-34, -1e-34, 1.0, -1.0, 1e30, -1e30])
    rows = np.stack(np.meshgrid(edges, edges, edges), axis=-1).reshape(-1, 3)
    answer = asked(lambda graph, name: lightgbm_trees.prediction(graph, name, booster), rows)
    assert np.allclose(answer[:, 0], booster.predict(rows), rtol=1e-12, atol=1e-12)


def test_lightgbm_answers_up_to_its_best_iteration() -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(600, 3))
    target = (matrix[:, 0] + random.normal(size=600) > 0).astype(np.int64)
    data = lightgbm.Dataset(matrix[:400], target[:400])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, data, 20)
    booster.best_iteration = 7
    answer = asked(lambda graph, name: lightgbm_trees.prediction(graph, name, booster), matrix)
    assert np.allclose(answer[:, 1], booster.predict(matrix), rtol=1e-12, atol=0.0)


def test_a_booster_that_found_no_split_answers_its_constant() -> None:
    matrix = np.zeros((100, 2))
    data = lightgbm.Dataset(matrix, np.full(100, 3.5))
    booster = lightgbm.train({"objective": "regression", "verbosity": -1}, data, 3)
    answer = asked(lambda graph, name: lightgbm_trees.prediction(graph, name, booster), np.array([[np.nan, 1.0]]))
    assert np.allclose(answer, booster.predict(np.array([[np.nan, 1.0]])))


def test_xgboost_answers_up_to_its_best_iteration_and_follows_missing_values() -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(600, 3)).astype(np.float32).astype(np.float64)
    matrix[random.random(matrix.shape) < 0.2] = np.nan
    target = (np.nan_to_num(matrix[:, 0]) + random.normal(size=600) > 0).astype(np.int64)
    model = xgboost.XGBClassifier(n_estimators=100, early_stopping_rounds=3, learning_rate=0.6)
    model.fit(matrix[:400], target[:400], eval_set=[(matrix[400:], target[400:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    from everloop.package import sklearn_models

    answer = asked(lambda graph, name: sklearn_models.probabilities(graph, name, model), matrix)
    assert np.allclose(answer, model.predict_proba(matrix), rtol=1e-5, atol=1e-6)


def test_a_raw_xgboost_booster_is_read_whole() -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(300, 3)).astype(np.float32).astype(np.float64)
    booster = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(matrix, matrix[:, 0] * 5.0), 20)
    answer = asked(lambda graph, name: xgboost_trees.prediction(graph, name, booster), matrix)
    assert np.allclose(answer[:, 0], booster.inplace_predict(matrix), rtol=1e-5, atol=1e-5)


def test_a_forest_of_many_classes_looks_its_leaves_up() -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(800, 4)).astype(np.float32).astype(np.float64)
    forest = RandomForestClassifier(15, min_samples_leaf=7, random_state=0).fit(matrix, random.integers(0, 6, 800))
    answer = asked(lambda g, n: sklearn_trees.averaged(g, n, list(forest.estimators_), classifier=True), matrix)
    assert np.allclose(answer, forest.predict_proba(matrix), rtol=1e-12, atol=1e-15)


def test_converting_and_proving_lightgbm_takes_under_a_second(
    turn: Callable[..., Any], made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    turned = turn(LGBMClassifier(), made_rows, (signal > np.median(signal)).astype(np.int64), task="binary")
    assert turned.built.parity.seconds < 1.0
    assert isinstance(turned.fitted, Fitted)
    assert encode.native_columns(turned.encoding) == (4,)
    assert parity.RELATIVE == 1e-5
