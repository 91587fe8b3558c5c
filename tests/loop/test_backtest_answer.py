"""What follows from a backtest: held against a world in which every model's error is a formula."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from everloop.errors import DataError
from everloop.loop.backtest import words
from everloop.loop.backtest.answer import Answer, answer
from everloop.loop.backtest.possible import possible
from everloop.loop.backtest.result import BacktestResult, Cell, Prices, WindowRun
from everloop.loop.backtest.yardstick import Yardstick
from everloop.spec.policy import Policy
from everloop.spec.retrain import Every, Manual
from everloop.spec.window import Last
from made_backtest import LENGTHS, ROWS, World, made_result, policies

WEEK = timedelta(weeks=1)


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return made_result()


@pytest.fixture(scope="module")
def found(result: BacktestResult) -> Answer:
    return answer(result)


@pytest.fixture(scope="module")
def free(result: BacktestResult) -> Answer:
    return answer(result, budget="any")


def test_at_any_cost_the_cheapest_that_is_as_good_as_the_best_is_recommended(
    result: BacktestResult, free: Answer
) -> None:
    found = free
    assert found.budget is None
    assert found.at_any_cost == found.recommended
    assert words.otherwise(found) is None
    chosen, best = found.of(found.recommended), found.of(found.best)
    assert best.score == max(each.score for each in found.policies)
    assert chosen.place in found.indistinct
    assert chosen.cost < best.cost / 3  # monthly, not weekly
    assert 0 < chosen.behind < chosen.behind_at_most < 0.02
    assert chosen.line == result.runs[chosen.place].policy.line
    # And twelve weeks of memory, whose models are better by the formula.
    assert "last 12 weeks" in chosen.name
    never = next(each for each in found.policies if each.cost == 0)
    assert not never.indistinct
    assert never.frontier  # nobody is cheaper


def test_scores_are_those_over_all_rows(result: BacktestResult, found: Answer) -> None:
    for each in found.policies:
        assert each.score == pytest.approx(each.overall)
        assert each.lower < each.score < each.upper


def test_what_the_declared_policy_loses_has_its_error(result: BacktestResult, found: Answer) -> None:
    assert found.present == result.present
    assert found.present_loses is not None
    assert found.present_error is not None
    assert found.present_loses == pytest.approx(found.of(found.recommended).score - found.of(4).score)
    assert 0 < found.present_error < found.present_loses


def test_nobody_is_better_than_the_best_schedule_and_each_is_what_it_says(
    result: BacktestResult, found: Answer
) -> None:
    limit = found.possible
    assert limit is not None
    for each in found.policies:
        assert each.regret is not None
        assert each.regret_moments is not None
        assert each.regret >= each.regret_moments >= -1e-12
    scores = [each.score for each in limit.curve]
    assert scores == sorted(scores)
    assert [each.retrains for each in limit.curve] == sorted({each.retrains for each in limit.curve})
    # The best schedule, served as it says, scores what it says.
    world = World(len(result.windows), 1)
    serving, total = limit.best.fits[0], 0.0
    begins = dict(zip(limit.best.windows, limit.best.fits[1:], strict=True))
    for window in range(len(result.windows)):
        serving = begins.get(window, serving)
        fit = result.fits[serving]
        assert fit.ready_before <= window
        total += world.error(fit.ready_before, LENGTHS[fit.window], window)
    assert 1 - total / len(result.windows) == pytest.approx(limit.best.score)


def test_a_longer_retrain_moves_the_best_possible(result: BacktestResult) -> None:
    at_once = possible(result, most=100)
    slow = possible(dataclasses.replace(result, takes=3 * WEEK), most=100)
    assert at_once is not None
    assert slow is not None
    assert slow.best.score < at_once.best.score
    assert all(later - earlier >= 3 for earlier, later in zip(slow.best.windows, slow.best.windows[1:], strict=False))


def test_without_an_oracle_nothing_is_called_the_best_possible(result: BacktestResult) -> None:
    """Fits were asked only about the windows that they served: the best of what is known would be no limit at all."""
    served: dict[str, set[int]] = {}
    for run in result.runs:
        for window in run.windows:
            for each in window.served:
                served.setdefault(each.fit, set()).add(window.window)
    few = {
        digest: dataclasses.replace(fit, cells={w: c for w, c in fit.cells.items() if w in served.get(digest, ())})
        for digest, fit in result.fits.items()
    }
    blind = dataclasses.replace(result, fits=few)
    assert possible(blind, most=100) is None
    found = answer(blind)
    assert found.possible is None
    assert all(each.regret is None for each in found.policies)
    assert words.could_have(found) is None
    assert possible(dataclasses.replace(result, fits={}), most=100) is None


def test_a_fit_that_nobody_served_with_may_be_unknown(result: BacktestResult) -> None:
    some = next(iter(result.fits.values()))
    refused = dataclasses.replace(some, name=dataclasses.replace(some.name, seed=7), cells={})
    fits = {**result.fits, refused.name.digest: refused}
    assert possible(dataclasses.replace(result, fits=fits), most=100) == possible(result, most=100)


def test_at_the_price_that_it_names_a_policy_is_the_best(result: BacktestResult, found: Answer) -> None:
    rows = sum(window.rows for window in result.windows)
    for each in found.pays:
        assert each.errors_above == pytest.approx(each.above * rows)
        price = each.above + 1e-9 if math.isinf(each.below) else (each.above + each.below) / 2
        worth = {one.place: -one.score + price * one.cost for one in found.policies}
        assert min(worth, key=worth.__getitem__) == each.place


def test_the_recommended_policy_is_the_best_that_costs_no_more_than_the_declared_one(
    result: BacktestResult, found: Answer, free: Answer
) -> None:
    present, chosen = found.of(4), found.of(found.recommended)
    assert found.budget is not None
    assert (found.budget.cost, found.budget.source) == (present.cost, "declared")
    assert chosen.score == max(each.score for each in found.policies if each.cost <= present.cost)
    assert chosen.score > present.score
    assert found.at_any_cost == free.recommended
    dear = found.of(found.at_any_cost)
    said = words.otherwise(found)
    assert said is not None
    assert said.startswith(f"The best at any cost, {dear.name}, scores {words.figure(dear.score)}: ")
    assert f"better for {dear.cost - chosen.cost:.0f} retrains more" in said
    assert "the best of the " in " ".join(words.why(found))
    assert f"the declared policy ({present.cost:.0f} retrains)" in " ".join(words.why(found))


def test_who_declares_never_to_retrain_is_shown_what_a_retrain_a_month_would_bring(result: BacktestResult) -> None:
    for changes in ({"present": 0}, {"present": None}):
        found = answer(dataclasses.replace(result, **changes))
        assert found.budget is not None
        assert (found.budget.cost, found.budget.source) == (20, "month")  # of eighty weeks
        monthly = [each for each in found.policies if each.name.startswith("every 4 weeks")]
        assert found.of(found.recommended).score >= max(each.score for each in monthly)
        assert all(found.budget.holds(each.cost) for each in monthly)


def test_a_history_that_counts_rows_has_months_of_four_windows(result: BacktestResult) -> None:
    hour = timedelta(hours=1)
    start = result.windows[0].since
    short = tuple(
        dataclasses.replace(each, since=start + each.index * hour, until=start + (each.index + 1) * hour)
        for each in result.windows
    )
    found = answer(dataclasses.replace(result, present=None, windows=short))
    assert found.budget is not None
    assert found.budget.cost == 20


def test_a_budget_may_be_asked_for(result: BacktestResult) -> None:
    for asked, most in ((0.0, 0.0), (13.0, 13.0), (1_000.0, 1_000.0), (8 * WEEK, 10.0)):
        found = answer(result, budget=asked)
        assert found.budget is not None
        assert (found.budget.cost, found.budget.source) == (most, "asked")
        allowed = [each for each in found.policies if each.cost <= most]
        assert found.of(found.recommended).score == max(each.score for each in allowed)
    # Where nobody is as cheap the cheapest are chosen from, and that is said.
    retraining = answer(result_without_never(result), budget=1.0)
    assert retraining.of(retraining.recommended).cost == min(each.cost for each in retraining.policies)
    assert "No policy costs as little" in " ".join(words.why(retraining))


def result_without_never(result: BacktestResult) -> BacktestResult:
    return dataclasses.replace(result, runs=result.runs[1:9], present=None)


def test_who_could_save_without_losing_more_than_chance_is_told(result: BacktestResult) -> None:
    weekly = 5
    found = answer(dataclasses.replace(result, present=weekly))
    assert found.recommended == found.best
    chosen, cheap = found.of(found.recommended), found.of(found.thrifty)
    assert cheap.cost < chosen.cost / 3
    assert cheap.behind > 0
    said = words.otherwise(found)
    assert said is not None
    assert (
        f"{cheap.name[1:]} saves {chosen.cost - cheap.cost:.0f} retrains and scores {words.figure(cheap.score)}" in said
    )
    assert found.at_any_cost == found.recommended
    assert "No budget would bring more" in said


def test_half_time_keeps_the_budget_of_its_half(result: BacktestResult, found: Answer) -> None:
    assert found.half_time is not None
    run, present = result.runs[found.half_time.chosen], result.runs[4]
    half = found.half_time.window
    spent = [sum(0 <= each.window < half for each in one.retrains) for one in (run, present)]
    assert spent[0] <= spent[1]


def test_half_time_knows_nothing_of_the_second_half(result: BacktestResult) -> None:
    """Whatever the second half holds, the same one is chosen at half-time."""
    half = len(result.windows) // 2
    chosen = answer(result).half_time
    assert chosen is not None

    def spoiled(window: WindowRun) -> WindowRun:
        return (
            window
            if window.window < half
            else dataclasses.replace(window, loss=0.9 - window.loss, score=0.1 + window.loss)
        )

    other = dataclasses.replace(
        result,
        runs=tuple(dataclasses.replace(run, windows=tuple(map(spoiled, run.windows))) for run in result.runs),
    )
    again = answer(other).half_time
    assert again is not None
    assert (again.chosen, again.window) == (chosen.chosen, chosen.window)
    assert again.score != chosen.score
    assert chosen.never is not None
    assert chosen.never < chosen.score <= chosen.best_score


def test_a_policy_without_an_end_is_left_out_and_named(result: BacktestResult) -> None:
    ended = dataclasses.replace(result.runs[5], problem="no labels for 3 weeks", windows=result.runs[5].windows[:10])
    found = answer(dataclasses.replace(result, runs=(*result.runs[:5], ended, *result.runs[6:])))
    assert 5 not in [each.place for each in found.policies]
    assert found.left_out == ("every week · last 12 weeks, refit · no gate: no labels for 3 weeks",)
    with pytest.raises(DataError, match="None of the 1 policies"):
        answer(dataclasses.replace(result, runs=(ended,), present=None))


def test_one_policy_is_an_answer_too() -> None:
    found = answer(made_result(windows=20, chosen=policies()[:1]))
    assert found.recommended == found.best == 0
    assert found.common == ()
    assert found.of(0).behind_at_most == 0
    assert found.present is None


def test_a_few_windows_tell_nobody_apart() -> None:
    found = answer(made_result(windows=6))
    assert len(found.indistinct) == len(found.policies)
    assert found.half_time is None
    json.dumps(found.to_json(), allow_nan=False)


def test_money_is_what_retraining_costs_and_errors_are_not_paid_twice() -> None:
    prices = Prices(retrain=10.0, hour=3_600.0, errors={"wrong": 5.0})
    result = made_result(prices=prices)
    found = answer(result)
    assert found.unit == "money"
    assert found.budget is None  # what an error costs says what a retrain is worth
    asked = answer(result, budget=200.0)
    assert asked.budget is not None
    assert asked.of(asked.recommended).cost <= 200
    for each in found.policies:
        costs = result.runs[each.place].costs
        assert each.cost == pytest.approx(10 * costs.retrains + costs.seconds)


def test_where_errors_have_a_price_the_least_money_in_all_is_the_best() -> None:
    """A retrain that costs as much as ten wrong answers pays monthly; one that costs ten thousand never does."""
    chosen = {}
    for retrain in (0.0, 10.0, 10_000.0):
        prices = Prices(retrain=retrain, errors={"wrong": 1.0})
        result = made_result(prices=prices)
        found = answer(result)
        assert found.judged_by == "money"
        assert found.pays == ()
        for each in found.policies:
            assert each.total == pytest.approx(result.runs[each.place].costs.money)
        assert found.of(found.recommended).total == min(each.total or 0.0 for each in found.policies)
        chosen[retrain] = found.of(found.recommended).name
        assert found.present_loses is not None
        present = found.of(found.present or 0).total or 0.0
        assert found.present_loses == pytest.approx(present - (found.of(found.recommended).total or 0.0))
    assert chosen[0.0].startswith("every week")
    assert chosen[10.0].startswith("every 4 weeks")
    assert chosen[10_000.0].startswith("never")


def test_what_all_policies_share_is_not_said_of_each(found: Answer) -> None:
    assert found.common == ("no gate",)
    assert all("no gate" not in each.name for each in found.policies)
    twins = [Policy(Manual(), window=Last(WEEK), gate=None), Policy(Every(WEEK), window=Last(WEEK), gate=None)]
    assert {each.name for each in answer(made_result(windows=12, chosen=_twelve(twins))).policies} == {
        "never",
        "every week",
    }


def _twelve(chosen: list[Policy]) -> list[Policy]:
    return [dataclasses.replace(each, window=Last(12 * WEEK)) for each in chosen]


def test_a_change_is_held_against_the_answer_without_it(result: BacktestResult) -> None:
    found = answer(result, changed={"the same again": (result, 0), "another world": (made_result(seed=3), 7)})
    same, other = found.what_if
    assert not same.changes
    assert (same.new_fits, same.place, same.score) == (0, found.recommended, found.of(found.recommended).score)
    assert same.asked == same.score
    assert other.new_fits == 7
    assert other.asked <= other.score + 0.01


def test_the_answer_is_json_without_what_json_cannot_hold(found: Answer) -> None:
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["pays"][-1]["below"] is None
    assert len(text) < 200_000


# Yardsticks


def with_metric(
    result: BacktestResult, metric: str, companion: str, *, up: bool, change: Callable[[float], float]
) -> BacktestResult:
    """The same history with every window's loss changed, and its score as the metric has it."""

    def changed(each: WindowRun) -> WindowRun:
        loss = change(each.loss)
        score = math.sqrt(loss) if metric.startswith("root") else 1 - loss if up else loss
        return dataclasses.replace(each, loss=loss, score=score)

    return dataclasses.replace(
        result,
        metric=metric,
        companion=companion,
        greater_is_better=up,
        runs=tuple(dataclasses.replace(run, windows=tuple(map(changed, run.windows))) for run in result.runs),
    )


def test_a_root_mean_squared_error_is_that_of_all_rows(result: BacktestResult) -> None:
    made = with_metric(
        result, "root_mean_squared_error", "squared_error", up=False, change=lambda loss: (100 * loss) ** 2
    )
    found = answer(made)
    assert found.exact
    for each in found.policies:
        losses = [window.loss for window in made.runs[each.place].windows]
        assert each.score == pytest.approx(math.sqrt(np.mean(losses)))
    assert found.of(found.best).score == min(each.score for each in found.policies)
    # The influence is the derivative: errors as large as those of resampled roots.
    one = made.runs[0]
    moves = Yardstick.of(made).influences([one], np.full(len(one.windows), float(ROWS)))
    random = np.random.default_rng(0)
    squares = np.array([window.loss for window in one.windows])
    drawn = random.integers(0, len(squares), (400, len(squares)))
    linear = moves.score[0] + moves.sums[0][drawn].sum(axis=1) / (ROWS * len(squares))
    assert np.std(linear) == pytest.approx(np.std(np.sqrt(squares[drawn].mean(axis=1))), rel=0.1)


def test_a_ranking_is_compared_within_windows_and_says_so(result: BacktestResult) -> None:
    made = with_metric(result, "roc_auc", "brier", up=True, change=lambda loss: loss)
    found = answer(made)
    assert not found.exact
    assert "within windows" in found.yardstick
    first = found.policies[0]
    assert first.score == pytest.approx(np.mean([window.score for window in made.runs[first.place].windows]))


def test_a_ranking_with_influences_is_compared_over_all_rows(result: BacktestResult) -> None:
    made = with_metric(result, "roc_auc", "brier", up=True, change=lambda loss: loss)

    def moved(each: WindowRun, mean: float) -> WindowRun:
        return dataclasses.replace(each, influence=each.rows * ((each.score or 0.0) - mean))

    runs = []
    for run in made.runs:
        mean = float(np.mean([window.score for window in run.windows]))
        windows = tuple(moved(each, mean) for each in run.windows)
        runs.append(dataclasses.replace(run, windows=windows, score=mean - 0.1))  # ranked over all it is lower
    whole = answer(dataclasses.replace(made, runs=tuple(runs)))
    assert whole.exact
    assert not whole.adds_up
    assert whole.yardstick == "roc auc over all rows"
    within = answer(made)
    for each in whole.policies:
        other = within.of(each.place)
        assert each.score == pytest.approx(other.score - 0.1) == pytest.approx(each.overall)
        assert each.behind_at_most == pytest.approx(other.behind_at_most)
        assert each.regret == pytest.approx(other.regret)
    assert whole.half_time is not None  # half of the rows have no influences of their own: their windows speak


def test_a_window_with_one_class_only_counts_for_nobody(result: BacktestResult) -> None:
    made = with_metric(result, "roc_auc", "brier", up=True, change=lambda loss: loss)

    def blank(run_windows: tuple[WindowRun, ...]) -> tuple[WindowRun, ...]:
        return tuple(dataclasses.replace(each, score=None) if each.window == 7 else each for each in run_windows)

    made = dataclasses.replace(
        made,
        runs=tuple(dataclasses.replace(run, windows=blank(run.windows)) for run in made.runs),
        fits={
            digest: dataclasses.replace(
                fit, cells={w: dataclasses.replace(c, score=None) if w == 7 else c for w, c in fit.cells.items()}
            )
            for digest, fit in made.fits.items()
        },
    )
    found = answer(made)
    assert found.windows == len(made.windows) - 1
    assert all(math.isfinite(each.score) for each in found.policies)
    assert found.possible is not None
    assert math.isfinite(found.possible.best.score)


def test_a_cell_without_rows_has_no_loss() -> None:
    yardstick = Yardstick(metric="accuracy", greater_is_better=True, kind="complement")
    assert math.isnan(yardstick.loss(Cell(rows=0, score=None, loss=0.0)))
    assert yardstick.worse_by(0.7, 0.8) == pytest.approx(0.1)
    assert Yardstick(metric="log_loss", greater_is_better=False, kind="mean").worse_by(0.7, 0.8) == pytest.approx(-0.1)


def test_policies_that_are_called_the_same_are_told_apart_by_what_they_hold_out() -> None:
    short = [Last(12 * WEEK, test=each) for each in (timedelta(days=1), 0.1, 1)]
    found = answer(made_result(windows=12, chosen=[Policy(Every(WEEK), window=each, gate=None) for each in short]))
    assert {each.name for each in found.policies} == {"test 1 day", "test 10%", "test 1 row"}
