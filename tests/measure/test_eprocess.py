"""What randomised counts may claim, at every look: seeded, with tolerances that a real defect would break."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from everloop.measure import eprocess
from everloop.records import ArmCounts

Floats = NDArray[np.float64]
ALPHA = 0.05
NEVER = 10**9


def counts_from(parts: Iterable[ArrayLike], share: ArrayLike) -> eprocess.Counts:
    k1, n1, k0, n0 = parts
    return eprocess.counts(k1, n1, k0, n0, share)


def traffic(
    seed: int, *, champion: float, challenger: float, share: float, runs: int, canary: int, every: int
) -> eprocess.Counts:
    """Running counts [runs, looks, 1], a look at each ``every`` requests until ``canary`` canary requests."""
    random = np.random.default_rng(seed)
    looks = int(canary / share) // every
    n1 = random.binomial(every, share, (runs, looks))
    k1, k0 = random.binomial(n1, challenger), random.binomial(every - n1, champion)
    running = [np.cumsum(each, axis=1, dtype=np.float64)[..., None] for each in (k1, n1, k0, every - n1)]
    return counts_from(running, share)


def first(crossed: NDArray[np.bool_], every: float) -> Floats:
    """When each run first crosses, in requests; NEVER if it does not."""
    found: Floats = np.where(crossed.any(axis=1), (crossed.argmax(axis=1) + 1) * every, NEVER)
    return found


def test_an_equal_canary_is_rolled_back_no_more_often_than_alpha_however_often_one_looks() -> None:
    seen = traffic(1, champion=0.02, challenger=0.02, share=0.1, runs=400, canary=20_000, every=100)
    crossed = (eprocess.rollback(seen, 0.02) >= math.log(1 / ALPHA)).any(axis=1)
    assert 0.01 <= crossed.mean() <= ALPHA


def test_a_better_canary_is_hardly_ever_rolled_back() -> None:
    seen = traffic(2, champion=0.02, challenger=0.01, share=0.1, runs=300, canary=5_000, every=100)
    assert (eprocess.rollback(seen, 0.02) >= math.log(1 / ALPHA)).any(axis=1).mean() <= 0.01


def test_a_wrong_frozen_rate_costs_power_but_not_the_level() -> None:
    seen = traffic(3, champion=0.02, challenger=0.02, share=0.1, runs=300, canary=10_000, every=100)
    for wrong in (0.005, 0.08):
        assert (eprocess.rollback(seen, wrong) >= math.log(1 / ALPHA)).any(axis=1).mean() <= ALPHA


def test_errors_from_one_to_four_percent_are_found_within_a_few_hundred_canary_requests() -> None:
    seen = traffic(4, champion=0.01, challenger=0.04, share=0.1, runs=500, canary=2_000, every=20)
    found = first(eprocess.rollback(seen, 0.01) >= math.log(1 / ALPHA), 20 * 0.1)
    assert 110 <= np.median(found) <= 210
    assert np.quantile(found, 0.95) <= 600
    # Three guards: a third of alpha each.
    found = first(eprocess.rollback(seen, 0.01) >= math.log(3 / ALPHA), 20 * 0.1)
    assert np.median(found) <= 240


def test_both_arms_may_cycle_and_fail_together() -> None:
    """Given the outcome the arm is still a coin: incidents that hit both arms are no evidence."""
    random = np.random.default_rng(5)
    runs, looks, every, share = 300, 500, 100, 0.1
    rate = 0.02 * (1 + 0.8 * np.sin(np.arange(looks) / 20)) * np.where(random.random((runs, looks)) < 0.05, 5, 1)
    n1 = random.binomial(every, share, (runs, looks))
    k1, k0 = random.binomial(n1, rate), random.binomial(every - n1, rate)
    seen = counts_from(
        (np.cumsum(each, axis=1, dtype=np.float64)[..., None] for each in (k1, n1, k0, every - n1)), share
    )
    assert (eprocess.rollback(seen, 0.02) >= math.log(1 / ALPHA)).any(axis=1).mean() <= ALPHA


def rising_share(seed: int, runs: int, *, before: float, after: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Counts [runs, looks, 2 epochs]: both arms equal, their rate and the share change halfway."""
    random = np.random.default_rng(seed)
    looks, every = 40, 1_000
    shares = np.array([0.1, 0.5])
    parts = []
    for epoch, rate in enumerate((before, after)):
        n1 = random.binomial(every, shares[epoch], (runs, looks))
        parts.append([random.binomial(n1, rate), n1, random.binomial(every - n1, rate), every - n1])
    both = []
    for index in range(4):
        one = np.cumsum(parts[0][index], axis=1, dtype=np.float64)
        other = np.cumsum(parts[1][index], axis=1, dtype=np.float64)
        ended = np.broadcast_to(one[:, -1:], one.shape)
        earlier = np.concatenate([one, ended], axis=1)
        later = np.concatenate([np.zeros_like(other), other], axis=1)
        both.append(np.stack([earlier, later], axis=-1))
    return both[0], both[1], both[2], both[3]


def test_a_share_change_while_both_arms_get_worse_is_no_evidence() -> None:
    k1, n1, k0, n0 = rising_share(6, 300, before=0.01, after=0.04)
    by_epoch = eprocess.counts(k1, n1, k0, n0, np.array([0.1, 0.5]))
    assert (eprocess.rollback(by_epoch, 0.01) >= math.log(1 / ALPHA)).any(axis=1).mean() <= ALPHA
    # What must never be done: pooled over the epochs with the mean share, every equal canary is thrown out.
    k1, n1, k0, n0 = (each.sum(axis=-1, keepdims=True) for each in (k1, n1, k0, n0))
    pooled = eprocess.counts(k1, n1, k0, n0, n1 / (n1 + n0))
    assert (eprocess.rollback(pooled, 0.01) >= math.log(1 / ALPHA)).any(axis=1).mean() >= 0.95


def test_the_difference_of_rates_is_not_fooled_by_a_share_change() -> None:
    k1, n1, k0, n0 = (each[:, -1] for each in rising_share(7, 50, before=0.01, after=0.04))
    seen = eprocess.counts(k1, n1, k0, n0, np.array([0.1, 0.5]))
    assert abs(float(eprocess.difference(seen).mean())) < 0.001
    assert float((k1.sum(axis=-1) / n1.sum(axis=-1) - k0.sum(axis=-1) / n0.sum(axis=-1)).mean()) > 0.01


def sticky_users(seed: int, runs: int, correlation: float) -> tuple[Floats, Floats]:
    """Share of runs that reject for equal arms: every request counted, and the first request of each user."""
    random = np.random.default_rng(seed)
    users, requests, share, rate = 4_000, 20_000, 0.1, 0.02
    spread = (1 - correlation) / correlation
    every, only_first = np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        weight = random.pareto(1.2, users) + 1
        user = random.choice(users, requests, p=weight / weight.sum())
        arm = (random.random(users) < share)[user]
        fails = random.random(requests) < random.beta(rate * spread, (1 - rate) * spread, users)[user]
        new = np.zeros(requests, bool)
        new[np.unique(user, return_index=True)[1]] = True
        for counted, rejected in ((np.ones(requests, bool), every), (new, only_first)):
            running = [
                np.cumsum(each & counted, dtype=np.float64)[199::200, None]
                for each in (fails & arm, arm, fails & ~arm, ~arm)
            ]
            crossed = eprocess.rollback(counts_from(running, share), rate) >= math.log(1 / ALPHA)
            rejected[run] = crossed.any()
    return every, only_first


@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_users_who_stay_on_one_side_are_counted_once(correlation: float) -> None:
    every, only_first = sticky_users(8, 200, correlation)
    assert only_first.mean() <= ALPHA
    assert every.mean() > 0.1  # counting their requests would be wrong: the test must be able to tell


def test_promotion_at_the_margin_keeps_its_level_also_for_rare_events() -> None:
    for champion, margin, share in ((0.01, 0.01, 0.1), (0.001, 0.002, 0.1), (0.1, 0.02, 0.1), (0.01, 0.01, 0.5)):
        seen = traffic(
            9, champion=champion, challenger=champion + margin, share=share, runs=300, canary=8_000, every=200
        )
        passed = (eprocess.promotion(seen, champion, margin) >= math.log(1 / ALPHA)).any(axis=1)
        # Nominal .05; four standard errors of 300 runs above it would be .10. A plug-in variance gives .2 to .6.
        assert passed.mean() <= 0.075, (champion, margin, share)


def test_promotion_at_two_percent_lets_hardly_one_at_the_margin_pass() -> None:
    seen = traffic(10, champion=0.01, challenger=0.02, share=0.1, runs=400, canary=10_000, every=100)
    assert (eprocess.promotion(seen, 0.01, 0.01) >= math.log(1 / 0.02)).any(axis=1).mean() <= 0.03


def test_an_equal_canary_is_promoted_after_about_as_many_requests_as_was_said() -> None:
    for champion, margin, share in ((0.01, 0.01, 0.1), (0.02, 0.01, 0.1), (0.1, 0.02, 0.1), (0.01, 0.01, 0.5)):
        seen = traffic(11, champion=champion, challenger=champion, share=share, runs=200, canary=8_000, every=200)
        passed = first(eprocess.promotion(seen, champion, margin) >= math.log(1 / 0.02), 200)
        assert (passed < NEVER).mean() >= 0.95
        said = eprocess.more_to_promote(eprocess.counts(0, 0, 0, 0, share), champion, margin, 0.02, share)
        assert said == pytest.approx(float(np.median(passed)), rel=0.25)


def test_a_large_share_and_a_high_rate_never_bet_more_than_there_is() -> None:
    """With rate .9 at share .5 a clean champion answer is the costly one."""
    for rate in (0.05, 0.5, 0.95):
        for share in (0.1, 0.5, 0.9):
            for cell in ((1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1)):
                seen = counts_from((float(each) for each in cell), share)
                assert math.exp(float(eprocess.promotion(seen, rate, 0.02))) >= 0.1 - 1e-9


def test_a_gap_over_the_margin_says_that_more_traffic_will_not_help() -> None:
    seen = eprocess.counts(60.0, 1_000.0, 90.0, 9_000.0, 0.1)
    assert eprocess.more_to_promote(seen, 0.01, 0.01, 0.02, 0.1) is None


def test_a_ratio_margin_serves_where_events_are_rare() -> None:
    worse = traffic(12, champion=0.001, challenger=0.002, share=0.1, runs=300, canary=30_000, every=2_000)
    assert (eprocess.promotion_by_ratio(worse, 2.0) >= math.log(1 / ALPHA)).any(axis=1).mean() <= 0.075
    equal = traffic(13, champion=0.001, challenger=0.001, share=0.1, runs=200, canary=30_000, every=2_000)
    passed = first(eprocess.promotion_by_ratio(equal, 2.0) >= math.log(1 / ALPHA), 2_000)
    assert np.median(passed) <= 140_000  # about 93 events in both arms


def test_fractions_in_the_counts_are_never_bolder_than_single_outcomes() -> None:
    random = np.random.default_rng(14)
    outcome, arm = random.beta(0.3, 3, 4_000), random.random(4_000) < 0.2
    exact = eprocess.mixed(eprocess.rollback_bounded(arm, outcome, 0.2, 0.1))
    counted = eprocess.counts(outcome[arm].sum(), float(arm.sum()), outcome[~arm].sum(), float((~arm).sum()), 0.2)
    assert float(eprocess.rollback(counted, 0.1)) <= exact
    zero_one = (outcome > 0.2).astype(float)
    exact = eprocess.mixed(eprocess.rollback_bounded(arm, zero_one, 0.2, 0.1))
    counted = eprocess.counts(zero_one[arm].sum(), float(arm.sum()), zero_one[~arm].sum(), float((~arm).sum()), 0.2)
    assert float(eprocess.rollback(counted, 0.1)) == pytest.approx(exact)


def test_evidence_of_replicas_and_epochs_adds_up() -> None:
    one = ArmCounts(share=0.1, challenger_events=9, challenger_units=300, champion_events=20, champion_units=2_700)
    half = ArmCounts(share=0.5, challenger_events=8, challenger_units=500, champion_events=9, champion_units=510)
    shadow = ArmCounts(share=0.0, challenger_events=0, challenger_units=0, champion_events=5, champion_units=400)
    together = float(eprocess.rollback(eprocess.counts_of([one, half]), 0.01))
    split = ArmCounts(share=0.1, challenger_events=4, challenger_units=100, champion_events=5, champion_units=700)
    rest = ArmCounts(share=0.1, challenger_events=5, challenger_units=200, champion_events=15, champion_units=2_000)
    assert float(eprocess.rollback(eprocess.counts_of([shadow, split, half, rest]), 0.01)) == pytest.approx(together)
    assert float(eprocess.rollback(eprocess.counts_of([]), 0.01)) == 0.0


def test_an_arm_that_loses_its_units_is_noticed_and_chance_is_not() -> None:
    random = np.random.default_rng(15)
    share, steps = 0.1, 100
    for lost, least, most in ((0.0, 0.0, 0.005), (0.2, 0.95, 1.0)):
        n1 = np.cumsum(random.binomial(1_000, share * (1 - lost), (300, steps)), axis=1, dtype=np.float64)
        n0 = np.cumsum(random.binomial(1_000, 1 - share, (300, steps)), axis=1, dtype=np.float64)
        alarmed = (eprocess.sample_ratio(n1[..., None], n0[..., None], np.array([share])) >= math.log(1_000)).any(
            axis=1
        )
        assert least <= alarmed.mean() <= most


def test_how_long_a_harm_takes_to_find_is_said_about_right() -> None:
    for champion, ratio, canary in ((0.01, 4.0, 2_000), (0.001, 4.0, 8_000)):
        seen = traffic(16, champion=champion, challenger=champion * ratio, share=0.1, runs=200, canary=canary, every=50)
        found = first(eprocess.rollback(seen, champion) >= math.log(1 / ALPHA), 50)
        assert eprocess.requests_to_find(champion, ratio, ALPHA, 0.1) == pytest.approx(float(np.median(found)), rel=0.3)


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="frozen_baseline"):
        eprocess.rollback(eprocess.counts(0, 1, 0, 1, 0.1), 0.0)
    with pytest.raises(ValueError, match="above 1"):
        eprocess.promotion_by_ratio(eprocess.counts(0, 1, 0, 1, 0.1), 1.0)
    with pytest.raises(ValueError, match="scale them"):
        eprocess.rollback_bounded(1, [2.0], 0.1, 0.1)
    assert 0 < eprocess.frozen_baseline(0, 100) < 0.01


def revenue(seed: int, runs: int, requests: int, *, lift: float = 1.0) -> tuple[Floats, NDArray[np.bool_]]:
    """How far each request stays below 200 of 200: one in ten buys, for about 20; and its arm, drawn with .1."""
    random = np.random.default_rng(seed)
    arm = random.random((runs, requests)) < 0.1
    spent = np.where(
        random.random((runs, requests)) < 0.1 * np.where(arm, lift, 1.0),
        random.lognormal(3, 0.5, (runs, requests)),
        0.0,
    )
    return 1 - np.clip(spent, 0, 200) / 200, arm


def test_the_bounded_form_of_zeros_and_ones_is_the_form_of_counts() -> None:
    random = np.random.default_rng(7)
    arm, x = random.random(500) < 0.1, (random.random(500) < 0.05).astype(float)
    observed = eprocess.counts(x[arm].sum(), arm.sum(), x[~arm].sum(), (~arm).sum(), 0.1)
    won = eprocess.rollback_bounded(arm, x, 0.1, 0.05)
    assert eprocess.mixed(won) == pytest.approx(float(eprocess.rollback(observed, 0.05)))
    won = eprocess.promotion_bounded(arm, x, 0.1, 0.05, 0.01)
    assert eprocess.mixed(won) == pytest.approx(float(eprocess.promotion(observed, 0.05, 0.01)))


def test_a_mean_keeps_its_level_at_every_look_and_small_variance_is_power() -> None:
    def worse(x: Floats, arm: NDArray[np.bool_], variance: float | None) -> Floats:
        m = 0.99
        b = np.log(eprocess.ROLLBACK_RATIOS) * (1.0 if variance is None else m * (1 - m) / variance)
        # The factors of `rollback_bounded`, request by request.
        sums = np.stack(
            [np.cumsum(arm * s - np.log1p(0.1 * np.expm1(s)), axis=1) for s in (r * (x - m) for r in b)], -1
        )
        assert sums[0, -1] == pytest.approx(eprocess.rollback_bounded(arm[0], x[0], 0.1, m, variance=variance))
        return eprocess.log_mean(sums)

    x, arm = revenue(8, 300, 4_000)
    variance = eprocess.frozen_variance(revenue(9, 1, 20_000)[0][0], 0.99)
    assert variance < 0.99 * 0.01 / 5
    assert (worse(x, arm, variance) >= math.log(1 / ALPHA)).any(axis=1).mean() <= ALPHA
    x, arm = revenue(10, 60, 10_000, lift=0.6)
    assert (worse(x, arm, variance) >= math.log(1 / ALPHA)).any(axis=1).mean() >= 0.8


def test_what_hardly_varies_is_bet_on_more() -> None:
    """A mean of a half with a hundredth around it, in the challenger's requests a little worse."""
    random = np.random.default_rng(12)
    found = []
    for _ in range(40):
        arm = random.random(8_000) < 0.1
        x = np.clip(0.5 + 0.01 * random.standard_normal(8_000) + 0.0018 * arm, 0, 1)
        won = [
            eprocess.mixed(eprocess.rollback_bounded(arm, x, 0.1, 0.5, variance=each))
            for each in (eprocess.frozen_variance(x[:500], 0.5), None)
        ]
        found.append([each >= math.log(1 / ALPHA) for each in won])
    assert np.mean(found, axis=0)[0] >= 0.9
    assert np.mean(found, axis=0)[1] <= 0.1


def test_a_mean_at_its_margin_is_hardly_ever_promoted_and_an_equal_one_is_as_forecast() -> None:
    m, share = 0.99, 0.5
    random = np.random.default_rng(11)

    def drawn(runs: int, gap: float, requests: int = 6_000) -> tuple[Floats, NDArray[np.bool_]]:
        arm = random.random((runs, requests)) < share
        buys = random.random((runs, requests)) < np.where(arm, 0.1 - gap, 0.1)
        return 1 - np.where(buys, 0.1, 0.0), arm

    variance, margin = 0.0009, 0.004
    log_k = []
    for gap in (0.04, 0.0):
        x, arm = drawn(200, gap)
        won = np.array([
            [eprocess.mixed(eprocess.promotion_bounded(a[:n], v[:n], share, m, margin, variance=variance))
             for n in range(500, 6_001, 500)]
            for v, a in zip(x, arm, strict=True)
        ])  # fmt: skip
        log_k.append(won)
    needed = math.log(1 / 0.02)
    assert (log_k[0] >= needed).any(axis=1).mean() <= 0.04
    assert (log_k[1] >= needed).any(axis=1).mean() >= 0.5
    forecast = eprocess.more_to_promote_bounded([0.0] * 4, 0.0, m, margin, variance, 0.02, share)
    took = first(log_k[1] >= needed, 500)
    assert forecast is not None
    assert 0.5 < forecast / float(np.median(took)) < 1.6
    assert eprocess.more_to_promote_bounded([0.0] * 4, 0.004, m, margin, variance, 0.02, share) is None


def test_a_handful_of_failures_that_did_not_come_promotes_nobody() -> None:
    """Rare failures, .1 % and a margin of .2 points: four times as many pass by luck once in 300 runs, and not here."""
    random, share, every = np.random.default_rng(4), 0.1, 50
    m, worse, margin, runs, blocks = 0.001, 0.004, 0.002, 3_000, 800
    n1 = random.binomial(every, share, (runs, blocks))
    k1, k0 = random.binomial(n1, worse), random.binomial(every - n1, m)
    ours, met, theirs = (np.cumsum(each, axis=1)[..., None].astype(np.float64) for each in (k1, n1, k0))
    others = np.arange(every, every * blocks + 1, every)[:, None] - met
    observed = eprocess.counts(ours, met, theirs, others, share)
    passes = eprocess.promotion(observed, m, margin) >= math.log(50)
    harmed = np.maximum.accumulate(eprocess.rollback(observed, m) >= math.log(60), axis=1)
    assert (passes & ~harmed).any(axis=1).mean() > 0.001, "K alone"
    assert not (passes & ~harmed & eprocess.enough(observed, m, margin, 0.02)).any()


@pytest.mark.parametrize(
    ("m", "margin", "variance", "about"),
    [(0.001, 0.002, None, 5_000), (1e-5, 0.01, None, 652), (0.02, 0.01, None, 500), (0.1, 0.02, None, 125), (0.99, 0.002, 1e-4, 1)],
)  # fmt: skip
def test_how_many_are_enough(m: float, margin: float, variance: float | None, about: int) -> None:
    nothing = eprocess.counts(0, 0, 0, 0, 0.1)
    more = eprocess.more_until_enough(nothing, m, margin, 0.02, 0.1, variance=variance)
    assert more * 0.1 == pytest.approx(about, rel=0.02, abs=1)
    for units, said in ((more * 0.98 - 10, False), (more * 1.02, True)):
        if units > 0:
            observed = eprocess.counts(0, units * 0.1, 0, units * 0.9, 0.1)
            assert bool(eprocess.enough(observed, m, margin, 0.02, variance=variance)) is said
