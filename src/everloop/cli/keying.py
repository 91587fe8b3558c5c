"""The commands about API keys. What they do is loaded when called."""

from __future__ import annotations

from typing import Annotated

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder

keys = typer.Typer(no_args_is_help=True, help="API keys: who may ask the server. It follows them without a restart.")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; it stands in logs and refusals.")]


@keys.command("add", short_help="Make a key; it is shown once.")
def keys_add(
    name: KeyName,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good for, such as 90d; for ever unless given.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="How often it may ask, in any such stretch of time: 100/s, 600/m, 1000/h.")
    ] = None,
    quota: Annotated[str | None, typer.Option(help="How often it may ask in a UTC day: 1000000/d.")] = None,
    priority: Annotated[str, typer.Option(help="The highest class it may ask for: high, normal or low.")] = "normal",
    loop: Annotated[
        list[str] | None, typer.Option("--loop", help="Only this loop; may be given several times; all unless given.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="predict, or operate (/metrics, /status); may be given several times; predict unless given."),
    ] = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once; what is kept is its hash."""
    from everloop.cli import keyed

    keyed.add(
        name,
        home,
        expires=expires,
        rate=rate,
        quota=quota,
        priority=priority,
        loops=loop or [],
        scopes=scope or [],
        as_json=as_json,
    )


@keys.command("list")
def keys_list(home: HomeFolder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Every key with its state, its limits and what it used of its quota today."""
    from everloop.cli import keyed

    keyed.listed(home, as_json=as_json)


@keys.command("revoke")
def keys_revoke(name: KeyName, home: HomeFolder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """End every key of this name now; servers follow within a moment."""
    from everloop.cli import keyed

    keyed.revoke(name, home, as_json=as_json)


@keys.command("rotate", short_help="Make a new key beside the old one.")
def keys_rotate(
    name: KeyName,
    overlap: Annotated[
        str, typer.Option(help="How long the old key is still taken, such as 7d; 0 for not at all.")
    ] = "7d",
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a new key with the limits of the old one, which is taken a while longer. Both share one allowance."""
    from everloop.cli import keyed

    keyed.rotate(name, home, overlap=overlap, as_json=as_json)
