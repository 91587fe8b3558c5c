"""Equal challengers in traffic that breaks rules of thumb: sticky callers, drift at a change of share, uneven labels."""

import math

import numpy as np
from bench.release.streams import ALPHA, Booleans, Watched, counted, delayed, end_of
from bench.rows import Row
from numpy.typing import NDArray

from everloop.measure import eprocess

SHARE = 0.1
KEYS = 4_000
HOURS = 48
REQUESTS = 40_000
MEAN, ICC = 0.02, 0.3
AGE = 30_000
"""Requests after which an outcome is looked at, whatever has come by then."""


def sticky(random: np.random.Generator, *, lift: float = 1.0) -> dict[str, Watched]:
    """Failures of 4,000 callers (Pareto 1.2 requests each, intraclass correlation .3) in two days, counted in three ways.

    Whoever stays on one side for an hour is counted once an hour, whoever stays for good once; beside it each request
    of callers that stay for good, which is what a canary does that forgets who asks.
    """
    weight = random.pareto(1.2, KEYS) + 1
    caller = random.choice(KEYS, REQUESTS, p=weight / weight.sum())
    spread = 1 / ICC - 1
    chance = random.beta(MEAN * spread, (1 - MEAN) * spread, KEYS)
    hour = np.arange(REQUESTS) * HOURS // REQUESTS
    by_hour = random.random((KEYS, HOURS)) < SHARE
    for_good = random.random(KEYS) < SHARE
    drawn = random.random(REQUESTS)

    def one(arm: Booleans, unit: NDArray[np.int64] | None) -> Watched:
        event = drawn < np.minimum(1.0, chance[caller] * np.where(arm, lift, 1.0))
        if unit is not None:
            first = np.sort(np.unique(unit, return_index=True)[1])
            arm, event = arm[first], event[first]
        return counted(arm, event, name="errors", baseline=MEAN)

    return {
        "a unit an hour": one(by_hour[caller, hour], caller * HOURS + hour),
        "a unit for good": one(for_good[caller], caller),
        "each request": one(for_good[caller], None),
    }


def sticky_ends(runs: int, *, seed: int = 21, lift: float = 1.0) -> dict[str, float]:
    """How each way of counting turns the challenger back, as shares of the runs."""
    random = np.random.default_rng(seed)
    back: dict[str, list[bool]] = {}
    for _ in range(runs):
        for name, watched in sticky(random, lift=lift).items():
            end = end_of([watched], watched.n1[:, 0], [SHARE], promotes=False)
            back.setdefault(name, []).append(end.action == "rolled back")
    return {name: float(np.mean(each)) for name, each in back.items()}


def drifting(random: np.random.Generator) -> list[Watched]:
    """10 % of the traffic, then 50 %; meanwhile errors 1 → 4 %, slow answers 5 → 10 %, wrong ones 10 → 20 % in both arms."""
    half = 40_000
    place = np.arange(2 * half)
    arm = random.random(2 * half) < np.where(place < half, 0.1, 0.5)
    guards = []
    for name, before, after in (("errors", 0.01, 0.04), ("slow", 0.05, 0.10), ("wrong", 0.10, 0.20)):
        event = random.random(2 * half) < np.linspace(before, after, 2 * half)
        columns = [event & arm, arm, event & ~arm, ~arm]
        k1, n1, k0, n0 = (
            np.cumsum(np.stack([column & (place < half), column & (place >= half)], axis=1), axis=0, dtype=np.float64)
            for column in columns
        )
        guards.append(Watched(name=name, k1=k1, n1=n1, k0=k0, n0=n0, baseline=before, margin=0.01))
    return guards


def _pooled(guard: Watched, limit: float) -> bool:
    """The same counts, all epochs taken for one at the share there was on the whole: as must not be done."""
    k1, n1, k0, n0 = (each.sum(axis=1)[1_000::100, None] for each in (guard.k1, guard.n1, guard.k0, guard.n0))
    observed = eprocess.counts(k1, n1, k0, n0, n1 / (n1 + n0))
    return bool((eprocess.rollback(observed, guard.baseline) >= limit).any())


def drifting_ends(runs: int, *, seed: int = 22) -> tuple[float, float]:
    """Share of equal challengers turned back: by epoch with a look after each request, and pooled."""
    random = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(runs):
        guards = drifting(random)
        end = end_of(guards, guards[0].n1.sum(axis=1), [0.1, 0.5], promotes=False)
        ours.append(end.action == "rolled back")
        theirs.append(any(_pooled(guard, math.log(len(guards) / ALPHA)) for guard in guards))
    return float(np.mean(ours)), float(np.mean(theirs))


def uneven(random: np.random.Generator) -> dict[str, list[Watched]]:
    """Both arms equally often wrong (10 %), but the challenger's customers say so at once, the champion's late.

    One label in five never comes. At a fixed age, in the order of the requests, with the missing ones a guard of their
    own; beside it labels counted as they come.
    """
    requests = 100_000
    arm = random.random(requests) < SHARE
    wrong = random.random(requests) < 0.10
    comes = random.random(requests) >= 0.2
    # Bad news travels faster than good news, and faster from the challenger's callers: all of it within the age.
    delay = np.where(wrong, np.where(arm, 2_000, 20_000), 25_000) * random.random(requests)
    place = np.arange(requests)
    told, bad = comes, wrong & comes
    known = place - AGE
    judged = counted_some(arm, bad, told, "wrong", 0.1)
    missing = counted(arm, ~comes, name="missing", baseline=0.2)
    at_age = [delayed(judged, known), delayed(missing, known)]
    arrives = np.argsort(np.where(comes, place + delay, np.inf), kind="stable")[: int(comes.sum())]
    as_they_come = [counted(arm[arrives], bad[arrives], name="wrong", baseline=0.1)]
    return {"at a fixed age": at_age, "as they come": as_they_come}


def counted_some(arm: Booleans, event: Booleans, told: Booleans, name: str, baseline: float) -> Watched:
    """Running counts of the requests of which something is told."""
    columns = [event & arm & told, arm & told, event & ~arm & told, ~arm & told]
    k1, n1, k0, n0 = (np.cumsum(each, dtype=np.float64)[:, None] for each in columns)
    return Watched(name=name, k1=k1, n1=n1, k0=k0, n0=n0, baseline=baseline, margin=0.01)


def uneven_ends(runs: int, *, seed: int = 23) -> dict[str, float]:
    random = np.random.default_rng(seed)
    back: dict[str, list[bool]] = {}
    for _ in range(runs):
        for name, guards in uneven(random).items():
            end = end_of(guards, guards[0].n1[:, 0], [SHARE], promotes=False)
            back.setdefault(name, []).append(end.action == "rolled back")
    return {name: float(np.mean(each)) for name, each in back.items()}


def rows(runs: int) -> list[Row]:
    alike, worse = sticky_ends(runs), sticky_ends(runs, seed=24, lift=3.0)
    by_epoch, pooled = drifting_ends(runs)
    late = uneven_ends(runs)
    made = [
        Row(
            what=f"equal rolled back, sticky callers (ICC .3), {name}",
            ours=alike[name],
            peer=alike["each request"],
            peer_name="each request counted",
            target=ALPHA,
            unit="of runs",
            rounds=runs,
        )
        for name in ("a unit an hour", "a unit for good")
    ]
    made += [
        Row(
            what=f"errors three times as many found, sticky callers, {name}",
            ours=worse[name],
            unit="of runs",
            rounds=runs,
        )
        for name in ("a unit an hour", "a unit for good")
    ]
    return [
        *made,
        Row(
            what="equal rolled back, 10 → 50 % while three rates of both arms rise",
            ours=by_epoch,
            peer=pooled,
            peer_name="counts pooled over shares",
            target=ALPHA,
            unit="of runs",
            rounds=runs,
        ),
        Row(
            what="equal rolled back, labels late and uneven, one in five missing",
            ours=late["at a fixed age"],
            peer=late["as they come"],
            peer_name="labels counted as they come",
            target=ALPHA,
            unit="of runs",
            rounds=runs,
        ),
    ]
