"""Paired shadow answers: what their sums may claim at every look."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import shadow
from everloop.records import PairedCounts

Floats = NDArray[np.float64]
LIMIT = math.log(1 / 0.05)


def zero_one(seed: int, *, disagreement: float, gap: float, runs: int, pairs: int) -> tuple[Floats, Floats, Floats]:
    """Running pairs, rows only the challenger got wrong, rows only the champion got wrong: [runs, looks of ten]."""
    random = np.random.default_rng(seed)
    looks = pairs // 10
    worse, better = (disagreement + gap) / 2, (disagreement - gap) / 2
    drawn = random.multinomial(10, [worse, better, 1 - worse - better], (runs, looks))
    b, c = (np.cumsum(drawn[..., index], axis=1, dtype=np.float64) for index in (0, 1))
    return np.broadcast_to(np.arange(1, looks + 1) * 10.0, b.shape), b, c


def ever(log_evidence: Floats) -> float:
    return float((log_evidence >= LIMIT).any(axis=1).mean())


def first(log_evidence: Floats) -> float:
    crossed = log_evidence >= LIMIT
    return float(np.median(np.where(crossed.any(axis=1), (crossed.argmax(axis=1) + 1) * 10, 10**9)))


@pytest.mark.parametrize("disagreement", [0.05, 0.1, 0.3])
def test_an_equal_challenger_is_shown_worse_no_more_often_than_alpha(disagreement: float) -> None:
    _, b, c = zero_one(1, disagreement=disagreement, gap=0.0, runs=500, pairs=10_000)
    assert ever(shadow.discordant_worse(b, c)) <= 0.05
    assert ever(shadow.bounded_worse(b - c, b + c)) <= 0.05


@pytest.mark.parametrize(("disagreement", "margin"), [(0.05, 0.02), (0.1, 0.02), (0.05, 0.01)])
def test_a_challenger_at_the_margin_passes_no_more_often_than_alpha(disagreement: float, margin: float) -> None:
    n, b, c = zero_one(2, disagreement=disagreement, gap=margin, runs=500, pairs=10_000)
    assert ever(shadow.discordant_not_worse(n, b, c, margin)) <= 0.05
    assert ever(shadow.bounded_not_worse(n, b - c, b + c, margin)) <= 0.05


def test_three_points_worse_are_found_within_a_few_hundred_pairs() -> None:
    _, b, c = zero_one(3, disagreement=0.05, gap=0.03, runs=300, pairs=4_000)
    assert 200 <= first(shadow.discordant_worse(b, c)) <= 420
    _, b, c = zero_one(4, disagreement=0.1, gap=0.03, runs=300, pairs=8_000)
    assert 500 <= first(shadow.discordant_worse(b, c)) <= 950


def test_an_equal_challenger_passes_after_about_as_many_pairs_as_was_said() -> None:
    for disagreement, margin, most in ((0.05, 0.02, 1_200), (0.1, 0.02, 2_200)):
        n, b, c = zero_one(5, disagreement=disagreement, gap=0.0, runs=300, pairs=8_000)
        passed = first(shadow.discordant_not_worse(n, b, c, margin))
        assert passed <= most
        pairs, wrong = 400, round(400 * disagreement / 2)
        seen = PairedCounts(
            pairs=pairs,
            total=0.0,
            squares=2.0 * wrong,
            only_challenger_wrong=wrong,
            only_champion_wrong=wrong,
            bounded=True,
        )
        found = shadow.judge(seen, margin=margin, alpha_worse=0.05, alpha_not_worse=0.05)
        assert found.method == "discordant counts"
        assert found.more is not None
        assert pairs + found.more == pytest.approx(passed, rel=0.35)


def test_bounded_differences_need_nothing_but_their_sum_and_squares() -> None:
    """Brier differences, skewed: exact at every look, no minimum of pairs."""
    random = np.random.default_rng(6)
    d = random.beta(0.5, 6, (300, 6_000)) * random.choice([-1, 1], (300, 6_000))
    total, squares = (np.cumsum(each, axis=1)[:, 9::10] for each in (d, d**2))
    pairs = np.broadcast_to(np.arange(10, 6_001, 10.0), total.shape)
    assert ever(shadow.bounded_worse(total, squares)) <= 0.05
    assert ever(shadow.bounded_not_worse(pairs, total, squares, 0.02)) > 0.95
    worse = total + 0.02 * pairs
    worse_squares = squares + 2 * 0.02 * total + 0.02**2 * pairs
    assert ever(shadow.bounded_not_worse(pairs, worse, worse_squares, 0.02)) <= 0.05


def running(d: Floats) -> list[PairedCounts]:
    return [
        PairedCounts(pairs=n, total=float(d[:n].sum()), squares=float((d[:n] ** 2).sum()))
        for n in range(50, len(d), 50)
    ]


def test_log_loss_differences_go_by_the_confidence_sequence() -> None:
    random = np.random.default_rng(7)
    worse = passed = at_margin = 0
    for _ in range(80):
        d = random.standard_t(5, 4_000) * 0.15
        looks = [shadow.judge(each, margin=0.02, alpha_worse=0.05, alpha_not_worse=0.05) for each in running(d)]
        worse += any(each.log_worse >= LIMIT - 1e-9 for each in looks)
        passed += any(each.log_not_worse >= LIMIT - 1e-9 for each in looks)
        shifted = [
            shadow.judge(each, margin=0.02, alpha_worse=0.05, alpha_not_worse=0.05) for each in running(d + 0.02)
        ]
        at_margin += any(each.log_not_worse >= LIMIT - 1e-9 for each in shifted)
    assert worse <= 8
    assert at_margin <= 8
    assert passed >= 60


def test_a_harm_beyond_doubt_is_shown_in_every_form() -> None:
    for bounded in (True, False):
        seen = PairedCounts(
            pairs=2_000,
            total=600.0,
            squares=900.0,
            only_challenger_wrong=750 if bounded else 0,
            only_champion_wrong=150 if bounded else 0,
            bounded=bounded,
        )
        found = shadow.judge(seen, margin=0.01, alpha_worse=0.01, alpha_not_worse=0.02)
        assert found.log_worse >= -math.log(0.01) - 1e-9
        assert found.log_not_worse < LIMIT
        assert found.more is None


def test_nothing_seen_is_evidence_for_nothing() -> None:
    for bounded in (True, False):
        found = shadow.judge(
            PairedCounts(pairs=0, total=0.0, squares=0.0, bounded=bounded),
            margin=0.01,
            alpha_worse=0.05,
            alpha_not_worse=0.02,
        )
        assert found.log_worse == pytest.approx(0.0, abs=1e-9)
        assert found.log_not_worse == pytest.approx(0.0, abs=1e-9)
        assert found.more is not None
        assert found.more > 0
    unlimited = shadow.judge(
        PairedCounts(pairs=500, total=0.0, squares=1.0), margin=None, alpha_worse=0.05, alpha_not_worse=0.02
    )
    assert unlimited.log_not_worse == 0.0
