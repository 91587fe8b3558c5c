"""Requests of a canary one by one, and the first request at which a rule would have acted. Knows no rule's formula.

The rules are those of `everloop.measure.eprocess`, asked after every single request; where a run ends, the judge that
production runs is asked about the same counts and must say the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.measure import eprocess
from everloop.records import ArmCounts, GuardEvidence, Release, ReleaseEvidence
from everloop.release.judge import judge
from everloop.spec.guard import Errors, Latency
from everloop.spec.rollout import Canary

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

ALPHA, PROMOTE_ALPHA = 0.05, 0.02
BLOCK = 10_000
"""Requests that are looked at together; a run ends within a block or goes on to the next."""
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One guard's running counts [requests, epochs], as they stand after each request, and what it is held to."""

    name: str
    k1: Floats
    n1: Floats
    k0: Floats
    n0: Floats
    baseline: float
    margin: float

    def counts(self, part: slice | int, shares: Floats) -> eprocess.Counts:
        return eprocess.counts(self.k1[part], self.n1[part], self.k0[part], self.n0[part], shares)

    def near(self, part: slice, shares: Floats, limit: float) -> bool:
        """Whether a mixture of bets can have reached the limit: one of them must have. Each is linear in the counts, so
        this costs a tenth of asking; where it says no, asking would say no."""
        b, m = np.log(eprocess.ROLLBACK_RATIOS)[:, None], self.baseline
        event = np.log1p(shares * np.expm1(b * (1 - m)))
        none = np.log1p(shares * np.expm1(-b * m))
        cells = (b * (1 - m) - event, -b * m - none, -event, -none)
        return bool((self._together(part, cells) >= limit - 1e-6).any())

    def near_promotion(self, part: slice, shares: Floats, needed: float) -> bool:
        factors = eprocess._promotion_log_factors(shares, self.baseline, self.margin)
        cells = tuple(factors[:, cell, :] for cell in range(4))
        return bool((self._together(part, cells) >= needed - 1e-6).any())

    def _together(self, part: slice, cells: tuple[Floats, ...]) -> Floats:
        """Sums over cells and epochs, [requests, bets]; cells: events and none of the challenger, then of the champion."""
        k1, n1, k0, n0 = (each[part] for each in (self.k1, self.n1, self.k0, self.n0))
        counts = (k1, n1 - k1, k0, n0 - k0)
        total: Floats = sum(count @ cell.T for count, cell in zip(counts, cells, strict=True))  # type: ignore[assignment]
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """``action``: rolled back, promoted or open; ``request``: the place of the one after which it was so."""

    action: str
    request: int
    canary: float
    """Canary requests until then."""


def counted(arm: Booleans, event: Booleans, *, name: str, baseline: float, margin: float = 0.01) -> Watched:
    """Running counts of one epoch, every request a unit."""
    columns = [event & arm, arm, event & ~arm, ~arm]
    k1, n1, k0, n0 = (np.cumsum(each, dtype=np.float64)[:, None] for each in columns)
    return Watched(name=name, k1=k1, n1=n1, k0=k0, n0=n0, baseline=baseline, margin=margin)


def end_of(
    guards: Sequence[Watched],
    canary: Floats,
    shares: Sequence[float],
    *,
    promotes: bool = True,
    least: int = 200,
    since: int = 0,
) -> End:
    """Where the run ends with a look after every request. ``canary``: canary requests so far, [requests].

    ``since``: up to there it is known not to end.
    """
    limit, needed = math.log(len(guards) / ALPHA), math.log(1 / PROMOTE_ALPHA)
    w = np.asarray(shares, dtype=np.float64)
    for begin in range(since, len(canary), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(canary)))
        back = np.zeros(part.stop - begin, dtype=bool)
        on = canary[part] >= least if promotes else np.zeros(part.stop - begin, dtype=bool)
        if on.any() and not all(guard.near_promotion(part, w, needed) for guard in guards):
            on[:] = False
        for guard in guards:
            if not on.any() and not guard.near(part, w, limit):
                continue
            observed = guard.counts(part, w)
            back |= eprocess.rollback(observed, guard.baseline) >= limit
            if on.any():
                on &= eprocess.enough(observed, guard.baseline, guard.margin, PROMOTE_ALPHA)
                on &= eprocess.promotion(observed, guard.baseline, guard.margin) >= needed
        if not (back.any() or on.any()):
            continue
        place = int(np.argmax(back | on))
        end = End(
            action="rolled back" if back[place] else "promoted",
            request=begin + place,
            canary=float(canary[begin + place]),
        )
        _agreed(guards, end, w, least)
        return end
    return End(action="open", request=len(canary) - 1, canary=float(canary[-1]))


def _agreed(guards: Sequence[Watched], end: End, shares: Floats, least: int) -> None:
    """The judge of production says the same of the same counts. Raises AssertionError."""
    evidence = ReleaseEvidence(guards=tuple(evidence_of(each, end.request, shares) for each in guards))
    rollout = Canary(
        shares=tuple(float(share) for share in shares) if len(shares) > 1 else (float(shares[0]),),
        guards=(Errors(), Latency(quantile=0.95), Latency(quantile=0.99))[: len(guards)],
        shadow=False,
        minimum=timedelta(0),
        minimum_requests=least,
    )
    release = Release(
        loop="made", champion=1, challenger=2, stage="canary", share=float(shares[-1]), started=START, since=START
    )
    found = judge(rollout, evidence, release=release, now=START)
    if (end.action == "rolled back") != found.rollback or (end.action == "promoted") != found.promote:
        raise AssertionError(f"the judge says {found.because!r} where the counts say {end.action}")


def evidence_of(guard: Watched, request: int, shares: Floats) -> GuardEvidence:
    epochs = tuple(
        ArmCounts(
            share=float(share),
            challenger_events=float(guard.k1[request, place]),
            challenger_units=float(guard.n1[request, place]),
            champion_events=float(guard.k0[request, place]),
            champion_units=float(guard.n0[request, place]),
        )
        for place, share in enumerate(shares)
    )
    return GuardEvidence(guard=guard.name, baseline=guard.baseline, margin=guard.margin, epochs=epochs)


def late(watched: Watched, by: int) -> Watched:
    """The same counts, each request known only ``by`` requests later."""
    return delayed(watched, np.arange(len(watched.k1)) - by)


def delayed(watched: Watched, known: NDArray[np.int64]) -> Watched:
    """``known``: up to which request the counts go after each one; below 0 none."""

    def moved(values: Floats) -> Floats:
        return np.where(known[:, None] >= 0, values[np.maximum(known, 0)], 0.0)

    parts: dict[str, Any] = {name: moved(getattr(watched, name)) for name in ("k1", "n1", "k0", "n0")}
    return Watched(name=watched.name, baseline=watched.baseline, margin=watched.margin, **parts)
