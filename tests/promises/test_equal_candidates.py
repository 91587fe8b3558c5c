"""Promise 5, the release machine's half: equal candidates are rarely turned back, worse ones never become champion.

Judge and plan as production runs them, over simulated traffic; the published figures come from 2,000 runs
(bench/release.py).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from everloop.records import ArmCounts, GuardEvidence, PairedCounts, Release, ReleaseEvidence
from everloop.release import plan
from everloop.release.judge import judge
from everloop.spec.guard import Errors, Latency
from everloop.spec.rollout import Canary

START = datetime(2026, 1, 1, tzinfo=UTC)
LOOK = timedelta(hours=2)
ROLLOUT = Canary(guards=(Errors(), Latency()), alpha=0.05, promote_alpha=0.02)
RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Champion and challenger rates of the two guards, and of rows only one of the two gets wrong."""

    errors: tuple[float, float] = (0.02, 0.02)
    slow: tuple[float, float] = (0.01, 0.01)
    only_champion_wrong: float = 0.05
    only_challenger_wrong: float = 0.05


def end_of(seed: int, truth: Truth, *, rollout: Canary = ROLLOUT, requests: int = 3_000) -> plan.Change:
    """Run one release to its end, a look every two hours; returns its last change."""
    random = np.random.default_rng(seed)
    change = plan.begin(Release(loop="made", champion=1, stage="steady"), 2, rollout, now=START, to="shadow")
    release, now = change.release, START
    pairs, wrong = 0, np.zeros(2)
    epochs: dict[int, tuple[float, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    while release.challenger is not None:
        now += LOOK
        if release.stage == "shadow":
            one_wrong = [truth.only_challenger_wrong, truth.only_champion_wrong]
            wrong += random.multinomial(requests, [*one_wrong, 1 - sum(one_wrong)])[:2]
            pairs += requests
        if release.stage == "canary":
            ours = int(random.binomial(requests, release.share))
            counted = [
                random.binomial(ours, truth.errors[1]),
                random.binomial(requests - ours, truth.errors[0]),
                random.binomial(ours, truth.slow[1]),
                random.binomial(requests - ours, truth.slow[0]),
                ours,
                requests - ours,
            ]
            share, before = epochs.get(release.epoch, (release.share, np.zeros(6)))
            epochs[release.epoch] = share, before + np.array(counted)
        evidence = ReleaseEvidence(
            guards=tuple(
                GuardEvidence(
                    guard=name,
                    baseline=rate,
                    margin=0.01,
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
                for name, rate, place in (("errors", truth.errors[0], 0), ("latency", truth.slow[0], 2))
            ),
            shadow=PairedCounts(
                pairs=pairs,
                total=float(wrong[0] - wrong[1]),
                squares=float(wrong.sum()),
                only_challenger_wrong=int(wrong[0]),
                only_champion_wrong=int(wrong[1]),
                bounded=True,
            ),
            shadow_margin=0.02,
            requests=int(sum(counts[4] for _, counts in epochs.values())),
        )
        step = plan.advance(release, rollout, judge(rollout, evidence, release=release, now=now), now=now)
        if step is not None:
            change, release = step, step.release
    return change


def test_an_equal_candidate_is_turned_back_at_most_eighteen_times_in_two_hundred() -> None:
    ends = [end_of(seed, Truth()) for seed in range(RUNS)]
    turned_back = sum(each.action == "rolled back" for each in ends)
    assert turned_back <= 18
    assert sum(each.release.champion == 2 for each in ends) == RUNS - turned_back


def test_a_candidate_with_its_labels_flipped_never_becomes_champion() -> None:
    flipped = Truth(only_champion_wrong=0.1, only_challenger_wrong=0.7)
    ends = [end_of(seed, flipped, requests=200) for seed in range(RUNS)]
    assert all(each.action == "rolled back" and each.release.champion == 1 for each in ends)
    assert all("shown worse: paired loss" in each.because for each in ends)


def test_a_candidate_that_fails_twice_as_often_hardly_ever_becomes_champion() -> None:
    """One percent to four: found before its last share in nearly every run."""
    ends = [end_of(seed, Truth(errors=(0.01, 0.04))) for seed in range(RUNS)]
    assert sum(each.release.champion == 2 for each in ends) == 0


def test_a_candidate_at_the_margin_becomes_champion_at_most_four_times_in_two_hundred() -> None:
    ends = [end_of(seed, Truth(errors=(0.02, 0.03))) for seed in range(RUNS)]
    assert sum(each.release.champion == 2 for each in ends) <= 8
