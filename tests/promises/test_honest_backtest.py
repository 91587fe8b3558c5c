"""A backtest never looks ahead: whatever the future holds, the past comes out the same; and each figure can be had again.

The world is written twice, the second time with another future. Nothing that was decided, made or served before the two
part may differ, by any trigger, behind any gate. Each such test is held against one in which something must differ.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.tree import DecisionTreeClassifier

import everloop as el
from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.spec.policy import Policy
from known_world import DAY, HEAD, START, World, made, rows

WEEK = timedelta(days=7)
DELAY = timedelta(days=3)
TAKES = timedelta(hours=36)
FEATURES = HEAD.replace("loop = el.Loop(", 'def features(row):\n    return {"x": row.x}\n\n\nloop = el.Loop(')
PART = START + timedelta(days=70)
"""Where the two histories part: the beginning of a window."""
SETTING: dict[str, Any] = {"windows": WEEK, "takes": TAKES, "start": START + timedelta(days=35), "oracle": False}


def policies() -> list[Policy]:
    short = el.Last(timedelta(days=21), test=timedelta(days=7))
    long = el.Last(timedelta(days=28), test=timedelta(days=4), refit=True)
    gate = el.NotWorse(margin=0.05)
    return [
        Policy(el.Manual(), window=short, gate=None),
        Policy(el.Every(WEEK), window=short, gate=None),
        Policy(el.Every(WEEK), window=long, gate=gate),
        Policy(el.Degraded(by=0.05), window=long, gate=None),
        Policy(el.Drift(false_alarm_every=timedelta(days=30), window=WEEK), window=short, gate=None),
        Policy(el.Rows(400), window=short, gate=gate, cooldown=timedelta(days=10)),
        Policy(el.AnyOf(el.Every(2 * WEEK), el.Degraded(by=0.05)), window=el.Everything(test=0.2), gate=gate),
    ]


def history(**changes: Any) -> pl.DataFrame:
    """The world turns a while before the histories part, so that triggers have something to find on both sides."""
    return rows(days=98, turn=0.55, **changes)


def written(folder: Path, frame: pl.DataFrame) -> World:
    return made(folder, frame, head=FEATURES, label=f'el.Label("y", delay=td(days={DELAY.days}))', features="features")


def from_on(frame: pl.DataFrame, instant: datetime, *, features: bool) -> pl.DataFrame:
    """The history with another future: labels turned around from an instant on, and values with them if wanted."""
    later = pl.col("at") >= instant.replace(tzinfo=None)
    changed = frame.with_columns(y=pl.col("y") ^ later)
    return changed.with_columns(x=pl.when(later).then(3 - 5 * pl.col("x")).otherwise("x")) if features else changed


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return history()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, frame: pl.DataFrame) -> World:
    return written(tmp_path_factory.mktemp("honest"), frame)


@pytest.fixture(scope="module")
def result(world: World) -> BacktestResult:
    return world.run(policies(), **SETTING)


def decided(result: BacktestResult, run: PolicyRun, until: datetime) -> list[Any]:
    """All that a policy did up to an instant: what it started, from which rows, why, and what became of it by then."""
    found: list[Any] = []
    for each in run.retrains:
        if each.started > until:
            continue
        fit = None if each.fit is None else result.fits[each.fit].name
        over = each.started + TAKES <= until
        found.append(
            (
                each.started,
                each.because,
                each.kinds,
                each.rows,
                None if fit is None else (fit.since, fit.until),
                (each.live, each.said, each.verdict) if over else None,
            )
        )
    return found


def served(result: BacktestResult, run: PolicyRun, until: datetime) -> list[Any]:
    """Who answered how many rows of each window that had ended by then."""
    return [
        [(result.fits[each.fit].name.since, result.fits[each.fit].name.until, each.rows) for each in window.served]
        for window, told in zip(run.windows, result.windows, strict=False)
        if told.until <= until
    ]


def scores(result: BacktestResult, run: PolicyRun, until: datetime) -> list[Any]:
    return [
        (window.score, window.loss, window.stale, dict(window.errors))
        for window, told in zip(run.windows, result.windows, strict=False)
        if told.until <= until
    ]


def test_another_future_changes_nothing_that_came_before(
    tmp_path: Path, frame: pl.DataFrame, result: BacktestResult
) -> None:
    other = written(tmp_path, from_on(frame, PART, features=True)).run(policies(), **SETTING)
    assert [each.until for each in other.windows] == [each.until for each in result.windows]
    ended = sum(each.until <= PART for each in result.windows)
    assert 3 <= ended < len(result.windows)
    for mine, theirs in zip(result.runs, other.runs, strict=True):
        assert mine.problem is None
        assert decided(result, mine, PART) == decided(other, theirs, PART), mine.policy.name
        assert served(result, mine, PART) == served(other, theirs, PART), mine.policy.name
        assert scores(result, mine, PART) == scores(other, theirs, PART), mine.policy.name
    # The two do differ afterwards: this test would see a difference.
    end = result.windows[-1].until
    assert any(scores(result, a, end) != scores(other, b, end) for a, b in zip(result.runs, other.runs, strict=True))
    # And triggers did find something before: there was something to leak into.
    fired = {kind for run in result.runs for each in run.retrains if each.started <= PART for kind in each.kinds}
    assert {"schedule", "degraded", "rows"} <= fired, fired


def test_a_label_is_not_known_before_its_delay_has_passed(
    tmp_path: Path, frame: pl.DataFrame, result: BacktestResult
) -> None:
    """Labels of events from three days before on come true otherwise: until then nobody can have noticed."""
    unknown = written(tmp_path / "unknown", from_on(frame, PART - DELAY, features=False)).run(policies(), **SETTING)
    for mine, theirs in zip(result.runs, unknown.runs, strict=True):
        assert decided(result, mine, PART) == decided(unknown, theirs, PART), mine.policy.name
        assert served(result, mine, PART) == served(unknown, theirs, PART), mine.policy.name
    # Ten days earlier they are known, and somebody notices.
    known = written(tmp_path / "known", from_on(frame, PART - DELAY - timedelta(days=10), features=False))
    noticed = known.run(policies(), **SETTING)
    assert any(
        decided(result, mine, PART) != decided(noticed, theirs, PART)
        for mine, theirs in zip(result.runs, noticed.runs, strict=True)
    )


def test_no_fit_learned_from_a_label_that_was_not_known_when_it_started(result: BacktestResult) -> None:
    micro = timedelta(microseconds=1)
    for run in result.runs:
        for each in run.retrains:
            assert each.fit is not None
            newest = (each.started - DELAY - datetime(1970, 1, 1, tzinfo=each.started.tzinfo)) // micro
            assert result.fits[each.fit].name.until <= newest + 1


def test_a_model_serves_when_its_retrain_is_over_and_not_before(frame: pl.DataFrame, result: BacktestResult) -> None:
    at = frame["at"].dt.replace_time_zone("UTC")
    checked = 0
    for run in result.runs:
        for each in run.retrains[1:]:
            assert each.live is None or each.live == each.started + TAKES
        changes = {each.live: each.fit for each in run.retrains if each.live is not None}
        for window, told in zip(run.windows, result.windows, strict=True):
            inside = [live for live in changes if told.since < live < told.until]
            if len(inside) != 1 or len(window.served) != 2:
                continue
            before, after = window.served
            assert after.fit == changes[inside[0]]
            assert before.rows == int(((at >= told.since) & (at < inside[0])).sum())
            assert after.rows == int(((at >= inside[0]) & (at < told.until)).sum())
            checked += 1
    assert checked >= 5


def test_who_was_turned_back_never_serves(tmp_path: Path) -> None:
    """Three weeks of labels are wrong: what learns from them is refused where there is a gate, and serves where not."""
    frame = rows(days=98, turn=2.0)
    wrong = pl.col("at").is_between(
        (START + 42 * DAY).replace(tzinfo=None), (START + 56 * DAY).replace(tzinfo=None), closed="left"
    )
    frame = frame.with_columns(y=pl.col("y") ^ wrong)
    short = el.Last(timedelta(days=14), test=timedelta(days=3))
    gated, open_ = (
        Policy(el.Every(WEEK), window=short, gate=gate) for gate in (el.NotWorse(margin=0.02, unsure="keep"), None)
    )
    result = written(tmp_path, frame).run([gated, open_], **SETTING)
    refused = [each for each in result.runs[0].retrains if each.live is None and each.fit is not None]
    assert refused
    live = {each.fit for each in result.runs[0].retrains if each.live is not None}
    answered = {each.fit for window in result.runs[0].windows for each in window.served}
    assert answered <= live
    assert not answered & ({each.fit for each in refused} - live)
    assert all(each.verdict is not None and not each.verdict.promote for each in refused)
    assert result.runs[0].costs.rejected == len(refused)
    assert result.runs[1].costs.rejected == 0


def test_a_cooldown_is_kept_however_often_the_trigger_fires(world: World) -> None:
    """From the first one that fires on, as in production; the first model was nobody's trigger."""
    window = el.Last(timedelta(days=21), test=timedelta(days=7))
    eager = [Policy(el.Every(DAY), window=window, gate=None, cooldown=cooldown) for cooldown in (0 * DAY, 10 * DAY)]
    free, cooled = world.run(eager, **{**SETTING, "looks": 7, "takes": timedelta(hours=1)}).runs
    starts = [each.started for each in cooled.retrains[1:]]
    assert len(starts) > 3
    assert all(after - before >= 10 * DAY for before, after in pairwise(starts))
    assert len(free.retrains) > 40


def test_policies_do_not_change_each_other(tmp_path: Path, frame: pl.DataFrame, result: BacktestResult) -> None:
    """Alone, in another order, and with fits that lie there already: the same windows and the same decisions."""
    fresh = written(tmp_path, frame)
    order = list(reversed(policies()))[:3]
    for chosen in (order[:1], order):
        for run in fresh.run(chosen, **SETTING).runs:
            (before,) = (each for each in result.runs if each.digest == run.digest)
            assert run.windows == before.windows
            assert [(each.started, each.live, each.because, each.fit) for each in run.retrains] == [
                (each.started, each.live, each.because, each.fit) for each in before.retrains
            ]


def test_every_score_can_be_had_again_without_everloop(frame: pl.DataFrame, result: BacktestResult) -> None:
    """The rows that a fit is named by, a tree of scikit-learn, the rows of a window: the same share is right."""
    micros = frame["at"].dt.epoch("us").to_numpy()
    x, y = frame["x"].to_numpy()[:, None], frame["y"].to_numpy().astype(np.int64)
    checked = 0
    for run in result.runs:
        for window, told in zip(run.windows, result.windows, strict=True):
            right = 0.0
            place = int(np.searchsorted(micros, told.since.timestamp() * 1e6))
            for each in window.served:
                name = result.fits[each.fit].name
                learned = (micros >= name.since) & (micros < name.until)
                tree = DecisionTreeClassifier(max_depth=3, random_state=name.seed).fit(x[learned], y[learned])
                here = slice(place, place + each.rows)
                right += float(np.sum(tree.predict(x[here]) == y[here]))
                place += each.rows
            assert window.score == pytest.approx(right / window.rows)
            checked += 1
    assert checked == len(result.runs) * len(result.windows)
