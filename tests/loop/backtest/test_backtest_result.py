"""What a backtest found survives being written down."""

import json
from datetime import UTC, datetime, timedelta

import everloop as el
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

NOW = datetime(2024, 1, 1, tzinfo=UTC)
NAME = FitName(history="h", since=0, until=3, features="f", code="c", seed=0)


def result() -> BacktestResult:
    policy = Policy(el.Every(timedelta(days=7)), window=el.Last(timedelta(days=56)))
    verdict = Verdict(outcome="first", promote=True, because="the first version")
    run = PolicyRun(
        policy=policy,
        windows=(
            WindowRun(
                window=0,
                served=(Served(fit=NAME.digest, rows=3),),
                score=None,
                loss=0.2,
                rows=3,
                errors={"wrong": 1.0},
            ),
        ),
        retrains=(
            Retrain(
                window=-1,
                started=NOW,
                live=NOW,
                because="the first model",
                kinds=("first",),
                fit=NAME.digest,
                verdict=verdict,
                said="released",
                rows=3,
                seconds=0.1,
            ),
        ),
        score=0.5,
        costs=Costs(retrains=0, released=1, rejected=0, never_paid=0, seconds=0.1, stale=0, labels=3),
        worst=0,
    )
    return BacktestResult(
        loop="x",
        metric="accuracy",
        companion="accuracy",
        greater_is_better=True,
        task="binary",
        delay=timedelta(days=1),
        takes=None,
        windows=(ScoredWindow(index=0, since=NOW, until=NOW + timedelta(days=7), rows=3),),
        runs=(run,),
        fits={
            NAME.digest: Fit(
                name=NAME,
                window="last 8 weeks",
                rows=3,
                ready_before=0,
                seconds=0.1,
                cells={0: Cell(rows=3, score=0.5, loss=0.1)},
            )
        },
        floor=Floor(windows=(Cell(rows=3, score=0.5, loss=0.1),), score=0.5),
        present=0,
        prices=Prices(retrain=2.0, errors={"missed": 5.0}),
    )


def test_a_result_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(result().to_json()))
    assert BacktestResult.from_json(written) == result()
    assert written["runs"][0]["line"] == "retrain=el.Every(td(days=7)), window=el.Last(td(days=56)), gate=el.NotWorse()"


def test_fits_that_differ_in_anything_have_two_names() -> None:
    other = FitName(history="h", since=0, until=3, features="f", code="c", seed=0, parent=NAME.digest)
    assert other.digest != NAME.digest
