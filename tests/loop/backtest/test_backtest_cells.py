"""What windows add up to is what all of their rows together are."""

from itertools import pairwise

import numpy as np
import pytest

import everloop as el
from everloop.loop.backtest.cells import added_up, moves
from everloop.measure import metrics
from everloop.spec.metric import Metric

CUTS = [0, 40, 40, 300, 1_000]
"""Windows of unlike sizes, one of them empty."""


def known(metric: Metric, *, numbers: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    if numbers:
        truth = random.normal(size=CUTS[-1])
        return truth, truth + random.normal(size=CUTS[-1]) * np.linspace(0.1, 2, CUTS[-1])
    chances = random.dirichlet(np.ones(2), CUTS[-1])
    return (random.random(CUTS[-1]) < chances[:, 1]).astype(np.int64), chances


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [
        (el.metric.Accuracy(), False),
        (el.metric.LogLoss(), False),
        (el.metric.Brier(), False),
        (el.metric.RootMeanSquaredError(), True),
        (el.metric.MeanAbsoluteError(), True),
    ],
)
def test_windows_add_up_to_the_score_and_move_it_as_their_rows_do(metric: Metric, numbers: bool) -> None:
    truth, said = known(metric, numbers=numbers)
    losses = metrics.row_loss(metric.companion, truth, said)
    windows = [losses[low:high] for low, high in pairwise(CUTS)]
    parts = [(float(each.mean()) if len(each) else 0.0, len(each)) for each in windows]
    mean = sum(loss * rows for loss, rows in parts) / len(truth)
    assert added_up(metric, mean, len(truth)) == pytest.approx(metrics.score(metric, truth, said), abs=1e-12)
    rows = metrics.influence(metric, truth, said)
    by_rows = [float(rows[low:high].sum()) for low, high in pairwise(CUTS)]
    assert moves(metric, parts) == pytest.approx(by_rows, abs=1e-9)


def test_a_perfect_answer_moves_nothing() -> None:
    assert moves(el.metric.RootMeanSquaredError(), [(0.0, 5), (0.0, 0)]) == [0.0, 0.0]


@pytest.mark.parametrize("metric", [el.metric.RocAuc(), el.metric.F1(), el.metric.AveragePrecision()])
def test_a_metric_of_all_rows_together_does_not_add_up(metric: Metric) -> None:
    assert added_up(metric, 0.2, 100) is None
