from collections.abc import Iterator
from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import pytest

from everloop.records import decode, encode
from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger
from everloop.watch.drift import Drifted, DriftedColumn
from everloop.watch.score import Degradation
from everloop.watch.triggers import Fired, Signals, TriggerState, begin, fired, placed

START = datetime(2024, 1, 1, 6, tzinfo=UTC)  # a Monday
DAILY = Every(td(days=1))


def days(number: float) -> datetime:
    return START + td(days=number)


def looks(trigger: Trigger, times: list[datetime], **signals: Any) -> Iterator[Fired | None]:
    state = begin(START)
    for now in times:
        found, state = fired(trigger, Signals(**signals), state, now)
        yield found


def count(trigger: Trigger, times: list[datetime], **signals: Any) -> int:
    return sum(each is not None for each in looks(trigger, times, **signals))


def drifting(since: float, until: float, *columns: str) -> Drifted:
    return Drifted(
        columns=tuple(
            DriftedColumn(column=name, measure="distribution", size=0.4, limit=0.2, because=f"{name} moved: PSI 0.400")
            for name in columns
        ),
        since=days(since),
        until=days(until),
        rows=700,
    )


def degraded(since: float, until: float, *, worse: bool = True) -> Degradation:
    return Degradation(
        score=0.6,
        reference=0.5,
        difference=0.1,
        standard_error=0.01,
        noise=0.03,
        by=0.02,
        rows=900,
        since=days(since),
        until=days(until),
        worse=worse,
        because="log loss 0.6 is worse than 0.5",
    )


def test_a_schedule_fires_once_for_each_slot() -> None:
    hourly_looks = [START + td(hours=hour) for hour in range(1, 24 * 7 + 1)]
    assert count(DAILY, hourly_looks) == 7
    assert count(Every(td(days=7)), hourly_looks) == 1


def test_a_daily_slot_stays_at_local_midnight_when_the_clocks_change() -> None:
    state = begin(datetime(2024, 3, 30, 12, tzinfo=UTC))
    due: list[str] = []
    for hour in range(1, 49):
        now = datetime(2024, 3, 30, 12, tzinfo=UTC) + td(hours=hour)
        found, state = fired(Every(td(days=1), time_zone="Europe/Berlin"), Signals(), state, now)
        if found:
            due.append(f"{now:%d %H:%M}")
    assert due == ["30 23:00", "31 22:00"]


@pytest.mark.parametrize(("catch_up", "turns"), [("last", 1), ("all", 7), ("skip", 0)])
def test_seven_days_down_are_made_up_for_as_declared(catch_up: Any, turns: int) -> None:
    trigger = Every(td(days=1), catch_up=catch_up)
    back = [days(7) + td(minutes=minute) for minute in range(30)]
    assert count(trigger, back) == turns


def test_after_a_pause_a_skipping_schedule_goes_on_with_its_next_slot() -> None:
    times = [days(7), days(7.5), days(8), days(9)]
    assert [each is not None for each in looks(Every(td(days=1), catch_up="skip"), times)] == [
        False,
        False,
        True,
        True,
    ]


def test_making_up_for_every_slot_waits_while_a_turn_is_under_way() -> None:
    trigger = Every(td(days=1), catch_up="all")
    state = begin(START)
    found, state = fired(trigger, Signals(busy=True), state, days(3))
    assert found is None
    turns = 0
    for minute in range(10):
        found, state = fired(trigger, Signals(busy=minute % 2 == 0), state, days(3) + td(minutes=minute))
        turns += found is not None
    assert turns == 3


def test_what_was_missed_is_said() -> None:
    (found,) = looks(DAILY, [days(3)])
    assert found is not None
    assert "3 slots were missed" in found.because
    assert found.evidence[0].detail["missed"] == 2


def test_drift_fires_once_for_the_same_windows_and_again_for_new_ones() -> None:
    trigger = Drift()
    state = begin(START)
    fires = []
    for now, signal in [
        (14, drifting(0, 14, "carrier", "distance")),
        (15, drifting(0, 14, "carrier", "distance")),
        (21, drifting(7, 21, "carrier")),
        (28, drifting(14, 28, "carrier")),
    ]:
        found, state = fired(trigger, Signals(drift={trigger: signal}), state, days(now))
        fires.append(found)
    assert [each is not None for each in fires] == [True, False, False, True]
    assert fires[0] is not None
    assert [each.detail["column"] for each in fires[0].evidence] == ["carrier", "distance"]
    assert "carrier moved: PSI 0.400" in fires[0].because


def test_no_drift_and_no_worsening_fire_nothing() -> None:
    drift, degrade = Drift(), Degraded()
    signals = Signals(drift={drift: drifting(0, 14)}, degraded={degrade: degraded(0, 7, worse=False)})
    assert fired(AnyOf(drift, degrade), signals, begin(START), days(20))[0] is None


def test_degraded_asks_for_new_rows_before_it_fires_again() -> None:
    trigger = Degraded()
    state = begin(START)
    found, state = fired(trigger, Signals(degraded={trigger: degraded(0, 7)}), state, days(7))
    assert found is not None
    again, state = fired(trigger, Signals(degraded={trigger: degraded(2, 9)}), state, days(9))
    assert again is None
    later, state = fired(trigger, Signals(degraded={trigger: degraded(7.1, 12)}), state, days(12))
    assert later is not None


def test_rows_count_from_the_last_turn() -> None:
    trigger = AnyOf(Rows(1_000), Every(td(days=7)))
    state = begin(START, rows=500)
    seen = []
    for day, rows in [(1, 1_200), (2, 1_500), (3, 2_000), (7, 2_400), (8, 3_200), (9, 3_400)]:
        found, state = fired(trigger, Signals(rows=rows), state, days(day))
        seen.append(found.evidence[0].name if found else None)
    # The schedule's turn used the rows up as well: they count again from there.
    assert seen == [None, "rows", None, "schedule", None, "rows"]


def test_manual_fires_only_when_asked() -> None:
    assert fired(Manual(), Signals(), begin(START), days(1))[0] is None
    found, _ = fired(Manual(), Signals(asked="ada"), begin(START), days(1))
    assert found is not None
    assert "ada" in found.because


def test_all_of_waits_until_everything_holds_at_once() -> None:
    trigger = AllOf(DAILY, Rows(100))
    state = begin(START)
    found, state = fired(trigger, Signals(rows=50), state, days(1))
    assert found is None
    found, state = fired(trigger, Signals(rows=120), state, days(1.1))
    assert found is not None
    assert {each.name for each in found.evidence} == {"schedule", "rows"}
    found, state = fired(trigger, Signals(rows=400), state, days(1.2))
    assert found is None


def test_any_of_tells_every_reason() -> None:
    degrade = Degraded()
    trigger = AnyOf(DAILY, degrade)
    found, _ = fired(trigger, Signals(degraded={degrade: degraded(0, 1)}), begin(START), days(1))
    assert found is not None
    assert found.because.count(";") == 1
    assert {each.name for each in found.evidence} == {"schedule", "degraded"}


def test_a_cooldown_delays_and_loses_nothing() -> None:
    trigger = DAILY
    state = begin(START)
    found, state = fired(trigger, Signals(), state, days(1))
    assert found is not None
    found, state = fired(trigger, Signals(), state, days(2), cooldown=td(days=3))
    assert found is None
    found, state = fired(trigger, Signals(), state, days(4.1), cooldown=td(days=3))
    assert found is not None
    assert "3 slots were missed" in found.because


def test_state_and_reason_survive_the_ledger() -> None:
    found, state = fired(AnyOf(DAILY, Rows(1)), Signals(rows=7), begin(START), days(2))
    assert found is not None
    assert decode(encode(state), TriggerState) == state
    assert decode(encode(found), Fired) == found


def test_each_condition_has_a_place_of_its_own() -> None:
    trigger = AnyOf(DAILY, AllOf(DAILY, Drift()))
    assert [place for place, _ in placed(trigger)] == ["0", "1.0", "1.1"]
