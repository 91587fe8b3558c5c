"""What is unusual stands out, what comes every day does not, and nothing depends on what comes later."""

import numpy as np

from everloop.measure.unusual import beginnings, surprise


def daily(random: np.random.Generator, days: int, period: int = 96) -> np.ndarray:
    hours = np.arange(days * period) % period / period
    return np.asarray(100 + 60 * np.sin(2 * np.pi * hours) + random.normal(0, 2, days * period))


def test_a_night_is_no_surprise_where_nights_are_known_and_a_dip_at_noon_is() -> None:
    values = daily(np.random.default_rng(1), 14)
    values[12 * 96 + 24] = 100  # at the top of the day, a value that is usual in the morning
    found = surprise(values, period=96)
    assert found[12 * 96 + 24] > 10
    assert found[11 * 96 : 12 * 96].max() < 5
    assert surprise(values)[12 * 96 + 24] < 2, "without the time of day nobody sees it"


def test_a_value_depends_on_what_came_before_it_alone() -> None:
    values = daily(np.random.default_rng(2), 10)
    changed = values.copy()
    changed[700:] = 1e6
    assert np.allclose(surprise(values, period=96)[:700], surprise(changed, period=96)[:700], rtol=1e-6, atol=1e-6)


def test_an_episode_is_told_when_it_begins_and_again_only_when_it_grows() -> None:
    surprises = np.array([0, 1, 9, 9, 8, 12, 1, 1, 1, 9.0])
    assert beginnings(surprises, quiet=3).tolist() == [0, 1, 9, 0, 0, 12, 0, 0, 0, 9]


def test_nothing_constants_gaps_and_the_first_values_are_no_trouble() -> None:
    assert surprise(np.array([])).tolist() == []
    assert beginnings(np.array([])).tolist() == []
    assert surprise(np.array([1.0])).tolist() == [0.0]
    assert surprise(np.full(200, 5.0), period=24).max() == 0
    assert surprise(np.full(200, np.nan), period=24).max() == 0
    gaps = np.where(np.arange(400) % 3 == 0, np.nan, np.random.default_rng(3).normal(0, 1, 400))
    assert np.isfinite(surprise(gaps, period=24)).all()
    jump = np.concatenate([np.full(50, 5.0), [6.0]])
    assert surprise(jump)[-1] > 100, "what never moved and moves is news"
