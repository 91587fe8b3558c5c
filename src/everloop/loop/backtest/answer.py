"""What follows from a backtest: who is best, how sure that is, what it costs, what could have been won, what if.

Pure arithmetic on `BacktestResult`s: it reads no rows and fits nothing, so an answer can be asked for again with other
prices. Everything in it is a plain number, in the score's own unit and direction; "worse by" is positive whatever the
direction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.errors import DataError
from everloop.loop.backtest.budget import Asked, Budget, Unit
from everloop.loop.backtest.choosing import HalfTime, choose, cost_of, errors_have_a_price, half_time
from everloop.loop.backtest.possible import Possible, possible
from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.loop.backtest.yardstick import Yardstick
from everloop.measure.bootstrap import Compared, compare
from everloop.measure.frontier import frontier, prices
from everloop.spec.policy import span

Floats = npt.NDArray[np.float64]
ALPHA = 0.05
PART = " · "
"""Between the parts of a policy's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One policy, as an answer sees it."""

    place: int
    """Among ``BacktestResult.runs``."""
    name: str
    """Without what all policies have in common (`Answer.common`)."""
    line: str
    """To paste into the declaration."""
    score: float
    """By the yardstick (`Answer.yardstick`)."""
    overall: float | None
    """The declared metric over all rows together: the same, but for rankings."""
    lower: float
    upper: float
    cost: float
    """In `Answer.unit`."""
    total: float | None
    """Money in all, errors and retraining, where errors have a price: then that is what policies are judged by."""
    behind: float
    """Worse than the best looking one by so much: in the score's unit, or in money where errors have a price."""
    behind_at_most: float
    """Than the truly best one, at most: bounds that hold for all policies together."""
    p_value: float
    indistinct: bool
    """Cannot be told apart from the best."""
    chance_best: float
    frontier: bool
    dominated_by: int | None
    """The place of one that is at least as good and as cheap, and better in one."""
    worst_window: int
    worst_score: float | None
    regret: float | None
    """Worse than the best possible schedule by so much."""
    regret_moments: float | None
    """Of it: how much the best possible moments would have brought with its own training window and no more retrains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pays:
    """Between these prices of one unit of cost nobody is better, all in all."""

    place: int
    above: float
    """In score over all rows, for one unit of cost."""
    below: float
    errors_above: float | None
    """The same in wrong answers saved over the whole history; None for a score that counts no answers."""
    errors_below: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The same question with something changed."""

    what: str
    new_fits: int | None
    """Fits that had to be made for it beyond those of the backtest; 0: arithmetic on what was there."""
    place: int
    """Who would be recommended."""
    name: str
    line: str
    score: float
    """Of that one, changed as it is said."""
    cost: float
    asked: float
    """What the policy recommended without the change would score."""
    changes: bool
    """Somebody else is recommended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything that a reader of a backtest wants to know. Windows and places are those of the result."""

    metric: str
    yardstick: str
    """What policies are compared by, in words."""
    exact: bool
    """It is the score over all rows."""
    adds_up: bool
    """Scores of windows add up to it. Otherwise regret and the best possible schedule are by the mean of the windows' own
    scores, which is another number."""
    greater_is_better: bool
    unit: Unit
    """What ``cost`` is in."""
    judged_by: Literal["score", "money"]
    """Money: errors have a price, and the least total is the best."""
    alpha: float
    windows: int
    rows: int
    block: float
    """Windows in a row that are drawn together, on average."""
    policies: tuple[Judged, ...]
    """The best score first; those that could not be run to the end are left out."""
    recommended: int
    """Its place among the runs: the best that the budget allows."""
    budget: Budget | None
    """What the recommended one may cost; None: whatever it does."""
    at_any_cost: int
    """Who would be recommended without a budget, the cheapest within one standard error of the best; the recommended one
    itself where that is no better."""
    thrifty: int
    """The cheapest within one standard error of the recommended one."""
    best: int
    present: int | None
    indistinct: tuple[int, ...]
    """All that cannot be told apart from the best, cheapest first."""
    knee: int | None
    pays: tuple[Pays, ...]
    floor: float | None
    """What the no-change rule scores."""
    possible: Possible | None
    present_loses: float | None
    """How much worse the declared policy is than the recommended one, in the unit of ``behind``; negative: better."""
    present_error: float | None
    """Standard error of that difference."""
    half_time: HalfTime | None
    common: tuple[str, ...] = ()
    """What the names of all policies have in common, in words."""
    what_if: tuple[WhatIf, ...] = ()
    left_out: tuple[str, ...] = ()
    """Who was left out, and why."""

    def of(self, place: int) -> Judged:
        return next(each for each in self.policies if each.place == place)

    def to_json(self) -> dict[str, Any]:
        """JSON builtins; what is unknown or without a bound is null."""
        plain: dict[str, Any] = _finite(msgspec.to_builtins(self, str_keys=True))
        return plain


def answer(
    result: BacktestResult,
    *,
    changed: Mapping[str, tuple[BacktestResult, int]] | None = None,
    budget: Asked = "declared",
    alpha: float = ALPHA,
    seed: int = 0,
) -> Answer:
    """The answer to a result. ``changed``: what if, in words → the result of the same policies and how many new fits it took.

    ``budget``: what the recommended policy may cost: as much as the declared one (a retrain every 28 days where that never
    retrains), so many retrains over the history (with prices: so much money), one retrain in so much time, or "any". Where
    errors have a price none holds unless one is asked for. Raises DataError where no policy could be run to its end.
    """
    yardstick = Yardstick.of(result)
    places, left_out = _whole(result)
    runs = [result.runs[place] for place in places]
    rows = _rows(result)
    unit: Unit = "money" if result.prices is not None else "retrains"
    moves = yardstick.influences(runs, rows)
    scored = compare(moves, alpha=alpha, seed=seed)
    cost = np.array([cost_of(run, unit) for run in runs])
    loss = scored.score * (-1 if result.greater_is_better else 1)
    present = result.present if result.present in places else None
    choice = choose(
        result, runs, rows, cost, yardstick,
        asked=budget, present=None if present is None else places.index(present), unit=unit, alpha=alpha, seed=seed,
    )  # fmt: skip
    compared = choice.compared
    by_money = errors_have_a_price(result)
    scale = float(rows.sum()) if by_money else 1.0
    around = frontier(loss, cost)
    limit = possible(result, most=max([run.costs.released for run in runs] + [len(rows)]))
    names, common = _names(result)
    judged = [
        Judged(
            place=place,
            name=names[place],
            line=run.policy.line,
            score=float(scored.score[at]),
            overall=run.score,
            lower=float(scored.lower[at]),
            upper=float(scored.upper[at]),
            cost=float(cost[at]),
            total=scale * float(compared.score[at]) if by_money else None,
            behind=scale * float(compared.behind[at]),
            behind_at_most=scale * float(compared.behind_at_most[at]),
            p_value=float(compared.p_value[at]),
            indistinct=bool(compared.indistinct[at]),
            chance_best=float(compared.chance_best[at]),
            frontier=bool(around.on[at]),
            dominated_by=None if around.on[at] else places[int(around.dominated_by[at])],
            **_worst(result, run),
            **_regret(result, run, yardstick.mean(run, rows), yardstick, limit),
        )
        for at, (place, run) in enumerate(zip(places, runs, strict=True))
    ]
    loses, error = _loses(compared, places, present, choice.policy, scale)
    answered = Answer(
        metric=result.metric,
        yardstick=yardstick.words(moves),
        exact=moves.exact,
        adds_up=yardstick.adds_up,
        greater_is_better=result.greater_is_better,
        unit=unit,
        judged_by="money" if by_money else "score",
        alpha=alpha,
        windows=compared.windows,
        rows=int(rows.sum()),
        block=compared.block,
        policies=tuple(sorted(judged, key=lambda each: (each.behind, each.cost, each.place))),
        recommended=places[choice.policy],
        budget=choice.budget,
        at_any_cost=places[choice.at_any_cost],
        thrifty=places[choice.thrifty],
        best=places[int(np.lexsort((cost, compared.behind))[0])],
        present=present,
        indistinct=tuple(places[int(at)] for at in choice.among),
        knee=None if around.knee is None else places[around.knee],
        pays=() if by_money else _pays(result, places, loss, cost, float(rows.sum())),
        floor=_floor(result, yardstick, exact=moves.exact),
        possible=limit,
        present_loses=loses,
        present_error=error,
        half_time=half_time(result, places, runs, rows, yardstick, asked=budget, unit=unit, alpha=alpha, seed=seed),
        common=common,
        left_out=tuple(left_out),
    )
    what_if = tuple(_what_if(what, answered, other, fits, budget) for what, (other, fits) in (changed or {}).items())
    return dataclasses.replace(answered, what_if=what_if)


def _whole(result: BacktestResult) -> tuple[list[int], list[str]]:
    places = [
        place
        for place, run in enumerate(result.runs)
        if run.problem is None and len(run.windows) == len(result.windows) and run.windows
    ]
    left_out = [
        f"{run.policy.name}: {run.problem or 'it has not as many windows as the history'}"
        for place, run in enumerate(result.runs)
        if place not in places
    ]
    if not places:
        said = f" {left_out[0]}." if left_out else ""
        raise DataError(f"None of the {len(result.runs)} policies could be run over the whole history.{said}")
    return places, left_out


def _names(result: BacktestResult) -> tuple[list[str], tuple[str, ...]]:
    """A name for each run, without the parts that all have: of "no gate" forty times nobody learns anything."""
    parts = [run.policy.name.split(PART) for run in result.runs]
    whole = [PART.join(each) for each in parts]
    for run, each, name in zip(result.runs, parts, whole, strict=True):
        if whole.count(name) > 1:  # they differ in what a name does not say: mostly in what is held out
            each.append(f"test {_held_out(run.policy.window.test)}")
    common = [part for part in parts[0] if all(part in each for each in parts)] if len(parts) > 1 else []
    names = [PART.join(part for part in each if part not in common) for each in parts]
    if "" in names or len(set(names)) < len(set(map(PART.join, parts))):
        return [PART.join(each) for each in parts], ()
    return names, tuple(common)


def _held_out(test: timedelta | float) -> str:
    if isinstance(test, timedelta):
        return span(test)
    return f"{test:.0%}" if isinstance(test, float) else f"{test:,} row{'' if test == 1 else 's'}"


def _rows(result: BacktestResult) -> Floats:
    return np.array([window.rows for window in result.windows], dtype=np.float64)


def _worst(result: BacktestResult, run: PolicyRun) -> dict[str, Any]:
    told = next((each for each in run.windows if each.window == run.worst), None)
    return {"worst_window": run.worst, "worst_score": None if told is None else told.score}


def _regret(
    result: BacktestResult, run: PolicyRun, score: float, yardstick: Yardstick, limit: Possible | None
) -> dict[str, Any]:
    if limit is None:
        return {"regret": None, "regret_moments": None}
    first = result.fits.get(run.retrains[0].fit or "") if run.retrains else None
    alike = limit.within(first.window, run.costs.released) if first is not None else None
    return {
        "regret": yardstick.worse_by(score, limit.best.score),
        "regret_moments": None if alike is None else yardstick.worse_by(score, alike.score),
    }


def _loses(
    compared: Compared, places: Sequence[int], present: int | None, chosen: int, scale: float
) -> tuple[float | None, float | None]:
    if present is None:
        return None, None
    at = places.index(present)
    return (
        scale * float(compared.behind[at] - compared.behind[chosen]),
        scale * float(compared.error_between[at, chosen]),
    )


def _pays(result: BacktestResult, places: Sequence[int], loss: Floats, cost: Floats, rows: float) -> tuple[Pays, ...]:
    countable = result.metric == "accuracy"
    return tuple(
        Pays(
            place=places[each.policy],
            above=each.above,
            below=each.below,
            errors_above=each.above * rows if countable else None,
            errors_below=each.below * rows if countable else None,
        )
        for each in prices(loss, cost)
    )


def _floor(result: BacktestResult, yardstick: Yardstick, *, exact: bool) -> float | None:
    if exact:
        return result.floor.score
    told = [(yardstick.loss(cell), cell.rows) for cell in result.floor.windows]
    told = [(loss, rows) for loss, rows in told if math.isfinite(loss) and rows]
    return yardstick.value(sum(loss * rows for loss, rows in told) / sum(rows for _, rows in told)) if told else None


def _what_if(what: str, now: Answer, other: BacktestResult, new_fits: int, budget: Asked) -> WhatIf:
    """Policies keep their places: a changed result is of the same ones in the same order."""
    then = answer(other, budget=budget)
    chosen = then.of(then.recommended)
    asked = next((each.score for each in then.policies if each.place == now.recommended), math.nan)
    return WhatIf(
        what=what,
        new_fits=new_fits,
        place=then.recommended,
        name=chosen.name,
        line=chosen.line,
        score=chosen.score,
        cost=chosen.cost,
        asked=asked,
        changes=then.recommended != now.recommended,
    )


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value
