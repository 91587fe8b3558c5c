"""Tells a replay on a terminal while it runs: traffic, score, drift, versions, shares, decisions with reasons."""

from __future__ import annotations

import textwrap
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from everloop.loop.account import Account, Period
from everloop.records import Decision

MARKS = {
    "turn started": ("●", "blue"),
    "shadow": ("◌", "yellow"),
    "canary": ("◐", "yellow"),
    "released": ("★", "green"),
    "promoted": ("★", "green"),
    "rolled back": ("✗", "red"),
    "rejected": ("✗", "red"),
    "turn failed": ("✗", "red"),
    "kept champion": ("–", "yellow"),
    "comparison ended": ("…", "dim"),
    "kept": ("…", "dim"),
    "waiting": ("…", "yellow"),
}
BAR = 12
INDENT = " " * 20
"""Where a reason goes on: under its beginning."""
MOST_LINES = 2
"""So much of a reason why nothing was done; the report and the ledger have all of it."""


class Narrator:
    """Prints one line a stretch of time and one a decision. ``quiet`` prints nothing: for ``--json``."""

    def __init__(self, console: Console, account: Account, *, every: timedelta, quiet: bool = False) -> None:
        self._console = console
        self._account = account
        self._every = every
        self._quiet = quiet
        self._pending: list[Period] = []
        self._told = 0

    def opening(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, highlight=False)
            self._console.print(
                f"\n[dim]{'until':<17}{'requests':>9}  {self._account.metric:>10}  {'drift':>6}  serving[/dim]",
                highlight=False,
            )

    def period(self, period: Period) -> None:
        """Take in one look; tells when enough of them make a line, or when something was decided."""
        self._pending.append(period)
        self.decisions()
        if period.end - self._pending[0].start >= self._every:
            self._line()

    def decisions(self) -> None:
        for each in self._account.decisions[self._told :]:
            if self._pending and len(self._pending) > 1:
                self._line()
            self._decision(each)
        self._told = len(self._account.decisions)

    def closing(self) -> None:
        if self._pending:
            self._line()

    def _line(self) -> None:
        stretch, self._pending = self._pending, []
        rows = sum(period.rows for period in stretch)
        if self._quiet or not rows:
            return
        scored = [(period.score, period.rows) for period in stretch if period.score is not None]
        total = sum(count for _, count in scored)
        score = f"{sum(value * count for value, count in scored) / total:.4f}" if total else "–"
        drift = max(period.drift for period in stretch)
        last = stretch[-1]
        self._console.print(
            f"{last.end:%Y-%m-%d %H:%M} {rows:>9,}  {score:>10}  {drift:>6.2f}  {_serving(last)}", highlight=False
        )

    def _decision(self, each: Decision) -> None:
        if self._quiet:
            return
        mark, colour = MARKS.get(each.action, ("·", "dim"))
        version = f" v{each.version}" if each.version is not None else ""
        head = f"{each.at:%Y-%m-%d %H:%M}  {mark} {each.action}{version}"
        lines = textwrap.wrap(
            f"{head}  {each.because}", self._console.width, subsequent_indent=INDENT,
            max_lines=MOST_LINES if colour == "dim" else None, placeholder=" …",
        ) or [head]  # fmt: skip
        first = lines[0][len(head) :]
        self._console.print(f"[{colour}]{escape(head)}[/{colour}]{escape(first)}", highlight=False, soft_wrap=True)
        for line in lines[1:]:
            self._console.print(escape(line), highlight=False, soft_wrap=True)


def _serving(period: Period) -> str:
    if period.champion is None:
        return "–"
    if period.challenger is None:
        return f"v{period.champion} [green]{'█' * BAR}[/green]"
    if period.share == 0:
        return f"v{period.champion} [green]{'█' * BAR}[/green] v{period.challenger} in shadow"
    taken = max(1, round(period.share * BAR))
    return (
        f"v{period.champion} [green]{'█' * (BAR - taken)}[/green][yellow]{'█' * taken}[/yellow] "
        f"v{period.challenger} {period.share:.0%}"
    )


def summary(account: Account) -> str:
    """The last lines: what became of it all."""
    score = "–" if account.score is None else f"{account.score:.4f}"
    seconds = account.seconds
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total" and value >= 0.05)
    speed = account.predictions / seconds["traffic"] if seconds.get("traffic") else 0
    return "\n".join(
        [
            "",
            f"[bold]{account.predictions:,} predictions, {account.failed:,} failed; {account.metric} {score}[/bold]",
            f"{len(account.versions)} versions made, {account.count('promoted', 'released')} became champion, "
            f"{account.count('rejected', 'rolled back')} turned back, {account.count('kept champion')} left undecided",
            f"{seconds.get('total', 0):.1f} s in all ({parts}); {speed:,.0f} predictions/s over HTTP",
        ]
    )
