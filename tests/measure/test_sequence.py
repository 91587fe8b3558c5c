"""The confidence sequence: its constants, its level at every look, and what it says about the time to go."""

import math

import numpy as np
import pytest

from everloop.measure import sequence


def test_the_constants_are_those_of_the_derivation() -> None:
    assert [round(sequence.tuning(alpha), 2) for alpha in (0.05, 0.02, 0.05 / 3, 0.01, 0.001)] == [
        6.64,
        8.71,
        9.12,
        10.24,
        15.22,
    ]
    at_best = [sequence.critical(1, alpha, tightest=1) for alpha in (0.05, 0.02, 0.05 / 3, 0.01, 0.001)]
    assert [round(each, 2) for each in at_best] == [2.77, 3.12, 3.18, 3.35, 4.03]
    around = [sequence.critical(part, 0.05, tightest=1) for part in (0.25, 0.5, 1, 2, 4)]
    assert [round(each, 2) for each in around] == [3.01, 2.82, 2.77, 2.80, 2.87]


def test_the_tuning_is_where_the_bound_is_tightest_for_its_units() -> None:
    for alpha in (0.05, 0.01):
        best = sequence.critical(1.0, alpha, tightest=1.0)
        for other in (0.7, 1.4):
            # The same units with a sequence that was tuned for fewer or more of them.
            assert sequence.critical(1.0, alpha, tightest=other) > best


def test_a_look_at_every_unit_keeps_the_level() -> None:
    random = np.random.default_rng(1)
    runs, units, best = 600, 6_000, 500
    sums = np.cumsum(random.normal(0, 1, (runs, units)), axis=1)
    t = np.arange(1, units + 1)
    for alpha, least, most in ((0.05, 0.02, 0.065), (0.02, 0.005, 0.035)):
        c = np.array([sequence.critical(float(each), alpha, tightest=best) for each in t])
        assert least <= (sums > c * np.sqrt(t)).any(axis=1).mean() <= most


def test_nothing_is_said_below_a_hundred_units() -> None:
    found = sequence.bound(0.5, 0.0, 99, 0.05)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert sequence.bound(0.5, 0.01, 5_000, 0.05).upper == pytest.approx(0.5 + 0.01 * 2.79, abs=0.001)


def test_the_units_to_go_are_about_those_it_takes() -> None:
    random = np.random.default_rng(2)
    margin, alpha, runs = 0.1, 0.05, 300
    sums = np.cumsum(random.normal(0, 1, (runs, 8_000)), axis=1)
    t = np.arange(1, 8_001)
    c = np.array([sequence.critical(float(each), alpha) for each in t])
    passed = (sums / t + c / np.sqrt(t) < margin).argmax(axis=1) + 1
    said = sequence.more(0.0, 1 / math.sqrt(200), 200, margin, alpha)
    assert said is not None
    assert 200 + said == pytest.approx(float(np.median(passed)), rel=0.3)
    assert sequence.more(0.2, 0.01, 500, margin, alpha) is None


def test_without_an_event_the_variance_is_that_of_the_margin() -> None:
    """A plug-in variance of 0 would promote at the first look."""
    assert sequence.boundary_variance(0, 100, 0, 900, 0.01) == pytest.approx(0.01 * 0.99 / 100)
    random = np.random.default_rng(3)
    runs, share, rate, margin, every = 400, 0.1, 0.001, 0.001, 1_000
    n1 = np.cumsum(random.binomial(every, share, (runs, 200)), axis=1)
    n0 = np.cumsum(np.full((runs, 200), every), axis=1) - n1
    k1 = np.cumsum(random.binomial(np.diff(n1, axis=1, prepend=0), rate + margin), axis=1)
    k0 = np.cumsum(random.binomial(np.diff(n0, axis=1, prepend=0), rate), axis=1)
    c = np.array([sequence.critical(float(each), 0.05, tightest=50_000) for each in np.arange(1, 201) * every])
    gap = k1 / n1 - k0 / n0
    plug_in = np.sqrt(k1 / n1 * (1 - k1 / n1) / n1 + k0 / n0 * (1 - k0 / n0) / n0)
    boundary = np.sqrt(np.vectorize(sequence.boundary_variance)(k1, n1, k0, n0, margin))
    assert (gap + c * boundary < margin).any(axis=1).mean() <= 0.05
    assert (gap + c * plug_in < margin).any(axis=1).mean() > 0.2


def test_alpha_must_be_one_sided() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        sequence.tuning(0.5)
