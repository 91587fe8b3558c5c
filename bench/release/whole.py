"""Whole releases by the judge and the plan that production runs: shadow → 10 % → 50 % → champion, and little traffic."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from bench.release import streams
from bench.release.streams import ALPHA, PROMOTE_ALPHA
from bench.rows import Row

from everloop.records import GuardEvidence, Release, ReleaseEvidence
from everloop.release.judge import judge
from everloop.spec.guard import Errors
from everloop.spec.rollout import Canary
from everloop.testing.canary import START, Truth, release


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    name: str
    truth: Truth
    requests: int
    """Between two looks, two hours apart."""
    action: str
    target: float | None


FLIPPED = Truth(only_champion_wrong=0.1, only_challenger_wrong=0.7)
WORLDS = (
    World(name="an equal challenger is rolled back", truth=Truth(), requests=3_000, action="rolled back", target=ALPHA),
    World(name="labels flipped, promoted", truth=FLIPPED, requests=200, action="promoted", target=0.0),
    World(
        name="errors 1 → 4 %, promoted", truth=Truth(errors=(0.01, 0.04)), requests=3_000, action="promoted", target=0.0
    ),
    World(
        name="errors at the margin, promoted",
        truth=Truth(errors=(0.02, 0.03)),
        requests=3_000,
        action="promoted",
        target=PROMOTE_ALPHA,
    ),
    World(
        name="48 requests a day, an equal challenger is rolled back",
        truth=Truth(),
        requests=4,
        action="rolled back",
        target=ALPHA,
    ),
    World(
        name="48 requests a day, errors twenty times as many, rolled back",
        truth=Truth(errors=(0.02, 0.40)),
        requests=4,
        action="rolled back",
        target=None,
    ),
)


def releases(runs: int) -> list[Row]:
    rollout = Canary(alpha=ALPHA, promote_alpha=PROMOTE_ALPHA)
    rows = []
    for world in WORLDS:
        ends = [release(world.truth, rollout, seed=seed, requests=world.requests).change.action for seed in range(runs)]
        rows.append(
            Row(
                what=f"whole release: {world.name}",
                ours=float(np.mean([each == world.action for each in ends])),
                target=world.target,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def quotes(runs: int) -> list[Row]:
    """What "about N more requests" is worth: quoted after 2,000 requests of an equal challenger, against what it then took."""
    rows = []
    rollout = Canary(shares=(0.1,), guards=(Errors(),), shadow=False, minimum=timedelta(0))
    serving = Release(loop="made", champion=1, challenger=2, stage="canary", share=0.1, started=START, since=START)
    for rate, margin in ((0.02, 0.01), (0.1, 0.02), (0.001, 0.002)):
        random = np.random.default_rng(5)
        quoted, took = [], []
        for _ in range(runs):
            arm = random.random(300_000) < 0.1
            watched = streams.counted(arm, random.random(300_000) < rate, name="errors", baseline=rate, margin=margin)
            end = streams.end_of([watched], watched.n1[:, 0], [0.1])
            if end.request < 2_000:
                continue
            guard: GuardEvidence = streams.evidence_of(watched, 2_000, np.array([0.1]))
            said = judge(rollout, ReleaseEvidence(guards=(guard,)), release=serving, now=START).about_more
            quoted.append(np.inf if said is None else float(said))
            took.append(float(end.request - 2_000) if end.action == "promoted" else np.inf)
        rows.append(
            Row(
                what=f"requests until promoted, errors {rate:.1%}, margin {margin:.1%}: quoted, median",
                ours=float(np.median(quoted)),
                peer=float(np.median(took)),
                peer_name="what it then took",
                unit="requests",
                rounds=len(quoted),
            )
        )
    return rows


def rows(runs: int) -> list[Row]:
    return [*releases(runs), *quotes(runs // 4)]
