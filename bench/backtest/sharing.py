"""Forty policies over 126 weeks of elec2 with shared fits, beside each of them run alone.

Alone: a fresh home and fresh workers for each policy, as somebody would who tries one after the other. Times on the wall
and CPU of all processes; the machine may be shared, so the ratio of CPU is the steadier one.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from bench.backtest.parts import Clock, Part, opened
from bench.backtest.sets import WEEK, Set, sets
from bench.rows import Row

from everloop.loop.backtest.result import BacktestResult
from everloop.spec.policy import Policy
from everloop.spec.retrain import AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger
from everloop.spec.window import Last

SAMPLE = 4
"""One of so many policies is run alone."""
START = datetime(1996, 7, 9, tzinfo=UTC)
"""So that 126 windows are left."""


def part(*, quick: bool) -> Part:
    found = Part()
    known = {each.name: each for each in sets()}
    if not known:
        return found
    elec2 = known["elec2"]
    policies = forty()[:: 8 if quick else 1]
    lengths = len({each.window for each in policies})
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        place = Path(folder)
        shared, wall, cpu = run(elec2, place, policies, "shared")
        again, again_wall, _ = run(elec2, place, policies, "shared")
        turns, walls, cpus = [], [], []
        for number in range(0, len(policies), SAMPLE):
            one, seconds, used = run(elec2, place, [policies[number]], f"alone-{number}")
            assert one.runs[0].score == shared.runs[number].score, policies[number].name
            turns.append(len(one.runs[0].retrains))
            walls.append(seconds)
            cpus.append(used)
    everybody = [len(run.retrains) for run in shared.runs]
    alone_wall, alone_cpu = _all(turns, walls, everybody), _all(turns, cpus, everybody)
    found.notes.append(
        f"{len(turns)} of the {len(policies)} policies were run alone, with {sum(turns)} turns of {sum(everybody)}; what all of "
        "them take alone is a line through these: so much for a start, so much for a turn."
    )
    fits = sum(len({each.fit for each in run.retrains}) for run in shared.runs)
    windows = len(shared.windows)
    made = int(shared.seconds["made"])
    what = f"{len(policies)} policies × {windows} weekly windows"
    found.rows += [
        Row(what=f"{what}: fits made (limit: windows × {lengths} window lengths)", ours=made, unit="fits", peer=fits,
            peer_name="each alone", target=windows * lengths),
        Row(what=f"{what}: wall", ours=wall, unit="s", peer=alone_wall, peer_name="each alone", target=alone_wall / 5),
        Row(what=f"{what}: CPU of all processes", ours=cpu, unit="s", peer=alone_cpu, peer_name="each alone",
            target=alone_cpu / 5),
        Row(what=f"{what}: again, nothing new to fit, wall", ours=again_wall, unit="s", peer=wall, peer_name="first time"),
    ]  # fmt: skip
    assert again.seconds["made"] == 0
    return found


def _all(turns: Sequence[int], took: Sequence[float], everybody: Sequence[int]) -> float:
    """What everybody takes, from a line through those who were measured."""
    slope, start = np.polyfit(turns, took, 1) if len(turns) > 2 else (0.0, float(np.mean(took)))
    return float(sum(start + slope * count for count in everybody))


def forty() -> list[Policy]:
    """Twenty triggers with two training windows each: one fit a turn, so that the count is plain."""
    triggers: list[Trigger] = [Manual(), *(Every(WEEK * count) for count in (1, 2, 3, 4, 5, 6, 8, 10, 13, 26))]
    triggers += [Rows(336 * count) for count in (2, 3, 4)]
    triggers += [Degraded(by=by, over=WEEK) for by in (0.02, 0.05)]
    triggers += [AnyOf(Every(WEEK * count), Degraded(by=0.05, over=2 * WEEK)) for count in (6, 12)]
    triggers += [Drift(), Drift(false_alarm_every=timedelta(days=30))]
    windows = [Last(WEEK * weeks, test=WEEK) for weeks in (9, 17)]
    return [Policy(trigger, window=window, gate=None) for window in windows for trigger in triggers]


def run(each: Set, folder: Path, policies: Sequence[Policy], home: str) -> tuple[BacktestResult, float, float]:
    """The result, seconds on the wall, and CPU seconds of this process and its workers."""
    # The libraries that a declaration names are loaded once, here as in workers: a start-up, told apart.
    loading = Clock()
    each.written(folder)
    loaded = loading.cpu
    before = _children()
    clock = Clock()
    start = {"start": START} if each.name == "elec2" else {}
    with opened(each, folder, policies, home=folder / home, **start) as running:
        result = running.result(policies)
        cpu = clock.cpu
    wall = clock.wall
    result.seconds["main cpu"] = cpu  # type: ignore[index]
    result.seconds["start-up cpu"] = loaded + _children() - before - result.seconds["workers cpu"]  # type: ignore[index]
    return result, wall, loaded + clock.cpu + _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
