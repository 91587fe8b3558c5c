"""How often the gate is wrong, what it costs to be right, and the traps that it stands beside: the code that runs live."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from bench.rows import Row
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from everloop.gate.compare import compare
from everloop.measure import shadow
from everloop.measure.metrics import score
from everloop.measure.paired import look_alpha
from everloop.records import PairedCounts
from everloop.spec.gate import NotWorse
from everloop.spec.metric import (
    F1,
    Accuracy,
    AveragePrecision,
    Brier,
    LogLoss,
    MeanAbsoluteError,
    Metric,
    RocAuc,
    RootMeanSquaredError,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
LEVEL = 0.06
"""Nominal .05, and what 1,000 rows may be off by."""
WHOLE = 2_000_000
"""Rows that stand for all there are: what the challenger is worse by on them is the margin."""


@dataclass(frozen=True, slots=True)
class World:
    """Draws n rows: truth, the champion's answers, the challenger's."""

    metric: Metric
    draw: Callable[[np.random.Generator, int], tuple[NDArray[np.generic], Floats, Floats]]


def classified(random: np.random.Generator, n: int) -> tuple[Integers, Floats, Floats]:
    """Three in ten positive; the challenger sees the signal through more noise."""
    signal = random.normal(0, 1, n)
    y = (random.random(n) < ndtr(signal - 0.74)).astype(np.int64)
    seen = [ndtr(signal - 0.74 + random.normal(0, noise, n)) for noise in (0.25, 0.40)]
    champion, challenger = (np.stack([1 - each, each], axis=1) for each in seen)
    return y, champion, challenger


def measured(random: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Numbers with heavy tails (Student's t of 4)."""
    truth = random.normal(0, 1, n)
    shared = random.standard_t(4, n) * 0.5
    champion = truth + shared + random.normal(0, 0.20, n)
    challenger = truth + shared + random.normal(0, 0.35, n)
    return truth, champion, challenger


WORLDS = (
    *(World(each, classified) for each in (Accuracy(), LogLoss(), Brier(), F1(), RocAuc(), AveragePrecision())),
    *(World(each, measured) for each in (RootMeanSquaredError(), MeanAbsoluteError())),
)


def worse_by(world: World) -> float:
    """What the challenger is truly worse by, on two million rows."""
    y, champion, challenger = world.draw(np.random.default_rng(99), WHOLE)
    sign = -1.0 if world.metric.greater_is_better else 1.0
    return sign * (score(world.metric, y, challenger) - score(world.metric, y, champion))


def level(world: World, margin: float, n: int, runs: int, *, seed: int = 31) -> float:
    """How often a challenger exactly at the margin passes."""
    random = np.random.default_rng(seed)
    gate = NotWorse(margin=margin)
    passed = 0
    for _ in range(runs):
        y, champion, challenger = world.draw(random, n)
        passed += compare(gate, world.metric, truth=y, champion=champion, challenger=challenger).promote
    return passed / runs


def at_the_margin(runs: int) -> list[Row]:
    rows = []
    for world in WORLDS:
        margin = worse_by(world)
        for n in (300, 1_000, 5_000):
            rows.append(
                Row(
                    what=f"at the margin promoted, {world.metric.name.replace('_', ' ')}, {n:,} rows",
                    ours=level(world, margin, n, runs if n < 5_000 else runs // 4),
                    target=LEVEL if n == 1_000 else None,
                    unit="of runs",
                    rounds=runs if n < 5_000 else runs // 4,
                )
            )
    return rows


def decisions(
    random: np.random.Generator, n: int, *, disagreement: float, worse: float
) -> tuple[Integers, Integers, Integers]:
    """Truth, champion, challenger: they differ on that share, and the challenger is wrong in ``worse`` more of all rows."""
    drawn = random.random(n)
    ours = (drawn < (disagreement + worse) / 2).astype(np.int64)
    theirs = (drawn > 1 - (disagreement - worse) / 2).astype(np.int64)
    return np.zeros(n, np.int64), theirs, ours


def one_point_worse(runs: int) -> list[Row]:
    rows = []
    for disagreement in (0.05, 0.1, 0.2):
        random = np.random.default_rng(32)
        passed, plain = [], []
        for _ in range(runs):
            y, theirs, ours = decisions(random, 1_000, disagreement=disagreement, worse=0.01)
            found = compare(NotWorse(margin=0.01), Accuracy(), truth=y, champion=theirs, challenger=ours)
            passed.append(found.promote)
            plain.append(np.mean(ours) <= np.mean(theirs))
        rows.append(
            Row(
                what=f"one point worse promoted, 1,000 rows, {disagreement:.0%} differ",
                ours=float(np.mean(passed)),
                peer=float(np.mean(plain)),
                peer_name="score >= champion's",
                target=LEVEL,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def power(runs: int) -> list[Row]:
    rows = []
    for disagreement in (0.05, 0.1, 0.2):
        for margin in (0.01, 0.02):
            random = np.random.default_rng(33)
            n = math.ceil(6.183 * disagreement / margin**2)
            passed, anchored = [], []
            for _ in range(runs):
                y, theirs, ours = decisions(random, n, disagreement=disagreement, worse=0.0)
                gate = NotWorse(margin=margin)
                given = {"truth": y, "champion": theirs, "challenger": ours}
                passed.append(compare(gate, Accuracy(), **given).promote)
                # As unlike the challenger as the champion is, and as good.
                chance = disagreement / (2 - disagreement)
                anchor = np.where(ours == 1, 0, (random.random(n) < chance).astype(np.int64))
                anchored.append(compare(gate, Accuracy(), **given, anchors={"the oldest": anchor}).promote)
            what = f"{disagreement:.0%} differ, margin {margin:.0%}, n = 6.18·D/δ² = {n:,}"
            rows += [
                Row(
                    what=f"equal promoted, {name}{what}",
                    ours=float(np.mean(found)),
                    target=0.75 if not name else None,
                    greater_is_better=True,
                    unit="of runs",
                    rounds=runs,
                )
                for name, found in (("", passed), ("with an anchor, ", anchored))
            ]
    return rows


WEEKS, ROWS_A_WEEK, RIGHT = 52, 1_000, 0.80
ALIKE = {"10 %": 0.90, "5 %": 0.97}
"""How alike two models' mistakes are, by the share of rows of which one of two alone is right: at .80, about."""


@dataclass(frozen=True, slots=True)
class Model:
    right: float
    """Its true share of right answers."""
    seen: float
    """What it had at its gate."""


def right_on(random: np.random.Generator, row: Floats, model: Model, alike: float = ALIKE["10 %"]) -> Integers:
    """0 where the model is right on the row (a Gaussian copula: rows are hard or easy for all models alike)."""
    own = math.sqrt(alike) * row + math.sqrt(1 - alike) * random.normal(0, 1, len(row))
    return (own > float(ndtri(model.right))).astype(np.int64)


def year(random: np.random.Generator, rule: str, lost: float, alike: float) -> float:
    """The champion's true loss after a year of weekly challengers, each ``lost`` worse than the champion of the day."""
    champion = Model(RIGHT, RIGHT)
    served = [champion]
    gate, truth = NotWorse(margin=0.01), np.zeros(ROWS_A_WEEK, np.int64)
    for _ in range(WEEKS):
        row = random.normal(0, 1, ROWS_A_WEEK)
        challenger = Model(champion.right - lost, 0.0)
        theirs, ours = right_on(random, row, champion, alike), right_on(random, row, challenger, alike)
        seen = 1 - float(ours.mean())
        if rule == "score":
            promote = seen >= 1 - float(theirs.mean())
        else:
            others = [each for each in served if each is not champion] if rule != "margin" else []
            anchors = {"best": max(others, key=lambda each: each.seen)} if others else {}
            if others and rule == "anchors":
                anchors["oldest"] = others[0]
            answers = {name: right_on(random, row, each, alike) for name, each in anchors.items()}
            promote = compare(gate, Accuracy(), truth=truth, champion=theirs, challenger=ours, anchors=answers).promote
        if promote:
            champion = Model(challenger.right, seen)
            served.append(champion)
    return RIGHT - champion.right


def years(runs: int) -> list[Row]:
    rows = []
    peers = (("score", "score >= champion's"), ("margin", "margin, no anchor"), ("best", "the best as only anchor"))
    for differ, lost, target in (("10 %", 0.003, 1.0), ("10 %", 0.008, 1.0), ("5 %", 0.003, None)):
        found = {}
        for rule in ("anchors", *(name for name, _ in peers)):
            random = np.random.default_rng(34)
            found[rule] = 100 * float(np.mean([year(random, rule, lost, ALIKE[differ]) for _ in range(runs)]))
        rows += [
            Row(
                what=f"a year of weekly challengers {100 * lost:g} points worse costs, {differ} differ, mean",
                ours=found["anchors"],
                peer=found[peer],
                peer_name=name,
                target=target,
                unit="points",
                rounds=runs,
            )
            for peer, name in peers
        ]
    return rows


def flow(random: np.random.Generator, lost: float, rows: int = ROWS_A_WEEK) -> float:
    """The same year with default settings: who is unsure at the gate goes on to a week of shadow, and from there, unless
    shown worse, on to champion: a release takes two weeks, 26 a year."""
    champion = Model(RIGHT, RIGHT)
    served = [champion]
    gate, truth, limit = NotWorse(margin=0.01), np.zeros(rows, np.int64), math.log(3 / 0.05)
    for _ in range(WEEKS // 2):
        row = random.normal(0, 1, rows)
        challenger = Model(champion.right - lost, 0.0)
        theirs, ours = right_on(random, row, champion), right_on(random, row, challenger)
        others = [each for each in served if each is not champion]
        anchors = {"best": max(others, key=lambda each: each.seen), "oldest": others[0]} if others else {}
        answers = {name: right_on(random, row, each) for name, each in anchors.items()}
        verdict = compare(gate, Accuracy(), truth=truth, champion=theirs, challenger=ours, anchors=answers)
        seen = 1 - float(ours.mean())
        if verdict.outcome == "worse":
            continue
        row = random.normal(0, 1, rows)
        theirs, ours = right_on(random, row, champion), right_on(random, row, challenger)
        b, c = np.cumsum(ours > theirs, dtype=np.float64), np.cumsum(ours < theirs, dtype=np.float64)
        if (shadow.discordant_worse(b, c) >= limit).any():
            continue
        champion = Model(challenger.right, seen)
        served.append(champion)
    return RIGHT - champion.right


def flows(runs: int) -> list[Row]:
    rows = []
    for lost in (0.003, 0.008):
        random = np.random.default_rng(38)
        rows.append(
            Row(
                what=f"the same year, {100 * lost:g} points worse, those the gate is unsure of going on to shadow: costs, mean",
                ours=100 * float(np.mean([flow(random, lost) for _ in range(runs)])),
                unit="points",
                rounds=runs,
            )
        )
    return rows


def looks(runs: int) -> list[Row]:
    """One at the margin, asked again as 3,000 labels arrive: shadow's rule at ten looks, the gate at two planned ones."""
    random = np.random.default_rng(35)
    n, margin, gate = 3_000, 0.02, NotWorse(margin=0.02)
    planned_alpha = look_alpha(0.05, 0.5)
    ours, planned, plain = [], [], []
    for _ in range(runs):
        y, theirs, mine = decisions(random, n, disagreement=0.1, worse=margin)
        shown = again = z = False
        for look in range(n // 10, n + 1, n // 10):
            b = int(np.sum(mine[:look] > theirs[:look]))
            c = int(np.sum(mine[:look] < theirs[:look]))
            pairs = PairedCounts(
                pairs=look,
                total=float(b - c),
                squares=float(b + c),
                only_challenger_wrong=b,
                only_champion_wrong=c,
                bounded=True,
            )
            found = shadow.judge(pairs, margin=margin, alpha_worse=0.05, alpha_not_worse=0.05)
            shown |= found.log_not_worse >= math.log(20)
            part = {"truth": y[:look], "champion": theirs[:look], "challenger": mine[:look]}
            z |= compare(gate, Accuracy(), **part).promote
            if look in (n // 2, n):
                again |= compare(gate, Accuracy(), alpha=planned_alpha, **part).promote
        ours.append(shown)
        planned.append(again)
        plain.append(z)
    return [
        Row(
            what=f"at the margin promoted, {name}",
            ours=float(np.mean(found)),
            peer=float(np.mean(plain)),
            peer_name="ten looks, z each time",
            target=LEVEL,
            unit="of runs",
            rounds=runs,
        )
        for name, found in (("ten looks in shadow", ours), ("two planned looks", planned))
    ]


def best_of(runs: int, candidates: int = 40) -> list[Row]:
    """Forty candidates at the margin: the best on rows of its own goes to the gate, and the best on the gate's rows."""
    random = np.random.default_rng(36)
    gate, n = NotWorse(margin=0.01), 1_000
    champion = Model(RIGHT, RIGHT)
    each = Model(RIGHT - 0.01, 0.0)
    ours, theirs = [], []
    for _ in range(runs):
        row, apart = random.normal(0, 1, n), random.normal(0, 1, n)
        base = right_on(random, row, champion)
        on_gate = [right_on(random, row, each) for _ in range(candidates)]
        elsewhere = [float(right_on(random, apart, each).mean()) for _ in range(candidates)]
        truth = np.zeros(n, np.int64)
        chosen, peeked = on_gate[int(np.argmin(elsewhere))], min(on_gate, key=lambda one: float(one.mean()))
        ours.append(compare(gate, Accuracy(), truth=truth, champion=base, challenger=chosen).promote)
        theirs.append(compare(gate, Accuracy(), truth=truth, champion=base, challenger=peeked).promote)
    return [
        Row(
            what=f"at the margin promoted, the best of {candidates} candidates",
            ours=float(np.mean(ours)),
            peer=float(np.mean(theirs)),
            peer_name="chosen on the gate's rows",
            target=LEVEL,
            unit="of runs",
            rounds=runs,
        )
    ]


def by_day(runs: int) -> list[Row]:
    """The gap differs from day to day (sd two points), 200 rows a day: rows of one day err together."""
    rows = []
    for days in (7, 14, 28):
        random = np.random.default_rng(37)
        gate = NotWorse(margin=0.01)
        ours, theirs = [], []
        for _ in range(runs):
            day = np.repeat(np.arange(days), 200)
            gap = np.clip(0.01 + random.normal(0, 0.02, days), -0.1, 0.1)[day]
            drawn = random.random(len(day))
            mine = (drawn < (0.1 + gap) / 2).astype(np.int64)
            champion = (drawn > 1 - (0.1 - gap) / 2).astype(np.int64)
            truth = np.zeros(len(day), np.int64)
            arguments = {"truth": truth, "champion": champion, "challenger": mine}
            ours.append(compare(gate, Accuracy(), days=day, **arguments).promote)
            theirs.append(compare(gate, Accuracy(), **arguments).promote)
        rows.append(
            Row(
                what=f"at the margin promoted, the gap differs by day, {days} days",
                ours=float(np.mean(ours)),
                peer=float(np.mean(theirs)),
                peer_name="rows as independent",
                target=LEVEL,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def rows(runs: int) -> list[Row]:
    return [
        *at_the_margin(2 * runs),
        *one_point_worse(runs),
        *power(max(200, runs // 4)),
        *years(max(20, runs // 10)),
        *flows(max(20, runs // 10)),
        *looks(runs),
        *best_of(runs),
        *by_day(runs),
    ]
