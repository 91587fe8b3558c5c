"""A replay of queries through the server's own queue, time counted instead of waited for: who is answered how soon.

One core, a model that costs 3 ms a row however many go together (convolutions, say) and .5 ms a run; queries come at
random, two in ten of high value. Three ways at the same load: everybody alike; the high-value ones first; and first with
the weights of a route by meaning, which gives nineteen of twenty others to a version of a quarter of the cost.
`bench.release.routing` sends the same through a real server.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from bench.rows import Row
from numpy.typing import NDArray

from everloop.errors import RequestError
from everloop.serve.admission import Queue
from everloop.serve.cost import CostLine
from everloop.serve.urgency import HIGH, NORMAL

Floats = NDArray[np.float64]
OVERHEAD, EACH, SMALL, BEST = 0.0005, 0.003, 0.25, 4
VALUABLE, WEIGHT = 0.2, 0.95


@dataclass
class Asked:
    arrived: float
    deadline: float
    priority: int


@dataclass(eq=False)
class Group:
    cost: CostLine


@dataclass(eq=False)
class Job:
    exchange: Asked
    group: Group
    place: int
    size: int = 1


def replay(way: str, load: float, count: int, *, budget: float, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Seconds from coming to answer of each query (NaN: refused as too late), and which are of high value."""
    random = np.random.default_rng(seed)
    comes = np.cumsum(random.exponential((OVERHEAD / BEST + EACH) / load, count))
    high = random.random(count) < VALUABLE
    small = (random.random(count) < WEIGHT) & ~high & (way == "routed")
    line = CostLine()
    for rows in (1, 4, 16):
        line.observe(rows, OVERHEAD + EACH * rows)
    line.best = BEST
    group, queue, took = Group(line), Queue[Job](), np.full(count, np.nan)
    now, next_ = 0.0, 0
    while next_ < count or queue:
        if not queue:
            now = max(now, comes[next_])
        while next_ < count and comes[next_] <= now:
            at = float(comes[next_])
            priority = HIGH if high[next_] and way != "alike" else NORMAL
            with suppress(RequestError):
                queue.push(Job(Asked(at, at + budget, priority), group, next_), at)
            next_ += 1
        jobs, _ = queue.take(now)
        if not jobs:
            continue
        seconds = OVERHEAD + sum(EACH * (SMALL if small[job.place] else 1.0) for job in jobs)
        queue.until = now + seconds
        now += seconds
        queue.ran(group, len(jobs), seconds)
        for job in jobs:
            took[job.place] = now - comes[job.place]
    return took, high


def rows(runs: int) -> list[Row]:
    """``runs`` × 100 queries at each load."""
    made: list[Row] = []
    for load in (0.85, 0.95, 1.1):
        seen = {way: replay(way, load, 100 * runs, budget=0.25, seed=41) for way in ("alike", "first", "routed")}
        high = seen["alike"][1]
        alike = seen["alike"][0]
        for way, words in (("first", "high value first"), ("routed", "first, others by the smaller version")):
            took = seen[way][0]
            for name, level in (("median", 0.5), ("95 of 100", 0.95)):
                ours, theirs = (float(np.nanquantile(each[high], level)) for each in (took, alike))
                made += [
                    Row(
                        what=f"load {load:.0%}, {words}: high-value queries, {name}",
                        ours=1e3 * ours,
                        peer=1e3 * theirs,
                        peer_name="without routing",
                        unit="ms",
                        rounds=int(high.sum()),
                    ),
                    Row(
                        what=f"load {load:.0%}, {words}: less time for high-value queries, {name}",
                        ours=100 * (1 - ours / theirs),
                        target=40 if way == "routed" else None,  # the promise is of the whole
                        greater_is_better=True,
                        unit="%",
                        rounds=int(high.sum()),
                    ),
                ]
            made.append(
                Row(
                    what=f"load {load:.0%}, {words}: the other queries, median",
                    ours=1e3 * float(np.nanmedian(took[~high])),
                    peer=1e3 * float(np.nanmedian(alike[~high])),
                    peer_name="without routing",
                    unit="ms",
                    rounds=int((~high).sum()),
                )
            )
    return made
