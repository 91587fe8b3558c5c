"""A backtest from Python: ``el.backtest(loop)``. Knows nothing of how one is run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from everloop.jobs.job import Executor
from everloop.loop.backtest import choices
from everloop.loop.backtest.grid import Windows
from everloop.loop.backtest.progress import Told
from everloop.loop.backtest.result import BacktestResult, Prices
from everloop.loop.backtest.run import Backtest
from everloop.loop.backtest.setting import Setting
from everloop.loop.declared import file_of
from everloop.spec.loop import Loop
from everloop.spec.policy import Policy


def backtest(
    loop: Loop,
    policies: Sequence[Policy] | None = None,
    *,
    declaration: Path | None = None,
    windows: Windows | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    takes: timedelta | None = None,
    looks: int = 1,
    later: timedelta = timedelta(0),
    labels: float = 1.0,
    prices: Prices | None = None,
    oracle: bool = True,
    home: Path | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    told: Told | None = None,
) -> BacktestResult:
    """Run policies over the loop's own history, in event time, with the triggers and the gate of production.

    ``policies``: those to compare, the declared one is added; None: a sensible grid. ``declaration``: the file that
    declares the loop; by default that of the module that holds it. ``windows``: what is predicted and scored as a whole,
    a timedelta, a number of rows, or "month". ``takes``: how long a retrain takes until it serves; None: as long as its
    fit took. ``later`` and ``labels``: labels come so much later, or only that share of them. ``executor``: where fits
    run, ``jobs`` of them at once; None: what everloop.toml says, processes here without one. Raises SpecError and DataError for what cannot be backtested.
    """
    path = declaration or file_of(loop)
    present = Policy.of(loop)
    wanted = choices.once((present, *policies)) if policies is not None else ()
    setting = Setting(
        windows=windows, start=start, end=end, takes=takes, looks=looks, later=later, labels=labels, prices=prices,
        oracle=oracle,
    )  # fmt: skip
    with Backtest.open(
        loop,
        folder=path.parent.absolute(),
        source=path.read_bytes(),
        policies=wanted,
        setting=setting,
        home=home,
        executor=executor,
        workers=jobs,
        told=told,
    ) as running:
        return running.result(wanted or running.policies())
