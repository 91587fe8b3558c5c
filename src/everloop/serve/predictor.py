"""Answers the prediction requests of one loop with what is live. Knows nothing of HTTP, sockets or release files."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.serve.batch import DEFERRED_ROWS, DEFERRED_SECONDS, Batcher
from everloop.serve.jobs import Collector, encode, split
from everloop.serve.jobs import Form as Form
from everloop.serve.jobs import PredictionJob as PredictionJob
from everloop.serve.jobs import many as many
from everloop.serve.jobs import one as one
from everloop.serve.live import Answer, Live, Meter, Part
from everloop.serve.log import PredictionLog
from everloop.serve.metrics import ROWS, Histogram
from everloop.serve.rows import REQUEST_ROWS, Row, too_many
from everloop.serve.traffic import gathered, picked
from everloop.serve.urgency import GONE, HIGH, NEVER, NORMAL, prefer

ALONE = 1.5
"""A request is given at least so many times what it takes by itself, whatever the release promises."""
MOST_PIECES = 1000
FORMER_ROWS = 2_000
"""More rows than these do not wait for the champion of before, on which nothing depends; a part of them tells as much."""
RECALLED_ROWS = 256
"""Larger requests are not looked up before they are batched: that would hold up everybody else."""


class Batch:
    __slots__ = ("at", "began", "broken", "ids", "jobs", "live", "meanings", "parts", "ran", "rows", "shadow", "units")

    def __init__(self, live: Live, jobs: list[PredictionJob], ids: list[str], rows: list[Row], at: list[int]) -> None:
        self.live = live
        self.jobs = jobs
        self.ids = ids
        self.rows = rows
        self.at = at
        self.began = time.perf_counter()
        self.units: list[str] = []
        self.meanings: list[str] = []
        self.parts: list[Part] = []
        self.shadow = False
        self.ran: tuple[float, float] | None = None
        """When it began and ended, if somebody traces; on the clock of time.perf_counter."""
        self.broken: Exception | None = None
        """What must not happen did: the batch could not be executed at all."""


Recalled = tuple[PredictionJob, list[str], NDArray[np.float64], NDArray[np.int64] | None, float]
"""A request that the cache answered: ids, prediction, decision, seconds."""


class Predictor:
    """``live`` is None until a champion is loaded. Times are wall-clock microseconds unless a job brings its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: PredictionLog, random: Random) -> None:
        self.live: Live | None = None
        self.asked = 0.0
        """When somebody asked last, on the clock of time.perf_counter."""
        self.log = log
        self.sketch: Callable[[Part, Sequence[int], int], None] = lambda part, at, seconds: None
        """Takes what is not logged, where a release asks for sketches (`everloop.serve.sketches`)."""
        self.meters: dict[tuple[int, str], Meter] = {}
        self.batch_rows = Histogram(ROWS)
        self.shadow_skipped = 0
        self.traces = False
        """Tell each request when its batch began and ended."""
        self.errors: dict[str, str] = {}
        """The last error of each role."""
        self.batcher: Batcher[PredictionJob, Batch] = Batcher(loop, self)
        self._loop = loop
        self._recalled: list[Recalled] = []
        self._random = random.random
        self._process = f"{os.getpid():x}{os.urandom(3).hex()}"
        self._count = count()

    def new_id(self) -> str:
        """An id that sorts by time: microseconds, process, count."""
        return f"{time.time_ns() // 1000:014x}-{self._process}-{next(self._count):x}"

    def new_ids(self, rows: int) -> list[str]:
        """The same for the rows of one request."""
        begin = f"{time.time_ns() // 1000:014x}-{self._process}-{next(self._count):x}."
        return [begin + str(n) for n in range(rows)]

    def ids_for(self, live: Live, rows: Sequence[Row], given: str | None) -> list[str] | None:
        """An id a row; None for a single row that nobody named."""
        reader = live.reader
        if not reader.has_key:
            if len(rows) == 1:
                return None if given is None else [given]
            return self.new_ids(len(rows))
        if given is not None and len(rows) == 1:
            return [(reader.identity(rows[0]) if reader.knows_key else None) or given]
        return [reader.identity(row) or self.new_id() for row in rows]

    def submit(self, job: PredictionJob) -> None:
        """Raises RequestError when it is too large, would be late, or too much waits."""
        size, live = job.size, job.group
        self.asked = job.exchange.arrived
        if live.recalls and 0 < size <= RECALLED_ROWS and self._recall(job):
            return
        asked = live.first is not None or live.first_meanings
        if asked and job.exchange.priority == NORMAL and self._goes_first(job):
            urgent: Any = job.exchange
            prefer(urgent, HIGH)
        if live.budget and job.at is None:  # a replay waits as long as it takes
            exchange = job.exchange
            if exchange.deadline == NEVER:
                alone = live.cost.predict(size) * self.batcher.queue.stretch
                exchange.deadline = exchange.arrived + max(live.budget, ALONE * alone)
        if size == 1:
            self.batcher.submit(job)
        elif size > REQUEST_ROWS:
            raise too_many(size)
        elif size > (largest := self.batcher.largest(live)):
            self.batcher.submit_all(split(job, max(largest, 2, size // MOST_PIECES)))
        elif size:
            self.batcher.submit(job)
        else:
            job.exchange.finish(200, job.form([], job))

    def _goes_first(self, job: PredictionJob) -> bool:
        live = job.group
        if live.first is not None and live.first(job.rows):
            return True
        if not live.first_meanings or live.meaning is None:
            return False
        job.meanings = live.meaning(job.rows)
        return not live.first_meanings.isdisjoint(job.meanings)

    # What the cache knows

    def _recall(self, job: PredictionJob) -> bool:
        """Answer from the cache, at once and whatever waits; False when a row of it is not there."""
        live = job.group
        arm = live.champion
        found = arm.recall.find(job.rows) if arm.recall is not None else None
        if found is None:
            return False
        ids = job.ids or [self.new_id()]
        job.exchange.finish(200, job.form(arm.answers(ids, *found), job))
        seconds = time.perf_counter() - job.exchange.arrived
        meter = self.meter(arm.version, "champion")
        meter.requests.observe(seconds)
        meter.queue.observe(0.0)
        meter.rows += job.size
        if not self._recalled:
            self._loop.call_soon(self.note_recalled)
        self._recalled.append((job, ids, found[0], found[1], seconds))
        return True

    def note_recalled(self) -> None:
        """Log what the cache answered, all of one turn of the loop together."""
        recalled, self._recalled = self._recalled, []
        now = time.time_ns() // 1000
        while recalled:
            live = recalled[0][0].group
            ours = [each for each in recalled if each[0].group is live]
            recalled = [each for each in recalled if each[0].group is not live]
            jobs = [job for job, *_ in ours]
            batch = Batch(
                live,
                jobs,
                [id for _, ids, *_ in ours for id in ids],
                [row for job in jobs for row in job.rows],
                [moment for job in jobs for moment in job.at or [now] * job.size],
            )
            if live.reader.has_unit:
                batch.units = [live.reader.unit(row) or "" for row in batch.rows]
            if live.release.log or live.champion.held is not None:
                part = Part(live.champion, "champion", batch.rows, None)
                part.prediction = np.concatenate([prediction for _, _, prediction, _, _ in ours])
                decisions = [decision for _, _, _, decision, _ in ours if decision is not None]
                part.decision = np.concatenate(decisions) if decisions else None
                if live.release.log:
                    latency = [seconds for job, *_, seconds in ours for _ in job.rows]
                    meanings = live.meaning(batch.rows) if live.meaning is not None else []
                    self.log.add(live.release, part, batch.ids, batch.at, latency, batch.units, meanings)
                else:
                    self.sketch(part, batch.at, live.release.sketch)
                part.answered()
            if live.shadows:
                self._defer_shadow(batch)

    @property
    def idle(self) -> bool:
        """Nothing waits, runs or is still to be logged."""
        return self.batcher.idle and not self._recalled

    # What the batcher asks of us

    def prepare(self, jobs: list[PredictionJob]) -> Batch:
        live = jobs[0].group
        now = time.time_ns() // 1000
        begin, count = f"{now:014x}-{self._process}-", self._count
        if len(jobs) == 1:
            job = jobs[0]
            ids = job.ids or [f"{begin}{next(count):x}"]
            batch = Batch(live, jobs, ids, job.rows, job.at or [now] * job.size)
        else:
            ids = []
            rows: list[Row] = []
            at: list[int] = []
            for job in jobs:
                if job.ids is None:
                    ids.append(f"{begin}{next(count):x}")
                else:
                    ids += job.ids
                rows += job.rows
                if job.at is None and job.size == 1:
                    at.append(now)
                else:
                    at += job.at or [now] * job.size
            batch = Batch(live, jobs, ids, rows, at)
        self._part(batch)
        return batch

    def _part(self, batch: Batch) -> None:
        live = batch.live
        if live.reader.has_unit:
            batch.units = [live.reader.unit(row) or "" for row in batch.rows]
        if live.meaning is not None:
            if any(job.meanings is None for job in batch.jobs):
                batch.meanings = live.meaning(batch.rows)
            else:
                batch.meanings = [each for job in batch.jobs for each in job.meanings or ()]
        if live.way is None:
            batch.parts.append(Part(live.champion, "champion", batch.rows, None))
        else:
            live.way.prepare(batch, self._random)

    def seconds(self, batch: Batch) -> float:
        if not batch.parts:
            way = batch.live.way
            rows = len(batch.rows)
            return batch.live.champion.model.cost.predict(rows) if way is None else way.seconds(rows)
        return sum(part.arm.model.cost.predict(len(part.places or batch.rows)) for part in batch.parts)

    def execute(self, batch: Batch) -> None:
        began = time.perf_counter() if self.traces else 0.0
        try:
            self._execute(batch)
        except Exception as error:
            batch.broken = error
        if self.traces:
            batch.ran = began, time.perf_counter()

    def _execute(self, batch: Batch) -> None:
        if batch.shadow and batch.live.shadow is not None:
            batch.parts = [Part(*batch.live.shadow, batch.rows, None)]
        way = batch.live.way
        if way is not None and not batch.shadow:
            way.execute(batch)
            return
        for part in batch.parts:
            part.run(batch.ids)

    def complete(self, batch: Batch) -> None:
        try:
            self._complete(batch)
        except Exception as error:  # a form, an encoder, the log: nobody may be left without an answer
            self.fail(batch.jobs, error)

    def _complete(self, batch: Batch) -> None:
        if batch.broken is not None:
            self.fail(batch.jobs, batch.broken)
            return
        latency = [0.0] * len(batch.ids) if batch.shadow else self._answer(batch)
        for part in batch.parts:
            meter = self.meter(part.arm.version, part.variant)
            if part.seconds:
                meter.compute.observe(part.seconds)
            meter.rows += len(part.answers)
            if part.failed:
                meter.failed += len(part.failed)
                self.errors[part.variant] = part.error
            if part.aside:
                pass
            elif batch.live.release.log:
                self.log.add(
                    batch.live.release,
                    part,
                    picked(batch.ids, part.places),
                    picked(batch.at, part.places),
                    picked(latency, part.places),
                    picked(batch.units, part.places) if batch.units else [],
                    picked(batch.meanings, part.places) if batch.meanings else [],
                )
            elif part.arm.held is not None:
                self.sketch(part, picked(batch.at, part.places), batch.live.release.sketch)
            part.answered()
        if batch.live.shadows and not batch.shadow:
            self._defer_shadow(batch)

    def _answer(self, batch: Batch) -> list[float]:
        """Write the answers; returns seconds per row."""
        self.batch_rows.observe(len(batch.rows))
        if batch.ran is not None:
            for job in batch.jobs:
                job.exchange.ran = batch.ran
        if batch.live.way is not None and (len(batch.parts) > 1 or batch.parts[0].role != "champion"):
            return self._answer_each(batch, *gathered(batch.parts, len(batch.rows), self.meter))
        answers = batch.parts[0].answers
        champion = self.meter(batch.live.champion.version, "champion")
        if batch.parts[0].failed or len(batch.jobs) != len(answers):
            return self._answer_each(batch, answers, [champion] * len(answers))
        # A row a request, all answered by the champion: by far the most frequent batch.
        for job, answer in zip(batch.jobs, answers, strict=True):
            job.exchange.finish(200, encode(answer) if job.form is one else job.form([answer], job))  # type: ignore[list-item]
        now = time.perf_counter()
        latency = [now - job.exchange.arrived for job in batch.jobs]
        champion.requests.observe_all(latency)
        champion.queue.observe_all(latency, now - batch.began)
        return latency

    def _answer_each(self, batch: Batch, answers: list[Answer | None], meters: Sequence[Meter]) -> list[float]:
        """``meters``: where the latency of each row is counted; that of a request where its first row is."""
        latency: list[float] = []
        place = 0
        for job in batch.jobs:
            end = place + job.size
            ours = answers[place:end]
            if None in ours:
                error = next((part.error for part in reversed(batch.parts) if part.error), "")
                job.exchange.refuse(500, f"The model failed on these rows: {error}.")
            else:
                job.exchange.finish(200, job.form(ours, job))  # type: ignore[arg-type]
            arrived = job.exchange.arrived
            seconds = time.perf_counter() - arrived
            if type(job.exchange) is not Collector or not job.exchange.left:  # once a request
                meters[place].requests.observe(seconds)
                meters[place].queue.observe(max(0.0, batch.began - arrived))
            latency += [seconds] * job.size
            place = end
        return latency

    def drop(self, jobs: list[PredictionJob], seconds: float) -> None:
        for job in jobs:
            exchange = job.exchange
            if exchange.deadline == GONE:
                exchange.refuse(499, "The client left before its request was run.", reason="gone")
            else:
                budget = (exchange.deadline - exchange.arrived) * 1e3
                message = (
                    f"Too much else was waiting: the answer would not come within {budget:.0f} ms. Try again later."
                )
                exchange.refuse(503, message, reason="deadline", retry_after=seconds)

    def fail(self, jobs: list[PredictionJob], error: Exception) -> None:
        self.errors["server"] = repr(error)
        for job in jobs:
            job.exchange.refuse(500, "The server could not put these rows together; its log says more.")

    def _defer_shadow(self, batch: Batch) -> None:
        assert batch.live.shadow is not None
        arm, role = batch.live.shadow
        replay = batch.jobs[0].at is not None
        deferred = self.batcher.deferred
        most = DEFERRED_ROWS if role == "shadow" else FORMER_ROWS
        if not replay and (deferred > most or arm.model.cost.predict(deferred) > DEFERRED_SECONDS):
            self.shadow_skipped += len(batch.rows)
            return
        shadow = Batch(batch.live, [], batch.ids, batch.rows, batch.at)
        shadow.units = batch.units
        shadow.shadow = True
        self.batcher.defer(shadow, len(batch.rows), owed=replay)

    def meter(self, version: int, role: str) -> Meter:
        found = self.meters.get((version, role))
        if found is None:
            found = self.meters[version, role] = Meter()
        return found
