"""A backtest on a terminal: the recommendation, a table of policies, what if. Reads a result and its answer."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from everloop.loop.backtest import words
from everloop.loop.backtest.answer import Answer, Judged
from everloop.loop.backtest.result import BacktestResult

MOST_ROWS = 20
WIDE = 110
"""Columns of a terminal from which on there is room for dates and regret."""


def show(console: Console, result: BacktestResult, answer: Answer, *, most: int = MOST_ROWS) -> None:
    """Print it. Who matters is always among the rows; of the rest the best ``most``."""
    chosen = answer.of(answer.recommended)
    console.print(_table(result, answer, most, wide=console.width >= WIDE))
    if answer.common:
        console.print(f"[dim]all of them: {escape(', '.join(answer.common))}[/dim]", soft_wrap=True)
    if len(answer.policies) > most:
        console.print(f"[dim]the best {most} of {len(answer.policies)}; the report has more[/dim]")
    console.print(f"[dim]score: {escape(answer.yardstick)}; worst: of a single window[/dim]", soft_wrap=True)
    console.print(
        f"[dim]* recommended{', + at any cost' if answer.at_any_cost != answer.recommended else ''}, = cannot be told apart from the best, d the declared one; behind: than the truly best, at most "
        f"({1 - answer.alpha:.0%} for all together)[/dim]",
        soft_wrap=True,
    )
    for each in answer.left_out:
        console.print(f"[yellow]left out: {escape(each)}[/yellow]", soft_wrap=True)
    console.print(f"\n[bold green]Recommended: {escape(chosen.name)}[/bold green]", soft_wrap=True)
    said = [
        " ".join(words.why(answer)),
        words.otherwise(answer),
        words.present(answer),
        words.floor(answer),
        words.could_have(answer),
        words.half_time(answer, result),
    ]
    for sentence in said:
        if sentence:
            console.print(escape(sentence), soft_wrap=True)
    for changed in answer.what_if:
        note = "another one: " if changed.changes else "the same: "
        console.print(
            f"[bold]{escape(changed.what)}[/bold]  {note}{escape(changed.name)}, {words.figure(changed.score)} with "
            f"{words.cost(changed.cost, answer)} [dim]({words.fits_of(changed)})[/dim]",
            soft_wrap=True,
        )
    console.print("\nTo use it, put this between the parentheses of el.Loop(…):\n", markup=False)
    console.print(f"    {chosen.line}", markup=False, soft_wrap=True)


def _table(result: BacktestResult, answer: Answer, most: int, *, wide: bool) -> Table:
    money, total = answer.unit == "money", answer.judged_by == "money"
    shown = Table(box=None, pad_edge=False, header_style="dim")
    shown.add_column("")
    shown.add_column("policy", overflow="fold")
    money_heads = [*(["cost"] if money else []), *(["in all"] if total else [])]
    for head in ("score", "behind", "retrains", *money_heads, "paid", *(["regret"] if wide else []), "worst"):
        shown.add_column(head, justify="right", no_wrap=True)
    wanted = {answer.recommended, answer.at_any_cost, answer.best, answer.present}
    rows = [each for at, each in enumerate(answer.policies) if at < most or each.place in wanted]
    for each in rows:
        costs = result.runs[each.place].costs
        retrains = f"{costs.retrains:,}" + (f" (−{costs.rejected})" if costs.rejected else "")
        cells = [
            _mark(answer, each),
            escape(each.name),
            words.figure(each.score),
            words.amount(each.behind_at_most, answer).removesuffix(" of money"),
            retrains,
            *([f"{each.cost:,.2f}"] if money else []),
            *([f"{each.total:,.2f}"] if each.total is not None else []),
            f"{costs.released - costs.never_paid}/{costs.released}" if costs.released else "–",
            *(["–" if each.regret is None else words.gap(max(each.regret, 0.0))] if wide else []),
            words.worst(each, result) if wide else words.figure(each.worst_score),
        ]
        style = "bold green" if each.place == answer.recommended else "" if each.indistinct else "dim"
        shown.add_row(*cells, style=style)
    return shown


def _mark(answer: Answer, each: Judged) -> str:
    marks = "=" if each.indistinct else " "
    if each.place == answer.recommended:
        marks = "*"
    elif each.place == answer.at_any_cost:
        marks = "+"
    return marks + ("d" if each.place == answer.present else "")
