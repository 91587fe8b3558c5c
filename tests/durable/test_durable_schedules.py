"""When schedules tick: clocks that change, time zones, catching up."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from everloop.durable.schedules import CatchUp, due, ticks

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Tick:
    period: timedelta = DAY
    time_zone: str = "UTC"
    catch_up: CatchUp = "last"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_first_look_follows_nothing() -> None:
    assert due(Tick(catch_up="all"), None, at("2024-03-02")) == []


def test_a_tick_belongs_to_the_look_at_or_after_it() -> None:
    assert due(Tick(), at("2024-03-01T23:59:59"), at("2024-03-02")) == [at("2024-03-02")]
    assert due(Tick(), at("2024-03-02"), at("2024-03-02T23:59:59")) == []


def test_a_weekly_tick_is_on_monday() -> None:
    (tick,) = ticks(Tick(period=7 * DAY, time_zone="America/Chicago"), at("2024-03-06"), at("2024-03-13"))
    assert tick.astimezone(ZoneInfo("America/Chicago")).strftime("%A %H:%M") == "Monday 00:00"


def test_a_daily_tick_stays_at_midnight_when_the_clocks_change() -> None:
    zone = ZoneInfo("America/Chicago")
    found = ticks(Tick(time_zone="America/Chicago"), at("2024-03-09T12:00"), at("2024-03-12T12:00"))
    assert [tick.astimezone(zone).strftime("%d %H:%M") for tick in found] == ["10 00:00", "11 00:00", "12 00:00"]
    assert [later - earlier for earlier, later in itertools.pairwise(found)] == [23 * HOUR, 24 * HOUR]


def test_an_hourly_tick_comes_every_hour_when_the_clocks_change() -> None:
    found = ticks(Tick(period=HOUR, time_zone="America/Chicago"), at("2024-03-10T05:30"), at("2024-03-10T10:30"))
    assert [later - earlier for earlier, later in itertools.pairwise(found)] == [HOUR] * 4


def test_a_day_that_a_place_skipped_has_no_tick_of_its_own() -> None:
    found = ticks(Tick(time_zone="Pacific/Apia"), at("2011-12-29T00:00"), at("2012-01-01T00:00"))
    assert [tick.astimezone(ZoneInfo("Pacific/Apia")).day for tick in found] == [29, 31, 1]


@pytest.mark.parametrize(("catch_up", "days"), [("last", [8]), ("all", [2, 3, 4, 5, 6, 7, 8]), ("skip", [])])
def test_what_was_missed_is_caught_up_as_declared(catch_up: Literal["last", "all", "skip"], days: list[int]) -> None:
    found = due(Tick(catch_up=catch_up), at("2024-03-01T06:00"), at("2024-03-08T06:00"))
    assert [tick.day for tick in found] == days


def test_skip_follows_a_tick_that_is_not_late() -> None:
    tick = Tick(catch_up="skip")
    assert due(tick, at("2024-03-01T06:00"), at("2024-03-08T02:00")) == [at("2024-03-08")]
    assert due(tick, at("2024-03-01T06:00"), at("2024-03-08T02:00"), grace=HOUR) == []


@given(
    start=some.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2035, 1, 1), timezones=some.just(UTC)),
    lengths=some.lists(some.timedeltas(min_value=timedelta(0), max_value=9 * DAY), min_size=1, max_size=6),
    period=some.sampled_from([HOUR / 4, HOUR, 5 * HOUR, DAY, 2 * DAY, 7 * DAY]),
    zone=some.sampled_from(["UTC", "America/Chicago", "Asia/Kathmandu", "Pacific/Apia", "America/Sao_Paulo"]),
)
def test_however_often_one_looks_each_tick_comes_once(
    start: datetime, lengths: list[timedelta], period: timedelta, zone: str
) -> None:
    schedule = Tick(period=period, time_zone=zone)
    found: list[datetime] = []
    now = start
    for length in lengths:
        found += ticks(schedule, now, now + length)
        now += length
    assert found == ticks(schedule, start, now)
    assert found == sorted(set(found))
