"""Arms against the first: what the intervals promise, by short seeded simulations (longer ones: bench/experiments.py)."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import experiment, sequence
from everloop.measure.experiment import Units

Floats = NDArray[np.float64]
LOOKS = np.unique(np.geomspace(250, 4_000, 20).astype(int))


def shown(units: Units, **options: Any) -> list[bool]:
    """At each look whether the interval leaves out 0."""
    return [experiment.compare(units.first(int(n)), expected=4_000, **options).shown for n in LOOKS]


def keys(random: np.random.Generator, *, lift: float = 0.0, count: int = 4_000) -> tuple[Units, Units]:
    """Customers who click more or less often, some of them a hundred times as often here: by customer, and by request."""
    arm = (random.random(count) < 0.5).astype(np.int64)
    requests = np.minimum(np.ceil(random.pareto(1.2, count)), 100)
    taste = random.beta(0.8, 7.2, count) * (1 + lift * arm)
    before, clicks = random.binomial(20, np.minimum(taste, 1)), random.binomial(requests.astype(int), taste.clip(0, 1))
    by_key = Units(
        arm=arm,
        numerator=clicks.astype(float),
        denominator=requests,
        covariate=(before - 20 * 0.1).astype(np.float64),
    )
    each = np.repeat(np.arange(count), requests.astype(int))
    first = np.concatenate([np.arange(1, n + 1) <= k for n, k in zip(requests.astype(int), clicks, strict=True)])
    return by_key, Units(arm=arm[each], numerator=first.astype(float), denominator=np.ones(len(each)))


@pytest.mark.parametrize(("share", "rate"), [(0.5, 0.1), (0.1, 0.1), (0.5, 0.01), (0.1, 0.005)])
def test_equal_arms_are_told_apart_in_one_of_twenty_runs_at_most_however_often_one_looks(
    share: float, rate: float
) -> None:
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        arm = (random.random(4_000) < share).astype(np.int64)
        events = (random.random(4_000) < rate).astype(float)
        wrong += any(shown(Units(arm=arm, numerator=events, denominator=np.ones(4_000))))
    assert wrong <= 10


def test_a_ratio_by_customer_keeps_its_level_where_requests_counted_alone_would_not() -> None:
    random = np.random.default_rng(2)
    by_key = by_request = 0
    for _ in range(200):
        right, naive = keys(random)
        by_key += any(shown(Units(arm=right.arm, numerator=right.numerator, denominator=right.denominator)))
        looks = np.unique(np.geomspace(250, len(naive), 20).astype(int))
        by_request += any(experiment.compare(naive.first(int(n)), expected=4_000).shown for n in looks)
    assert by_key <= 10
    assert by_request > 2 * by_key + 10, "a test in which the naive rule holds would test nothing"


def test_a_lift_is_found_and_a_covariate_finds_it_more_often() -> None:
    random = np.random.default_rng(3)
    plain = adjusted = 0
    gains = []
    for _ in range(60):
        arm = (random.random(4_000) < 0.5).astype(np.int64)
        usual = random.normal(0, 1, 4_000)
        spent = 10 + 2 * usual + random.normal(0, 1.5, 4_000) + 0.2 * arm
        units = Units(arm=arm, numerator=spent, denominator=np.ones(4_000), covariate=usual)
        without = Units(arm=arm, numerator=spent, denominator=np.ones(4_000))
        plain += any(shown(without))
        adjusted += any(shown(units))
        found = experiment.compare(units)
        assert found.gain is not None
        gains.append(found.gain)
    assert np.mean(gains) == pytest.approx(4 / (4 + 2.25), abs=0.02), "the share that the covariate explains"
    assert adjusted >= plain + 10
    assert adjusted >= 54


def test_a_covariate_keeps_the_level_also_where_half_of_the_units_have_none() -> None:
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(200):
        units, _ = keys(random)
        assert units.covariate is not None
        units.covariate[random.random(len(units)) < 0.5] = np.nan
        wrong += any(shown(units))
    assert wrong <= 10


def test_the_interval_covers_the_true_difference_at_every_look() -> None:
    random = np.random.default_rng(5)
    missed = 0
    for _ in range(200):
        arm = (random.random(4_000) < 0.3).astype(np.int64)
        spent = random.exponential(10 + 1.0 * arm)
        units = Units(arm=arm, numerator=spent, denominator=np.ones(4_000))
        within = [experiment.compare(units.first(int(n)), expected=4_000) for n in LOOKS]
        missed += not all(each.lower <= 1.0 <= each.upper for each in within)
    assert missed <= 10


def test_an_arm_in_which_nothing_ever_happens_is_found_and_one_that_merely_has_not_yet_is_not() -> None:
    random = np.random.default_rng(6)
    dead = Units(
        arm=(random.random(4_000) < 0.1).astype(np.int64),
        numerator=np.zeros(4_000),
        denominator=np.ones(4_000),
    )
    dead.numerator[(dead.arm == 0) & (random.random(4_000) < 0.1)] = 1
    found = experiment.compare(dead)
    assert found.upper < 0
    few = Units(
        arm=np.r_[np.zeros(900), np.ones(100)].astype(np.int64), numerator=np.zeros(1_000), denominator=np.ones(1_000)
    )
    few.numerator[:30] = 1  # three were to be expected among the other hundred
    assert not experiment.compare(few).shown
    few.numerator[19:] = 0
    assert experiment.compare(few).lower == -math.inf, "nineteen events say nothing of their spread"


def test_it_is_the_usual_difference_with_the_usual_standard_error() -> None:
    random = np.random.default_rng(7)
    arm = (random.random(2_000) < 0.4).astype(np.int64)
    x = random.normal(3, 2, 2_000)
    found = experiment.compare(Units(arm=arm, numerator=x, denominator=np.ones(2_000)), alpha=0.1, expected=2_000)
    one, other = x[arm == 1], x[arm == 0]
    error = math.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    assert found.estimate == pytest.approx(one.mean() - other.mean())
    assert found.standard_error == pytest.approx(error)
    assert found.upper - found.estimate == pytest.approx(error * sequence.critical(2_000, 0.05))
    assert found.base == pytest.approx(other.mean())
    assert found.value == pytest.approx(one.mean())


def test_extreme_values_are_cut_where_the_first_arm_s_early_units_say_and_nowhere_else() -> None:
    random = np.random.default_rng(8)
    arm = (random.random(3_000) < 0.5).astype(np.int64)
    spent = np.where(random.random(3_000) < 0.3, random.lognormal(3, 1.5, 3_000), 0.0)
    units = Units(arm=arm, numerator=spent, denominator=np.ones(3_000))
    early = spent[(arm == 0) & (spent != 0)][:100]
    at = experiment.limits(units)
    assert at.high == pytest.approx(np.quantile(early, 0.99))
    assert experiment.limits(units.first(2_000)) == at, "later units move nothing"
    kept, many = experiment.cut(units, at)
    assert many == int((spent > at.high).sum()) > 0
    assert kept.numerator.max() == at.high
    assert not experiment.limits(units.first(300)).decided
    level = Units(arm=arm, numerator=random.normal(5, 1, 3_000), denominator=np.ones(3_000))
    events = Units(arm=arm, numerator=(spent > 0).astype(float), denominator=np.ones(3_000))
    assert not experiment.limits(level).cuts
    assert not experiment.limits(events).cuts
    assert experiment.limits(events.first(20)).decided, "events need no limit, however few"


def test_a_broken_assignment_is_found_and_a_sound_one_is_left_alone() -> None:
    random = np.random.default_rng(9)
    shares = np.array([0.5, 0.3, 0.2])
    limit = math.log(1_000)
    alarms = 0
    for _ in range(300):
        counts = np.cumsum(random.multinomial(200, shares, 100), axis=0)
        alarms += any(experiment.sample_ratio(each, shares) >= limit for each in counts)
    assert alarms <= 1
    lost = np.cumsum(random.multinomial(200, [0.5, 0.3, 0.17, 0.03], 100), axis=0)[:, :3]
    assert experiment.sample_ratio(lost[-1], shares) >= limit, "three of twenty answers of one arm are lost"
    assert experiment.sample_ratio([0, 0, 0], shares) == pytest.approx(0.0)


def test_how_many_more_is_about_what_it_takes() -> None:
    random = np.random.default_rng(10)
    arm = (random.random(60_000) < 0.5).astype(np.int64)
    bought = (random.random(60_000) < np.where(arm == 1, 0.12, 0.10)).astype(float)
    units = Units(arm=arm, numerator=bought, denominator=np.ones(60_000))
    quoted = experiment.more(experiment.compare(units.first(2_000)), 0.02)
    assert quoted is not None
    # (c*·σ/δ)²: 3.02² · (.12·.88 + .10·.90)·2 / .02² less the 2,000 that came.
    assert quoted == pytest.approx(3.02**2 * (0.1056 + 0.09) * 2 / 0.02**2 - 2_000, rel=0.15)
    assert experiment.more(experiment.compare(units.first(2_000)), 0.0) is None
