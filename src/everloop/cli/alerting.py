"""The commands about alerts of one loop. What they do is loaded when called."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder, LoopName

alerts = typer.Typer(no_args_is_help=True, help="What fires, what fired, and who is kept from hearing of it.")


@alerts.command("list")
def alerts_list(
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended too, the newest 50.")] = False,
    as_json: AsJson = False,
) -> None:
    """What fires now, the rules that are watched, and the silences that hold."""
    from rich.console import Console

    from everloop.cli.kept import opened
    from everloop.cli.show import emit, table, when
    from everloop.loop.alerting import kept
    from everloop.loop.turn import plain
    from everloop.spec.alert import name_of

    with opened(home, loop) as each:
        known, silences = kept(each, newest=50 if everything else 1_000)
        shown = [one for one in known if everything or one.ended is None]
        rules = [name_of(rule) for rule in each.loop.watched_alerts]
        value: dict[str, Any] = {
            "loop": each.name,
            "alerts": [plain(one) for one in shown],
            "silences": [plain(one) for one in silences],
            "rules": rules,
        }

        def people(console: Console) -> None:
            if not shown:
                console.print(f"nothing fires; watched: {', '.join(rules) or 'nothing'}", markup=False)
            else:
                rows = [(one.rule, one.severity, when(one.began), when(one.ended), one.because) for one in shown]
                table(console, ("rule", "severity", "since", "ended", "because"), rows)
            for one in silences:
                because = f" ({one.because})" if one.because else ""
                console.print(
                    f"silence {one.id}: {one.rule or 'every rule'} until {when(one.until)}{because}", markup=False
                )

        emit(value, as_json, people)


@alerts.command("silence", short_help="Tell nobody of a rule for a while.")
def alerts_silence(
    rule: Annotated[str, typer.Argument(metavar="RULE", help='A rule as `list` writes it, such as "errors"; or all.')],
    lasting: Annotated[str, typer.Option("--for", help="How long, such as 2h or 1d.")] = "1h",
    because: Annotated[str, typer.Option(help="Why, for whoever looks.")] = "",
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Keep receivers from hearing of a rule. What fires is kept all the same, and told if it outlasts the silence."""
    from everloop.cli.kept import opened
    from everloop.cli.show import Usage, emit, parse_duration, when
    from everloop.loop.alerting import silence
    from everloop.loop.turn import plain
    from everloop.spec.alert import name_of

    span = parse_duration(lasting)
    with opened(home, loop) as each:
        rules = [name_of(one) for one in each.loop.watched_alerts]
        if rule != "all" and rule not in rules:
            raise Usage(f"{rule!r} is no rule of {each.name}; it has: {', '.join(rules) or 'none'}; or write all.")
        made = silence(each, None if rule == "all" else rule, lasting=span, because=because)
        emit(
            plain(made),
            as_json,
            lambda console: console.print(f"silence {made.id}: {rule} until {when(made.until)}", markup=False),
        )


@alerts.command("unsilence")
def alerts_unsilence(
    silence: Annotated[str, typer.Argument(metavar="ID", help="The silence, as `list` names it.")],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """End a silence now."""
    from everloop.cli.kept import opened
    from everloop.cli.show import emit
    from everloop.loop.alerting import unsilence
    from everloop.loop.turn import plain

    with opened(home, loop) as each:
        ended = unsilence(each, silence)
        emit(plain(ended), as_json, lambda console: console.print(f"silence {ended.id} has ended", markup=False))
