"""The command that compares retraining policies on a history. What it does is loaded when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everloop.cli.options import AsJson, Env, LoopName


def backtest(
    declaration: Annotated[Path, typer.Argument(metavar="FILE", help="The Python file that declares the loop.")],
    loop: LoopName = None,
    policies: Annotated[
        Path | None,
        typer.Option(help="A Python file with policies = [el.Policy(…), …], or JSON; else a sensible grid."),
    ] = None,
    search: Annotated[
        int, typer.Option(min=0, help="Let a search propose this many more policies: triggers and windows together.")
    ] = 0,
    start: Annotated[
        str | None, typer.Option("--from", help="First instant scored, ISO; before it rows are only learned from.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Last instant scored, ISO.")] = None,
    windows: Annotated[
        str | None, typer.Option(help="What is predicted and scored as a whole: 7d, month, or a number of rows.")
    ] = None,
    takes: Annotated[
        str | None, typer.Option(help="How long a retrain takes until it serves, such as 2h; else what its fit took.")
    ] = None,
    looks: Annotated[int, typer.Option(min=1, help="How often in each window triggers are asked.")] = 1,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Find thresholds that give at most one false alarm in this time, such as 90d, and compare them too."
        ),
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(help="Ask again with later=14d, labels=0.5 or retrain=2 (times its price); may be repeated."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="retrain=20, hour=3, wrong=0.5, missed=5, 'false alarm=1' or absolute=0.1; may be repeated."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="What the recommended policy may cost: a number of retrains (with --price: of money), one retrain in 28d, "
            "or any; else as much as the declared one."
        ),
    ] = "declared",
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle/--no-oracle", help="Ask every fit about every later window: the best possible schedule."
        ),
    ] = True,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that fit; one a core unless named.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for report.html and result.json.")] = None,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Which retraining policy would have been best on my history?

    Many policies over your own history in event time, with the triggers and the gate of production: each window is
    predicted by the model that would have been live, labels are known after their delay. Fits are shared between
    policies and kept beside the declaration, so that what was stopped goes on.
    """
    from everloop.cli import backtested

    backtested.backtest(
        declaration,
        loop=loop,
        policies=policies,
        search=search,
        start=start,
        to=to,
        windows=windows,
        takes=takes,
        looks=looks,
        calibrate=calibrate,
        what_if=what_if or [],
        price=price or [],
        budget=budget,
        oracle=oracle,
        jobs=jobs,
        out=out,
        environment=env,
        as_json=as_json,
    )
