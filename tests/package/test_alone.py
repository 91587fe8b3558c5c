"""A row gets the same answer, to the last digit, alone and among others: what batching, caching and offline rest on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from xgboost import XGBClassifier

ROWS = 1_501
BINARY = {
    "LightGBM": LGBMClassifier(n_estimators=10, verbose=-1),
    "XGBoost": XGBClassifier(n_estimators=10),
    "histogram boosting": HistGradientBoostingClassifier(max_iter=10),
    "logistic regression": LogisticRegression(),
    "perceptron": MLPClassifier((5, 3), activation="tanh", max_iter=5),
    "calibrated": CalibratedClassifierCV(LogisticRegression(), method="sigmoid", cv=2),
}
THREE = {
    "LightGBM": LGBMClassifier(n_estimators=10, verbose=-1),
    "LightGBM, one against all": LGBMClassifier(n_estimators=10, objective="multiclassova", verbose=-1),
    "XGBoost": XGBClassifier(n_estimators=10),
    "logistic regression": LogisticRegression(),
    "naive Bayes": GaussianNB(),
}
COUNTS = {
    "LightGBM": LGBMRegressor(n_estimators=10, objective="poisson", verbose=-1),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=10, loss="poisson"),
    "linear": PoissonRegressor(),
}


def numbers() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(ROWS, 5))


def holds(turn: Callable[..., Any], estimator: Any, target: np.ndarray[Any, Any], **options: Any) -> None:
    rows = numbers()
    built = turn(estimator, pl.DataFrame(rows, schema=[f"c{n}" for n in range(5)]), target, **options).built
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(built.onnx, settings, providers=["CPUExecutionProvider"])

    def answers(together: int) -> np.ndarray[Any, Any]:
        parts = (rows[start : start + together] for start in range(0, ROWS, together))
        found: np.ndarray[Any, Any] = np.concatenate([session.run(["prediction"], {"numbers": p})[0] for p in parts])
        return found

    whole = answers(ROWS)
    for together in (1, 2, 3, 7, 500):
        assert np.array_equal(answers(together), whole), together


@pytest.mark.filterwarnings("ignore")  # few iterations are enough here
@pytest.mark.parametrize("name", BINARY)
def test_a_probability_does_not_depend_on_who_is_in_the_batch(turn: Callable[..., Any], name: str) -> None:
    holds(turn, BINARY[name], (numbers().sum(axis=1) > 0).astype(np.int64), task="binary")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", THREE)
def test_the_probabilities_of_three_classes_do_not_either(turn: Callable[..., Any], name: str) -> None:
    holds(turn, THREE[name], np.digitize(numbers().sum(axis=1), [-1.0, 1.0]), task="multiclass")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COUNTS)
def test_nor_does_a_value(turn: Callable[..., Any], name: str) -> None:
    holds(
        turn, COUNTS[name], np.random.default_rng(4).poisson(np.exp(numbers()[:, 0])).astype(float), task="regression"
    )
