"""One whole turn on a sample, in a home that is thrown away: nothing is released, nothing is kept.

Behind ``everloop check --turn`` and ``everloop.testing.turn``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from everloop.clock import SimulatedClock
from everloop.data import sources
from everloop.durable.engine import Engine
from everloop.errors import DataError, EverloopError, TrainError
from everloop.jobs.process import ProcessExecutor
from everloop.loop.controller import Controller
from everloop.loop.environment import Environment
from everloop.loop.events import Asked
from everloop.loop.installation import label_facts, open_installation
from everloop.loop.preload import modules
from everloop.loop.turn import plain
from everloop.package import pack, parity
from everloop.records import Signature, Verdict, Version
from everloop.spec.loop import Loop
from everloop.spec.resolve import Resolved
from everloop.spec.source import Parquet
from everloop.spec.window import Last
from everloop.store import packages
from everloop.store.home import Home
from everloop.store.ledger import decisions, versions


class Predictable:
    """A package opened in this process, for trying it out."""

    def __init__(self, opened: packages.Opened) -> None:
        self.digest = opened.digest
        self.manifest = opened.manifest
        self._session = parity.session(opened.model, extensions=opened.manifest.extensions, threads=1)

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    def predict(self, rows: Mapping[str, Any] | pl.DataFrame) -> Any:
        """One row by column names → its answer; columns of rows or a frame → a list of answers.

        A column that is absent is missing; an image is its bytes. An answer is ``{"decision", "probability"}`` or ``{"value"}``.
        """
        single = not isinstance(rows, pl.DataFrame) and not any(isinstance(value, list) for value in rows.values())
        columns: dict[str, Any] = dict(rows) if isinstance(rows, Mapping) else {c: rows[c] for c in rows.columns}
        if single:
            columns = {name: [value] for name, value in columns.items()}
        count = len(next(iter(columns.values()), ()))
        names = [*(each.name for each in self.signature.inputs), *(each.name for each in self.signature.tensors)]
        given = {name: columns[name] if name in columns else [None] * count for name in names}
        answers = self._session.run(None, pack.feeds(given, self.signature))
        shown = [self._answer(position, answers) for position in range(count)]
        return shown[0] if single else shown

    def _answer(self, row: int, answers: list[Any]) -> dict[str, Any]:
        prediction = answers[0][row]
        if self.signature.task == "regression":
            return {"value": float(prediction[0])}
        classes = self.signature.classes
        return {
            "decision": classes[int(answers[1][row])],
            "probability": {value: float(p) for value, p in zip(classes, prediction, strict=True)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a trial turn made. ``package`` answers in this process."""

    verdict: Verdict
    version: Version
    package: Predictable
    rows: int
    metric: str

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "metric": self.metric, "score": self.version.score, "verdict": plain(self.verdict)}

    def sentences(self) -> list[str]:
        return [
            f"A whole turn on the {self.rows:,} newest rows went through, released to nobody:",
            f"  {self.version.verdict.because}",
            f"  package {self.package.digest[:16]}…, {_columns(self.package.signature)} in",
        ]


def _columns(signature: Signature) -> str:
    count = len(signature.inputs) + len(signature.tensors)
    return f"{count} column{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the source really holds."""

    files: int
    rows: int
    """In the files that were read."""
    since: datetime | None
    until: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {"files": self.files, "rows": self.rows, "from": self.since, "to": self.until}

    def sentences(self) -> list[str]:
        return [
            f"The source holds {self.files:,} files; {self.rows:,} rows were looked at, {self.since} to {self.until}."
        ]


def examine(resolved: Resolved, folder: Path, *, most_files: int = 50) -> Findings:
    """Read the newest files and hold them against what only rows can tell.

    Raises DataError for a source without files or rows, a key that is not unique, and a window with too few rows.
    """
    loop = resolved.loop
    files = sources.files(loop.source, folder)
    if not files:
        raise DataError(f"The source {loop.source.path!r} matches no file in {folder}; put rows there or correct it.")
    read = [sources.read(loop.source, path, resolved.schema) for path in files[-most_files:]]
    frame = pl.concat(read, how="diagonal")
    if frame.is_empty():
        raise DataError(f"The {len(read)} newest files of {loop.source.path!r} hold no rows.")
    # A copy is dropped, and a late column that changes is an outcome: only other differences make two rows of one key.
    late = (loop.label.column, *loop.source.after)
    telling = [name for name in frame.columns if name != "_batch" and name not in late]
    named = frame.filter(pl.col("_key").is_not_null())
    twice = named.filter(named["_key"].is_duplicated()).unique(keep="any", subset=telling)
    worst = twice["_key"].value_counts(sort=True).filter(pl.col("count") > 1)
    if len(worst):
        raise DataError(
            f"The key {', '.join(loop.source.key)} is not unique: {len(worst):,} keys have rows that differ, "
            f"for example {worst['_key'][0]!r}; add columns to source.key until it names one row."
        )
    window = loop.window
    if (
        isinstance(window, Last)
        and isinstance(window.length, int)
        and len(files) <= most_files
        and len(frame) < window.length
    ):
        raise DataError(
            f"The window is the last {window.length:,} rows, and the source holds {len(frame):,}; shorten Last.length."
        )
    times = frame["_event_time"].drop_nulls().sort()
    return Findings(
        files=len(files),
        rows=len(frame),
        since=times[0] if len(times) else None,
        until=times[-1] if len(times) else None,
    )


def turn(loop: Loop, *, folder: Path, source: bytes, rows: int = 2_000) -> Tried:
    """Raises what a real turn would raise, and TrainError with its reason when it makes no version."""
    schema = sources.schema_of(loop.source, folder)
    files = sources.files(loop.source, folder)
    newest: list[pl.DataFrame] = []
    while files and sum(map(len, newest)) < rows:
        newest.append(sources.read(loop.source, files.pop(), schema))
    frame = pl.concat(newest, how="diagonal").sort("_event_time").tail(rows)
    times = frame["_event_time"].drop_nulls().to_list()
    if not times:
        raise DataError(f"None of the {len(frame):,} newest rows of {loop.source.path!r} has an event time.")
    latest: datetime = times[-1]
    with tempfile.TemporaryDirectory(prefix="everloop-trial-") as temporary:
        place = Path(temporary)
        (place / "source").mkdir()
        frame.select(c for c in frame.columns if not c.startswith("_")).write_parquet(
            place / "source" / "sample.parquet"
        )
        delivered = Parquet(
            "source/*.parquet",
            key=loop.source.key,
            event_time=loop.source.event_time,
            time_zone=loop.source.time_zone,
            after=loop.source.after,
        )
        clock = SimulatedClock(latest + loop.label.delay + timedelta(microseconds=1))
        installation = open_installation(
            dataclasses.replace(loop, source=delivered),
            schema=sources.schema_of(delivered, place),
            facts=label_facts(loop, folder, schema),
            folder=place,
            source=source,
            home=Home(place / ".everloop"),
            environment=Environment(name="trial", home=place / ".everloop"),
            clock=clock,
        )
        executor = ProcessExecutor(preload=modules(loop))
        executor.warm()
        try:
            controller = Controller(installation, Engine(installation.ledger, clock), executor)
            batches = controller.take_in()
            controller.ask(Asked(action="run", by="a trial"))
            controller.work()
            with installation.ledger.read() as connection:
                made = versions.of(connection, installation.name)
                said = decisions.of(connection, installation.name)
            if not made:
                reasons = [each.because for each in said if each.action in ("turn failed", "batch refused")]
                raise TrainError(f"The trial turn made no version: {'; '.join(reasons) or _refused(batches)}")
            opened = packages.open_package(
                installation.home.packages / made[0].package, packages.trusted_keys(installation.home.keys)
            )
            return Tried(
                verdict=made[0].verdict,
                version=made[0],
                package=Predictable(opened),
                rows=len(frame),
                metric=installation.resolved.score.name,
            )
        finally:
            executor.close()
            installation.close()


def _refused(batches: Any) -> str:
    refused = [each.refused for each in batches if each.refused]
    if refused:
        return str(refused[0])
    raise EverloopError("The trial turn ended without a version and without a reason; please report this.")
