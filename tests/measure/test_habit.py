"""What the days of training rows say before a loop has days of its own: the same as quiet days would."""

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import habit, profile, season
from everloop.measure.calibration import calibrate_blocks
from everloop.measure.comparison import compare
from everloop.measure.distance import psi
from everloop.records import decode, encode

DAY = season.DAY
ROWS, DAYS = 400, 40


def table(mood: float, seed: int = 0) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    moods = np.repeat(random.normal(0, mood, DAYS), ROWS)
    values = random.normal(moods, 1)
    values[random.random(len(values)) < 0.02] = np.nan
    times = np.repeat(np.arange(DAYS), ROWS) * DAY + np.tile(np.arange(ROWS), DAYS) * (DAY // ROWS)
    return {"x": values}, times + 20_000 * DAY


def test_a_profile_keeps_its_newest_days_and_is_json() -> None:
    columns, times = table(0.2)
    made = habit.daily(profile.build(columns), columns, times)
    assert made.days == tuple(range(20_000, 20_000 + DAYS))
    counted = np.array(made.columns["x"].days)
    assert counted.shape == (DAYS, 1 + 10)
    assert (counted.sum(axis=1) == ROWS).all()
    assert counted[:, 0].sum() == made.columns["x"].missing
    assert tuple(counted[:, 1:].sum(axis=0)) == made.columns["x"].counts
    assert decode(encode(made), profile.Profile) == made


def test_only_so_many_days_are_kept_and_one_day_says_nothing() -> None:
    columns, times = table(0.0)
    long = np.arange(len(times)) // 100 * DAY  # 160 days
    assert len(habit.daily(profile.build(columns), columns, long).days) == habit.MOST_DAYS
    assert habit.daily(profile.build(columns), columns, np.zeros_like(times)).days == ()


@pytest.mark.parametrize("mood", [0.0, 0.1, 0.3])
def test_windows_of_training_days_look_like_windows_of_quiet_days(mood: float) -> None:
    """Windows of 100 rows, four a day, held against other days: as far from them as later days are."""
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    for seed in range(5):
        columns, times = table(mood, seed=seed)
        made = habit.daily(profile.build(columns), columns, times)
        found = habit.blocks(made, rows=100, a_day=4.0, until=30_000)
        assert found is not None
        assert found.signals == ("x", "x (missing)")
        later = table(mood, seed=seed + 100)[0]["x"]
        apart = [
            compare(made, profile.build({"x": later[begin : begin + 100]}, like=made))[0].psi
            for begin in range(0, ROWS * DAYS, 100)
        ]
        both = np.minimum(apart, [apart[0], *apart[:-1]]).reshape(DAYS, 4).max(axis=1)
        ours.append([found.means[:, 0].mean(), found.peaks[:, 0].mean()])
        theirs.append([float(np.mean(apart)), both.mean()])
    np.testing.assert_allclose(np.mean(ours, axis=0), np.mean(theirs, axis=0), rtol=0.12)


def test_a_day_is_held_against_the_others() -> None:
    tables = {"x": np.array([[50.0, 50.0], [10.0, 90.0], [50.0, 50.0]])}
    means, peaks = habit.drawn(tables, rows=100, a_day=1.0)
    assert means[1, 0] == pytest.approx(psi([100, 100], [10, 90]))
    assert peaks[1, 0] == pytest.approx(min(means[0, 0], means[1, 0])), "two windows running must both reach it"


def test_a_share_that_falls_is_no_alarm() -> None:
    tables = {"x (missing)": np.array([[10.0, 90.0], [10.0, 90.0], [1.0, 99.0]])}
    means, _ = habit.drawn(tables, rows=100, a_day=1.0)
    assert means[2, 0] == 0.0
    assert means[0, 0] > 0.0


def test_weeks_are_made_of_days_and_days_that_were_served_are_left_out() -> None:
    columns, times = table(0.2)
    made = habit.daily(profile.build(columns), columns, times)
    weeks = habit.blocks(made, rows=2_800, a_day=1 / 7, until=30_000)
    assert weeks is not None
    assert weeks.days == tuple(20_000 + day for day in (0, 5, 12, 19, 26, 33)), "the oldest one has five days"
    some = habit.blocks(made, rows=100, a_day=4.0, until=20_010)
    assert some is not None
    assert some.days == tuple(range(20_000, 20_010))
    assert habit.blocks(made, rows=100, a_day=4.0, until=20_001) is None
    assert habit.blocks(profile.build(columns), rows=100, a_day=4.0, until=30_000) is None


def test_categories_are_judged_in_the_places_of_a_window() -> None:
    random = np.random.default_rng(2)
    values = random.choice(np.array(["a", "b", "c"], dtype=object), ROWS * DAYS, p=[0.6, 0.3, 0.1])
    _, times = table(0.0)
    made = habit.daily(profile.build({"k": values}), {"k": values}, times)
    found = habit.blocks(made, rows=100, a_day=4.0, until=30_000)
    assert found is not None
    assert found.signals == ("k", "k (missing)", "k (new values)")
    assert (found.means[:, 1:] == 0.0).all()


def test_a_calm_column_among_restless_ones_keeps_its_own_habits() -> None:
    random = np.random.default_rng(5)
    moods = np.array([0.01] + [0.3] * 9)
    means = moods**2 * random.chisquare(1, (60, 10)) + 0.01
    made = calibrate_blocks([f"c{place}" for place in range(10)], means, means, budget=90.0)
    assert made is not None
    assert made.scales["c0"] < 0.02, "half of the mean of all would be .05"
    alike = calibrate_blocks(["a", "b", "c", "d", "e"], means[:, 1:6], means[:, 1:6], budget=90.0)
    assert alike is not None
    mean = means[:, 1:6].mean()
    half = [(own + mean) / 2 for own in means[:, 1:6].mean(axis=0)]
    np.testing.assert_allclose(list(alike.scales.values()), half, rtol=0.25)
