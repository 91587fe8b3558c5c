"""Who waits, who goes next, who is turned away. Pure: time comes in, nothing runs. Knows nothing of models or sockets.

The rule (Clockwork, OSDI 2020; Nexus, SOSP 2019; our simulation in tests/serve/test_serve_goodput.py):

- The high class goes first; within a class the earliest deadline. What has no deadline stands in line as if it had
  one of a second, so that it never starves; the low class a second behind that.
- What the cost line predicts to be late is refused when it comes. What becomes late while it waits is dropped before
  its run, judged by the batch that is about to run.
- A batch is no larger than the best size, and no longer than half of the tightest time that anybody gave lately:
  who comes while it runs waits for one and is in the next.

Nearly always everybody asks for the same: then this is a plain queue, and a request costs an append.
"""

from bisect import bisect_right, insort
from collections import deque
from itertools import count
from operator import itemgetter
from typing import Generic, NoReturn, TypeVar

from everloop.errors import RequestError
from everloop.serve.urgency import GONE, HIGH, LOW, NEVER, NORMAL
from everloop.serve.waiting import Group, Job, Waiting

PATIENCE = 1.0
"""Seconds: where in line what has no deadline stands."""
YIELDED = 1.0
"""Seconds by which the low class stands behind."""
WAITING_ROWS = 50_000
WAITING_SECONDS = 10.0
"""Beyond so many rows, or so much predicted work before it, a request is refused at once."""
SHORT_SECONDS = 0.002
"""Batches that take no longer are not made smaller for anybody."""
TIGHT_SECONDS = 10.0
"""For one to two times so long the tightest budget that was given is remembered."""
UNHURRIED = 0.5
HURRIED = 0.98
"""The share of the rate that a batch keeps when it is made smaller so that its first request is not late: half while one
batch holds all that waits, or all of the high class for one of these; nearly all of it when there is more."""
SURE = 0.8
RUNS = 20
"""``stretch`` is what so many of the last runs stayed below."""
CROWDED, QUIETER, MOST_CROWDED = 1.03, 0.99, 4.0
"""How the outlook of all but the high class worsens with each batch that had to drop somebody, and gets better."""

J = TypeVar("J", bound=Job)
Entry = tuple[float, int, J]


class Queue(Generic[J]):
    """Jobs that wait. ``rows``: theirs; ``taken``: of the last batch. ``until``: when what runs is predicted to end.

    ``stretch``: how much longer a batch takes than the graph alone, in four of five runs: packing, answering and
    waiting for a core are in it.
    """

    __slots__ = (
        "_crowd", "_each", "_group", "_high", "_high_rows", "_limit", "_ordered", "_overhead", "_plain", "_ratios",
        "_rest", "_roomy", "_sequence", "_tight", "_tight_before", "_tight_until", "_usual", "rows", "stretch", "taken",
        "until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rows = 0
        self.taken = 0
        self.until = 0.0
        self.stretch = 1.0
        self._usual = 1.0
        """The same, of every second run."""
        self._plain: deque[J] = deque()
        """While everybody is of the normal class and each is due no earlier than the one before."""
        self._ordered = False
        self._high: list[Entry[J]] = []
        self._rest: list[Entry[J]] = []
        """When they are due, in which order they came, and what: sorted."""
        self._high_rows = 0
        self._sequence = count()
        self._tight = self._tight_before = NEVER
        self._tight_until = 0.0
        self._roomy = 0
        """With fewer rows than this nobody without a deadline is refused."""
        self._ratios: deque[float] = deque(maxlen=RUNS)
        self._crowd = 1.0
        """How much longer the others wait than what is before them takes: who overtakes them is yet to come."""
        self._group: Group | None = None
        """Whose line ``_overhead`` and ``_each`` are, stretched, with the ``_limit`` of a batch."""
        self._overhead = self._each = 0.0
        self._limit = 1

    def __len__(self) -> int:
        return len(self._plain) + len(self._high) + len(self._rest)

    def push(self, job: J, now: float) -> None:
        """Let a job wait. Raises RequestError (503, "deadline" or "queue_full") when that is of no use."""
        exchange = job.exchange
        if self._ordered or exchange.priority != NORMAL:
            self._insert(job, now)
            return
        rows = self.rows + job.size
        if exchange.deadline != NEVER:
            last = self._plain[-1].exchange if self._plain else exchange
            if exchange.deadline < last.deadline and _due(exchange) < _due(last):
                self._insert(job, now)
                return
            self._admit(job, rows - job.size, job.size, now)
        elif rows > self._roomy:
            self._admit(job, rows - job.size, job.size, now)
        self._plain.append(job)
        self.rows = rows

    def push_all(self, pieces: list[J], now: float) -> None:
        """The pieces of one large request; all of them, or raises like `push`.

        Each stands as much behind as the ones before it take: a small request gets in between.
        """
        exchange = pieces[0].exchange
        due = _due(exchange)
        self._order()
        self._admit(pieces[0], self._ahead(exchange, due), sum(piece.size for piece in pieces), now)
        for piece in pieces:
            self._put(piece, due)
            due += self._overhead + self._each * piece.size

    def take(self, now: float) -> tuple[list[J], list[J]]:
        """The jobs that run together now, and those that need not run any more: late, or their client has left."""
        jobs: list[J] = []
        dropped: list[J] = []
        self.taken = 0
        if self._ordered:
            self._take_ordered(jobs, dropped, now)
        elif self._plain:
            self._take_plain(jobs, dropped, now)
        if not self.rows:
            self._group = None  # a version that nobody asks any more can go
        if dropped or self._crowd > 1.0:
            worse = any(job.exchange.deadline != GONE for job in dropped)
            self._crowd = min(self._crowd * CROWDED, MOST_CROWDED) if worse else max(self._crowd * QUIETER, 1.0)
        return jobs, dropped

    def ran(self, group: Group, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long, from `take` to its end."""
        predicted = group.cost.overhead + group.cost.each * rows
        if predicted > 0.0:
            ratios = self._ratios
            ratios.append(seconds / predicted)
            in_order = sorted(ratios)
            self.stretch = in_order[int(len(ratios) * SURE)]
            self._usual = in_order[len(ratios) // 2]

    def largest(self, group: Group, now: float) -> int:
        """The most rows of this group that go together."""
        self._know(group, now)
        return self._limit

    def seconds(self, now: float) -> float:
        """How long until all that waits now has run, as predicted."""
        return max(self.until - now, 0.0) + (self._through(self.rows, self.rows) if self.rows else 0.0)

    # Coming in

    def _insert(self, job: J, now: float) -> None:
        self._order()
        due = _due(job.exchange)
        self._admit(job, self._ahead(job.exchange, due), job.size, now)
        self._put(job, due)

    def _order(self) -> None:
        """From the plain queue to the ordered ones; back when they are empty."""
        if not self._ordered:
            self._ordered = True
            self._rest = [(_due(job.exchange), next(self._sequence), job) for job in self._plain]
            self._rest.sort()
            self._plain.clear()

    def _put(self, job: J, due: float) -> None:
        entry = (due, next(self._sequence), job)
        entries = self._rest
        if job.exchange.priority == HIGH:
            entries = self._high
            self._high_rows += job.size
        if entries and entry < entries[-1]:
            insort(entries, entry)
        else:
            entries.append(entry)
        self.rows += job.size

    def _ahead(self, exchange: Waiting, due: float) -> int:
        """Rows that go before it, as if every job had as many."""
        if exchange.priority == HIGH:
            entries, before, rows = self._high, 0, self._high_rows
        else:
            entries, before, rows = self._rest, self._high_rows, self.rows - self._high_rows
        if not entries or due >= entries[-1][0]:
            return before + rows
        return before + rows * bisect_right(entries, due, key=itemgetter(0)) // len(entries)

    def _admit(self, job: J, ahead: int, rows: int, now: float) -> None:
        """Raises RequestError when ``rows`` more with so many ahead would be late or are too many."""
        if job.group is not self._group:
            self._know(job.group, now)
        if ahead > self._roomy:
            self._bound(ahead)
        exchange = job.exchange
        deadline = exchange.deadline
        if deadline == NEVER:
            return
        all_rows = self.rows + rows if exchange.priority != HIGH else ahead + rows  # its batch may be made smaller
        seconds = self.until - now if self.until > now else 0.0
        if all_rows <= self._limit:
            seconds += self._overhead + self._each * all_rows
        else:
            seconds += self._through(ahead + rows, all_rows) * (self._crowd if exchange.priority != HIGH else 1.0)
        if now + seconds > deadline:
            _refuse_late(now + seconds - deadline, deadline - exchange.arrived, self._through(rows, rows))
        budget = deadline - exchange.arrived
        if budget < self._tight:
            self._tight = budget

    def _bound(self, ahead: int) -> None:
        seconds = self._through(ahead, ahead)
        if seconds > WAITING_SECONDS or ahead > WAITING_ROWS:
            raise RequestError(
                f"{self.rows} rows wait here already, {seconds:.1f} s of work; try again later.",
                status=503,
                reason="queue_full",
                retry_after=seconds / 2,
            )

    def _through(self, rows: int, of: int) -> float:
        """Seconds until the first ``rows`` of so many are done: in whole batches, the last as full as it gets."""
        limit = self._limit
        full = (rows - 1) // limit if rows else 0
        return (
            full * (self._overhead + self._each * limit) + self._overhead + self._each * min(limit, of - full * limit)
        )

    def _know(self, group: Group, now: float) -> None:
        """Look at what this group's runs cost and how large its next batch may be."""
        self._group = group
        cost, stretch = group.cost, self.stretch
        self._overhead = overhead = cost.overhead * stretch
        self._each = each = cost.each * stretch
        limit = cost.size(self.rows)
        if self._tight < NEVER or self._tight_before < NEVER:
            if now > self._tight_until:
                self._tight, self._tight_before = NEVER, self._tight
                self._tight_until = now + TIGHT_SECONDS
            half = max(min(self._tight, self._tight_before) / 2, SHORT_SECONDS)
            usual = self._usual / stretch
            if (overhead + each * limit) * usual > half:
                # Never below half the rate that the largest batches reach: one hurried client must not stop the rest.
                # Two at the least: from batches of one nobody could ever learn what a larger one costs.
                limit = min(limit, max(2, int(max(half / usual - overhead, overhead) / each)))
        self._limit = limit
        run = overhead + each * limit
        self._roomy = min(WAITING_ROWS, int(WAITING_SECONDS * limit / run)) if run else WAITING_ROWS

    # Going out

    def _take_plain(self, jobs: list[J], dropped: list[J], now: float) -> None:
        plain = self._plain
        group = plain[0].group
        self._know(group, now)
        limit = self._limit
        finish = now + self._overhead + self._each * min(limit, self.rows)
        rows = 0
        while plain:
            job = plain[0]
            if job.exchange.deadline < finish or job.group is not group or rows + job.size > limit:
                choice = _Choice(self, jobs, dropped, rows, now)
                while plain and choice.offers(plain[0]):
                    plain.popleft()
                self.taken, lost = choice.rows, choice.lost
                break
            rows += job.size
            jobs.append(plain.popleft())
        else:
            self.taken, lost = rows, 0
        self.rows -= self.taken + lost

    def _take_ordered(self, jobs: list[J], dropped: list[J], now: float) -> None:
        choice = _Choice(self, jobs, dropped, 0, now)
        for entries in (self._high, self._rest):
            place = 0
            others: list[Entry[J]] = []
            while place < len(entries) and not choice.full:
                if not choice.offers(entries[place][2]):
                    others.append(entries[place])
                place += 1
            entries[:place] = others
        rest = self._rest
        while rest and rest[0][2].exchange.deadline < now + self._overhead:
            # Said as soon as it is certain, also to those whom the high class does not let come to the front.
            dropped.append(rest.pop(0)[2])
            choice.lost += dropped[-1].size
        self.taken = choice.rows
        self.rows -= choice.rows + choice.lost
        self._high_rows = sum(entry[2].size for entry in self._high) if self._high else 0
        if not self._high and not self._rest:
            self._ordered = False


class _Choice(Generic[J]):
    """A batch while it is put together from jobs in their order. ``lost`` are the rows of those that are dropped."""

    __slots__ = ("_dropped", "_finish", "_group", "_jobs", "_limit", "_now", "_queue", "full", "lost", "rows")

    def __init__(self, queue: Queue[J], jobs: list[J], dropped: list[J], rows: int, now: float) -> None:
        self.full = False
        self.rows = rows
        self.lost = 0
        self._queue = queue
        self._jobs = jobs
        self._dropped = dropped
        self._now = now
        self._group: Group | None = None
        self._limit = 0
        self._finish = now
        if jobs:
            self._begin(jobs[0].group)

    def offers(self, job: J) -> bool:
        """Whether it is taken, or dropped; False: it waits on. After ``full`` nothing more is taken."""
        if job.group is not self._group:
            if self._jobs:
                return False
            self._begin(job.group)
        if self.rows + job.size > self._limit and self._jobs:
            self.full = True
            return False
        finish = self._finish
        if job.size > self._limit:  # it goes alone, as long as it takes
            finish = self._now + self._queue._overhead + self._queue._each * job.size
        if job.exchange.deadline < finish and not self._hurries(job):
            self._dropped.append(job)
            self.lost += job.size
            self._predict()
            return True
        self._jobs.append(job)
        self.rows += job.size
        return True

    def _begin(self, group: Group) -> None:
        queue = self._queue
        queue._know(group, self._now)
        self._group = group
        self._limit = queue._limit
        self._predict()

    def _predict(self) -> None:
        queue = self._queue
        self._finish = self._now + queue._overhead + queue._each * min(self._limit, queue.rows - self.lost)

    def _hurries(self, job: J) -> bool:
        """Make the batch smaller so that this job is not late, where that costs little of the rate."""
        queue = self._queue
        overhead, each = queue._overhead, queue._each
        fitting = (job.exchange.deadline - self._now - overhead) / each if each else 0.0
        if fitting < self.rows + job.size:
            return False
        waiting = queue.rows - self.lost
        whole = min(waiting, self._limit)
        kept = fitting * (overhead + each * whole) / ((overhead + each * fitting) * whole)
        of_its_class = waiting if job.exchange.priority != HIGH else queue._high_rows
        if kept < (HURRIED if of_its_class > self._limit else UNHURRIED):
            return False
        self._limit = int(fitting)
        self._predict()
        return True


def _due(exchange: Waiting) -> float:
    """Where in line it stands: when it is due, on its own clock."""
    due = min(exchange.deadline, exchange.arrived + PATIENCE)
    return due + YIELDED if exchange.priority >= LOW else due


def _refuse_late(late: float, budget: float, alone: float) -> NoReturn:
    """All in seconds."""
    if alone > budget:
        message = (
            f"This request takes about {alone * 1e3:.0f} ms by itself and is to be answered within {budget * 1e3:.3g} ms; "
            "send fewer rows at once or give it more time."
        )
    else:
        message = (
            f"Too much waits here: the answer would come {late * 1e3:.0f} ms after its deadline of "
            f"{budget * 1e3:.0f} ms. Try again later."
        )
    raise RequestError(message, status=503, reason="deadline", retry_after=late)
