"""What one look at the evidence says, and in which words."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from everloop.measure import eprocess
from everloop.records import (
    ArmCounts,
    Evidence,
    GuardEvidence,
    PairedCounts,
    Release,
    ReleaseEvidence,
    Stage,
    decode,
    encode,
)
from everloop.release.judge import Judgement, judge
from everloop.spec.guard import Errors, Latency, Outcome
from everloop.spec.rollout import Canary, Direct

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ROLLOUT = Canary(guards=(Errors(), Latency()))


def guard(
    name: str, *epochs: tuple[float, float, float, float, float], baseline: float = 0.02, margin: float = 0.01
) -> GuardEvidence:
    """Epochs as share, challenger events and units, champion events and units."""
    counts = tuple(
        ArmCounts(share=w, challenger_events=k1, challenger_units=n1, champion_events=k0, champion_units=n0)
        for w, k1, n1, k0, n0 in epochs
    )
    return GuardEvidence(guard=name, baseline=baseline, margin=margin, epochs=counts)


def look(
    evidence: ReleaseEvidence, *, stage: Stage = "canary", share: float = 0.1, rollout: Canary | Direct = ROLLOUT
) -> Judgement:
    release = Release(loop="made", stage=stage, champion=1, challenger=2, share=share, started=NOW, since=NOW)
    found = judge(rollout, evidence, release=release, now=NOW)
    assert not (found.rollback and found.promote)
    assert decode(encode(found.evidence), tuple[Evidence, ...]) == found.evidence
    return found


def zero_one(pairs: int, ours: int, theirs: int) -> PairedCounts:
    return PairedCounts(
        pairs=pairs,
        total=float(ours - theirs),
        squares=float(ours + theirs),
        only_challenger_wrong=ours,
        only_champion_wrong=theirs,
        bounded=True,
    )


def test_a_harm_that_is_shown_rolls_back_and_names_its_guard_with_figures() -> None:
    fine = guard("latency p99", (0.1, 10, 1_000, 90, 9_000), baseline=0.01)
    found = look(ReleaseEvidence(guards=(guard("errors", (0.1, 60, 1_000, 180, 9_000)), fine), requests=1_000))
    assert found.rollback
    assert found.because == "shown worse: errors 6.00% against 2.00% in 1,000 challenger requests"
    assert found.evidence[0].value > found.evidence[0].limit
    assert found.evidence[0].limit == pytest.approx(3 / 0.05)  # two guards and the score share alpha


def test_rollback_wins_a_tie() -> None:
    """Two guards proved, the third shown worse."""
    good = guard("errors", (0.5, 200, 20_000, 200, 20_000), baseline=0.01)
    counted = guard("latency p99", (0.5, 500, 20_000, 200, 20_000), baseline=0.01)
    bad = replace(counted, counted="answers slower than the champion's p99 before the release:")
    found = look(ReleaseEvidence(guards=(good, bad)), share=0.5)
    assert (found.rollback, found.promote) == (True, False)
    assert "answers slower than the champion's p99 before the release: 2.50% against 1.00% in" in found.because
    unsaid = look(ReleaseEvidence(guards=(counted,)), share=0.5)
    assert "worse: latency p99 2.50% against 1.00% in" in unsaid.because, "the guard says it, not how its name begins"


def test_every_guard_must_pass_for_promotion() -> None:
    good = guard("errors", (0.1, 100, 10_000, 900, 90_000), baseline=0.01)
    unsure = guard("latency p99", (0.1, 11, 1_000, 90, 9_000), baseline=0.01)
    assert not look(ReleaseEvidence(guards=(good, unsure))).promote
    found = look(ReleaseEvidence(guards=(good, guard("latency p99", (0.1, 100, 10_000, 900, 90_000), baseline=0.01))))
    assert found.promote
    assert found.because.startswith("shown not worse: errors 1.00% against 1.00%")


def test_a_challenger_below_its_margin_is_not_beyond_it_when_both_arms_left_their_baseline() -> None:
    """The whole service became slow: nothing can be shown any more, which says nothing against the challenger."""
    both_slow = guard("latency p99", (0.5, 42, 109, 56, 110), baseline=0.01)
    found = look(ReleaseEvidence(guards=(both_slow,)), share=0.5)
    assert not found.promote
    assert not found.beyond
    assert "more requests are unlikely to show" in found.because
    slower = guard("latency p99", (0.5, 56, 110, 42, 109), baseline=0.01)
    assert look(ReleaseEvidence(guards=(slower,)), share=0.5).beyond


def test_a_dozen_requests_at_a_small_share_do_not_speak_for_all() -> None:
    """Two of the first eleven were slow, none of the hundred and sixty after them: nothing lies beyond the margin."""
    seen = guard("latency p99", (0.1, 2, 11, 10, 97), (0.5, 0, 162, 5, 160), baseline=0.01)
    found = look(ReleaseEvidence(guards=(seen,)), share=0.5)
    assert not found.beyond
    (told,) = found.evidence
    assert told.detail["difference"] == pytest.approx(told.detail["challenger_rate"] - told.detail["champion_rate"])
    assert told.detail["difference"] < 0


def test_low_traffic_waits_and_says_about_how_many_more_requests() -> None:
    found = look(ReleaseEvidence(guards=(guard("errors", (0.1, 2, 100, 18, 900)),), requests=100))
    assert (found.rollback, found.promote, found.hold) == (False, False, False)
    assert found.about_more is not None
    assert 5_000 < found.about_more < 40_000
    assert f"about {found.about_more:,} more requests" in found.because
    assert found.requests == 100


def test_a_gap_over_the_margin_is_said_not_to_be_mended_by_traffic() -> None:
    found = look(ReleaseEvidence(guards=(guard("errors", (0.1, 8, 200, 36, 1_800)),)))
    assert found.about_more is None
    assert "unlikely" in found.because


def test_leaning_to_harm_holds_the_share() -> None:
    found = look(ReleaseEvidence(guards=(guard("errors", (0.1, 21, 500, 90, 4_500)),)))
    assert (found.rollback, found.hold) == (False, True)
    assert found.because.startswith("leaning to harm, not shown")


def test_arms_of_the_wrong_size_freeze_the_release() -> None:
    lost = guard("errors", (0.1, 100, 8_000, 900, 90_000), baseline=0.01)
    found = look(ReleaseEvidence(guards=(lost,)))
    assert (found.frozen, found.promote, found.rollback) == (True, False, False)
    assert "8,000 of 98,000 requests where 9,800 were expected" in found.because


def test_shadow_is_judged_by_the_score_alone_and_a_canary_by_its_guards() -> None:
    good = zero_one(20_000, 400, 400)
    bad = zero_one(2_000, 200, 60)
    shadow = look(ReleaseEvidence(shadow=good, shadow_margin=0.01), stage="shadow", share=0.0)
    assert shadow.promote
    assert "20,000 labelled pairs" in shadow.because
    assert shadow.requests == 20_000
    # Labels that come late still turn a canary back.
    late = look(ReleaseEvidence(guards=(guard("errors", (0.1, 2, 100, 18, 900)),), shadow=bad, shadow_margin=0.01))
    assert late.rollback
    assert "paired loss 0.0700 worse over 2,000 labelled pairs" in late.because


def test_shadow_without_labels_waits() -> None:
    found = look(ReleaseEvidence(), stage="shadow", share=0.0)
    assert (found.rollback, found.promote, found.because) == (False, False, "no labelled pairs yet")
    some = look(ReleaseEvidence(shadow=zero_one(100, 5, 5), shadow_margin=0.02), stage="shadow", share=0.0)
    assert some.about_more is not None
    assert "more labelled pairs" in some.because


def test_log_loss_differences_reach_both_ends_too() -> None:
    proved = PairedCounts(pairs=20_000, total=-20.0, squares=800.0)
    found = look(ReleaseEvidence(shadow=proved, shadow_margin=0.01), stage="shadow", share=0.0)
    assert found.promote
    worse = PairedCounts(pairs=2_000, total=160.0, squares=100.0)
    assert look(ReleaseEvidence(shadow=worse, shadow_margin=0.01), stage="shadow", share=0.0).rollback


def test_only_requests_at_the_present_share_count_for_it() -> None:
    both = guard("errors", (0.1, 10, 900, 160, 8_100), (0.5, 2, 120, 3, 130))
    assert look(ReleaseEvidence(guards=(both,), requests=1_020), share=0.5).requests == 120
    unguarded = Canary(guards=())
    found = look(ReleaseEvidence(requests=1_020), share=0.5, rollout=unguarded)
    assert found.requests == 820
    assert found.promote


def test_without_a_challenger_there_is_nothing_to_judge() -> None:
    release = Release(loop="made", stage="steady", champion=1)
    assert not judge(ROLLOUT, ReleaseEvidence(), release=release, now=NOW).promote
    assert not look(ReleaseEvidence(), rollout=Direct()).promote


def test_a_champion_that_never_failed_still_gives_a_usable_rate() -> None:
    found = look(ReleaseEvidence(guards=(guard("errors", (0.1, 0, 1_000, 0, 9_000), baseline=0.0),)))
    assert not found.rollback


def failing(ours: int, theirs: int, *epochs: tuple[float, float, float, float, float]) -> GuardEvidence:
    return replace(guard("errors", *epochs), only_challenger_failed=ours, only_champion_failed=theirs)


def test_a_challenger_that_crashes_is_turned_back_in_shadow_before_anybody_has_met_it() -> None:
    found = look(ReleaseEvidence(guards=(failing(40, 0),)), stage="shadow", share=0.0)
    assert found.rollback
    assert found.because == "shown worse: in shadow it alone failed on 40 rows, the champion alone on 0"
    for ours, theirs in ((0, 0), (5, 3), (30, 30), (0, 400)):
        evidence = ReleaseEvidence(guards=(failing(ours, theirs),), shadow=zero_one(300, 5, 5), shadow_margin=0.02)
        assert not look(evidence, stage="shadow", share=0.0).rollback, (ours, theirs)


def test_failures_in_shadow_and_at_a_share_add_up_and_cost_no_level() -> None:
    """Two bets on one null: neither is enough alone, both together are; of 400 equal challengers few are turned back."""
    some = (0.1, 12, 400, 72, 3_600)
    assert not look(ReleaseEvidence(guards=(guard("errors", some),))).rollback
    assert not look(ReleaseEvidence(guards=(failing(8, 1),)), stage="shadow", share=0.0).rollback
    assert look(ReleaseEvidence(guards=(failing(12, 1, (0.1, 24, 400, 72, 3_600)),))).rollback
    random = np.random.default_rng(5)
    back = 0
    for _ in range(400):
        worst = False
        ours = theirs = 0
        for _ in range(8):
            ours, theirs = ours + int(random.binomial(10, 0.5)), theirs + int(random.binomial(10, 0.5))
            worst |= look(ReleaseEvidence(guards=(failing(ours, theirs),)), stage="shadow", share=0.0).rollback
        back += worst
    assert back <= 20


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_one_sided_traffic_and_none_at_all_decide_nothing_or_freeze(share: float) -> None:
    nothing = look(ReleaseEvidence(guards=(guard("errors"), guard("latency p99"))), share=share)
    assert (nothing.rollback, nothing.promote, nothing.requests) == (False, False, 0)
    only = look(ReleaseEvidence(guards=(guard("errors", (share, 0, 0, 20, 1_000)),)), share=share)
    assert not only.promote
    assert not only.rollback
    flood = look(ReleaseEvidence(guards=(guard("errors", (share, 0, 0, 400, 20_000)),)), share=share)
    assert flood.frozen, "ten thousand requests and none for the challenger: assignments are lost"


def spending(seed: int, requests: int, *, lift: float = 1.0) -> GuardEvidence:
    """One in ten spends about 20; at most 200 count, and a mean lower by .4 is too much."""
    random = np.random.default_rng(seed)
    arm = random.random(requests) < 0.5
    buys = random.random(requests) < 0.1 * np.where(arm, lift, 1.0)
    x = 1 - np.clip(np.where(buys, random.lognormal(3, 0.5, requests), 0), 0, 200) / 200
    variance = 0.0013
    counts = ArmCounts(
        share=0.5,
        challenger_events=float(x[arm].sum()),
        challenger_units=float(arm.sum()),
        champion_events=float(x[~arm].sum()),
        champion_units=float((~arm).sum()),
        log_worse=tuple(eprocess.rollback_bounded(arm, x, 0.5, 0.989, variance=variance).tolist()),
        log_not_worse=tuple(eprocess.promotion_bounded(arm, x, 0.5, 0.989, 0.002, variance=variance).tolist()),
    )
    return GuardEvidence(
        guard="outcome spent", baseline=0.989, margin=0.002, epochs=(counts,), scale=(200.0, 0.0), variance=variance
    )


def test_an_outcome_is_judged_by_what_its_bets_have_won_and_said_in_its_own_units() -> None:
    rollout = Canary(guards=(Errors(), Outcome("spent", margin=0.4, between=(0, 200))))
    fine = guard("errors", (0.5, 200, 20_000, 200, 20_000), baseline=0.01)
    worse = look(ReleaseEvidence(guards=(fine, spending(1, 20_000, lift=0.5))), share=0.5, rollout=rollout)
    assert worse.rollback
    assert worse.because.startswith("shown worse: outcome spent 1.1")
    told = worse.evidence[1].detail
    assert told["margin"] == pytest.approx(0.4)
    assert told["difference"] == pytest.approx(-1.1, abs=0.2)
    early = look(ReleaseEvidence(guards=(fine, spending(2, 3_000))), share=0.5, rollout=rollout)
    assert not early.promote
    assert "not shown yet: outcome spent 2." in early.because
    assert early.about_more is not None
    equal = look(ReleaseEvidence(guards=(fine, spending(2, 60_000))), share=0.5, rollout=rollout)
    assert equal.promote, equal.because
    # Nothing has come of age yet: neither harm nor its absence.
    none = replace(spending(2, 10), epochs=())
    waits = look(ReleaseEvidence(guards=(fine, none)), share=0.5, rollout=rollout)
    assert (waits.rollback, waits.promote) == (False, False)
