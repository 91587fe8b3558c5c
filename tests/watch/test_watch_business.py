"""Business metrics by day and version, and what they go with; reports that are no numbers say nothing."""

from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.measure.drift import Signal
from everloop.records import Signature
from everloop.store.lake import Lake
from everloop.watch import history
from everloop.watch.business import Business, business, names
from everloop.watch.drift import DriftState
from everloop.watch.fold import fold
from everloop.watch.windows import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, PER_DAY = 80, 20


def served(log: Any, lake: Lake, signatures: dict[str, Signature], *, together: float) -> dict[str, DriftState]:
    """Requests with a revenue each; slow days are poor days by ``together``. Also what a drift trigger remembers."""
    random = np.random.default_rng(1)
    slow = random.normal(0, 1, DAYS)
    kept = history.History()
    for day in range(DAYS):
        at = microseconds(START + td(days=day)) + np.arange(PER_DAY) * 60_000_000
        ids = [f"{day}-{place}" for place in range(PER_DAY)]
        latency = (2_000 * np.exp(0.3 * slow[day] + random.normal(0, 0.05, PER_DAY))).astype(int)
        log.predictions(ids, at=at, latency=latency.tolist(), version=1 + day // 40)
        level = 10 - together * slow[day] + random.normal(0, 0.3) + (day % 7 == 6) * 5
        values = random.normal(level, 1, PER_DAY).tolist()
        log.outcomes(
            [(key, value, int(when) + 1) for key, value, when in zip(ids, values, at, strict=True)], name="revenue"
        )
        log.outcomes([(ids[0], "well", int(at[0]))], name="mood")
        log.outcomes([(ids[0], 1, int(at[0]))], name="late")
        window = Window(since=START + td(days=day), until=START + td(days=day + 1))
        seen = Signal(
            column="distance",
            kind="distribution",
            psi=float(random.random()) / 10,
            bins=10,
            rows=500,
            reference_rows=500,
        )
        kept = history.added(kept, window, (seen,), (), alarmed=False, false_alarm_every=td(days=90))
    fold(log.folder, lake, signatures)
    return {"drift": DriftState(opened=START, history=kept)}


def told(lake: Lake, drifts: dict[str, DriftState], **more: Any) -> Business:
    return business(lake, "revenue", drifts, now=START + td(days=DAYS), **{"days": DAYS, **more})


def test_a_metric_that_goes_with_latency_is_said_with_an_interval_and_without_a_cause(
    log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    found = told(lake, served(log, lake, signatures, together=1.0))
    assert names(lake, "late") == ("revenue",), "neither the label nor what is no number"
    assert found.count == DAYS * PER_DAY
    shown = {each.signal for each in found.associated if each.shown}
    assert shown <= {"latency p50", "latency p99"}
    assert shown
    assert found.associated[0].correlation < -0.5
    assert "unusually low on days with an unusually high latency" in found.words[0]
    assert "which of them causes what is not said" in found.words[0]
    assert {each.signal for each in found.associated} >= {"drift of distance", "latency p99"}
    one, other = found.by_version
    assert (one.version, other.version, one.count + other.count) == (1, 2, found.count)
    assert one.half == pytest.approx(1.96 * 2 / 800**0.5, rel=0.5)


def test_a_metric_that_goes_with_nothing_is_said_to(log: Any, lake: Lake, signatures: dict[str, Signature]) -> None:
    found = told(lake, served(log, lake, signatures, together=0.0))
    assert not [each for each in found.associated if each.shown]
    assert "every interval holds 0" in found.words[0]


def test_a_few_days_say_how_many_are_needed(log: Any, lake: Lake, signatures: dict[str, Signature]) -> None:
    drifts = served(log, lake, signatures, together=1.0)
    found = told(lake, drifts, days=20)
    assert "revenue was reported on 20 days; from 30 days on" in found.words[0]
    assert found.associated == ()


def test_corrected_values_count_once_and_what_is_no_number_does_not(log: Any, lake: Lake) -> None:
    at = microseconds(START)
    reports = [("a", 1.0, at), ("a", 3.0, at + 5), ("b", float("nan"), at), ("c", float("inf"), at), ("d", "much", at), ("e", True, at), ("f", None, at), ("g", 1e308, at), ("h", 1e308, at)]  # fmt: skip
    log.outcomes(reports, name="revenue")
    log.outcomes([("z", 7.0, at + 400 * 86_400_000_000)], name="revenue")
    fold(log.folder, lake, {})
    found = business(lake, "revenue", {}, now=START + td(days=2), days=5)
    assert found.count == 4, "a, e, g and h"
    assert found.by_version == ()
    assert found.mean[3] > 1e307
    nothing = business(lake, "profit", {}, now=START + td(days=2), days=5)
    assert (nothing.count, nothing.associated) == (0, ())


def test_without_a_log_or_an_outcome_there_is_nothing(lake: Lake) -> None:
    assert names(lake, "late") == ()
    assert business(lake, "revenue", {}, now=START).count == 0
