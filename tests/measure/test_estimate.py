"""A score without labels: right while the probabilities are, and silent where nobody can know."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import metrics
from everloop.measure.estimate import calibration, expected, over_represented
from everloop.spec.metric import F1, Accuracy, AveragePrecision, Brier, LogLoss, Metric, RocAuc


def drawn(seed: int, rows: int = 4_000, *, sure: float = 2.0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(0, sure, rows)))
    return (random.random(rows) < chance).astype(np.int64), np.stack([1 - chance, chance], axis=1)


@pytest.mark.parametrize(
    "metric", [LogLoss(), Brier(), Accuracy(), F1(), RocAuc(), AveragePrecision()], ids=lambda each: each.name
)
def test_the_estimate_is_what_labels_say_within_its_own_error(metric: Metric) -> None:
    off = []
    for seed in range(30):
        y, p = drawn(seed)
        found = expected(metric, p)
        assert found is not None
        off.append((metrics.score(metric, y, p) - found.value) / found.standard_error)
    assert abs(np.mean(off)) < 0.75, "no bias to speak of"
    assert 0.6 < np.std(off) < 1.5, "as far off as it says"


def test_rows_that_became_harder_show_without_a_label() -> None:
    easy, hard = (expected(Accuracy(), drawn(1, sure=spread)[1]) for spread in (3.0, 0.5))
    assert easy is not None
    assert hard is not None
    assert easy.value - hard.value > 0.15


def test_probabilities_that_hold_are_told_from_those_that_do_not() -> None:
    alarms = 0
    for seed in range(100):
        held = calibration(*drawn(seed, 2_000))
        assert held is not None
        alarms += not held.holds
    assert alarms <= 1
    y, p = drawn(3)
    bold: Any = np.clip((p - 0.5) * 1.6 + 0.5, 0.001, 0.999)
    found = calibration(y, bold)
    assert found is not None
    assert not found.holds
    assert calibration(y[:100], p[:100]) is None


def test_a_selection_is_told_from_a_sample() -> None:
    random = np.random.default_rng(4)
    strong = 0
    for _ in range(200):
        positive = random.random(3_000) < 0.2
        strong += abs(over_represented(positive[random.random(3_000) < 0.3], positive)[1]) >= 4
    assert strong == 0
    positive = random.random(3_000) < 0.2
    chosen = random.random(3_000) < np.where(positive, 0.6, 0.2)
    times, z = over_represented(positive[chosen], positive)
    assert times == pytest.approx(0.12 / 0.28 / 0.2, rel=0.1)
    assert z > 10
    assert over_represented([], [1, 0]) == (1.0, 0.0)
