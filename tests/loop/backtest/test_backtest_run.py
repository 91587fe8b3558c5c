"""A backtest of a known world: who should win wins, nothing is fitted twice, and nothing looks ahead."""

import json
import math
import shutil
from datetime import timedelta as td
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import everloop as el
from everloop.errors import DataError, EverloopError, SpecError, StoreError
from everloop.loop.backtest import world as worlds
from everloop.loop.backtest.result import BacktestResult, PolicyRun, Prices
from everloop.measure.metrics import score
from everloop.spec.policy import Policy
from known_world import DAY, HEAD, START, World, made, rows

EVERY = el.Every(td(days=7))


@pytest.fixture(scope="module")
def policies(world: World) -> list[Policy]:
    return [
        world.policy(el.Manual()),
        world.policy(EVERY),
        world.policy(el.Every(td(days=14))),
        world.policy(el.Rows(24 * 28)),
        world.policy(el.Degraded(by=0.05, over=td(days=7))),
        world.policy(EVERY, gate=el.NotWorse(margin=0.02)),
        world.policy(EVERY, cooldown=td(days=20)),
        world.policy(EVERY, window=el.Last(td(days=21), test=td(days=7), refit=True)),
    ]


@pytest.fixture(scope="module")
def result(world: World, policies: list[Policy]) -> BacktestResult:
    return world.run(policies, oracle=True)


@pytest.fixture(scope="module")
def by(result: BacktestResult, policies: list[Policy]) -> list[PolicyRun]:
    return list(result.runs)


def test_whoever_retrains_does_better_where_the_world_turns(by: list[PolicyRun]) -> None:
    never, weekly = by[0], by[1]
    assert never.score is not None
    assert weekly.score is not None
    assert never.score < 0.6 < 0.7 < weekly.score
    assert never.costs.retrains == 0
    assert len(never.windows) == 15


def test_a_schedule_retrains_as_often_as_it_says(by: list[PolicyRun]) -> None:
    assert by[1].costs.retrains == 14  # the last window ends before its Monday
    assert by[2].costs.retrains in (7, 8)
    assert [each.because for each in by[1].retrains[1:3]] == [
        "every 7 days: 2024-01-29 00:00 UTC is due",
        "every 7 days: 2024-02-05 00:00 UTC is due",
    ]
    assert 3 <= by[3].costs.retrains <= 4


def test_a_fallen_score_starts_a_retrain_soon_after_the_turn_and_rarely_before(by: list[PolicyRun]) -> None:
    fired = [each for each in by[4].retrains if each.window >= 0]
    turned = START + 63 * DAY
    assert fired[0].kinds == ("degraded",)
    late = [each for each in fired if each.started > turned]
    assert late[0].started - turned <= td(days=15)
    assert by[4].costs.retrains < by[1].costs.retrains


def test_a_cooldown_holds(by: list[PolicyRun]) -> None:
    started = [each.started for each in by[6].retrains if each.window >= 0]
    assert all(after - before >= td(days=20) for before, after in pairwise(started))


def test_a_gate_turns_back_who_is_worse(by: list[PolicyRun]) -> None:
    gated = by[5]
    assert gated.costs.released + gated.costs.rejected <= gated.costs.retrains
    assert all(each.verdict is not None for each in gated.retrains if each.live is not None)
    # Just after the turn the newest rows are of the new world, and whoever learned from the old one is worse.
    assert any("worse" in each.verdict.because for each in gated.retrains if each.verdict is not None)


def test_policies_share_their_fits(world: World, result: BacktestResult) -> None:
    assert len(world.made) == len(set(world.made))
    # One window length, fitted with and without its test rows: at most one fit of each at every boundary.
    assert len(result.fits) <= 2 * (len(result.windows) + 1)
    asked = sum(len(each.retrains) for each in result.runs)
    assert asked > 2 * len(result.fits)


def test_a_second_run_makes_no_fit(world: World, policies: list[Policy], result: BacktestResult) -> None:
    before = len(world.made)
    again = world.run(policies, oracle=True)
    assert len(world.made) == before
    assert again.seconds["made"] == 0
    assert [each.score for each in again.runs] == [each.score for each in result.runs]
    assert again.runs[4].retrains == result.runs[4].retrains


def test_each_window_is_predicted_by_the_model_that_was_live(by: list[PolicyRun], result: BacktestResult) -> None:
    for run in by:
        live = {each.fit: each.live for each in run.retrains if each.live is not None}
        for window in run.windows:
            for served in window.served:
                at = live[served.fit]
                assert at is not None
                assert at < result.windows[window.window].until
                # Everything that it learned from was known when it was made.
                fit = result.fits[served.fit]
                assert fit.name.until / 1e6 + DAY.total_seconds() <= at.timestamp()


def test_a_retrain_takes_its_time(world: World) -> None:
    slow = world.run([world.policy(EVERY)], takes=td(days=10))
    weekly = slow.runs[0]
    starts = [each for each in weekly.retrains if each.live is not None and each.window >= 0]
    assert all(each.live - each.started == td(days=10) for each in starts if each.live is not None)
    assert all(after.started - before.started >= td(days=10) for before, after in pairwise(starts))
    assert weekly.costs.stale > 9 * 24 * (len(starts) - 1)
    split = [each for each in weekly.windows if len(each.served) == 2]
    assert split
    assert all(sum(part.rows for part in each.served) == each.rows for each in split)


def test_the_score_is_of_all_rows_together(world: World, result: BacktestResult) -> None:
    frame = rows().with_columns(pl.col("at").dt.replace_time_zone("UTC"))
    first, last = result.windows[0].since, result.windows[-1].until
    served = frame.filter(pl.col("at").is_between(first, last, closed="left"))
    assert sum(each.rows for each in result.windows) == len(served)
    run = result.runs[1]
    correct = sum((1 - each.loss) * each.rows for each in run.windows)
    assert run.score == pytest.approx(correct / len(served))
    assert sum(each.errors["wrong"] for each in run.windows) == pytest.approx(len(served) - correct)
    worst = min(run.windows, key=lambda each: each.score or 0)
    assert run.worst == worst.window


def test_the_floor_is_the_newest_known_label(world: World, result: BacktestResult) -> None:
    truth = rows()["y"].to_numpy().astype(np.int64)
    start = len(truth) - sum(each.rows for each in result.windows)
    # A label is known a day later: of 24 rows a day, the newest one is that of 25 rows before.
    known = np.array([truth[place - 25] for place in range(start, len(truth))])
    said = np.eye(2)[known]
    assert result.floor.score == pytest.approx(score(el.metric.Accuracy(), truth[start:], said))


def test_what_paid_is_what_the_replaced_model_would_have_lost(result: BacktestResult) -> None:
    weekly = result.runs[1]
    released = [each for each in weekly.retrains if each.live is not None]
    before, after = next(
        (one, two) for one, two in pairwise(released) if two.live is not None and two.live > START + 80 * DAY
    )
    assert after.fit is not None
    assert before.fit is not None
    mine = [each.window for each in weekly.windows if max(each.served, key=lambda s: s.rows).fit == after.fit]
    gained = sum(
        result.fits[before.fit].cells[place].loss - result.fits[after.fit].cells[place].loss for place in mine
    ) / len(mine)
    assert after.paid == pytest.approx(gained)
    assert weekly.costs.never_paid == sum(each.paid is not None and each.paid <= 0 for each in released)


def test_an_oracle_knows_what_every_fit_says_of_every_later_window(result: BacktestResult) -> None:
    for digest in {each.fit for run in result.runs for each in run.retrains if each.verdict is not None}:
        assert digest is not None
        fit = result.fits[digest]
        assert set(fit.cells) >= set(range(fit.ready_before, len(result.windows)))


def test_money_follows_from_prices(world: World) -> None:
    prices = Prices(retrain=10.0, errors={"missed": 5.0, "false alarm": 1.0})
    run = world.run([world.policy(EVERY)], prices=prices).runs[0]
    missed = sum(each.errors["missed"] for each in run.windows)
    alarms = sum(each.errors["false alarm"] for each in run.windows)
    assert run.costs.money == pytest.approx(10 * run.costs.retrains + 5 * missed + alarms)
    with pytest.raises(SpecError, match="'late'"):
        world.open([world.policy(EVERY)], prices=Prices(errors={"late": 1.0}))


# Nothing looks ahead


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Every week what ``y`` follows is drawn anew: nobody who is honest can do better than chance."""
    frame = rows(noise=0.0, turn=2.0)
    week = np.arange(len(frame)) // (24 * 7)
    turned = np.random.default_rng(5).random(int(week.max()) + 1) < 0.5
    frame = frame.with_columns(y=pl.Series(frame["y"].to_numpy() ^ turned[week]))
    return made(tmp_path_factory.mktemp("restless"), frame, label='el.Label("y")')


def test_where_nothing_can_be_known_nobody_knows_anything(restless: World) -> None:
    short = el.Last(td(days=7), test=td(days=1), refit=True)
    result = restless.run([restless.policy(EVERY, window=short), restless.policy(el.Manual(), window=short)])
    for run in result.runs:
        right = [each.score for each in run.windows if each.score is not None]
        assert 0.1 < np.mean([each > 0.5 for each in right]) < 0.9


def test_a_leak_that_is_planted_is_found(restless: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of the coming week are let through: what comes out is too good, as the test above would say."""
    honest = worlds.World.due
    monkeypatch.setattr(worlds.World, "due", lambda self, now: honest(self, now + 7 * 86_400_000_000))
    short = el.Last(td(days=7), test=td(days=1), refit=True)
    with pytest.raises(EverloopError, match="looked ahead"):
        restless.run([restless.policy(EVERY, window=short)])


# Mistakes


def test_mistakes_are_told(world: World) -> None:
    with pytest.raises(DataError, match="needs at least 4"):
        world.run([world.policy(EVERY)], windows=td(days=60))
    with pytest.raises(DataError, match="write --from and --to inside it"):
        world.run([world.policy(EVERY)], start=START - DAY)
    with pytest.raises(SpecError, match="windows is 5 rows"):
        world.run([world.policy(EVERY)], windows=5)
    with pytest.raises(SpecError, match="has no partial_fit"):
        world.run([world.policy(EVERY, warm=True)])


def test_a_backtest_is_one_call_in_python(world: World, result: BacktestResult) -> None:
    found = el.backtest(
        world.declaration.loops[0],
        [world.policy(el.Manual())],
        declaration=world.folder / "made.py",
        windows=td(days=7),
        takes=td(hours=1),
        oracle=False,
    )
    assert [each.policy.name.partition(" ")[0] for each in found.runs] == ["every", "never"]
    assert found.present == 0
    assert found.runs[1].score == result.runs[0].score
    assert found.seconds["made"] == 0


def test_a_result_is_json(result: BacktestResult) -> None:
    assert BacktestResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_prepared_history_that_is_cut_off_is_said(tmp_path: Path) -> None:
    world = made(tmp_path, rows(days=84))
    with world.open([world.policy(el.Manual())]) as running:
        folder = running.timeline.folder
    with (folder / "target").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(StoreError, match=f"{folder.name} is damaged"):
        world.open([world.policy(el.Manual())])
    (folder / "about.json").write_text("{}")
    with pytest.raises(StoreError, match=f"{folder.name} is damaged"):
        world.open([world.policy(el.Manual())])
    shutil.rmtree(folder)
    killed = folder.with_name(".0123456789ab-999999999-x")  # what a process left that was killed in preparing
    killed.mkdir()
    with world.open([world.policy(el.Manual())]) as running:
        assert len(running.timeline) == 84 * 24
    assert not killed.exists()


NUMBERS = {
    "head": HEAD.replace("DecisionTreeClassifier", "DecisionTreeRegressor"),
    "train": "el.Train(DecisionTreeRegressor(max_depth=3))",
    "score": "el.metric.RootMeanSquaredError()",
}


def test_a_label_that_is_infinite_is_none(tmp_path: Path) -> None:
    frame = rows(days=84).with_columns(y=pl.col("x") * 2)
    whole = made(tmp_path / "whole", frame, **NUMBERS)
    frame = frame.with_columns(y=pl.when(pl.int_range(pl.len()) == 700).then(math.inf).otherwise("y"))
    world = made(tmp_path / "infinite", frame, **NUMBERS)
    found = [each.run([each.policy(el.Manual())]).runs[0].score for each in (whole, world)]
    assert found[0] == pytest.approx(found[1], rel=0.2)


@pytest.mark.parametrize("size", [1e160, 1.7e308])
def test_labels_too_large_to_be_squared_end_nothing_in_a_traceback_and_leave_nothing_broken(
    tmp_path: Path, size: float
) -> None:
    world = made(tmp_path, rows(days=84).with_columns(y=pl.col("x") * size), **NUMBERS)
    for _ in range(2):
        with world.open([world.policy(el.Manual())]) as running:
            assert math.isfinite(running.timeline.about.spread)
            assert running.policies()
