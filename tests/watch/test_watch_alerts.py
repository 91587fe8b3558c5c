"""When somebody is told: once for each episode, again while it goes on, at its end, and never by a flood."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.records import Alert, AlertMessage, Silence
from everloop.spec.notify import Pace
from everloop.watch.alerts import Followed, Reading, Told, follow

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
State = Literal["fires", "holds", "quiet", "unknown"]


def reading(state: State, rule: str = "errors", **named: object) -> Reading:
    given = {"rule": rule, "level": "service", "severity": "critical", "because": f"{rule} {state}", **named}
    return Reading(state=state, **given)  # type: ignore[arg-type]


class Watch:
    """What a ledger would keep between looks, and every message so far."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace(repeat=12 * HOUR, settle=5 * MINUTE, most_per_hour=20)
        self.alerts: dict[tuple[str, datetime], Alert] = {}
        self.told = Told()
        self.silences: list[Silence] = []
        self.messages: list[AlertMessage] = []

    def look(self, now: datetime, *readings: Reading) -> Followed:
        known = [each for each in self.alerts.values() if not each.settled]
        followed = follow("parcels", known, readings, self.silences, self.told, self.pace, now)
        self.alerts |= {(each.fingerprint, each.began): each for each in followed.alerts}
        self.told = followed.told
        self.messages += followed.messages
        return followed

    @property
    def kinds(self) -> list[str]:
        return [each.kind for each in self.messages]

    def only(self) -> Alert:
        (alert,) = self.alerts.values()
        return alert


def test_a_rule_that_goes_on_firing_is_one_alert_and_one_message() -> None:
    watch = Watch()
    for minute in range(60):
        watch.look(START + minute * MINUTE, reading("fires"))
    assert watch.kinds == ["firing"]
    assert watch.only().began == START
    assert watch.only().seen == START + 59 * MINUTE


def test_what_comes_and_goes_within_the_settling_time_is_one_alert() -> None:
    watch = Watch()
    for minute in range(30):
        watch.look(START + minute * MINUTE, reading("quiet" if minute % 3 else "fires"))
    assert watch.kinds == ["firing"]
    for minute in range(30, 40):
        watch.look(START + minute * MINUTE, reading("quiet"))
    assert watch.kinds == ["firing", "resolved"]
    assert watch.only().settled


def test_an_episode_after_an_ended_one_is_an_alert_of_its_own_with_another_key() -> None:
    watch = Watch()
    for hour in range(3):
        watch.look(START + hour * HOUR, reading("fires"))
        watch.look(START + hour * HOUR + 10 * MINUTE, reading("quiet"))
    assert watch.kinds == ["firing", "resolved"] * 3
    assert len({each.key for each in watch.messages}) == 6
    assert len({each.fingerprint for each in watch.alerts.values()}) == 1


def test_a_value_back_near_its_limit_begins_nothing_and_ends_nothing() -> None:
    watch = Watch()
    watch.look(START, reading("holds"))
    assert watch.alerts == {}
    watch.look(START, reading("fires"))
    watch.look(START + HOUR, reading("holds"))
    assert watch.only().ended is None


def test_nothing_to_read_leaves_things_as_they_are() -> None:
    watch = Watch()
    watch.look(START, reading("unknown"))
    assert watch.alerts == {}
    watch.look(START, reading("fires"))
    watch.look(START + HOUR, reading("unknown"))
    assert watch.kinds == ["firing"]
    assert watch.only().ended is None


def test_a_rule_that_is_declared_no_more_has_ended_and_is_told_so() -> None:
    watch = Watch()
    watch.look(START, reading("fires"))
    watch.look(START + MINUTE)
    assert watch.kinds == ["firing", "resolved"]
    assert "no more" in watch.messages[-1].because


def test_an_alert_that_goes_on_is_repeated_at_its_interval() -> None:
    watch = Watch(Pace(repeat=4 * HOUR))
    for hour in range(13):
        watch.look(START + hour * HOUR, reading("fires"))
    assert watch.kinds == ["firing", "repeated", "repeated", "repeated"]
    assert [each.at for each in watch.messages] == [START + hour * HOUR for hour in (0, 4, 8, 12)]
    assert all(each.until > each.at + 4 * HOUR for each in watch.messages), "a repetition comes before it lapses"


def silence(rule: str | None, hours: float) -> Silence:
    return Silence(loop="parcels", id="a", rule=rule, since=START, until=START + hours * HOUR)


def test_a_silenced_rule_is_kept_and_told_only_if_it_outlasts_the_silence() -> None:
    watch = Watch()
    watch.silences = [silence("errors", 1)]
    watch.look(START, reading("fires"), reading("fires", "latency"))
    assert [each.alerts[0].rule for each in watch.messages] == ["latency"]
    assert len(watch.alerts) == 2
    watch.look(START + 2 * HOUR, reading("fires"), reading("fires", "latency"))
    assert [each.alerts[0].rule for each in watch.messages] == ["latency", "errors"]


def test_whoever_was_told_that_it_fires_is_told_its_end_even_in_a_silence() -> None:
    watch = Watch()
    watch.look(START, reading("fires"))
    watch.silences = [silence(None, 24)]
    watch.look(START + HOUR, reading("quiet"))
    assert watch.kinds == ["firing", "resolved"]
    watch.look(START + 2 * HOUR, reading("fires"))
    watch.look(START + 3 * HOUR, reading("quiet"))
    assert watch.kinds == ["firing", "resolved"], "what nobody was told of needs no end"


def many(state: State, count: int) -> list[Reading]:
    return [reading(state, f"rule {number}") for number in range(count)]


def test_a_storm_is_one_summary_and_silence_until_its_hour_is_over() -> None:
    watch = Watch(Pace(most_per_hour=5))
    watch.look(START, *many("fires", 3))
    assert watch.kinds == ["firing"] * 3
    watch.look(START + MINUTE, *many("fires", 30))
    assert watch.kinds == ["firing"] * 3 + ["summary"]
    assert len(watch.messages[-1].alerts) == 27
    assert "30 alerts fire now" in watch.messages[-1].because
    watch.look(START + 2 * MINUTE, *many("fires", 60))
    watch.look(START + 30 * MINUTE, *many("quiet", 60))
    assert watch.kinds == ["firing"] * 3 + ["summary"]
    watch.look(START + 62 * MINUTE, *many("quiet", 60))
    assert watch.kinds == ["firing"] * 3 + ["summary"] * 2
    assert "0 alerts fire now, 30 have ended" in watch.messages[-1].because
    assert all(each.settled for each in watch.alerts.values())


@given(
    st.lists(
        st.lists(st.sampled_from(["fires", "holds", "quiet", "unknown"]), min_size=12, max_size=12),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 6),
)
def test_no_hour_has_more_messages_than_may_be_and_every_told_alert_is_told_its_end(
    looks: Sequence[Sequence[State]], most: int
) -> None:
    watch = Watch(Pace(most_per_hour=most, settle=timedelta(0), repeat=2 * HOUR))
    now = START
    for states in looks:
        now += 7 * MINUTE
        watch.look(now, *(reading(state, f"rule {place}") for place, state in enumerate(states)))
    for hour in range(1, 6):
        watch.look(now + hour * 61 * MINUTE)
    for message in watch.messages:
        within = [each for each in watch.messages if message.at <= each.at < message.at + HOUR]
        assert len(within) <= most + 1
    assert len({each.key for each in watch.messages}) == len(watch.messages)
    assert all(each.settled for each in watch.alerts.values())
    assert all(each.told in (None, "resolved") for each in watch.alerts.values())


def test_a_changed_limit_is_the_same_alert() -> None:
    watch = Watch()
    watch.look(START, reading("fires", limit=0.01))
    watch.look(START + MINUTE, reading("fires", limit=0.02))
    assert watch.kinds == ["firing"]
    assert watch.only() == replace(watch.only(), limit=0.02)


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_two_severities_of_a_rule_are_two_alerts(severity: str) -> None:
    watch = Watch()
    watch.look(START, reading("fires"), replace(reading("fires"), severity="warning"))
    assert sum(each.severity == severity for each in watch.alerts.values()) == 1
