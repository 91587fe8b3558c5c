"""Differences on the same rows: the level at the margin, blocks, few disagreements, two planned looks."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri

from everloop.measure.paired import block_sums, difference, look_alpha, quantile, rows_to_promote
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
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
CHANCES = 400


def two_models(random: np.random.Generator, n: int) -> tuple[Integers, Floats, Floats]:
    """Exchangeable models of the same truth: whatever the metric, neither is better."""
    signal = random.normal(0, 1, n)
    truth = (random.random(n) < 1 / (1 + np.exp(-2 * signal + 1))).astype(np.int64)
    made = []
    for _ in range(2):
        chance = 1 / (1 + np.exp(-2 * (signal + random.normal(0, 0.4, n)) + 1))
        made.append(np.stack([1 - chance, chance], axis=1))
    return truth, made[0], made[1]


@pytest.mark.parametrize(
    "metric", [LogLoss(), Brier(), Accuracy(), F1(), RocAuc(), AveragePrecision()], ids=lambda metric: metric.name
)
def test_the_bound_of_an_equal_challenger_is_wrong_about_one_time_in_twenty(metric: Metric) -> None:
    """Level exactly at the margin, whatever it is: P(value + radius < true difference)."""
    random = np.random.default_rng(1)
    too_low = 0
    for _ in range(CHANCES):
        y, a, b = two_models(random, 600)
        too_low += difference(metric, y, a, b).upper < 0
    assert too_low / CHANCES == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("metric", [RootMeanSquaredError(), MeanAbsoluteError()], ids=lambda metric: metric.name)
def test_the_bound_holds_for_numbers_with_heavy_tails(metric: Metric) -> None:
    random = np.random.default_rng(2)
    too_low = 0
    for _ in range(CHANCES):
        y = random.normal(0, 2, 400)
        noise = random.standard_t(4, 400)
        a, b = (y + noise + random.normal(0, 0.5, 400) for _ in range(2))
        too_low += difference(metric, y, a, b).upper < 0
    assert too_low / CHANCES == pytest.approx(0.05, abs=0.03)


def test_positive_means_worse_whatever_the_metrics_direction() -> None:
    random = np.random.default_rng(3)
    y, good, _ = two_models(random, 2_000)
    bad = np.full_like(good, 0.5)
    bad[:, 0], bad[:, 1] = 0.6, 0.4
    for metric in (LogLoss(), Brier(), Accuracy(), RocAuc(), AveragePrecision()):
        found = difference(metric, y, bad, good)
        assert found.value > 0
        assert found.lower > 0
        assert difference(metric, y, good, bad).value == pytest.approx(-found.value)


def gap_by_day(random: np.random.Generator, days: int) -> tuple[Integers, Integers, Integers, Integers]:
    """Two models equal on average whose gap differs by day, 200 rows each."""
    day = np.repeat(np.arange(days), 200)
    shift = random.normal(0, 0.02, days)[day]
    both = random.random(len(day))
    y = np.zeros(len(day), np.int64)
    only_a = both < 0.05 + shift / 2
    only_b = both > 1 - (0.05 - shift / 2)
    return y, only_a.astype(np.int64), only_b.astype(np.int64), day


def test_rows_of_a_day_err_together_and_days_are_what_is_counted() -> None:
    random = np.random.default_rng(4)
    by_row = by_day = 0
    for _ in range(CHANCES):
        y, a, b, day = gap_by_day(random, 8)
        by_row += difference(Accuracy(), y, a, b).upper < 0
        found = difference(Accuracy(), y, a, b, days=day)
        by_day += found.upper < 0
        assert (found.unit, found.blocks) == ("day", 8)
    assert by_row / CHANCES > 0.08
    assert by_day / CHANCES == pytest.approx(0.05, abs=0.03)


def test_the_larger_error_of_days_and_keys_counts_and_six_days_are_too_few() -> None:
    random = np.random.default_rng(5)
    y, a, b = two_models(random, 1_400)
    six, fourteen = np.arange(1_400) % 6, np.arange(1_400) % 14
    assert difference(LogLoss(), y, a, b, days=six).unit == "row"
    keys = np.repeat(np.arange(70), 20)
    by_key = difference(LogLoss(), y, a, b, keys=keys)
    by_day = difference(LogLoss(), y, a, b, days=fourteen)
    both = difference(LogLoss(), y, a, b, days=fourteen, keys=keys)
    assert both.standard_error == max(by_key.standard_error, by_day.standard_error)
    assert quantile(0.05, 7) == pytest.approx(1.943, abs=1e-3)
    assert block_sums(np.array([1.0, 2.0, 4.0]), ["x", "y", "x"]).tolist() == [5.0, 2.0]


def test_the_rows_to_promote_are_those_of_the_power_formula() -> None:
    """Ten percent discordant at one point: 6,183 rows; quoted within a quarter from a thousand."""
    random = np.random.default_rng(6)
    n = 1_000
    drawn = random.random(n)
    y, a, b = np.zeros(n, np.int64), (drawn < 0.05).astype(np.int64), (drawn > 0.95).astype(np.int64)
    found = difference(Accuracy(), y, a, b)
    assert found.discordant == pytest.approx(100, abs=25)
    assert rows_to_promote(found, 0.01) == pytest.approx(6_183, rel=0.25)


def test_few_disagreements_are_judged_exactly() -> None:
    y = np.zeros(1_000, np.int64)
    a, b = y.copy(), y.copy()
    a[:2], b[2:5] = 1, 1
    found = difference(Accuracy(), y, a, b)
    assert found.exact
    assert found.short is not None
    assert found.upper == pytest.approx(0.0063, abs=1e-4)  # Clopper and Pearson, 2 of 1,000
    assert found.lower < 0
    a[:12], b[:] = 1, 0
    assert difference(Accuracy(), y, a, b).lower > 0  # twelve to none is no chance


def test_an_identical_challenger_differs_by_nothing() -> None:
    y, a, _ = two_models(np.random.default_rng(7), 100)
    for metric in (LogLoss(), Accuracy(), RocAuc()):
        found = difference(metric, y, a, a.copy())
        assert (found.value, found.upper, found.short) == (0.0, 0.0, None)


def test_what_there_is_too_little_of_is_said() -> None:
    random = np.random.default_rng(8)
    y, a, b = two_models(random, 1_000)
    rare = np.where(np.cumsum(y) <= 20, y, 0)
    found = difference(RocAuc(), rare, a, b)
    assert found.short is not None
    assert "20 rows of the rarer kind" in found.short
    assert found.rows_needed == 2_500
    assert "rows, at least 30" in str(difference(LogLoss(), y[:20], a[:20], b[:20]).short)
    assert "not defined" in str(difference(RocAuc(), np.zeros(40, np.int64), a[:40], b[:40]).short)
    alike = a.copy()
    alike[:5] = alike[:5, ::-1]
    assert "differ" in str(difference(F1(), y, alike, a).short)


def weighted_hits(truth: Integers, prediction: Floats, rows: dict[str, Floats]) -> float:
    return float(np.average(prediction.argmax(axis=1) == truth, weights=rows["value"]))


def test_a_users_metric_is_bootstrapped_and_agrees_with_the_influence() -> None:
    random = np.random.default_rng(9)
    y, a, b = two_models(random, 500)
    rows = {"value": np.ones(500)}
    found = difference(Custom(weighted_hits), y, a, b, rows=rows)
    exact = difference(Accuracy(), y, a, b)
    assert found.value == pytest.approx(exact.value)
    assert found.standard_error == pytest.approx(exact.standard_error, rel=0.1)
    assert found.upper == pytest.approx(exact.upper, abs=0.004)
    days = np.arange(500) % 10
    assert difference(Custom(weighted_hits), y, a, b, rows=rows, days=days).unit == "day"


def test_two_planned_looks_keep_alpha_and_ten_unplanned_ones_do_not() -> None:
    assert -float(ndtri(look_alpha(0.05, 0.5))) == pytest.approx(1.875, abs=1e-3)
    random = np.random.default_rng(10)
    steps = np.cumsum(random.normal(0, 1, (20_000, 10)), axis=1) / np.sqrt(np.arange(1, 11))
    unplanned = (steps > 1.645).any(axis=1).mean()
    planned = (steps[:, [4, 9]] > 1.875).any(axis=1).mean()
    assert unplanned > 0.14
    assert planned == pytest.approx(0.05, abs=0.006)
    for fraction in (0.1, 0.9):
        assert 0.025 < look_alpha(0.05, fraction) < 0.05
    with pytest.raises(ValueError, match="strictly between"):
        look_alpha(0.05, 1.0)


def test_one_row_proves_nothing() -> None:
    found = difference(Accuracy(), np.array([1]), np.array([1]), np.array([0]))
    assert found.upper == math.inf
    assert found.short is not None
