"""The commands that divide the traffic of one loop: experiments and routes. What they do is loaded when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder, LoopName

if TYPE_CHECKING:
    from everloop.loop.dividing import AskedArm
    from everloop.loop.events import Asked
    from everloop.loop.installation import Installation
    from everloop.records import Experiment, Release

experiment = typer.Typer(no_args_is_help=True, help="A/B tests between versions that are packaged already.")
route = typer.Typer(no_args_is_help=True, help="Let what is asked choose the version: a small model, or a cascade.")

Arms = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="NAME=VERSION[:SHARE]", help="An arm, such as treatment=v5:0.3; once for each."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The experiment's name, never used before.")]


@experiment.command("start", short_help="Divide the traffic between versions.")
def experiment_start(
    name: Name,
    arm: Arms = None,
    unit: Annotated[
        str | None, typer.Option(help="The column whose value decides; the prediction's id unless named.")
    ] = None,
    sticky: Annotated[
        str, typer.Option(help="always: a unit keeps its arm; hour: it is drawn anew every hour.")
    ] = "always",
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Start an A/B test: each arm a version, each with its share of all traffic.

    An arm without a share gets an even part of what the others leave. While it runs nothing is released.
    """
    from everloop.cli.kept import opened
    from everloop.cli.show import Usage
    from everloop.loop.dividing import new_experiment
    from everloop.loop.events import Asked

    if sticky not in ("hour", "always"):
        raise Usage(f"--sticky is {sticky!r}; write hour or always.")
    kept: Literal["hour", "always"] = "hour" if sticky == "hour" else "always"
    with opened(home, loop) as each:
        started = new_experiment(each, name, _arms_of(arm, shares=True), unit=unit, sticky=kept)
        _ask(each, Asked(action="start experiment", experiment=started))
        _tell(each, started, as_json)


@experiment.command("stop")
def experiment_stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The experiment that runs.")],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """End an A/B test: the champion answers everything again, and what waited for it may begin."""
    from everloop.cli.kept import opened
    from everloop.loop.dividing import known
    from everloop.loop.events import Asked

    with opened(home, loop) as each:
        known(each, name)  # a name that never was is not found; one that has ended does not run
        _ask(each, Asked(action="stop experiment", name=name))
        _tell(each, known(each, name), as_json)


@experiment.command("list")
def experiment_list(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Every A/B test there was: its arms, its unit, when it ran."""
    from everloop.cli.kept import opened
    from everloop.cli.show import emit, table, when
    from everloop.loop.turn import plain
    from everloop.store.ledger import experiments

    with opened(home, loop) as each:
        with each.ledger.read() as connection:
            found = experiments.of(connection, each.name)

        def people(console: Any) -> None:
            if not found:
                console.print("no experiment yet; `everloop experiment start NAME --arm …` begins one")
                return
            table(
                console,
                ("name", "arms", "drawn by", "started", "stopped"),
                ((e.name, _arms(e), _drawn_by(e), when(e.started), when(e.stopped)) for e in found),
            )

        emit([plain(experiment) for experiment in found], as_json, people)


@experiment.command("assign", short_help="Which arm an id has.")
def experiment_assign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The experiment.")],
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The unit; without a unit column the prediction's id, as it was logged.")
    ],
    at: Annotated[
        str | None,
        typer.Option(help="When it asked, ISO; only where units are drawn anew every hour. Now unless named."),
    ] = None,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the arm of an id from the recorded salt and shares, as every server does. No log is read."""
    from everloop.cli.kept import opened
    from everloop.cli.show import emit, parse_instant
    from everloop.loop.dividing import arm_of, known

    with opened(home, loop) as each:
        found = known(each, name)
        moment = each.clock.now() if at is None else parse_instant(at)
        arm = arm_of(found, id, moment)
        value = {"experiment": name, "id": id, "arm": arm.name, "version": arm.version, "share": arm.share}
        emit(value, as_json, lambda console: console.print(f"{id}: {arm.name}, version {arm.version}", markup=False))


@route.command("start", short_help="Let a small model, or confidence, choose the version.")
def route_start(
    arm: Arms = None,
    by: Annotated[str | None, typer.Option(help="The loop whose champion decides; arms are its decisions.")] = None,
    cascade: Annotated[
        float | None,
        typer.Option(help="Ask the arms in turn: the first whose probability is at least this answers."),
    ] = None,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Let what is asked choose who answers, in place of a route before.

    With --by another loop's champion decides: `--by difficulty --arm easy=v3 --arm hard=v4`. With --cascade the arms are
    asked in their order: `--cascade 0.8 --arm cheap=v3 --arm dear=v4`. While it stands nothing is released.
    """
    from everloop.cli.kept import opened
    from everloop.cli.show import Usage
    from everloop.loop import dividing
    from everloop.loop.events import Asked

    with opened(home, loop) as each:
        if (by is None) == (cascade is None):
            raise Usage("Who decides? Write either --by LOOP or --cascade CONFIDENCE.")
        arms = _arms_of(arm, shares=False)
        if by is not None:
            wanted = dividing.route_by_model(each, by, arms)
        else:
            wanted = dividing.cascade(each, cascade or 0.0, arms)
        _tell_route(each, _ask(each, Asked(action="route", route=wanted)), as_json)


@route.command("stop")
def route_stop(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """End the route: the champion answers everything again, and what waited for it may begin."""
    from everloop.cli.kept import opened
    from everloop.loop.events import Asked

    with opened(home, loop) as each:
        _tell_route(each, _ask(each, Asked(action="unroute")), as_json)


def _arms_of(texts: list[str] | None, *, shares: bool) -> list[AskedArm]:
    return [_arm(text, shares=shares) for text in texts or ()]


def _arm(text: str, *, shares: bool) -> AskedArm:
    """``name=v5`` or, with ``shares``, ``name=v5:0.3``."""
    from everloop.cli.kept import version_number
    from everloop.cli.show import Usage
    from everloop.loop.dividing import AskedArm

    name, _, rest = text.partition("=")
    version, colon, share = rest.partition(":")
    number = version_number(version if version[:1] in ("v", "V") else f"v{version}")
    try:
        part = float(share) if colon else None
    except ValueError:
        part = -1.0
    if not name or number is None or (part is not None and (not shares or not 0 < part < 1)):
        example = "treatment=v5 or treatment=v5:0.3" if shares else "hard=v4"
        raise Usage(f"--arm is {text!r}; write a name and a version, such as {example}.")
    return AskedArm(name=name, version=number, share=part)


def _ask(each: Installation, asked: Asked) -> Release:
    from everloop.durable.engine import Engine
    from everloop.jobs.process import ProcessExecutor
    from everloop.loop.controller import Controller
    from everloop.loop.publish import publish

    Controller(each, Engine(each.ledger, each.clock), ProcessExecutor()).ask(asked)
    return publish(each)


def _tell(each: Installation, found: Experiment, as_json: bool) -> None:
    from everloop.cli.show import emit
    from everloop.loop.turn import plain

    def people(console: Any) -> None:
        if found.stopped is not None:
            console.print(f"{each.name}: experiment {found.name} is stopped", markup=False)
            return
        console.print(f"{each.name}: experiment {found.name} runs, drawn by {_drawn_by(found)}", markup=False)
        for arm in found.arms:
            console.print(f"  {arm.name}: version {arm.version}, {arm.share:.4g} of the traffic", markup=False)

    emit(plain(found), as_json, people)


def _tell_route(each: Installation, release: Release, as_json: bool) -> None:
    from everloop.cli.kept import serving
    from everloop.cli.show import emit
    from everloop.loop.turn import plain

    emit(plain(release), as_json, lambda console: console.print(f"{each.name}: {serving(release)}", markup=False))


def _arms(found: Experiment) -> str:
    return ", ".join(f"{arm.name}=v{arm.version}:{arm.share:.4g}" for arm in found.arms)


def _drawn_by(found: Experiment) -> str:
    if found.unit is None:
        return "id"
    return found.unit if found.sticky == "always" else f"{found.unit}, every hour"
