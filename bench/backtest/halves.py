"""Would you have known? A policy is chosen on the first half of a history and judged on the second.

What `everloop backtest` recommends, within the budget that is its default: the retrains of the declared policy, which is
"every month" here. Beside it what it recommends at any cost, and "every month" and "never" with the declared window.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.backtest.parts import Part, opened
from bench.backtest.sets import WEEK, Set, sets
from bench.rows import Row

from everloop.loop.backtest.answer import answer
from everloop.loop.backtest.choices import once
from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.spec.policy import Policy
from everloop.spec.retrain import Every, Manual, Rows


def part(*, quick: bool) -> Part:
    found = Part()
    better = 0
    for each in sets():
        if quick and each.name != "bike":
            continue
        with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
            better += _one(each, Path(folder), found)
    found.rows.append(
        Row(
            what="sets on which the one recommended on the first half beats every month and never at no more retrains",
            ours=better,
            unit="sets",
            target=3,
            greater_is_better=True,
        )
    )
    return found


def _one(each: Set, folder: Path, found: Part) -> bool:
    declared = Policy.of(each.written(folder).loops[0])
    never = replace(declared, retrain=Manual())
    monthly = replace(declared, retrain=Rows(4_000) if each.name == "enron" else Every(4 * WEEK))
    # The best possible schedule is no part of the question, and asks every fit about every later window.
    with opened(each, folder, [declared], oracle=False) as running:
        policies = once([never, monthly, *running.policies()])
        result = running.result(policies)
    half = len(result.windows) // 2
    runs = {run.digest: run for run in result.runs}
    month, still = runs[monthly.digest], runs[never.digest]
    first = _first_half(result, half)
    told = answer(first)
    free = answer(first, budget="any")
    wins = False
    for name, run in (("recommended", result.runs[told.recommended]), ("at any cost", result.runs[free.recommended])):
        ours, peer, floor = (_score(result, one, half) for one in (run, month, still))
        cost = _retrains(run, half, len(result.windows))
        limit = _retrains(month, half, len(result.windows))
        sign = 1 if result.greater_is_better else -1
        beats = sign * ours > sign * peer and sign * ours > sign * floor
        if name == "recommended":
            wins = beats and cost <= limit
            if not wins:
                found.notes.append(f"{each.name}: {_why(run, month, beats=beats, cost=cost, limit=limit)}")
        found.rows.append(
            Row(
                what=f"{each.name}, second half: {name} ({run.policy.name}; {cost} retrains, every month {limit}; never {floor:.4f})",
                ours=ours,
                unit=result.metric,
                peer=peer,
                peer_name="every month",
                target=peer,
                greater_is_better=result.greater_is_better,
            )
        )
    return wins


def _why(run: PolicyRun, month: PolicyRun, *, beats: bool, cost: int, limit: int) -> str:
    """Why that was not won."""
    if run.digest == month.digest:
        return "every month itself was the best of the first half within its cost, and nothing else was recommended"
    if beats:
        return (
            f"{run.policy.name} was better, at {cost - limit} more retrains: it kept the budget in the first half only"
        )
    return f"{run.policy.name} was better than every month in the first half and not in the second"


def _first_half(result: BacktestResult, half: int) -> BacktestResult:
    """What would have been known at half-time."""
    runs = tuple(
        dataclasses.replace(
            run,
            windows=run.windows[:half],
            retrains=tuple(each for each in run.retrains if each.window < half),
            costs=dataclasses.replace(run.costs, retrains=_retrains(run, 0, half)),
        )
        for run in result.runs
    )
    fits = {
        digest: dataclasses.replace(fit, cells={place: cell for place, cell in fit.cells.items() if place < half})
        for digest, fit in result.fits.items()
        if fit.ready_before < half
    }
    return dataclasses.replace(result, windows=result.windows[:half], runs=runs, fits=fits)


def _retrains(run: PolicyRun, since: int, until: int) -> int:
    return sum(since <= each.window < until for each in run.retrains)


def _loss(run: PolicyRun, since: int, until: int) -> float:
    windows = run.windows[since:until]
    return sum(each.rows * each.loss for each in windows) / max(sum(each.rows for each in windows), 1)


def _score(result: BacktestResult, run: PolicyRun, half: int) -> float:
    """In the metric's own units: accuracy, or the root of the mean squared error."""
    loss = _loss(run, half, len(run.windows))
    return 1 - loss if result.metric == "accuracy" else math.sqrt(loss)
