"""The commands that look at data: two tables beside each other, and what a business metric goes with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder, LoopName

Out = Annotated[Path | None, typer.Option("--out", help="Write a page with plots here.")]


def drift(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="A .parquet, .csv or .jsonl file, or a folder of .parquet.")
    ],
    now: Annotated[Path, typer.Argument(metavar="NOW", help="The same, newer.")],
    column: Annotated[list[str] | None, typer.Option(help="Only this column; once for each.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Hold two tables against each other: which columns moved, by how much, and in which rows. Needs no loop."""
    from rich.console import Console
    from rich.progress import Progress

    from everloop.cli.show import check_page, emit, table
    from everloop.loop import tables, tables_page
    from everloop.loop.turn import plain

    check_page(out)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("columns", total=None)
        found = tables.compare(
            before,
            now,
            columns=column or (),
            told=lambda done, of: progress.update(task, completed=done, total=of),
        )
    if out is not None:
        out.write_text(tables_page.page(found, before=before.name, now=now.name), "utf-8")

    def people(console: Console) -> None:
        console.print(
            f"{len(found.moved)} of {len(found.columns)} columns moved ({found.rows_before:,} rows before, {found.rows:,} now)"
        )
        for each in found.moved:
            carriers = f"; {', '.join(map(str, each.carried))}" if each.carried else ""
            console.print(f"  {'; '.join(each.moved)}{carriers}", markup=False)
        rest = [each for each in found.columns if not each.moved][:10]
        if rest:
            rows = [
                (each.column, f"{each.psi:.3f}", "" if each.ks is None else f"{each.ks:.3f}", f"{each.missing:.1%}")
                for each in rest
            ]
            table(console, ("not moved", "PSI", "KS", "missing"), rows)
        for names, words in ((found.only_before, "only before"), (found.only_now, "only now")):
            if names:
                console.print(f"{words}: {', '.join(names)}", markup=False)
        for name, because in found.left_out.items():
            console.print(f"not compared: {name} ({because})", markup=False)
        if out is not None:
            console.print(f"the page is {out}", markup=False)

    emit(plain(found) | {"moved": [each.column for each in found.moved]}, as_json, people)


def business(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One outcome; all of them unless named.")] = None,
    days: Annotated[int, typer.Option(min=1, max=730, help="How many whole days back.")] = 90,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Your own metrics (outcomes that are numbers and not the label) by day and by version, and what they go with."""
    from rich.console import Console

    from everloop.cli.kept import opened
    from everloop.cli.show import Usage, check_page, emit, table
    from everloop.loop import business as metrics
    from everloop.loop.turn import plain

    check_page(out)
    with opened(home, loop) as each:
        found = metrics.metrics(each, name, days=days)
        if name is not None and not found:
            raise Usage(
                f"no outcome {name!r} was reported as a number; report it with `everloop outcomes` or over HTTP."
            )
        if out is not None:
            out.write_text(metrics.page(each.name, found), "utf-8")

        def people(console: Console) -> None:
            if not found:
                console.print("no outcome beside the label was reported as a number", markup=False)
            for one in found:
                console.print(f"[bold]{one.name}[/bold]: {one.count:,} outcomes since {one.since:%Y-%m-%d}")
                for said in one.words:
                    console.print(f"  {said}", markup=False)
                rows = [(v.version, v.arm, f"{v.mean:.4g} ± {v.half:.2g}", f"{v.count:,}") for v in one.by_version]
                if rows:
                    table(console, ("version", "arm", "mean", "outcomes"), rows)
            if out is not None:
                console.print(f"the page is {out}", markup=False)

        emit({"loop": each.name, "metrics": [plain(one) for one in found]}, as_json, people)
