"""A prediction request as a job that waits, and a large one as pieces. Knows nothing of queues, models or HTTP.

Each piece of a large request waits, runs and is logged by itself, so that a request of one row need not wait for one
of twenty thousand. The answer goes out when the last piece is done; when one fails or comes too late, the whole is
refused and the rest is not run.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from everloop.serve.live import Answer, Live
from everloop.serve.rows import Row
from everloop.serve.urgency import GONE


class Exchange(Protocol):
    """A request that waits for its answer. ``arrived`` and ``deadline`` are on the clock of time.perf_counter."""

    deadline: float
    ran: tuple[float, float] | None
    """When the model began and ended."""

    @property
    def arrived(self) -> float: ...

    @property
    def priority(self) -> int: ...

    def finish(self, status: int, body: bytes) -> None: ...

    def refuse(self, status: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None: ...


Form = Callable[[list[Answer], "PredictionJob"], bytes]
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def one(answers: list[Answer], job: "PredictionJob") -> bytes:
    return encode(answers[0])


def many(answers: list[Answer], job: "PredictionJob") -> bytes:
    return encode(answers)


class PredictionJob:
    """The rows of one request. ``ids``: one each; None for a single row that gets its id when it is batched.

    ``at``: event times in a replay, else None (now).
    """

    __slots__ = ("at", "exchange", "form", "group", "ids", "meanings", "rows", "size")

    def __init__(
        self, exchange: Exchange, live: Live, rows: list[Row], ids: list[str] | None, at: list[int] | None, form: Form
    ) -> None:
        self.exchange = exchange
        self.group = live
        self.rows = rows
        self.ids = ids
        self.at = at
        self.form = form
        self.size = len(rows)
        self.meanings: list[str] | None = None
        """The class of each row, where it was asked for before the request waited."""


class Collector:
    """Stands where the pieces of a request expect the one that waits."""

    def __init__(self, job: PredictionJob) -> None:
        self.left = job.size
        """Rows without an answer."""
        self._job = job
        self._answers: list[Answer | None] = [None] * job.size
        self._refused = False

    @property
    def arrived(self) -> float:
        return self._job.exchange.arrived

    @property
    def priority(self) -> int:
        return self._job.exchange.priority

    @property
    def deadline(self) -> float:
        return GONE if self._refused else self._job.exchange.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._job.exchange.deadline = value

    @property
    def ran(self) -> tuple[float, float] | None:
        return self._job.exchange.ran

    @ran.setter
    def ran(self, value: tuple[float, float] | None) -> None:
        self._job.exchange.ran = value

    def finish(self, status: int, body: bytes) -> None:
        if not (self.left or self._refused):
            self._job.exchange.finish(status, body)

    def refuse(self, status: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        if not self._refused:
            self._refused = True
            self._answers = []
            self._job.exchange.refuse(status, message, reason=reason, retry_after=retry_after)

    def keep(self, answers: list[Answer], begin: int) -> bytes:
        """Take the answers of a piece; returns the whole answer with the last of them."""
        if self._refused:
            return b""
        self._answers[begin : begin + len(answers)] = answers
        self.left -= len(answers)
        return b"" if self.left else self._job.form(self._answers, self._job)  # type: ignore[arg-type]


def split(job: PredictionJob, rows: int) -> list[PredictionJob]:
    """The job in pieces of at most so many rows."""
    whole = Collector(job)

    def piece(begin: int) -> PredictionJob:
        end = begin + rows
        return PredictionJob(
            whole,
            job.group,
            job.rows[begin:end],
            None if job.ids is None else job.ids[begin:end],
            None if job.at is None else job.at[begin:end],
            lambda answers, _: whole.keep(answers, begin),
        )

    return [piece(begin) for begin in range(0, job.size, rows)]
