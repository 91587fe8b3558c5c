"""Drift limits come from the loop's own quiet windows; windows are what the declaration says; hours have habits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.clock import microseconds
from everloop.errors import SpecError
from everloop.measure import habit, profile, season
from everloop.records import Signature, decode, encode
from everloop.spec.retrain import Drift
from everloop.store.lake import Lake
from everloop.watch import drift, history
from everloop.watch.drift import Against, DriftState
from everloop.watch.fold import fold

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, PER_DAY = 45, 600
Shift = Callable[[int, NDArray[np.float64]], Any]


def at(day: float) -> datetime:
    return START + td(days=day)


def quiet(day: int, hours: NDArray[np.float64]) -> Any:
    return 0.0


@dataclass
class World:
    """One number a request, its mean as ``shift(day, hour)`` says, everything else as it always is."""

    log: Any
    lake: Lake
    signature: Signature
    shift: Shift = quiet
    days_kept: bool = False
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(21))

    def drawn(self, day: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        times = microseconds(at(day)) + (np.arange(PER_DAY) * (86_400_000_000 // PER_DAY))
        hours = (times // 3_600_000_000) % 24
        return times.astype(np.int64), self.random.normal(self.shift(day, hours.astype(np.float64)), 1, PER_DAY)

    def against(self, *, until: int = 0) -> Against:
        """A champion trained on the four weeks before the first day."""
        drawn = [self.drawn(day) for day in range(-28, until)]
        times, values = (np.concatenate(part) for part in zip(*drawn, strict=True))
        made = profile.build({"distance": values})
        made = season.seasonal(made, {"distance": values}, times)
        if self.days_kept:
            made = habit.daily(made, {"distance": values}, times)
        return Against(version=1, signature=self.signature, profile=made, trained_until=at(until))

    def serve(self, days: range) -> None:
        for day in days:
            times, values = self.drawn(day)
            ids = [f"{day}-{index}" for index in range(PER_DAY)]
            self.log.predictions(ids, at=times, numbers=values)
        fold(self.log.folder, self.lake, {"package": self.signature})


@pytest.fixture
def world(log: Any, lake: Lake, signatures: dict[str, Signature]) -> World:
    return World(log, lake, signatures["package"])


def looked(world: World, trigger: Drift, against: Against, days: range, state: DriftState | None = None) -> DriftState:
    """A look a day; through JSON and back, as the ledger does it."""
    state = state or DriftState(opened=at(days.start))
    for day in days:
        state = decode(
            encode(drift.advance(drift.Logged(world.lake), trigger, state, against, at(day + 1))), DriftState
        )
    return state


def test_limits_come_from_the_loops_own_quiet_days_once_there_are_28(world: World) -> None:
    effects = np.random.default_rng(3).normal(0, 0.15, 200)
    world.shift = lambda day, hours: effects[day + 100]
    against, trigger = world.against(), Drift(window=td(days=1))
    world.serve(range(DAYS))
    early = looked(world, trigger, against, range(20))
    assert early.calibration is None
    assert "uncalibrated" in drift.limits(trigger, early)
    state = looked(world, trigger, against, range(20, DAYS), early)
    assert state.calibration is not None
    assert state.calibration.days == DAYS - 1, "the day that is judged does not judge itself"
    said = drift.described(trigger, state)
    assert said["calibrated"]
    assert "quiet windows or days of its own" in said["limits"]
    assert set(state.calibration.scales) >= {"distance", "distance (missing)"}
    assert state.found is not None
    assert not state.found.columns


def test_the_days_of_the_training_rows_set_the_limits_of_the_first_window(world: World) -> None:
    """Days that differ by .25 standard deviations: on formulas the first weeks alarm, and a calm column is found too late."""
    effects = np.random.default_rng(3).normal(0, 0.25, 200)
    world.shift = lambda day, hours: effects[day + 100] + (2.0 if day >= 30 else 0.0)
    trigger = Drift(window=td(days=1))
    world.serve(range(34))
    world.days_kept = True
    against = world.against()
    assert len(against.profile.days) == 28
    state = looked(world, trigger, against, range(1))
    assert state.calibration is not None
    assert state.calibration.days == 28
    assert "0 quiet windows or days of its own and 28 that it was trained on" in drift.limits(trigger, state)
    alarms = 0
    for day in range(1, 28):
        state = looked(world, trigger, against, range(day, day + 1), state)
        alarms += bool(state.found and state.found.columns)
    assert alarms == 0
    assert state.calibration is not None
    assert state.calibration.days == 28 + 27
    said = drift.described(trigger, state)
    assert (said["quiet_days"], said["trained_days"]) == (27, 28)
    (size,) = (each["finds"] for each in said["largest"] if each["signal"] == "distance")
    assert 0.9 < size < 2.0, "one day's mood is .25, so nothing of .6 can be told from it"
    assert f"from {size:.2f} standard deviations on" in said["finds"]
    state = looked(world, trigger, against, range(28, 33), state)
    assert state.found is not None
    assert [each.column for each in state.found.columns] == ["distance"]


def test_another_champion_brings_its_own_days_and_the_loops_own_stay(world: World) -> None:
    world.days_kept = True
    trigger = Drift(window=td(days=1))
    first, second = world.against(), world.against(until=20)
    world.serve(range(30))
    state = looked(world, trigger, first, range(10))
    assert history.trained(state.history) == 28
    own = [day for day in state.history.days if not day.trained]
    second = Against(version=2, signature=second.signature, profile=second.profile, trained_until=at(20))
    state = looked(world, trigger, second, range(10, 25), state)
    assert [day for day in state.history.days if not day.trained][: len(own)] == own
    # Of its days those before the first own one: the others are known as they were served.
    assert history.trained(state.history) == 28


def test_a_shift_of_six_tenths_is_found_within_three_windows_by_calibrated_limits(world: World) -> None:
    world.shift = lambda day, hours: 0.6 if day >= 40 else 0.0
    against, trigger = world.against(), Drift(window=td(days=1))
    world.serve(range(DAYS))
    state = looked(world, trigger, against, range(40))
    assert state.found is not None
    assert not state.found.columns
    state = looked(world, trigger, against, range(40, 43), state)
    assert state.found is not None
    (column,) = state.found.columns
    assert column.column == "distance"
    assert column.calibrated
    assert state.found.until <= at(43)


def test_an_alarm_that_lasts_is_no_habit_and_one_that_passes_is(world: World) -> None:
    world.shift = lambda day, hours: 1.0 if day >= 38 or day in (10, 11) else 0.0
    against, trigger = world.against(), Drift(window=td(days=1))
    world.serve(range(DAYS))
    state = looked(world, trigger, against, range(20))
    assert history.left_out(state.history) == 0, "two days that passed are how restless it is"
    state = looked(world, trigger, against, range(20, DAYS), state)
    assert history.left_out(state.history) >= 4
    assert "left out because they alarmed" in drift.limits(trigger, state)


def test_windows_that_are_the_champions_own_training_rows_calibrate_nothing(world: World) -> None:
    against = world.against(until=30)
    world.serve(range(DAYS))
    state = looked(world, Drift(window=td(days=1)), against, range(DAYS))
    assert len(state.history.days) == DAYS - 30


def test_hours_are_held_against_the_same_hours_and_a_night_that_is_like_noon_is_found(world: World) -> None:
    world.shift = lambda day, hours: np.where(day >= 5, 1.5, np.sin(hours / 24 * 2 * np.pi))
    against = world.against()
    assert against.profile.season == "day"
    world.serve(range(8))
    trigger = Drift(window=td(hours=12))
    state = looked(world, trigger, against, range(5))
    assert state.season == "day"
    assert state.largest < 0.1
    blind = looked(world, Drift(window=td(hours=12), season="none"), against, range(5))
    assert blind.largest > 0.2, "without a season each half of the day looks like a drift"
    assert blind.found is not None
    assert blind.found.columns
    state = looked(world, trigger, against, range(5, 8), state)
    assert state.found is not None
    assert [each.column for each in state.found.columns] == ["distance"]


def test_a_window_may_be_a_number_of_rows(world: World) -> None:
    against = world.against()
    world.serve(range(4))
    state = looked(world, Drift(window=1_000), against, range(4))
    seconds = 86_400 // PER_DAY
    assert [each.until for each in state.closed] == [
        at(1) + td(seconds=399 * seconds, microseconds=1),
        at(3) + td(seconds=199 * seconds, microseconds=1),
    ]
    assert state.signals[0].rows == 1_000


def test_the_declaration_refuses_windows_that_say_nothing() -> None:
    with pytest.raises(SpecError, match="at least 300"):
        Drift(window=20)
    with pytest.raises(SpecError, match="a minute to a year"):
        Drift(window=td(seconds=1))


def test_an_alarm_names_the_rows_that_carry_it_its_size_and_what_the_score_says(world: World) -> None:
    world.shift = lambda day, hours: 2.0 if day >= 4 else 0.0
    against = world.against()
    world.serve(range(8))
    state = looked(world, Drift(window=td(days=1)), against, range(8))
    assert state.found is not None
    column = next(each for each in state.found.columns if each.measure == "distribution")
    largest = column.carried[0]
    assert largest.rows.startswith("over ")
    assert largest.then == pytest.approx(0.1, abs=0.01)
    assert largest.now > 0.7
    assert str(largest) in column.because
    assert column.distances["wasserstein"] == pytest.approx(2.0, abs=0.15)
    assert column.distances["ks"] == pytest.approx(0.68, abs=0.05)
    assert 0.3 < column.distances["jensen_shannon"] < 1
    assert column.distances["chi_square"] > 1_000
    assert "outliers" in {each.measure for each in state.found.columns}
