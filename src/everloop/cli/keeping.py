"""The commands about what is kept: rows taken in, packages. What they do is loaded when called."""

from __future__ import annotations

from typing import Annotated

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder, LoopName

data = typer.Typer(no_args_is_help=True, help="What was taken in: batches, versions of the tables, rows.")
package = typer.Typer(no_args_is_help=True, help="Look into a package and hold it against its signature.")
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="A package folder, a version such as v3, or a digest's beginning.")
]


@data.command("log", short_help="Every batch and what it held.")
def data_log(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Every batch: its file, its rows, what was new, a copy, an outcome or quarantined."""
    from everloop.cli import kept

    kept.data_log(home, loop=loop, as_json=as_json)


@data.command("diff")
def data_diff(
    first: Annotated[int, typer.Argument(metavar="FIRST", help="A version of the raw table.")],
    second: Annotated[int, typer.Argument(metavar="SECOND", help="A later version.")],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Rows that came between two versions of the raw table."""
    from everloop.cli import kept

    kept.data_diff(first, second, home, loop=loop, as_json=as_json)


@data.command("show")
def data_show(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="raw, quarantine, predictions or outcomes.")] = "raw",
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    version: Annotated[int | None, typer.Option(help="As of this version of the table.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows, the newest.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Rows of a table, as they are or as they were."""
    from everloop.cli import kept

    kept.data_show(table, home, loop=loop, version=version, limit=limit, as_json=as_json)


@package.command("verify", short_help="Is every byte as it was signed?")
def package_verify(
    target: Target,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Hold every byte of a package against its manifest and the manifest against its signature."""
    from everloop.cli import kept

    kept.package_verify(target, home, loop=loop, as_json=as_json)


@package.command("show")
def package_show(
    target: Target,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """What a package takes, gives, and where it comes from."""
    from everloop.cli import kept

    kept.package_show(target, home, loop=loop, as_json=as_json)
