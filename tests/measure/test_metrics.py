"""Scores agree with scikit-learn; an influence is what a row's weight does to the score."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from everloop.measure.metrics import influence, row_loss, score
from everloop.spec.metric import (
    F1,
    Accuracy,
    AveragePrecision,
    Brier,
    Custom,
    LogLoss,
    MeanAbsoluteError,
    Metric,
    RocAuc,
    RootMeanSquaredError,
    SquaredError,
)

CLASSIFICATION: list[Metric] = [LogLoss(), Brier(), RocAuc(), AveragePrecision(), Accuracy(), F1()]
REGRESSION: list[Metric] = [SquaredError(), RootMeanSquaredError(), MeanAbsoluteError()]


def binary(n: int = 400, *, ties: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(7)
    truth = (random.random(n) < 0.3).astype(np.int64)
    chance = 1 / (1 + np.exp(-(2 * truth - 1 + random.normal(0, 1.2, n))))
    chance = np.round(chance, 1) * 0.98 + 0.01 if ties else chance
    return truth, np.stack([1 - chance, chance], axis=1)


def several(n: int = 300) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(8)
    truth = random.integers(0, 4, n)
    raw = np.exp(random.normal(0, 1, (n, 4)) + 1.5 * (np.arange(4) == truth[:, None]))
    return truth, raw / raw.sum(axis=1, keepdims=True)


def numbers(n: int = 300) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(9)
    truth = random.normal(10, 3, n)
    return truth, truth + random.standard_t(4, n)


@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_two_classes_agree_with_scikit_learn(ties: bool) -> None:
    y, p = binary(ties=ties)
    w = np.random.default_rng(1).uniform(0.2, 3, len(y))
    one = p[:, 1]
    expected = {
        "log_loss": reference.log_loss(y, one, sample_weight=w),
        "brier": reference.brier_score_loss(y, one, sample_weight=w),
        "roc_auc": reference.roc_auc_score(y, one, sample_weight=w),
        "average_precision": reference.average_precision_score(y, one, sample_weight=w),
        "accuracy": reference.accuracy_score(y, one > 0.5, sample_weight=w),
        "f1": reference.f1_score(y, one > 0.5, sample_weight=w),
    }
    for metric in CLASSIFICATION:
        assert score(metric, y, p, weights=w) == pytest.approx(expected[metric.name], rel=1e-9), metric.name


def test_scores_of_several_classes_are_means_over_the_classes() -> None:
    y, p = several()
    decided = p.argmax(axis=1)
    expected = {
        "log_loss": reference.log_loss(y, p),
        "brier": reference.brier_score_loss(y, p, labels=[0, 1, 2, 3]) / 2,
        "roc_auc": reference.roc_auc_score(y, p, multi_class="ovr"),
        "average_precision": reference.average_precision_score(np.eye(4)[y], p),
        "accuracy": reference.accuracy_score(y, decided),
        "f1": reference.f1_score(y, decided, average="macro"),
    }
    for metric in CLASSIFICATION:
        assert score(metric, y, p) == pytest.approx(expected[metric.name], rel=1e-9), metric.name


def test_scores_of_numbers_agree_with_scikit_learn() -> None:
    y, p = numbers()
    assert score(RootMeanSquaredError(), y, p) == pytest.approx(reference.root_mean_squared_error(y, p))
    assert score(MeanAbsoluteError(), y, p[:, None]) == pytest.approx(reference.mean_absolute_error(y, p))


def _derivative(metric: Metric, y: NDArray[np.generic], p: NDArray[np.float64], row: int) -> float:
    step, weights = 1e-4, np.ones(len(y))
    weights[row] = 1 + step
    up = score(metric, y, p, weights=weights)
    weights[row] = 1 - step
    return len(y) * (up - score(metric, y, p, weights=weights)) / (2 * step)


@pytest.mark.parametrize("metric", [*CLASSIFICATION, *REGRESSION], ids=lambda metric: metric.name)
@pytest.mark.parametrize("kind", ["plain", "ties", "several"])
def test_an_influence_is_what_the_weight_of_a_row_does_to_the_score(metric: Metric, kind: str) -> None:
    y: NDArray[np.generic]
    if metric in REGRESSION:
        y, p = numbers()
    elif kind == "several":
        y, p = several()
    else:
        y, p = binary(ties=kind == "ties")
    found = influence(metric, y, p)
    assert abs(found.sum()) < 1e-8 * len(y)
    for row in range(0, len(y), 17):
        assert found[row] == pytest.approx(_derivative(metric, y, p, row), rel=2e-3, abs=2e-4)


def test_the_other_class_may_be_the_positive_one() -> None:
    y, p = binary()
    assert score(F1(), y, p, positive=0) == pytest.approx(reference.f1_score(y, p[:, 1] > 0.5, pos_label=0))
    assert score(AveragePrecision(), y, p, positive=0) == pytest.approx(
        reference.average_precision_score(1 - y, p[:, 0])
    )


def test_decisions_are_enough_for_accuracy_and_f1() -> None:
    y, p = binary()
    assert score(Accuracy(), y, p.argmax(axis=1)) == score(Accuracy(), y, p)
    assert score(F1(), y, p.argmax(axis=1)) == score(F1(), y, p)


def test_a_score_without_a_positive_row_is_not_a_number_and_costs_no_warning() -> None:
    y, p = np.zeros(20, np.int64), binary(20)[1]
    assert np.isnan(score(RocAuc(), y, p))
    assert np.isnan(score(AveragePrecision(), y, p))
    assert np.isnan(score(LogLoss(), y[:0], p[:0]))
    assert score(F1(), y, np.zeros(20, np.int64)) == 0.0


def test_one_row_costs_log_loss_no_more_than_sixteen() -> None:
    certain = np.array([[1.0, 0.0]])
    assert row_loss(LogLoss(), np.array([1]), certain)[0] == pytest.approx(16.118, abs=1e-3)
    # A class the model never learned costs the same.
    assert row_loss(LogLoss(), np.array([5]), certain)[0] == pytest.approx(16.118, abs=1e-3)


def share_of_hits(
    truth: NDArray[np.int64], prediction: NDArray[np.float64], rows: dict[str, NDArray[np.float64]]
) -> float:
    return float(np.average(prediction.argmax(axis=1) == truth, weights=rows["value"]))


def test_a_users_function_gets_truth_prediction_and_rows() -> None:
    y, p = binary()
    value = np.random.default_rng(2).uniform(1, 2, len(y))
    metric = Custom(share_of_hits)
    assert score(metric, y, p, rows={"value": value}) == pytest.approx(
        reference.accuracy_score(y, p[:, 1] > 0.5, sample_weight=value)
    )
    with pytest.raises(ValueError, match="bootstrap"):
        influence(metric, y, p)
