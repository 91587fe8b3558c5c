"""The commands, their options and their help. What they do is in the modules beside this one, loaded when called.

Exit codes: 0 done; 1 something else failed; 2 the command line itself; 3 the declaration; 4 rows or files; 5 the fit
or a job; 6 a package; 7 the server; 8 a release; 9 a durable run; 10 storage; 11 no such thing; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from everloop.cli import alerting, backtesting, dividing, ended, keeping, keying, watching
from everloop.cli.options import DEFAULT_HOME, AsJson, Env, HomeFolder, LoopName

app = typer.Typer(
    name="everloop",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=(
        "Declare how a model is made and what it must hold; everloop keeps it true, and can prove what it did.\n\n"
        "Start with `everloop demo`, then `everloop check FILE`, `everloop replay FILE`, `everloop up FILE`."
    ),
    epilog=(
        "Exit codes: 0 done, 2 the command line, 3 the declaration, 4 rows or files, 5 the fit, 6 a package, "
        "7 the server, 8 a release, 9 a durable run, 10 storage, 11 no such thing, 130 interrupted."
    ),
)
app.add_typer(keeping.data, name="data")
app.add_typer(keeping.package, name="package")
app.add_typer(keying.keys, name="keys")
app.add_typer(dividing.experiment, name="experiment")
app.add_typer(dividing.route, name="route")
app.add_typer(alerting.alerts, name="alerts")

Declaration = Annotated[Path, typer.Argument(metavar="FILE", help="The Python file that declares the loop.")]


def version_number(text: str) -> int:
    """``3`` or ``v3``, as `everloop versions` writes it."""
    if not text.removeprefix("v").isdigit():
        raise typer.BadParameter(f"{text!r} is not a version; write its number, such as 3 or v3.")
    return int(text.removeprefix("v"))


@app.command()
def check(
    declaration: Declaration,
    loop: LoopName = None,
    turn: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000_000, help="Also make a whole turn on this many of the newest rows, released to nobody."
        ),
    ] = 0,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Is the declaration sound, and what will it do?

    Reads the source's columns and labels, and says in plain words what the loop will do, defaults included.
    """
    from everloop.cli import declared

    declared.check(declaration, loop=loop, turn=turn, environment=env, as_json=as_json)


@app.command(short_help="One turn of the loop, now.")
def run(declaration: Declaration, loop: LoopName = None, env: Env = None, as_json: AsJson = False) -> None:
    """One turn of the loop, now: take in new files, fit, gate, package, release.

    Exits with 0 when a version was made, whatever the gate said of it, and with 5 when none could be made.
    """
    from everloop.cli import declared

    declared.run(declaration, loop=loop, environment=env, as_json=as_json)


@app.command(short_help="Serve, watch, retrain and release until stopped.")
def up(
    declaration: Declaration,
    loop: LoopName = None,
    env: Env = None,
    host: Annotated[
        str | None, typer.Option(help="Where to listen; 127.0.0.1 unless everloop.toml says otherwise.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port; 8700 unless everloop.toml says otherwise.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the signals.")] = 5.0,
) -> None:
    """Serve, watch, retrain and release until stopped (Ctrl-C or SIGTERM; it drains and ends with 0)."""
    from everloop.cli import declared

    declared.up(declaration, loop=loop, environment=env, host=host, port=port, every=every)


@app.command(short_help="Write rules and dashboards for Prometheus and Grafana.")
def monitoring(
    declaration: Declaration,
    out: Annotated[Path, typer.Option(help="The folder that they are written into.")],
    loop: LoopName = None,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Write, from the declaration, what Prometheus, Alertmanager and Grafana need to watch its loops."""
    from everloop.cli import declared

    declared.monitoring(declaration, loop=loop, environment=env, out=out, as_json=as_json)


@app.command(short_help="Your history through the whole real system.")
def replay(
    declaration: Declaration,
    loop: LoopName = None,
    start: Annotated[str | None, typer.Option(help="First instant served, ISO; before it lies only history.")] = None,
    to: Annotated[str | None, typer.Option(help="Last instant served, ISO.")] = None,
    look: Annotated[str, typer.Option(help="Event time between two looks, such as 1d, 12h or 7d.")] = "1d",
    drift: Annotated[
        str | None, typer.Option(help="Turn the world around from here on: 0.5 (share of history) or an instant.")
    ] = None,
    poison: Annotated[str | None, typer.Option(help="Report wrong labels for a while: START or START+7d.")] = None,
    outcome: Annotated[
        str | None,
        typer.Option(help="A function f(row, answer) of FILE: the outcomes, by name, that come of an answer."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the HTML report here.")] = None,
    home: Annotated[Path | None, typer.Option(help="Keep the replay's home here, to look into it afterwards.")] = None,
    as_json: AsJson = False,
) -> None:
    """Your own history through the whole real system, in event time.

    Serves the rows over HTTP in their order with a simulated clock, reveals labels after their delay, and lets the
    loop turn: triggers, fits, gate, shadow, canary, promotion and rollback are the real ones.
    """
    from everloop.cli import replayed

    replayed.replay(
        declaration,
        loop=loop,
        start=start,
        to=to,
        look=look,
        drift=drift,
        poison=poison,
        outcome=outcome,
        out=out,
        home=home,
        as_json=as_json,
    )


app.command(short_help="Which retraining policy would have been best?")(backtesting.backtest)


@app.command(short_help="See a year of it in under a minute, on made data.")
def demo(
    dataset: Annotated[
        str | None, typer.Option("--data", help="hflights or elec2 instead of the simulated service.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the demo and its report go.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="The simulation's seed.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Watch a model go stale, be retrained and released, and a bad candidate be turned back. Under a minute."""
    from everloop.cli import replayed

    replayed.demo(dataset=dataset, out=out, seed=seed, as_json=as_json)


@app.command()
def status(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Who serves, what is under way, and what was decided last."""
    from everloop.cli import kept

    kept.status(home, loop=loop, as_json=as_json)


@app.command(short_help="Every version and what became of it.")
def versions(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Every version with its trigger, its score, its gate and what became of it."""
    from everloop.cli import kept

    kept.versions(home, loop=loop, as_json=as_json)


@app.command(short_help="From a prediction or version back to rows and reasons.")
def why(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A prediction's id, or a version such as v3.")],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Instead: what each column brought to the answer, or to a version's answers."),
    ] = False,
    of_class: Annotated[
        str | None, typer.Option("--class", help="With --explain: whose probability; the positive or decided class.")
    ] = None,
    by_graph: Annotated[
        bool,
        typer.Option("--by-graph", help="With --explain: ask the served graph, whatever the model itself can tell."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --explain: a picture, .svg or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Walk back: prediction → package → fit → exact rows → what triggered it → what the gate saw."""
    if explain:
        from everloop.cli import explained

        explained.explain(subject, home, loop=loop, subject=of_class, by_graph=by_graph, out=out, as_json=as_json)
        return
    if out is not None or of_class is not None or by_graph:
        raise typer.BadParameter("--out, --class and --by-graph go with --explain; write that, too.")
    from everloop.cli import kept

    kept.why(subject, home, loop=loop, as_json=as_json)


@app.command(short_help="Send what MLflow does not have yet.")
def mirror(
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Look at every version again, whatever was sent before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send every version that the MLflow server does not have yet, and who is champion.

    The server is `mlflow` in everloop.toml, else MLFLOW_TRACKING_URI.
    """
    from everloop.cli import mirrored

    mirrored.mirror(home, loop=loop, rebuild=rebuild, as_json=as_json)


@app.command("live-at")
def live_at(
    time: Annotated[
        str, typer.Argument(metavar="TIME", help="An instant, ISO: 2026-03-01T12:00 (UTC unless it says otherwise).")
    ],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """What served at that time."""
    from everloop.cli import kept

    kept.live_at(time, home, loop=loop, as_json=as_json)


app.command(short_help="Two tables beside each other: what moved.")(watching.drift)
app.command(short_help="Your own metrics, and what they go with.")(watching.business)


@app.command()
def promote(
    version: Annotated[
        int | None,
        typer.Argument(
            parser=version_number, metavar="VERSION", help="Which version; the challenger if none is named."
        ),
    ] = None,
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Make a version champion now, without waiting for the judge."""
    from everloop.cli import kept

    kept.ask("promote", home, loop=loop, version=version, as_json=as_json)


@app.command(short_help="Turn the challenger back, or the champion.")
def rollback(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Turn the challenger back; without one, return to the champion before this one."""
    from everloop.cli import kept

    kept.ask("rollback", home, loop=loop, as_json=as_json)


@app.command()
def pause(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Keep serving as it is, decide nothing until `everloop resume`."""
    from everloop.cli import kept

    kept.ask("pause", home, loop=loop, as_json=as_json)


@app.command()
def resume(home: HomeFolder = DEFAULT_HOME, loop: LoopName = None, as_json: AsJson = False) -> None:
    """Decide again."""
    from everloop.cli import kept

    kept.ask("resume", home, loop=loop, as_json=as_json)


@app.command()
def outcomes(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, CSV or Parquet with id, value and optionally name, at.")
    ],
    home: HomeFolder = DEFAULT_HOME,
    loop: LoopName = None,
    as_json: AsJson = False,
) -> None:
    """Report what came true, from a file. All of it or, with a row that cannot be meant, nothing."""
    from everloop.cli import kept

    kept.outcomes(file, home, loop=loop, as_json=as_json)


@app.command()
def decide(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="The run that `everloop status` shows as needs-decision.")
    ],
    way: Annotated[str, typer.Argument(metavar="WAY", help="continue (with the new code), restart or cancel.")],
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """How a run goes on whose code changed while it waited."""
    from everloop.cli import kept

    kept.decide(run_id, way, home, as_json=as_json)


@app.command(short_help="Score files with the same graph that serves.")
def batch(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE", help="A loop's name, its declaration file, a package folder or a digest's beginning."
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="A Parquet, CSV or JSON-lines file, a folder, a glob or a Delta table."),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A file, its form by its ending; or a folder or Delta table, resumable."),
    ],
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="A number, champion or challenger; the champion unless named.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Of a folder's files: parquet, csv, jsonl; delta makes a table.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Columns beside the answers: all, key, or names with commas between them.")
    ] = "all",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Put rows that cannot be scored aside, with the reason.")
    ] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="How many cores score; all unless named.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Score files with the same graph that serves: the same answers, to the last digit.

    Rows are streamed, every core works. What was stopped goes on where it was: files of a folder are never done twice.
    """
    # Frames of one size come and go: memory that is given back at once must be fetched again, at 4 % of the CPU.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:30000,muzzy_decay_ms:30000")
    from everloop.cli import batch as scoring

    scoring.batch(
        subject,
        source,
        target,
        home=home,
        version=version,
        form=form,
        keep=keep,
        skip_bad=skip_bad,
        cores=cores,
        as_json=as_json,
    )


def run_app(arguments: list[str] | None = None) -> int:
    """The exit code of a command line, with mistakes told in one line."""
    given = sys.argv[1:] if arguments is None else arguments
    return ended.code_of(lambda: app(args=given, standalone_mode=False), as_json="--json" in given)


def run_and_exit() -> None:
    sys.exit(run_app())
