"""What a rollout would do: one whole release over made traffic, by the judge and the plan that production runs.

Knows no server and no clock: requests are drawn, time is counted. Also for users: how long would my `Canary` take at my
traffic, and how often would it be wrong?
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from everloop.records import ArmCounts, GuardEvidence, PairedCounts, Release, ReleaseEvidence
from everloop.release import plan
from everloop.release.judge import judge
from everloop.spec.rollout import Canary

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of champion and challenger, in this order: rates of the two guards; shares of the rows that only
    one of them gets wrong.
    """

    errors: tuple[float, float] = (0.02, 0.02)
    slow: tuple[float, float] = (0.01, 0.01)
    only_champion_wrong: float = 0.05
    only_challenger_wrong: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended: the last change, after how long, and how many requests the challenger answered."""

    change: plan.Change
    after: timedelta
    requests: int


def release(
    truth: Truth,
    rollout: Canary,
    *,
    seed: int,
    requests: int = 3_000,
    every: timedelta = timedelta(hours=2),
    margin: float = 0.01,
    score_margin: float = 0.02,
) -> Ended:
    """Run one release to its end, with ``requests`` between two looks and every label known at once.

    One that waits, because too little is seen of it, is left waiting after a dozen times its `longest`.

    >>> ended = release(Truth(errors=(0.01, 0.2)), Canary(), seed=1)
    >>> ended.change.action, ended.change.release.champion
    ('rolled back', 1)
    """
    random = np.random.default_rng(seed)
    serving = Release(loop="made", champion=1, stage="steady")
    change = plan.begin(serving, 2, rollout, now=START, to="shadow")
    present, now = change.release, START
    pairs, wrong = 0, np.zeros(2)
    epochs: dict[int, tuple[float, NDArray[np.float64]]] = {}
    while present.challenger is not None and now - START < PATIENCE * rollout.longest:
        now += every
        if present.stage == "shadow":
            one_wrong = [truth.only_challenger_wrong, truth.only_champion_wrong]
            wrong += random.multinomial(requests, [*one_wrong, 1 - sum(one_wrong)])[:2]
            pairs += requests
        else:
            share, before = epochs.get(present.epoch, (present.share, np.zeros(6)))
            epochs[present.epoch] = share, before + _counts(random, truth, requests, share)
        evidence = ReleaseEvidence(
            guards=_guards(truth, epochs, margin),
            shadow=PairedCounts(
                pairs=pairs,
                total=float(wrong[0] - wrong[1]),
                squares=float(wrong.sum()),
                only_challenger_wrong=int(wrong[0]),
                only_champion_wrong=int(wrong[1]),
                bounded=True,
            ),
            shadow_margin=score_margin,
            requests=_served(epochs),
        )
        step = plan.advance(present, rollout, judge(rollout, evidence, release=present, now=now), now=now)
        if step is not None:
            change, present = step, step.release
    return Ended(change=change, after=now - START, requests=_served(epochs))


def _counts(random: np.random.Generator, truth: Truth, requests: int, share: float) -> NDArray[np.float64]:
    """Errors, slow answers and requests: challenger then champion each."""
    ours = int(random.binomial(requests, share))
    theirs = requests - ours
    return np.array(
        [
            random.binomial(ours, truth.errors[1]),
            random.binomial(theirs, truth.errors[0]),
            random.binomial(ours, truth.slow[1]),
            random.binomial(theirs, truth.slow[0]),
            ours,
            theirs,
        ],
        dtype=np.float64,
    )


def _guards(
    truth: Truth, epochs: dict[int, tuple[float, NDArray[np.float64]]], margin: float
) -> tuple[GuardEvidence, ...]:
    return tuple(
        GuardEvidence(
            guard=name,
            baseline=baseline,
            margin=margin,
            epochs=tuple(
                ArmCounts(
                    share=share,
                    challenger_events=counts[place],
                    champion_events=counts[place + 1],
                    challenger_units=counts[4],
                    champion_units=counts[5],
                )
                for share, counts in epochs.values()
            ),
        )
        for name, baseline, place in (("errors", truth.errors[0], 0), ("latency", truth.slow[0], 2))
    )


def _served(epochs: dict[int, tuple[float, NDArray[np.float64]]]) -> int:
    return int(sum(counts[4] for _, counts in epochs.values()))
