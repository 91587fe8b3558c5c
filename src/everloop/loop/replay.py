"""A history through the whole real system, in event time: real server, real files, real fits, a simulated clock.

What a replay must never do is look ahead: the files it delivers carry no label and no ``after`` column before their
time, and outcomes are reported over HTTP when they are due. What it alone knows, the truth, it uses only to score.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from everloop.clock import SimulatedClock, microseconds
from everloop.data import sources
from everloop.durable.engine import Engine
from everloop.errors import DataError
from everloop.jobs.process import ProcessExecutor
from everloop.loop import inject
from everloop.loop.account import Account, Period, overall
from everloop.loop.consequences import Consequences, World, labels_due
from everloop.loop.controller import Controller, Look
from everloop.loop.environment import Environment
from everloop.loop.events import Asked
from everloop.loop.fit_job import signature_of
from everloop.loop.installation import Installation, label_facts, open_installation
from everloop.loop.preload import modules
from everloop.loop.publish import publish
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Answer, Traffic
from everloop.loop.worth import gains, never_pays, words
from everloop.measure.metrics import score as measure_score
from everloop.measure.truth import class_name
from everloop.records import ColumnType, Decision
from everloop.spec.loop import Loop
from everloop.spec.source import Parquet
from everloop.spec.window import Last
from everloop.store.home import Home
from everloop.store.ledger import releases, versions

Listener = Callable[[Period], None]
MINIMUM_ROWS = 20
"""Fewer rows than this in a period have no score worth showing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All rows of a source in event order, normalised, and how they are declared."""

    loop: Loop
    frame: pl.DataFrame
    schema: dict[str, ColumnType]
    declaration: bytes
    folder: Path

    @property
    def label(self) -> str:
        return self.loop.label.column


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Rows that come as a file on a day of their own, beside the traffic: an import, say. Labels as they stand."""

    at: datetime
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to replay."""

    home: Path
    start: datetime | None = None
    """First instant served; None: when the first window is full."""
    to: datetime | None = None
    look: timedelta = timedelta(days=1)
    poison: inject.Span | None = None
    drift: inject.Span | None = None
    arrivals: tuple[Arrival, ...] = ()
    marks: tuple[tuple[datetime, str], ...] = ()
    simulated: str | None = None
    world: World | None = None
    """What comes of a row and its answer, by name of the outcome; None: what the history holds."""
    seed: int | None = None
    """Makes the draw of arms repeatable."""


def read_history(loop: Loop, declaration: bytes, folder: Path) -> History:
    """Raises DataError when the source has no rows or no label to reveal."""
    schema = dict(sources.schema_of(loop.source, folder))
    if loop.label.column not in schema:
        raise DataError(
            f"The source has no column {loop.label.column!r}; a replay needs the labels in the history to reveal them."
        )
    frames = [sources.read(loop.source, path, schema) for path in sources.files(loop.source, folder)]
    frame = (
        pl.concat(frames, how="diagonal").unique("_key", keep="first", maintain_order=True).sort("_event_time", "_key")
    )
    if frame.is_empty():
        raise DataError(f"{loop.source.path!r} in {folder} holds no rows; a replay needs a history.")
    return History(loop=loop, frame=frame, schema=schema, declaration=declaration, folder=folder)


class Replay:
    """One replay. ``run`` may be called once."""

    def __init__(
        self,
        history: History,
        plan: Plan,
    ) -> None:
        self._plan = plan
        self._history = history
        self._listener: Listener = lambda period: None
        self._told: Callable[[], None] = lambda: None
        self._truth, self._reported = self._told_and_true(history, plan)
        self._consequences = Consequences(history.loop, history.frame.columns, plan.world)
        self._source = plan.home / "source"
        self._source.mkdir(parents=True, exist_ok=True)
        self.start = plan.start or _first_window(history.loop, self._truth)
        latest: datetime = self._truth["_event_time"].to_list()[-1]
        self.end: datetime = plan.to or latest + timedelta(microseconds=1)
        self.clock = SimulatedClock(self.start)
        self.installation = self._install()
        resolved = self.installation.resolved
        self.account = Account(
            loop=history.loop.name,
            metric=resolved.score.name,
            greater_is_better=resolved.score.greater_is_better,
            task=resolved.task,
            started=self.start,
            marks=list(plan.marks),
            simulated=plan.simulated,
        )
        self._executor = ProcessExecutor(preload=modules(history.loop))
        self._executor.warm()
        self._engine = Engine(self.installation.ledger, self.clock)
        self._controller = Controller(self.installation, self._engine, self._executor, told=self._hear)
        self._answers: list[tuple[pl.DataFrame, list[Answer]]] = []
        self._seconds = self.account.seconds

    def listen(self, period: Listener, decision: Callable[[], None]) -> None:
        """Call ``period`` after each look and ``decision`` whenever the account has new decisions."""
        self._listener, self._told = period, decision

    def _hear(self, decision: Decision) -> None:
        self.account.decisions.append(decision)
        self._told()

    def _told_and_true(self, history: History, plan: Plan) -> tuple[pl.DataFrame, pl.DataFrame]:
        truth = history.frame.filter(pl.col(history.label).is_not_null())
        if plan.drift is not None:
            tree = history.loop.features
            inputs = list(tree.inputs) if tree is not None else [c for c in history.schema if c != history.label]
            truth = inject.drift(truth, plan.drift, label=history.label, inputs=inputs)
        reported = inject.poison(truth, plan.poison, label=history.label) if plan.poison is not None else truth
        return truth, reported

    def _install(self) -> Installation:
        history = self._history
        source = history.loop.source
        delivered = Parquet(
            str(Path("source") / "*.parquet"),
            key=source.key,
            event_time=source.event_time,
            time_zone=source.time_zone,
            after=source.after,
        )
        self._deliver("000000-history", self._truth.filter(pl.col("_event_time") < self.start), self.start)
        loop = dataclasses.replace(history.loop, source=delivered)
        return open_installation(
            loop,
            schema=sources.schema_of(delivered, self._plan.home),
            facts=label_facts(history.loop, history.folder, history.schema),
            folder=self._plan.home,
            source=history.declaration,
            home=Home(self._plan.home / ".everloop"),
            environment=Environment(name="replay", home=self._plan.home / ".everloop"),
            clock=self.clock,
        )

    def _deliver(self, name: str, rows: pl.DataFrame, now: datetime) -> None:
        """Write the file that the source would have brought by ``now``: no label before its time."""
        if rows.is_empty():
            return
        loop = self._history.loop
        known = (pl.col("_event_time") + loop.label.delay <= now) & pl.lit(loop.label.source is None)
        late = [loop.label.column, *(name for name in loop.source.after if name in rows.columns)]
        masked = rows.with_columns(
            pl.when(known).then(pl.col(column)).otherwise(None).cast(rows[column].dtype).alias(column)
            for column in dict.fromkeys(late)
        )
        original = [column for column in masked.columns if not column.startswith("_")]
        masked.select(original).write_parquet(self._source / f"{name}.parquet")

    @contextmanager
    def _timing(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - begin

    def run(self) -> Account:
        """Replay it all. Raises what the first turn raises: without a first version nothing can be served."""
        begin = time.perf_counter()
        try:
            self._first_version()
            token = secrets.token_hex(16)
            with (
                self._timing("server"),
                ServingProcess.start(
                    self.installation.home, [self.installation.name], token=token, seed=self._plan.seed, bound=True
                ) as server,
            ):
                self._seconds["server"] = time.perf_counter() - begin - sum(self._seconds.values())
                self._server = server
                with closing(Traffic(server.port, self.installation.name, token)) as self._traffic:
                    self._go_through()
        finally:
            self._executor.close()
        self._seconds["total"] = time.perf_counter() - begin
        # The server ran all the while; only its start is a part of its own.
        self._seconds["server"] = max(
            0.0, self._seconds["total"] - sum(v for k, v in self._seconds.items() if k not in ("server", "total"))
        )
        self._conclude()
        return self.account

    def _first_version(self) -> None:
        with self._timing("ingest"):
            self._controller.take_in()
        with self._timing("turns"):
            self._controller.ask(Asked(action="run", by="replay"))
            self._controller.work()
        if self._controller.state().release.champion is None:
            reasons = [each.because for each in self.account.decisions if each.action == "turn failed"]
            raise DataError(f"The first turn made no version: {'; '.join(reasons) or 'no reason was kept'}")
        publish(self.installation)

    def _go_through(self) -> None:
        arrivals = sorted(self._plan.arrivals, key=lambda each: each.at)
        served = self._truth.filter(pl.col("_event_time").is_between(self.start, self.end, closed="left"))
        times = served["_event_time"].dt.epoch("us").to_numpy()
        due_order, due_times = labels_due(self._history.loop, self._reported, self.start, self.end)
        sent = 0
        begin = self.start
        number = 1
        while begin < self.end:
            end = min(begin + self._plan.look, self.end)
            low, high = (int(np.searchsorted(times, microseconds(edge))) for edge in (begin, end))
            rows = served[low:high]
            answers = self._serve(rows)
            self._consequences.answered(rows, answers)
            self.clock.advance_to(end)
            until = int(np.searchsorted(due_times, microseconds(end), side="right"))
            self._reveal(due_order[sent:until], due_times[sent:until])
            sent = until
            self._report(microseconds(end))
            while arrivals and arrivals[0].at <= end:
                arrival = arrivals.pop(0)
                (self._source / f"{number:06d}-{arrival.path.name}").write_bytes(arrival.path.read_bytes())
            self._deliver(f"{number:06d}", rows, end)
            look = self._look()
            self._period(begin, end, rows, answers, look)
            begin = end
            number += 1

    def _serve(self, rows: pl.DataFrame) -> list[Answer]:
        if rows.is_empty():
            return []
        with self._timing("traffic"):
            signature = signature_of(self.installation.resolved)
            columns = [*(each.name for each in signature.inputs), *(each.name for each in signature.tensors)]
            payload = rows.select(
                pl.col(name).dt.epoch("us") if rows[name].dtype.is_temporal() else pl.col(name) for name in columns
            ).to_dicts()  # bytes go out as base64
            times = rows["_event_time"].dt.epoch("us").to_list()
            answers = self._traffic.predict(payload, times, rows["_key"].to_list())
            self._traffic.settle()
            return answers

    def _reveal(self, rows: pl.DataFrame, due: Any) -> None:
        if rows.is_empty():
            return
        with self._timing("outcomes"):
            self._traffic.outcomes(rows["_key"].to_list(), rows[self._history.label].to_list(), due.tolist())

    def _report(self, until: int) -> None:
        come = self._consequences.due(until)
        if not come:
            return
        with self._timing("outcomes"):
            ids, values, at = ([getattr(each, part) for each in come] for part in ("id", "value", "at"))
            self._traffic.outcomes(ids, values, at, names=[each.name for each in come])

    def _look(self) -> Look:
        with self._timing("look"):
            look = self._controller.look()
        with self._timing("turns"):
            self._controller.work()
        with self._timing("release"):
            release = self._release()
            self._server.wait_for(self.installation.name, release.revision)
        return look

    def _release(self) -> Any:
        with self.installation.ledger.read() as connection:
            return releases.get(connection, self.installation.name)

    def _period(self, begin: datetime, end: datetime, rows: pl.DataFrame, answers: list[Answer], look: Look) -> None:
        release = self._release()
        self._answers.append((rows, answers))
        score = self._score(rows, answers) if len(rows) >= MINIMUM_ROWS else None
        period = Period(
            start=begin,
            end=end,
            rows=len(rows),
            score=score,
            champion=release.champion,
            challenger=release.challenger,
            share=release.share,
            drift=look.seen.largest_drift,
        )
        self.account.periods.append(period)
        self._listener(period)

    def _score(self, rows: pl.DataFrame, answers: list[Answer]) -> float | None:
        truth, prediction = self._aligned(rows, answers)
        if len(truth) == 0 or (self.account.task != "regression" and len(np.unique(truth)) < 2):
            return None
        return float(measure_score(self.installation.resolved.score, truth, prediction))

    def _aligned(self, rows: pl.DataFrame, answers: list[Answer]) -> tuple[Any, Any]:
        """Truth as class indices (or numbers) and what was answered, for rows that were answered at all."""
        resolved = self.installation.resolved
        good = [position for position, answer in enumerate(answers) if answer.error is None]
        truth = rows[self._history.label].gather(good).to_list()
        if resolved.task == "regression":
            return np.array(truth, dtype=np.float64), np.array([answers[i].value for i in good], dtype=np.float64)
        place = {value: position for position, value in enumerate(resolved.classes)}
        names = [class_name(value) for value in resolved.classes]
        index = np.array([place[value] for value in truth], dtype=np.int64)
        table = np.array([[(answers[i].probability or {}).get(name, np.nan) for name in names] for i in good])
        return index, table.reshape(len(good), len(names))

    def _conclude(self) -> None:
        account = self.account
        account.ended = self.end
        account.predictions = self._traffic.requests
        account.failed = self._traffic.failed
        with self.installation.ledger.read() as connection:
            account.versions = list(versions.of(connection, self.installation.name))
        found = gains(self.installation, account.versions)
        account.worth = {number: words(told) for number, told in found.items()}
        account.unpaid = never_pays(
            [d.version for d in account.decisions if d.action == "promoted" and d.version], found
        )
        pairs = [self._aligned(rows, answers) for rows, answers in self._answers if len(rows)]
        if not pairs:
            return
        truth = np.concatenate([each for each, _ in pairs])
        prediction = np.concatenate([each for _, each in pairs])
        account.score = float(measure_score(self.installation.resolved.score, truth, prediction))
        account.scores = overall(account.task, truth, prediction)

    @property
    def answered(self) -> list[tuple[pl.DataFrame, list[Answer]]]:
        """Rows and answers of each period, in order: for figures by a column of the rows."""
        return self._answers

    def close(self) -> None:
        self.installation.close()


def _first_window(loop: Loop, frame: pl.DataFrame) -> datetime:
    """When the first model can be made: a whole window has passed and its labels are known."""
    first: datetime = frame["_event_time"].min()  # type: ignore[assignment]
    window = loop.window
    if isinstance(window, Last) and isinstance(window.length, timedelta):
        return first + window.length + loop.label.delay
    count = window.length if isinstance(window, Last) and isinstance(window.length, int) else max(200, len(frame) // 10)
    if count >= len(frame):
        raise DataError(f"The history holds {len(frame):,} rows, the first window alone needs {count:,}.")
    full: datetime = frame["_event_time"][count]
    return full + loop.label.delay
