"""Runs a backtest for a person or a machine: shows how far it is, then a table, and writes the report."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from everloop.cli.show import Usage, parse_duration, parse_instant
from everloop.loop.backtest import choices, policy_file, table
from everloop.loop.backtest.answer import Answer, answer
from everloop.loop.backtest.budget import Asked
from everloop.loop.backtest.calibrate import Calibrated, calibrated
from everloop.loop.backtest.grid import Windows
from everloop.loop.backtest.progress import Progress as HowFar
from everloop.loop.backtest.progress import Told
from everloop.loop.backtest.report import page
from everloop.loop.backtest.result import BacktestResult, Prices
from everloop.loop.backtest.run import Backtest
from everloop.loop.backtest.search import searched
from everloop.loop.backtest.setting import Setting
from everloop.loop.backtest.what_if import Change, changed
from everloop.loop.environment import Environment
from everloop.loop.installation import chosen
from everloop.spec.load import load
from everloop.spec.policy import Policy, spelled


def backtest(
    declaration: Path,
    *,
    loop: str | None,
    policies: Path | None,
    search: int,
    start: str | None,
    to: str | None,
    windows: str | None,
    takes: str | None,
    looks: int,
    calibrate: str | None,
    what_if: Sequence[str],
    price: Sequence[str],
    budget: str,
    oracle: bool,
    jobs: int | None,
    out: Path | None,
    environment: str | None,
    as_json: bool,
) -> None:
    if out is not None:
        _room(out)  # before hours of fits, and not after them
    loaded = load(declaration)
    one = chosen(loaded, loop)
    folder = loaded.path.parent
    named = policy_file.read(policies) if policies is not None else ()
    present = Policy.of(one)
    wanted = choices.once((present, *named)) if named else ()
    setting = Setting(
        windows=_windows(windows) if windows else None,
        start=parse_instant(start) if start else None,
        end=parse_instant(to) if to else None,
        takes=parse_duration(takes) if takes else None,
        looks=looks,
        prices=_prices(price),
        oracle=oracle,
    )
    changes = [_change(each, setting.prices) for each in what_if]
    alarms = parse_duration(calibrate) if calibrate else None
    limit = _budget(budget)
    console = Console(stderr=True, highlight=False)
    calibration: tuple[Calibrated, ...] = ()
    with (
        _progress(console, quiet=as_json) as told,
        Backtest.open(
            one,
            folder=folder,
            source=loaded.source,
            policies=wanted,
            setting=setting,
            environment=Environment.read(folder, environment),
            workers=jobs,
            told=told,
        ) as running,
    ):
        compared = list(wanted or running.policies())
        running.run(compared)
        if alarms is not None:
            calibration = calibrated(running, present, budget=alarms)
            compared += [each.policy for each in calibration if each.policy is not None]
        if search:
            compared += searched(running, present, trials=search)
        result = running.result(compared)
        others = {each.words: changed(running, compared, result, each) for each in changes}
    answered = answer(result, changed=others, budget=limit)
    if out is not None:
        _write(out, result, answered)
    if as_json:
        _print(result, answered, calibration)
    else:
        _show(result, answered, calibration, out)


def _show(result: BacktestResult, answered: Answer, calibration: Sequence[Calibrated], out: Path | None) -> None:
    console = Console(highlight=False)
    first, last = result.windows[0].since, result.windows[-1].until
    made = int(result.seconds.get("made", 0))
    fits = f"{len(result.fits):,} fits" + (f", {made:,} of them made now" if made < len(result.fits) else "")
    console.print(
        f"[bold]{result.loop}[/bold]  {len(result.runs)} policies, {len(result.windows)} windows "
        f"{first:%Y-%m-%d} → {last:%Y-%m-%d}; {fits}, {result.seconds['total']:.1f} s",
        soft_wrap=True,
    )
    for note in result.notes:
        console.print(f"[dim]{note}[/dim]", soft_wrap=True)
    console.print()
    table.show(console, result, answered)
    for each in calibration:
        console.print(f"\n[bold]{each.words}[/bold]", soft_wrap=True)
        if each.policy is not None:
            console.print(f"    retrain={spelled(each.policy.retrain)}", markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"\nreport: {out / 'report.html'}", markup=False, soft_wrap=True)


def _print(result: BacktestResult, answered: Answer, calibration: Sequence[Calibrated]) -> None:
    form = result.to_json() | {"answer": answered.to_json()}
    if calibration:
        form["calibration"] = [each.to_json() for each in calibration]
    sys.stdout.write(json.dumps(_finite(form), allow_nan=False) + "\n")


def _room(out: Path) -> None:
    """Raises Usage where the report could not be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise Usage(f"--out {out} cannot be written: {error.strerror}; name another folder.") from None


def _write(out: Path, result: BacktestResult, answered: Answer) -> None:
    form = result.to_json() | {"answer": answered.to_json()}
    try:
        (out / "report.html").write_text(page(result, answered), "utf-8")
        (out / "result.json").write_text(json.dumps(_finite(form), allow_nan=False), "utf-8")
    except OSError as error:
        raise Usage(f"--out {out} cannot be written: {error.strerror}; name another folder.") from None


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _progress(console: Console, *, quiet: bool) -> Iterator[Told]:
    """A bar where somebody looks, silence elsewhere."""
    if quiet or not console.is_terminal:
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("[dim]{task.fields[said]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("policies", total=None, said="reading the history")

        def told(progress: HowFar) -> None:
            said = f"{progress.made:,} fits made, {progress.finished} of {progress.policies} policies through"
            bar.update(task, total=progress.wanted, completed=progress.done, said=said)

        yield told


# What people write


def _windows(text: str) -> Windows:
    if text == "month":
        return "month"
    if text.isdigit():
        return int(text)
    try:
        return parse_duration(text)
    except Usage:
        raise Usage(f"--windows is {text!r}; write a duration such as 7d, month, or a number of rows.") from None


def _budget(text: str) -> Asked:
    if text in ("declared", "any"):
        return "any" if text == "any" else "declared"
    try:
        most = float(text)
    except ValueError:
        try:
            return parse_duration(text)
        except Usage:
            most = math.nan
    if not math.isfinite(most) or most < 0:
        raise Usage(
            f"--budget is {text!r}; write a number of retrains such as 20, one in so much time such as 28d, or any."
        )
    return most


def _number(option: str, text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not math.isfinite(number):
        raise Usage(f"{option} is {text!r}; write a name and a number, such as retrain=20.")
    return name.strip(), number


def _prices(given: Sequence[str]) -> Prices | None:
    if not given:
        return None
    found = Prices()
    for text in given:
        name, value = _number("--price", text)
        if value < 0:
            raise Usage(f"--price is {text!r}; a price is 0 or more.")
        if name == "retrain":
            found = dataclasses.replace(found, retrain=value)
        elif name == "hour":
            found = dataclasses.replace(found, hour=value)
        else:
            found = dataclasses.replace(found, errors={**found.errors, name: value})
    return found


def _change(text: str, prices: Prices | None) -> Change:
    name, _, value = text.partition("=")
    match name:
        case "later":
            return Change(words=f"What if labels came {value} later?", later=parse_duration(value))
        case "labels":
            _, share = _number("--what-if", text)
            if not 0 < share < 1:
                raise Usage(f"--what-if is {text!r}; a share of labels lies between 0 and 1, such as labels=0.5.")
            return Change(words=f"What if only {share:.0%} of the labels came?", labels=share)
        case "retrain":
            _, times = _number("--what-if", text)
            if prices is None:
                raise Usage(f"--what-if is {text!r}, and nothing has a price; write --price retrain=… beside it.")
            if times < 0:
                raise Usage(f"--what-if is {text!r}; a price is multiplied by 0 or more.")
            return Change(words=f"What if a retrain cost {times:g} times as much?", retrain=times)
    raise Usage(f"--what-if is {text!r}; write later=14d, labels=0.5 or retrain=2.")
