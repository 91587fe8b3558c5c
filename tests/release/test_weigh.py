"""Weights by class: who is shown better leads, the first where none is, nobody on noise; and never beyond the bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.release.weigh import LEAST_ROWS, Seen, moved, weigh, weights_of

ARMS = ("cheap", "dear")


def drawn(
    seed: int, rows: int, losses: tuple[float, float], weights: tuple[float, float] = (0.5, 0.5), drift: float = 0.0
) -> Seen:
    random = np.random.default_rng(seed)
    # The weights change half way, as they do when a look has moved them.
    first = np.where(np.arange(rows) < rows // 2, 0.5, weights[0])
    arm = (random.random(rows) >= first).astype(np.int64)
    weight = np.where(arm == 0, first, 1 - first)
    rate = np.array(losses)[arm] + np.linspace(0, drift, rows)
    return Seen(arm=arm, weight=weight, loss=(random.random(rows) < rate).astype(np.float64))


def test_the_better_arm_leads_and_the_first_where_none_is_better_by_the_margin() -> None:
    better = weigh(drawn(1, 6_000, (0.30, 0.15)), ARMS, 0.02, classes=4)
    assert better.leader == 1
    assert better.because.startswith("dear is better than cheap by 0.1")
    alike = weigh(drawn(2, 60_000, (0.05, 0.05)), ARMS, 0.02, classes=4)
    assert alike.leader == 0
    assert alike.because == "none is better than cheap by more than 0.02"
    worse = weigh(drawn(3, 6_000, (0.15, 0.30)), ARMS, 0.02, classes=4)
    assert worse.leader == 0


def test_little_or_one_sided_traffic_settles_nothing() -> None:
    assert weigh(drawn(1, LEAST_ROWS - 1, (0.9, 0.0)), ARMS, 0.02, classes=1).leader is None
    empty = Seen(arm=np.zeros(0, np.int64), weight=np.zeros(0), loss=np.zeros(0))
    found = weigh(empty, ARMS, 0.02, classes=1)
    assert (found.leader, found.rows) == (None, 0)
    assert math.isnan(found.losses[0])
    one = Seen(arm=np.zeros(5_000, np.int64), weight=np.full(5_000, 0.95), loss=np.zeros(5_000))
    assert weigh(one, ARMS, 0.02, classes=1).leader is None


def test_equal_arms_are_seldom_told_apart_though_weights_moved_and_the_world_got_worse() -> None:
    """A look at each five hundred rows of 5,000, 120 classes; counted plainly the drift would tell them apart."""
    wrong = plain = 0
    for seed in range(120):
        seen = drawn(seed, 5_000, (0.1, 0.1), weights=(0.9, 0.1), drift=0.3)
        looks = [
            weigh(Seen(arm=seen.arm[:n], weight=seen.weight[:n], loss=seen.loss[:n]), ARMS, 0.001, classes=1)
            for n in range(500, 5_001, 500)
        ]
        wrong += any(look.differences[0][1] > 0 or look.differences[0][2] < 0 for look in looks)
        plain += abs(seen.loss[seen.arm == 1].mean() - seen.loss[seen.arm == 0].mean()) > 0.03
    assert wrong <= 14  # .05 of 120 are 6
    assert plain >= 90


@given(
    st.integers(2, 8),
    st.floats(0.0, 0.12),
    st.floats(0.2, 0.99),
    st.one_of(st.none(), st.integers(0, 7)),
)
def test_weights_add_up_and_keep_their_bounds(count: int, least: float, most: float, leader: int | None) -> None:
    chosen = None if leader is None or leader >= count else leader
    weights = weights_of(chosen, count, least, most)
    assert sum(weights) == pytest.approx(1.0, abs=1e-9)
    assert min(weights) >= min(least, 1 / count) - 1e-9
    if chosen is not None:
        assert weights[chosen] == max(weights)
        assert weights[chosen] <= max(most, 1 / count) + 1e-9


def test_only_what_is_settled_moves() -> None:
    before = {"": (0.5, 0.5), "mail": (0.05, 0.95)}
    settled = weigh(drawn(1, 6_000, (0.30, 0.15)), ARMS, 0.02, classes=4)
    open_ = weigh(drawn(2, 300, (0.30, 0.25)), ARMS, 0.001, classes=4)
    after = moved(before, {"claims": settled, "mail": open_, "": settled}, 2, 0.05, 0.95)
    assert after == {"": (0.5, 0.5), "mail": (0.05, 0.95), "claims": (0.05, 0.95)}
