"""A chosen threshold holds on the rows it was chosen on, to the row."""

import numpy as np
import pytest

from everloop.errors import PackageError
from everloop.measure.metrics import score
from everloop.package.threshold import choose
from everloop.spec.decision import Threshold
from everloop.spec.metric import F1, Accuracy, Brier, RootMeanSquaredError

random = np.random.default_rng(3)
TRUTH = random.integers(0, 2, 500)
CHANCE = np.round(np.clip(0.5 + 0.25 * (2 * TRUTH - 1) + 0.25 * random.normal(size=500), 0.0, 1.0), 2)
PREDICTION = np.stack([1.0 - CHANCE, CHANCE], axis=1)


def decided(threshold: float) -> np.ndarray:
    return np.greater_equal(CHANCE, threshold)


def test_a_fixed_threshold_is_taken_as_it_is() -> None:
    assert choose(Threshold(0.3), TRUTH, PREDICTION, positive=1) == 0.3


@pytest.mark.parametrize("wanted", [0.7, 0.9, 0.95])
def test_a_precision_is_reached_by_the_lowest_threshold_that_reaches_it(wanted: float) -> None:
    threshold = choose(Threshold(precision=wanted), TRUTH, PREDICTION, positive=1)
    assert TRUTH[decided(threshold)].mean() >= wanted
    lower = [each for each in np.unique(CHANCE) if each < threshold]
    assert all(TRUTH[decided(each)].mean() < wanted for each in lower)


@pytest.mark.parametrize("wanted", [0.001, 0.05, 0.2])
def test_a_false_positive_rate_is_not_passed_and_used_up(wanted: float) -> None:
    threshold = choose(Threshold(false_positive_rate=wanted), TRUTH, PREDICTION, positive=1)
    assert decided(threshold)[TRUTH == 0].mean() <= wanted
    lower = [each for each in np.unique(CHANCE) if each < threshold]
    assert all(decided(each)[TRUTH == 0].mean() > wanted for each in lower[-1:])


def test_the_best_threshold_for_a_metric_is_found() -> None:
    def at(metric: Accuracy | F1, threshold: float) -> float:
        certain = np.stack([~decided(threshold), decided(threshold)], axis=1).astype(np.float64)
        return score(metric, TRUTH, certain)

    for metric in (Accuracy(), F1()):
        threshold = choose(Threshold(minimise=metric), TRUTH, PREDICTION, positive=1)
        assert at(metric, threshold) == max(at(metric, each) for each in np.linspace(0.0, 1.0, 301))
    brier = choose(Threshold(minimise=Brier()), TRUTH, PREDICTION, positive=1)
    accuracy = choose(Threshold(minimise=Accuracy()), TRUTH, PREDICTION, positive=1)
    assert at(Accuracy(), brier) == at(Accuracy(), accuracy)


def test_the_positive_class_may_be_the_first() -> None:
    threshold = choose(Threshold(precision=0.9), 1 - TRUTH, PREDICTION[:, ::-1], positive=0)
    assert threshold == choose(Threshold(precision=0.9), TRUTH, PREDICTION, positive=1)


def test_a_precision_out_of_reach_says_the_best_there_is() -> None:
    with pytest.raises(PackageError, match=r"the best is 0\.5"):
        choose(Threshold(precision=0.9), np.array([0, 1]), np.full((2, 2), 0.5), positive=1)
    with pytest.raises(PackageError, match="two classes"):
        choose(Threshold(0.5), TRUTH, np.zeros((500, 3)), positive=1)
    assert RootMeanSquaredError().name  # a regression has no threshold: the declaration refuses it
