"""The commands that replay: a user's history, and the demo."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from everloop.cli.show import Usage, check_page, emit, parse_duration, parse_instant
from everloop.errors import DataError, EverloopError
from everloop.loop.account import Account
from everloop.loop.consequences import world_of
from everloop.loop.demo import DATASETS, prepare
from everloop.loop.importance import Importance, importance
from everloop.loop.inject import Span
from everloop.loop.installation import Installation, chosen
from everloop.loop.narrate import Narrator, summary
from everloop.loop.replay import History, Plan, Replay, read_history
from everloop.loop.report import page
from everloop.spec.load import load

LINES = 40
"""About how many lines of traffic a replay prints, however long the history."""


def replay(
    declaration: Path,
    *,
    loop: str | None,
    start: str | None,
    to: str | None,
    look: str,
    drift: str | None,
    poison: str | None,
    outcome: str | None,
    out: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    check_page(out)
    if outcome == "":
        raise Usage(f"--outcome is empty; name a function of {declaration.name}, or leave it out.")
    loaded = load(declaration)
    history = read_history(chosen(loaded, loop), loaded.source, loaded.path.parent)
    with _place(home) as folder:
        plan = Plan(
            home=folder,
            start=parse_instant(start) if start is not None else None,
            to=parse_instant(to) if to is not None else None,
            look=parse_duration(look),
            drift=_span(drift, "--drift") if drift is not None else None,
            poison=_span(poison, "--poison") if poison is not None else None,
            world=world_of(loaded.path, outcome) if outcome is not None else None,
        )
        _turn(history, plan, out=out, as_json=as_json, opening=f"[bold]everloop replay[/bold]  {declaration.name}")
    if home is not None:
        _invite(home, as_json)


def demo(*, dataset: str | None, out: Path, seed: int, as_json: bool) -> None:
    if dataset is not None and dataset not in DATASETS:
        raise Usage(f"--data is {dataset!r}; there are {', '.join(DATASETS)}, or none for the simulated service.")
    shutil.rmtree(out / "home", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(dataset, out, seed=seed)
    report = out / "report.html"
    _turn(prepared.history, prepared.plan, out=report, as_json=as_json, opening=prepared.opening)
    _invite(out / "home", as_json)


def _turn(history: History, plan: Plan, *, out: Path | None, as_json: bool, opening: str) -> None:
    console = Console(highlight=False)
    running = Replay(history, plan)
    try:
        if running.start >= running.end:
            raise Usage(
                f"--start {running.start:%Y-%m-%d %H:%M} is not before the end, {running.end:%Y-%m-%d %H:%M}, so no row "
                "would be served; write an earlier one."
            )
        every = max(plan.look, (running.end - running.start) / LINES)
        narrator = Narrator(console, running.account, every=every, quiet=as_json)
        narrator.opening(
            opening + f"  {running.start:%Y-%m-%d} → {running.end:%Y-%m-%d}, a look every {_days(plan.look)}"
        )
        running.listen(narrator.period, narrator.decisions)
        account = running.run()
        narrator.closing()
        _finish(account, out, as_json, console, None if out is None else _moved(running.installation, account))
    finally:
        running.close()


def _moved(installation: Installation, account: Account) -> Importance | None:
    champion = account.periods[-1].champion if account.periods else None
    if champion is None:
        return None
    try:
        return importance(installation, champion)
    except EverloopError:
        return None  # its rows are arrays, or gone: the report is whole without


def _finish(account: Account, out: Path | None, as_json: bool, console: Console, moved: Importance | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(account, moved), "utf-8")
    emit(account.summary(), as_json, lambda _: console.print(summary(account), highlight=False))
    if out is not None and not as_json:
        console.print(f"report: {out}")


def _invite(home: Path, as_json: bool) -> None:
    if not as_json:
        Console(soft_wrap=True, highlight=False).print(f"look into it: everloop versions --home {home}", markup=False)


@contextmanager
def _place(home: Path | None) -> Iterator[Path]:
    if home is None:
        with tempfile.TemporaryDirectory(prefix="everloop-replay-") as folder:
            yield Path(folder)
        return
    if home.exists() and any(home.iterdir()):
        raise DataError(f"--home {home} is not empty; name a folder that a replay may fill.")
    home.mkdir(parents=True, exist_ok=True)
    yield home


def _span(text: str, option: str) -> Span:
    """START or START+LENGTH; START is an instant or a share of the history."""
    beginning, plus, length = text.partition("+") if not _has_offset(text) else (text, "", "")
    start: datetime | float
    try:
        start = float(beginning)
        if not 0 <= start < 1:
            raise Usage(f"{option} starts at {start:g}; a share of the history lies between 0 and 1.")
    except ValueError:
        start = parse_instant(beginning)
    default = timedelta(days=7) if option == "--poison" else None
    return Span(start, parse_duration(length) if plus else default)


def _has_offset(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo not in (None, UTC)
    except ValueError:
        return False


def _days(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} d" if days >= 1 else f"{days * 24:g} h"
