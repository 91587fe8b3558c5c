"""`everloop why … --explain`: contributions as a table, a picture, or JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from everloop.cli.kept import opened, version_number
from everloop.cli.show import Usage, emit, table
from everloop.loop.attribution import Attribution, attribute, pixels_of
from everloop.loop.importance import Importance, importance
from everloop.loop.installation import Installation
from everloop.loop.turn import plain

WIDTH = 24
"""Letters of the longest bar on a terminal."""
MOST_WORDS = 12


def explain(
    id: str, home: Path, *, loop: str | None, subject: str | None, by_graph: bool, out: Path | None, as_json: bool
) -> None:
    if out is not None and out.suffix not in (".svg", ".png"):
        raise Usage(f"--out is {out.name}; write a name that ends in .svg or .png.")
    with opened(home, loop) as each:
        number = version_number(id)
        told = (
            importance(each, number, subject=subject, by_graph=by_graph)
            if number is not None
            else attribute(each, id, subject=subject, by_graph=by_graph)
        )
        drawn = [] if out is None else _drawn(each, told, out)

    def people(console: Console) -> None:
        if isinstance(told, Importance):
            _version(console, told)
        else:
            _prediction(console, told)
        for path in drawn:
            console.print(f"picture: {path}", markup=False)

    emit(plain(told), as_json, people)


def _drawn(installation: Installation, told: Attribution | Importance, out: Path) -> list[Path]:
    """The pictures' files: one of the columns, and beside it one of each image and text among them."""
    from everloop.loop import attribution_plot as plots

    if isinstance(told, Importance):
        figures = [("", plots.of_version(told)), *plots.inside(told)]
    else:
        figures = [("", plots.of_prediction(told))]
        for part in told.contributions:
            if part.parts:
                figures.append((part.name, plots.of_image(told, part, pixels_of(installation, told, part.name))))
            elif part.words:
                figures.append((part.name, plots.of_words(told, part)))
    written = []
    for name, figure in figures:
        named = re.sub(r"[^\w.-]", "_", name)  # a column may be called km/h
        written.append(out.with_stem(f"{out.stem}-{named}") if name else out)
        plots.save(figure, written[-1])
    return written


def _prediction(console: Console, told: Attribution) -> None:
    from everloop.loop.attribution_plot import short

    if told.subject is not None:
        answer = f"the probability of {told.subject} is {told.answer:.4f}"
    else:
        answer = f"the value is {told.answer:.6g}"
    served = "" if told.served is None else f", served was {told.served:.6g}"
    console.print(f"{told.loop} {told.id}, version {told.version}: {answer}{served}", markup=False)
    console.print(
        f"by {told.method}, in {told.scale}: usual {told.base:+.4f}, all contributions {told.total - told.base:+.4f}, "
        f"together {told.total:+.4f}"
        + (f"; {told.gap:+.4f} is missed by summing gradients up in steps" if abs(told.gap) >= 5e-5 else ""),
        markup=False, style="dim",
    )  # fmt: skip
    if told.note is not None:
        console.print(told.note, markup=False, style="dim")
    longest = max((abs(each.contribution) for each in told.contributions), default=0.0) or 1.0
    sampled = any(each.error > 0 for each in told.contributions)
    rows: list[tuple[Any, ...]] = []
    for each in told.contributions:
        row: tuple[Any, ...] = (each.name, short(each.value), f"{each.contribution:+.4f}")
        row += (f"± {each.error:.4f}",) if sampled else ()
        rows.append((*row, _bar(each.contribution / longest)))
    table(console, ("column", "value", "contribution", *(("error",) if sampled else ()), ""), rows)
    for each in told.contributions:
        if each.words:
            strongest = sorted(each.words, key=lambda word: -abs(word[1]))[:MOST_WORDS]
            console.print(f"words of {each.name}, the strongest first:", markup=False)
            table(console, ("word", "contribution"), ((word, f"{share:+.4f}") for word, share in strongest))


def _version(console: Console, told: Importance) -> None:
    subject = f" of {told.subject}" if told.subject is not None else ""
    console.print(f"{told.loop}, version {told.version}: what moves its answers on {told.rows} test rows", markup=False)
    console.print(f"by {told.method}, in {told.scale}{subject}", markup=False, style="dim")
    if told.note is not None:
        console.print(told.note, markup=False, style="dim")
    longest = max((each.mean for each in told.weights), default=0.0) or 1.0
    table(
        console,
        ("column", "mean size", "5 %", "median", "95 %", ""),
        (
            (
                each.name, f"{each.mean:.4f}", f"{each.quantiles[0]:+.3f}", f"{each.quantiles[2]:+.3f}",
                f"{each.quantiles[4]:+.3f}", _bar(each.mean / longest),
            )
            for each in told.weights
        ),
    )  # fmt: skip


def _bar(share: float) -> str:
    length = round(abs(share) * WIDTH)
    return ("█" if share >= 0 else "░") * length
