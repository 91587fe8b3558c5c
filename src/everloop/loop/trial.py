"""One whole turn on a sample, in a home that is thrown away: nothing is released, nothing is kept.

Behind ``everloop check --turn`` and ``everloop.testing.turn``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from everloop.clock import SimulatedClock
from everloop.data import sources
from everloop.durable.engine import Engine
from everloop.errors import EverloopError, TrainError
from everloop.jobs.process import ProcessExecutor
from everloop.loop.controller import Controller
from everloop.loop.environment import Environment
from everloop.loop.events import Asked
from everloop.loop.installation import label_facts, open_installation
from everloop.loop.turn import plain
from everloop.package import pack, parity
from everloop.records import Signature, Verdict, Version
from everloop.spec.loop import Loop
from everloop.spec.source import Parquet
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

        A column that is absent is missing. An answer is ``{"decision", "probability"}`` or ``{"value"}``.
        """
        single = isinstance(rows, Mapping) and not any(isinstance(value, list) for value in rows.values())
        columns = {name: [value] for name, value in rows.items()} if single else rows
        count = len(next(iter(columns.values()))) if isinstance(columns, Mapping) else len(columns)
        given = {
            column.name: columns[column.name] if column.name in _names(columns) else [None] * count
            for column in self.signature.inputs
        }
        answers = self._session.run(None, pack.pack(given, self.signature.inputs))
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


def _names(columns: Mapping[str, Any] | pl.DataFrame) -> Any:
    return columns.columns if isinstance(columns, pl.DataFrame) else columns


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
            f"  package {self.package.digest[:16]}…, {len(self.package.signature.inputs)} columns in",
        ]


def turn(loop: Loop, *, folder: Path, source: bytes, rows: int = 2_000) -> Tried:
    """Raises what a real turn would raise, and TrainError with its reason when it makes no version."""
    schema = sources.schema_of(loop.source, folder)
    files = sources.files(loop.source, folder)
    newest: list[pl.DataFrame] = []
    while files and sum(map(len, newest)) < rows:
        newest.append(sources.read(loop.source, files.pop(), schema))
    frame = pl.concat(newest, how="diagonal").sort("_event_time").tail(rows)
    latest = frame["_event_time"].max()
    with tempfile.TemporaryDirectory(prefix="everloop-trial-") as temporary:
        place = Path(temporary)
        (place / "source").mkdir()
        frame.select(c for c in frame.columns if not c.startswith("_")).write_parquet(place / "source" / "sample.parquet")
        delivered = Parquet(
            "source/*.parquet",
            key=loop.source.key,
            event_time=loop.source.event_time,
            time_zone=loop.source.time_zone,
            after=loop.source.after,
        )
        clock = SimulatedClock(latest + loop.label.delay + timedelta(microseconds=1))  # type: ignore[operator]
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
        executor = ProcessExecutor()
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
