"""What a run costs and how many rows go best together: learned from runs, under curves that were measured."""

from random import Random

import pytest

from everloop.serve.cost import CostLine
from queueing import line

CONVOLUTIONS = {1: 279, 2: 273, 4: 289, 8: 306, 16: 331, 32: 346}
TRANSFORMER = {1: 74, 2: 85, 4: 87, 8: 91.5, 16: 86.5, 32: 81}
TREES = {1: 76e3, 8: 130e3, 64: 179e3, 256: 193e3, 1024: 195e3, 4096: 195e3}
"""Predictions a second by the size of the batch, measured with ONNX Runtime on one core."""


def seconds(measured: dict[int, float], rows: int) -> float:
    """Between two sizes that were measured the rate is on a line; beyond the last it stays."""
    below = max(size for size in measured if size <= rows)
    above = min((size for size in measured if size >= rows), default=below)
    share = 0.0 if above == below else (rows - below) / (above - below)
    return rows / (measured[below] + share * (measured[above] - measured[below]))


@pytest.mark.parametrize(("measured", "best"), [(CONVOLUTIONS, 16), (TRANSFORMER, 8), (TREES, 1024)])
def test_the_best_batch_is_found_in_real_traffic(measured: dict[int, float], best: int) -> None:
    random = Random(3)
    cost = CostLine()
    for rows in (1, 1, 8):
        cost.observe(rows, seconds(measured, rows))
    cost.guess()
    for _ in range(3000):
        waiting = random.choice([1, 3, 10, 40, 100, 5000])
        rows = min(waiting, cost.size(waiting))
        cost.observe(rows, seconds(measured, rows) * random.gauss(1.0, 0.01))
    assert cost.best == best
    for rows in (1, 8, best):
        assert cost.predict(rows) == pytest.approx(seconds(measured, rows), rel=0.25)


def test_a_long_time_of_single_rows_does_not_make_batches_look_dear() -> None:
    cost = line(0.010, 0.0005, 64)
    cost.observe(64, 0.042)
    for _ in range(10_000):
        cost.observe(1, 0.0105)
    assert cost.predict(64) == pytest.approx(0.042, rel=0.05)


def test_one_slow_run_hardly_moves_the_line() -> None:
    cost = line(0.002, 0.003, 16)
    for n in range(200):
        cost.observe(n % 16 + 1, 0.002 + 0.003 * (n % 16 + 1))
    cost.observe(4, 0.5)
    for n in range(60):
        cost.observe(n % 16 + 1, 0.002 + 0.003 * (n % 16 + 1))
    assert cost.predict(8) == pytest.approx(0.026, rel=0.1)
