"""A backtest's result that was never fitted: a world whose truth wanders and once jumps, and models that remember it.

What each fit says of each window is a formula, so what follows from it (who is best, what could have been won) can be
calculated beside the code that is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from everloop.loop.backtest.result import (
    BacktestResult,
    Cell,
    Costs,
    Fit,
    FitName,
    Floor,
    PolicyRun,
    Prices,
    Retrain,
    ScoredWindow,
    Served,
    WindowRun,
)
from everloop.records import Verdict
from everloop.spec.policy import Policy
from everloop.spec.retrain import Degraded, Every, Manual
from everloop.spec.window import Everything, Last

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(weeks=1)
ROWS = 400
LENGTHS = {"last 4 weeks": 4, "last 12 weeks": 12}


def policies() -> list[Policy]:
    """Never, every 1, 2, 4 and 8 weeks over two lengths, one by its score, and one that remembers everything."""
    short, long = (Last(weeks * WEEK, test=timedelta(days=2), refit=True) for weeks in (4, 12))
    made = [Policy(Manual(), window=short, gate=None)]
    made += [
        Policy(Every(weeks * WEEK), window=window, gate=None) for window in (short, long) for weeks in (1, 2, 4, 8)
    ]
    made.append(Policy(Degraded(by=0.05), window=short, gate=None))
    return made


class World:
    """The error rate of a model made at window ``t`` from ``length`` windows, in window ``w``."""

    def __init__(self, windows: int, seed: int, *, rows: int = ROWS) -> None:
        random = np.random.default_rng(seed)
        steps = random.normal(0, 0.10, windows + 20)
        steps[20 + int(windows * 0.55)] += 1.6
        self.concept = np.cumsum(steps)
        self.weather = random.normal(0, 0.025, windows)
        self.windows = windows
        self.rows = rows
        self.luck = random.normal(0, 0.011, (windows + 1, max(LENGTHS.values()) + 1, windows))

    def error(self, made: int, length: int, window: int) -> float:
        known = self.concept[20 + made - length : 20 + made]
        gap = self.concept[20 + window] - known
        from_age = 0.16 * float(np.mean(1 - np.exp(-(gap**2))))
        from_few = 0.12 / math.sqrt(length)
        value = 0.12 + from_age + from_few + self.weather[window] + self.luck[made, length, window]
        return round(float(min(max(value, 0.0), 1.0)) * self.rows) / self.rows

    def cell(self, made: int, length: int, window: int) -> Cell:
        error = self.error(made, length, window)
        return Cell(rows=self.rows, score=1 - error, loss=error, errors={"wrong": error * self.rows})


def made_result(
    *, windows: int = 80, seed: int = 1, chosen: Sequence[Policy] | None = None, prices: Prices | None = None
) -> BacktestResult:
    world = World(windows, seed)
    fits: dict[str, Fit] = {}
    digests: dict[tuple[int, int], str] = {}
    for words, length in LENGTHS.items():
        for made in range(windows):
            name = FitName(history="h", since=made - length, until=made, features="f", code="c", seed=0, parent=None)
            digests[made, length] = name.digest
            fits[name.digest] = Fit(
                name=name,
                window=words,
                rows=length * ROWS,
                ready_before=made,
                seconds=0.4 + 0.1 * length,
                cells={window: world.cell(made, length, window) for window in range(made, windows)},
            )
    runs = tuple(_run(world, policy, digests, fits, prices) for policy in chosen or policies())
    used = {served.fit for run in runs for window in run.windows for served in window.served}
    assert used <= set(fits)
    floor = tuple(Cell(rows=ROWS, score=0.62, loss=0.38) for _ in range(windows))
    return BacktestResult(
        loop="made <up>",
        metric="accuracy",
        companion="accuracy",
        greater_is_better=True,
        task="binary",
        delay=timedelta(days=3),
        takes=None,
        windows=tuple(
            ScoredWindow(index=each, since=START + each * WEEK, until=START + (each + 1) * WEEK, rows=ROWS)
            for each in range(windows)
        ),
        runs=runs,
        fits=fits,
        floor=Floor(windows=floor, score=0.62),
        present=4 if chosen is None else None,
        prices=prices,
        seconds={"total": 12.0, "fits": 40.0},
        notes=("Numbers of this result were made up.",),
    )


def _run(
    world: World, policy: Policy, digests: dict[tuple[int, int], str], fits: dict[str, Fit], prices: Prices | None
) -> PolicyRun:
    assert not isinstance(policy.window, Everything)
    assert isinstance(policy.window.length, timedelta)
    length = policy.window.length // WEEK
    live, retrains, found = 0, [_retrain(world, 0, length, digests, "the first model", "first")], list[WindowRun]()
    best = 0.0
    for window in range(world.windows):
        if window > 0:
            because = _because(policy, window, live, best, found)
            if because is not None:
                live, best = window, 0.0
                retrains.append(_retrain(world, window, length, digests, because, because.split()[0]))
        cell = fits[digests[live, length]].cells[window]
        best = max(best, cell.score or 0.0)
        found.append(
            WindowRun(
                window=window,
                served=(Served(fit=digests[live, length], rows=cell.rows),),
                score=cell.score,
                loss=cell.loss,
                rows=cell.rows,
                stale=20 if live == window and window else 0,
                errors=cell.errors,
            )
        )
    count = len(retrains) - 1
    seconds = sum(each.seconds for each in retrains[1:])
    wrong = sum(each.errors["wrong"] for each in found)
    parts = (
        {}
        if prices is None
        else {
            "retrains": prices.retrain * count,
            "hours": prices.hour * seconds / 3600,
            **{kind: price * wrong for kind, price in prices.errors.items()},
        }
    )
    scores = [each.score or 0.0 for each in found]
    return PolicyRun(
        policy=policy,
        windows=tuple(found),
        retrains=tuple(retrains),
        score=float(np.mean(scores)),
        costs=Costs(
            retrains=count,
            released=count,
            rejected=0,
            never_paid=count // 5,
            seconds=seconds,
            stale=sum(each.stale for each in found),
            labels=world.windows * world.rows,
            money=sum(parts.values()) if parts else None,
            parts=parts,
        ),
        worst=int(np.argmin(scores)),
    )


def _because(policy: Policy, window: int, live: int, best: float, found: list[WindowRun]) -> str | None:
    if isinstance(policy.retrain, Every) and window % (policy.retrain.period // WEEK) == 0:
        return "schedule: its time had come"
    if isinstance(policy.retrain, Degraded) and window > live and best - (found[-1].score or 0.0) > policy.retrain.by:
        return f"degraded by {best - (found[-1].score or 0.0):.3f}"
    return None


def _retrain(
    world: World, window: int, length: int, digests: dict[tuple[int, int], str], because: str, kind: str
) -> Retrain:
    at = START + window * WEEK
    return Retrain(
        window=window - 1,
        started=at,
        live=at,
        because=because,
        kinds=(kind,),
        fit=digests[window, length],
        verdict=Verdict(outcome="first", promote=True, because="no gate"),
        said="released",
        rows=length * world.rows,
        seconds=0.4 + 0.1 * length,
    )
