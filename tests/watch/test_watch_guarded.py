"""A user's own outcome in both arms: at equal age, as it was known then, once a unit, in the judge's scale."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.records import Outcome as Reported
from everloop.records import Release, decode, encode
from everloop.spec.guard import Errors, Latency, Outcome
from everloop.spec.metric import LogLoss
from everloop.spec.rollout import Canary
from everloop.store.lake import OUTCOMES, PREDICTIONS, Lake, outcome_rows
from everloop.watch import guarded, releasing
from everloop.watch.labels import Truth

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
RELEASE = Release(loop="shop", stage="canary", champion=1, challenger=2, share=0.5, started=START, since=START, epoch=3)
GUARD = Outcome("sold", margin=0.1, delay=DAY)


def asked(
    lake: Lake,
    names: list[str],
    arm: str,
    *,
    at: datetime = START + HOUR,
    share: float = 0.5,
    epoch: int = 3,
    unit: str | None = None,
) -> None:
    count = len(names)
    lake.append(
        PREDICTIONS,
        pl.DataFrame(
            {
                "id": names,
                "at": [at] * count,
                "event_time": [at] * count,
                "version": [2 if arm == "challenger" else 1] * count,
                "arm": [arm] * count,
                "epoch": [epoch] * count,
                "share": [share] * count,
                "unit": pl.Series([unit] * count, dtype=pl.String()),
                "latency_us": [900] * count,
                "error": [False] * count,
                "decision": [0] * count,
                "p_0": [0.6] * count,
                "p_1": [0.4] * count,
            },
            schema_overrides={"at": INSTANT, "event_time": INSTANT},
        ),
    )


def told(lake: Lake, names: list[str], value: Any, *, at: datetime = START + 2 * HOUR, name: str = "sold") -> None:
    lake.append(OUTCOMES, outcome_rows([Reported(id=each, name=name, value=value, at=at) for each in names]))


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def of(watched: guarded.Watched) -> list[tuple[int, float, float, float, float]]:
    return [
        (e.epoch, e.counts.challenger_events, e.counts.challenger_units, e.counts.champion_events, e.counts.champion_units)
        for e in watched.epochs
    ]  # fmt: skip


def looked(lake: Lake, guard: Outcome = GUARD, *hours: float, unit: bool = False, sticky: str = "hour") -> Any:
    watched = guarded.begin(lake, guard, RELEASE)
    for each in hours:
        now = START + each * HOUR
        watched = guarded.advance(lake, guard, RELEASE, watched, since=START, now=now, unit=unit, sticky=sticky)
    return watched


def test_a_request_counts_once_it_is_of_age_and_as_it_was_known_then(lake: Lake) -> None:
    asked(lake, ids("c", 10), "challenger")
    asked(lake, ids("k", 10), "champion")
    told(lake, ids("c", 4), 1)
    told(lake, ids("k", 3), value=True)
    assert looked(lake, GUARD, 12).epochs == (), "nobody is a day old"
    # A sale that is reported after its day, and one taken back after it, change nothing; within the day both do.
    told(lake, ["c4", "k3"], 1, at=START + 26 * HOUR)
    told(lake, ["c0"], 0, at=START + 27 * HOUR)
    told(lake, ["k0"], 0, at=START + 20 * HOUR)
    told(lake, ["k9"], 1, name="returned")
    # Higher is better: what the judge counts is requests without a sale.
    expected = [(3, 6.0, 10.0, 8.0, 10.0)]
    assert of(looked(lake, GUARD, 48)) == expected
    assert of(looked(lake, GUARD, 12, 25.5, 26, 48, 72)) == expected, "looks by and by count no row twice"


def test_sums_by_and_by_are_the_sums_at_once_by_epoch(lake: Lake) -> None:
    for hour in range(6):
        at = START + hour * HOUR
        share, epoch = (0.5, 3) if hour < 3 else (0.8, 4)
        asked(lake, ids(f"c{hour}-", 5), "challenger", at=at, share=share, epoch=epoch)
        asked(lake, ids(f"k{hour}-", 5), "champion", at=at, share=share, epoch=epoch)
        told(lake, ids(f"c{hour}-", hour), 1, at=at)
    once, often = looked(lake, GUARD, 40), looked(lake, GUARD, *np.arange(20.0, 40.0, 0.7), 40)
    assert of(once) == of(often) == [(3, 12.0, 15.0, 15.0, 15.0), (4, 3.0, 15.0, 15.0, 15.0)]
    for one, other in zip(once.epochs, often.epochs, strict=True):
        np.testing.assert_allclose(one.counts.log_worse, other.counts.log_worse)
        np.testing.assert_allclose(one.counts.log_not_worse, other.counts.log_not_worse)


def test_a_request_without_an_outcome_counts_as_declared(lake: Lake) -> None:
    stars = Outcome("stars", margin=0.2, between=(1, 5), absent=None)
    asked(lake, ids("c", 10), "challenger")
    asked(lake, ids("k", 10), "champion")
    told(lake, ids("c", 2), 5, name="stars")
    told(lake, ids("k", 4), 3, name="stars")
    told(lake, ["k4"], 99, name="stars")
    told(lake, ["k5"], "often", name="stars")
    watched = looked(lake, stars, 48)
    assert of(watched) == [(3, 0.0, 2.0, 2.0, 5.0)], "five stars are nothing bad, three half of it, 99 are five"
    evidence = guarded.evidence(stars, watched)
    assert (evidence.guard, evidence.scale) == ("outcome stars", (5.0, 1.0))
    assert evidence.margin == pytest.approx(0.05)


def test_silence_is_said_and_rare_outcomes_are_no_silence(lake: Lake) -> None:
    asked(lake, ids("c", 30), "challenger")
    asked(lake, ids("k", 30), "champion")
    nobody = guarded.evidence(GUARD, looked(lake, GUARD, 48)).silent
    assert "reported for any of 60 requests of age, nor before" in nobody
    assert guarded.evidence(GUARD, looked(lake, GUARD, 12)).silent == "", "nobody is of age"
    before = ids("b", 400)
    asked(lake, before, "champion", at=START - 3 * DAY, share=0.0, epoch=1)
    told(lake, before[:4], 1, at=START - 2 * DAY - HOUR)
    assert guarded.evidence(GUARD, looked(lake, GUARD, 48)).silent == "", "one in a hundred may miss sixty"
    told(lake, before[4:80], 1, at=START - 2 * DAY - HOUR)
    assert "where 20.0% had one before" in guarded.evidence(GUARD, looked(lake, GUARD, 48)).silent
    told(lake, ["k0"], 1)
    assert guarded.evidence(GUARD, looked(lake, GUARD, 48)).silent == ""


def test_a_unit_counts_by_its_first_request(lake: Lake) -> None:
    for hour, name in ((1, "a"), (2, "b"), (2.5, "c")):
        asked(lake, [name], "challenger", at=START + hour * HOUR, unit="anna")
    told(lake, ["b"], 1, at=START + 3 * HOUR)
    assert of(looked(lake, GUARD, 25.7, 48, unit=True, sticky="always")) == [(3, 1.0, 1.0, 0.0, 0.0)]
    assert of(looked(lake, GUARD, 25.7, 48, unit=True, sticky="hour")) == [(3, 1.0, 2.0, 0.0, 0.0)]


def test_the_baseline_is_frozen_from_requests_before_any_share(lake: Lake) -> None:
    none = guarded.begin(lake, GUARD, RELEASE)
    assert (none.rate, none.rows) == (0.5, 0)
    before = ids("b", 400)
    asked(lake, before, "champion", at=START - 3 * DAY, share=0.0, epoch=1)
    told(lake, before[:100], 1, at=START - 2 * DAY - HOUR)
    asked(lake, ids("young", 50), "champion", at=START - 2 * HOUR, share=0.0, epoch=2)
    asked(lake, ids("now", 50), "champion")
    frozen = guarded.begin(lake, GUARD, RELEASE)
    assert frozen.rows == 400
    assert frozen.rate == pytest.approx((300 + 0.5) / 401)
    assert frozen.variance == pytest.approx(0.75 * 0.25, rel=0.01)
    # What varies little can be bet on more.
    spent = Outcome("spent", margin=1, between=(0, 100))
    for index, each in enumerate(before):
        told(lake, [each], 5.0 + index % 3, at=START - 2 * DAY - HOUR, name="spent")
    small = guarded.begin(lake, spent, RELEASE)
    assert small.rate == pytest.approx(0.94, abs=0.01)
    assert small.variance < small.rate * (1 - small.rate) / 10


def test_a_look_brings_the_outcome_beside_the_other_guards_and_remembers_it_as_json(lake: Lake) -> None:
    told_of = releasing.Told(
        rollout=Canary(guards=(Errors(), GUARD, Latency()), shadow=False),
        truth=Truth(column="late", delay=DAY, task="binary", classes=(0, 1)),
        metric=LogLoss(),
    )
    asked(lake, ids("b", 50), "champion", at=START - 3 * DAY, share=0.0, epoch=1)
    asked(lake, ids("c", 10), "challenger")
    asked(lake, ids("k", 10), "champion")
    told(lake, ids("c", 4), 1)
    young, state = releasing.evidence(lake, told_of, RELEASE, None, START + 3 * HOUR)
    assert young is not None
    assert [each.guard for each in young.guards] == ["errors", "outcome sold", "latency p99"]
    assert [sum(e.challenger_units for e in each.epochs) for each in young.guards] == [10, 0, 10]
    remembered = decode(encode(state), releasing.ReleaseWatch)
    assert remembered == state
    old, state = releasing.evidence(lake, told_of, RELEASE, remembered, START + 30 * HOUR)
    assert old is not None
    assert [sum(e.challenger_units for e in each.epochs) for each in old.guards] == [10, 10, 10]
    assert old.guards[1].baseline == pytest.approx(50.5 / 51)
    assert decode(encode(state), releasing.ReleaseWatch) == state


def test_what_is_taken_back_before_its_age_was_never_sold(lake: Lake) -> None:
    asked(lake, ids("c", 10), "challenger")
    asked(lake, ids("k", 10), "champion")
    told(lake, ids("c", 4), 1)
    told(lake, ["c0"], None, at=START + 20 * HOUR)
    assert of(looked(lake, GUARD, 48)) == [(3, 7.0, 10.0, 10.0, 10.0)]
