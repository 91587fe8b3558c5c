"""The commands that look into a home, or ask its loop for something. They need no declaration file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
from rich.console import Console
from rich.markup import escape

from everloop.cli.show import Usage, emit, parse_instant, table, when
from everloop.data import show as shown_data
from everloop.durable import runs
from everloop.durable.engine import WAYS, Engine
from everloop.errors import NotFound
from everloop.jobs.process import ProcessExecutor
from everloop.loop import explain
from everloop.loop.advice import advice
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.loop.installation import Installation, reopen
from everloop.loop.outcomes import read_outcomes, report
from everloop.loop.publish import publish
from everloop.loop.signals import drift_state
from everloop.loop.turn import plain
from everloop.loop.worth import LEAST_RELEASES, gains, never_pays
from everloop.loop.worth import words as gain_in_words
from everloop.measure.truth import class_name
from everloop.records import Batch, Release, Version
from everloop.store import packages
from everloop.store.ledger import batches, decisions, releases
from everloop.store.ledger import versions as version_ledger

DEFAULT_FOLDER, LEDGER = ".everloop", "ledger.sqlite"
MOST_COLUMNS = 8
"""Beyond it a terminal shows a row as lines."""


@contextmanager
def opened(home: Path, loop: str | None, *, of_run: str | None = None) -> Iterator[Installation]:
    inside = home / DEFAULT_FOLDER  # a replay or a project was named instead of the home in it
    here = home if (home / LEDGER).exists() or not (inside / LEDGER).exists() else inside
    installation = reopen(here, name=loop, of_run=of_run)
    try:
        yield installation
    finally:
        installation.close()


def status(home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
            newest = decisions.of(connection, each.name, newest=8)
            known = version_ledger.of(connection, each.name)
            under_way = runs.under_way(connection, each.name)
            promoted = [d.version for d in decisions.of(connection, each.name) if d.action == "promoted" and d.version]
        watched = drift_state(each)
        advised = advice(each)
        unpaid = never_pays(promoted, gains(each, known, of=promoted[-2 * LEAST_RELEASES :]))
        value = {
            "loop": each.name,
            "release": plain(release),
            "versions": len(known),
            "runs": [plain(run) for run in under_way],
            "decisions": [plain(decision) for decision in newest],
            "drift": watched,
            "labels": None if advised is None else plain(advised),
            "retraining": unpaid,
        }

        def people(console: Console) -> None:
            console.print(f"[bold]{each.name}[/bold]: {serving(release)}")
            for one in watched:
                console.print(f"drift, windows of {one['window']}: limits {one['limits']}", markup=False)
                if one["finds"]:
                    console.print(f"  {one['finds']}", markup=False)
                for said in one["notes"]:
                    console.print(f"  {said}", markup=False)
                for alarm in one["alarms"]:
                    console.print(f"  {alarm}", markup=False)
            for said in () if advised is None else advised.words:
                console.print(f"labels: {said}", markup=False)
            if unpaid is not None:
                console.print(unpaid, markup=False)
            for run in under_way:
                because = f" ({run.because})" if run.because else ""
                console.print(f"run {run.id}: {run.status}{because}", markup=False)
                if run.status == "needs-decision":
                    console.print(f"  go on with: everloop decide {run.id} continue | restart | cancel")
            for d in newest:
                version = f" v{d.version}" if d.version is not None else ""
                console.print(f"  {when(d.at)}  {d.action}{version}: {d.because}", markup=False)

        emit(value, as_json, people)


def serving(release: Release) -> str:
    if release.champion is None:
        return "nothing serves yet; `everloop run FILE` makes the first version"
    text = f"version {release.champion} serves"
    if release.experiment is not None:
        text = f"experiment {release.experiment} divides the traffic; version {release.champion} is champion"
    elif release.route is not None:
        decides = f"version {release.route.by_version} of {release.route.by}"
        if release.route.weights is not None:
            decides = "meaning"
        elif release.route.threshold is not None:
            decides = f"confidence {release.route.threshold:g}"
        arms = ", ".join(f"{each.name} v{each.version}" for each in release.route.arms)
        text = f"{decides} decides who answers ({arms}); version {release.champion} is champion"
    elif release.challenger is not None:
        text += (
            f", version {release.challenger} in shadow"
            if release.share == 0
            else f", version {release.challenger} takes {release.share:.0%}"
        )
    return text + (" (paused: nothing is decided)" if release.paused else "")


def versions(home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        with each.ledger.read() as connection:
            known = version_ledger.of(connection, each.name)
            release = releases.get(connection, each.name)
            fates = {
                version.number: [d.action for d in decisions.of(connection, each.name, version=version.number)]
                for version in known
            }

        gained = gains(each, known)
        unpaid = never_pays([number for number, actions in fates.items() if "promoted" in actions], gained)

        def mark(version: Version) -> str:
            if version.number == release.champion:
                return "champion"
            if version.number == release.challenger:
                return "challenger"
            told = [each for each in fates[version.number] if each not in ("comparison ended", "weights moved")]
            last = told[-1] if told else "–"
            return "was champion" if last in ("promoted", "released") else last

        def people(console: Console) -> None:
            if not known:
                console.print("no version yet; `everloop run FILE` makes the first")
            for v in known:
                score = f"{each.resolved.score.name} {v.score:.4f}"
                console.print(f"[bold]v{v.number}[/bold]  {mark(v)}  {score}  made {when(v.created_at)}")
                console.print(f"    trigger: {v.trigger}", markup=False)
                console.print(f"    gate: {v.verdict.because}", markup=False)
                if v.number in gained:
                    console.print(f"    live: {gain_in_words(gained[v.number])}", markup=False)
            if unpaid is not None:
                console.print(unpaid, markup=False)

        emit(
            [
                {
                    **plain(version),
                    "now": mark(version),
                    "live": plain(gained[version.number]) if version.number in gained else None,
                }
                for version in known
            ],
            as_json,
            people,
        )


def why(subject: str, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        number = version_number(subject)
        if number is not None:
            value = explain.of_version(each, number)
        else:
            value = explain.prediction(each, subject)

        def people(console: Console) -> None:
            for row in value.get("prediction", ()):
                console.print(
                    f"[bold]prediction {escape(row['id'])}[/bold] at {row['at']}: {_arm_of(row)}, version {row['version']}"
                )
            for row in value.get("outcomes", ()):
                known = row["value_text"] if row["value_text"] is not None else row["value_number"]
                console.print(f"  came true at {row['at']}: {row['name']} = {known}", markup=False)
            version, lineage = value["version"], value["package"]["lineage"]
            console.print(
                f"[bold]version {version['number']}[/bold] {version['package'][:16]}…, made {version['created_at']}"
            )
            console.print(f"  trigger: {version['trigger']}", markup=False)
            given = [fact["detail"].get("limits") for each in value["trigger"] for fact in each["evidence"]]
            for limits in dict.fromkeys(each for each in given if each):
                console.print(f"    limits: {limits}", markup=False)
            found = ", ".join(f"{name}={chosen}" for name, chosen in lineage["parameters"].items())
            console.print(f"  fit: {lineage['estimator']}, {found or 'its parameters as declared'}", markup=False)
            rows = value["rows"]
            console.print(
                f"  rows: {rows['train_rows']:,} to fit from {rows['train_from']}, {rows['test_rows']:,} to test from "
                f"{rows['test_from']} to {rows['to']}; raw version {rows['raw_version']}, snapshot {rows['digest'][:16]}…"
            )
            console.print(f"  {value['package']['metric']}: {value['package']['score']:.4f} on its test rows")
            console.print(f"  gate: {value['gate']['because']}", markup=False)
            for fact in value["gate"]["evidence"]:
                console.print(f"    {fact['name']}: {fact['value']}{_limit(fact)}", markup=False)
            for decision in value["decisions"]:
                console.print(f"  {decision['at']} {decision['action']}: {decision['because']}", markup=False)

        emit(value, as_json, people)


def _arm_of(row: dict[str, Any]) -> str:
    """The role in which it was answered; in an experiment or a route with the arm's own name."""
    named = row.get("experiment")
    text = f"arm {row['arm']}" + (f" {named}" if named else "")
    return escape(f"{text} {row['variant']}" if row.get("variant") else text)


def _limit(fact: dict[str, Any]) -> str:
    return f" (limit {fact['limit']})" if fact["limit"] is not None else ""


def version_number(subject: str) -> int | None:
    return int(subject[1:]) if re.fullmatch("[vV][0-9]{1,9}", subject) else None


def live_at(time: str, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        instant = parse_instant(time)
        value = explain.live_at(each, instant)

        def people(console: Console) -> None:
            with each.ledger.read() as connection:
                release = releases.at(connection, each.name, instant)
            assert release is not None
            console.print(f"at {instant.isoformat()}: {serving(release)} (since {when(release.since)})")
            for name, digest in value["packages"].items():
                console.print(f"  {name}: {digest}")
            for decision in value["because"]:
                console.print(f"  because {decision['because']}", markup=False)

        emit(value, as_json, people)


def ask(
    action: Literal["promote", "rollback", "pause", "resume"],
    home: Path,
    *,
    loop: str | None,
    as_json: bool,
    version: int | None = None,
) -> None:
    with opened(home, loop) as each:
        if version is not None:
            with each.ledger.read() as connection:
                version_ledger.get(connection, each.name, version)
        controller = Controller(each, Engine(each.ledger, each.clock), ProcessExecutor())
        controller.ask(Asked(action=action, version=version))
        release = publish(each)
        emit(plain(release), as_json, lambda console: console.print(f"{each.name}: {serving(release)}"))


def decide(run_id: str, way: str, home: Path, *, as_json: bool) -> None:
    chosen = next((known for known in WAYS if known == way), None)
    if chosen is None:
        raise Usage(f"{way!r} is not a way on; write {', '.join(WAYS)}.")
    with opened(home, None, of_run=run_id) as each:
        Engine(each.ledger, each.clock).decide(run_id, chosen)
        emit({"run": run_id, "way": way}, as_json, lambda console: console.print(f"run {run_id}: {way}"))


def outcomes(file: Path, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        found = read_outcomes(
            file,
            label=each.loop.label.column,
            now=each.clock.now(),
            task=each.resolved.task,
            classes=each.resolved.classes,
        )
        report(each, found)
        emit(
            {"outcomes": len(found)},
            as_json,
            lambda console: console.print(
                f"{len(found):,} {'outcome is' if len(found) == 1 else 'outcomes are'} on disk; the next look takes them in."
            ),
        )


def data_log(home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        with each.ledger.read() as connection:
            known = batches.of(connection, each.name)
        emit(
            [plain(each_batch) for each_batch in known],
            as_json,
            lambda console: table(
                console,
                ("when", "file", "version of raw", "rows", "new", "besides"),
                (
                    (when(b.at), Path(b.path).name, b.raw_version, f"{b.rows:,}", f"{b.added:,}", _besides(b))
                    for b in known
                ),
            ),
        )


def _besides(batch: Batch) -> str:
    """What a batch held beside new rows; empty for most."""
    counts = (("copies", batch.copies), ("outcomes", batch.outcomes), ("quarantined", batch.quarantined))
    counted = [f"{count:,} {name}" for name, count in counts if count]
    return ", ".join([f"refused: {batch.refused}"] if batch.refused else counted)


def data_diff(first: int, second: int, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        difference = shown_data.diff(each.lake, first, second)
        value = {
            "from": first,
            "to": second,
            "rows": len(difference.rows),
            "batches": [plain(batch) for batch in difference.batches],
            "new_columns": list(difference.new_columns),
        }

        def people(console: Console) -> None:
            console.print(f"{len(difference.rows):,} rows came between version {first} and version {second} of raw")
            for batch in difference.batches:
                console.print(f"  {Path(batch.path).name}: {batch.added:,} new, {batch.copies:,} copies", markup=False)
            if difference.new_columns:
                console.print(f"  new columns: {', '.join(difference.new_columns)}", markup=False)
            shown = difference.rows.head(3)
            print_frame(console, shown)
            if len(shown) < len(difference.rows):
                console.print(f"… and {len(difference.rows) - len(shown):,} more rows")

        emit(value, as_json, people)


def data_show(name: str, home: Path, *, loop: str | None, version: int | None, limit: int, as_json: bool) -> None:
    with opened(home, loop) as each:
        frame = shown_data.show(each.lake, name, version=version, limit=limit)

        emit(frame.to_dicts(), as_json, lambda console: print_frame(console, frame))


def print_frame(console: Console, frame: pl.DataFrame) -> None:
    """As a table; a row with many columns as lines ``name  value``, which a terminal can hold."""
    if frame.width > MOST_COLUMNS:
        width = max(map(len, frame.columns))
        for row in frame.iter_rows(named=True):
            console.print()
            for name, value in row.items():
                text = when(value) if isinstance(value, datetime) else "–" if value is None else str(value)
                console.print(f"{name:<{width}}  {text}", markup=False)
        return
    with pl.Config(tbl_rows=len(frame), tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_width_chars=console.width):
        console.print(str(frame), markup=False)


def package_folder(each: Installation, target: str) -> Path:
    """A folder, a version such as v3, or the beginning of a digest."""
    number = version_number(target)
    if number is not None:
        with each.ledger.read() as connection:
            return each.home.packages / version_ledger.get(connection, each.name, number).package
    found = [path for path in each.home.packages.iterdir() if path.name.startswith(target)] if len(target) >= 4 else []
    if len(found) == 1:
        return found[0]
    if Path(target).is_dir():
        return Path(target)
    raise NotFound(f"There is no package {target!r}; write a folder, a version such as v3, or a digest's beginning.")


def package_verify(target: str, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        folder = package_folder(each, target)
        # Opening raises with every problem by name; that it returns is the proof.
        verified = packages.open_package(folder, packages.trusted_keys(each.home.keys))
        emit(
            {"digest": verified.digest, "files": len(verified.manifest.files), "sound": True},
            as_json,
            lambda console: console.print(
                f"{verified.digest}: every byte of {len(verified.manifest.files)} files is as it was signed."
            ),
        )


def package_show(target: str, home: Path, *, loop: str | None, as_json: bool) -> None:
    with opened(home, loop) as each:
        shown = packages.open_package(package_folder(each, target), packages.trusted_keys(each.home.keys))
        manifest: Any = plain(shown.manifest)

        def people(console: Console) -> None:
            console.print(f"[bold]{manifest['loop']}[/bold] {shown.digest}")
            console.print(f"  made {manifest['created_at']}, {manifest['metric']} {manifest['score']:.4f}")
            classes = ", ".join(class_name(value) for value in manifest["signature"]["classes"])
            console.print(
                f"  task {manifest['signature']['task']}{f', classes {classes}' if classes else ''}", markup=False
            )
            table(console, ("input", "type"), ((c["name"], c["type"]) for c in manifest["signature"]["inputs"]))
            for key, value in manifest["lineage"].items():
                console.print(f"  {key}: {value}", markup=False)

        emit({"digest": shown.digest, "manifest": manifest}, as_json, people)
