"""The commands that divide the traffic of one loop: experiments and routes. What they do is loaded when called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from everloop.cli.options import DEFAULT_HOME, AsJson, HomeFolder, LoopName

if TYPE_CHECKING:
    from everloop.loop.dividing import AskedArm
    from everloop.loop.events import Asked
    from everloop.loop.experiment import ExperimentReport
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


@experiment.command("report", short_help="What it shows so far, valid at every look.")
def experiment_report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The experiment, running or ended.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="An outcome's name; or score, errors, latency. Once for each; score unless named."),
    ] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(metavar="A/B", help="A ratio such as clicks/views, revenue/requests, revenue/units."),
    ] = None,
    covariate: Annotated[
        str | None, typer.Option(help="A request's column, or an outcome as it was before: takes noise away (CUPED).")
    ] = None,
    lower_is_better: Annotated[
        bool | None, typer.Option("--lower-is-better/--higher-is-better", help="For outcomes: higher unless said.")
    ] = None,
    effect: Annotated[float | None, typer.Option(help="The smallest difference that matters, as the metric.")] = None,
    expect: Annotated[
        float, typer.Option(help="Units that you expect in all; choose it before the first look.")
    ] = 10_000.0,
    age: Annotated[
        str | None,
        typer.Option(help="How long after its event time a row counts, such as 7d; the label's delay unless named."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots there.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Hold every arm against the first: the difference, its interval, and what it says in plain words.

    The interval holds at every look, so look as often as you like. Assignment is checked first: where units did not
    fall to the arms as they were to, nothing is read out of the figures.
    """
    from everloop.cli.kept import opened
    from everloop.cli.show import Usage, emit, parse_duration
    from everloop.loop.experiment import Question, examine
    from everloop.loop.experiment_page import page
    from everloop.watch.experiment import Measure

    measures = [Measure(numerator=each) for each in metric or ()]
    for text in ratio or ():
        above, slash, below = text.partition("/")
        if not (above and slash and below):
            raise Usage(f"--ratio is {text!r}; write two names, such as revenue/requests.")
        measures.append(Measure(numerator=above, denominator=below))
    if not expect >= 100 or (effect is not None and not effect > 0):
        raise Usage(f"--expect is {expect:g} and --effect {effect}; write at least 100 units, and an effect above 0.")
    question = Question(
        measures=measures,
        covariate=covariate,
        lower_is_better=lower_is_better,
        effect=effect,
        expected=expect,
        age=None if age is None else parse_duration(age),
    )
    with opened(home, loop) as each:
        found = examine(each, name, question)
    if html is not None:
        try:
            html.write_text(page(found), "utf-8")
        except OSError as error:
            raise Usage(
                f"--html {html} cannot be written: {error.strerror}. Name a file in a folder that is there."
            ) from None
    emit(found, as_json, lambda console: _tell_report(console, found, html))


def _tell_report(console: Any, found: ExperimentReport, html: Path | None) -> None:
    from everloop.cli.show import table, when

    ended = f", stopped {when(found.stopped)}" if found.stopped else ""
    console.print(
        f"{found.loop}: experiment {found.name}, drawn by {found.unit}, started {when(found.started)}{ended}; rows up to "
        f"{when(found.until)}",
        markup=False,
    )
    for measure in found.measures:
        console.print(f"\n{measure.name} ({'lower' if measure.lower_is_better else 'higher'} is better)", markup=False)
        table(
            console,
            ("arm", "version", "share", "units", "rows", "value"),
            (
                (a.name, a.version, f"{a.share:.4g}", f"{a.units:,}", f"{a.rows:,}", _shown(a.value))
                for a in measure.arms
            ),
        )
        for against in measure.against:
            console.print(f"  {against.words}", markup=False)
        for note in measure.notes:
            console.print(f"  {note}", markup=False, style="dim")
    if html is not None:
        console.print(f"\nthe page is {html}", markup=False)


def _shown(value: float | None) -> str | None:
    return None if value is None else f"{value:.5g}"


@route.command("start", short_help="Let a small model, or confidence, choose the version.")
def route_start(
    arm: Arms = None,
    by: Annotated[str | None, typer.Option(help="The loop whose champion decides; arms are its decisions.")] = None,
    cascade: Annotated[
        float | None,
        typer.Option(help="Ask the arms in turn: the first whose probability is at least this answers."),
    ] = None,
    meaning: Annotated[
        bool,
        typer.Option("--meaning", help="By what queries are about, as declared; the first arm where none is better."),
    ] = False,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Let what is asked choose who answers, in place of a route before.

    With --by another loop's champion decides: `--by difficulty --arm easy=v3 --arm hard=v4`. With --cascade the arms are
    asked in their order: `--cascade 0.8 --arm cheap=v3 --arm dear=v4`. With --meaning each class of queries gives the arms
    weights, moved by what matured labels show. While it stands nothing is released.
    """
    from everloop.cli.kept import opened
    from everloop.cli.show import Usage
    from everloop.loop import dividing
    from everloop.loop.events import Asked

    with opened(home, loop) as each:
        if (by is not None) + (cascade is not None) + meaning != 1:
            raise Usage("Who decides? Write one of --by LOOP, --cascade CONFIDENCE and --meaning.")
        arms = _arms_of(arm, shares=False)
        if meaning:
            wanted = dividing.by_meaning(each, arms)
        elif by is not None:
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


@route.command("show", short_help="What queries are about, and who answers them.")
def route_show(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """The classes of the declared meaning: their share of the queries now and before, and by a route the weights.

    Each loss is the mean of the labelled rows since the route began.
    """
    from everloop.cli.kept import opened
    from everloop.cli.show import emit, table
    from everloop.loop.meaning import report
    from everloop.loop.turn import plain
    from everloop.store.ledger import releases

    with opened(home, loop) as each:
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
        found = report(each, release, each.clock.now())

        def people(console: Any) -> None:
            console.print(f"{each.name}: {found.words}", markup=False)
            rows = []
            for one in found.classes:
                before = "–" if one.before is None else f"{one.before:.1%}"
                weights = ", ".join(f"{name} {weight:.0%}" for name, weight in one.weights.items()) or "–"
                losses = (
                    ", ".join("–" if loss is None else f"{name} {loss:.4g}" for name, loss in one.losses.items()) or "–"
                )
                rows.append((one.name or "(none)", f"{one.recent:.1%}", before, weights, losses, one.because or "–"))
            table(console, ("class", "last 7 days", "28 before", "weights", found.loss, "so far"), rows)

        emit(plain(found), as_json, people)


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
