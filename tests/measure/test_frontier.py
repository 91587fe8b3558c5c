"""Who is on the frontier, who is best at which price, and what is recommended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from everloop.measure.bootstrap import compare, of_windows
from everloop.measure.frontier import frontier, prices, recommend

Floats = NDArray[np.float64]
POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12)


@given(POINTS)
def test_nobody_on_the_frontier_is_beaten_and_everybody_else_is_beaten_by_somebody_on_it(
    points: list[tuple[int, int]],
) -> None:
    loss, cost = (np.array(each, float) for each in zip(*points, strict=True))
    found = frontier(loss, cost)
    for policy in range(len(points)):
        beaten = [
            other
            for other in range(len(points))
            if loss[other] <= loss[policy]
            and cost[other] <= cost[policy]
            and (loss[other], cost[other]) != (loss[policy], cost[policy])
        ]
        assert found.on[policy] == (not beaten)
        by = int(found.dominated_by[policy])
        assert (by == -1) if found.on[policy] else (found.on[by] and by in beaten)
        if by >= 0:
            assert loss[by] == min(loss[other] for other in beaten)


@given(POINTS, st.floats(0, 30))
def test_at_every_price_the_named_policy_is_the_best(points: list[tuple[int, int]], price: float) -> None:
    loss, cost = (np.array(each, float) for each in zip(*points, strict=True))
    found = prices(loss, cost)
    assert found[0].above == 0
    assert np.isinf(found[-1].below)
    assert [each.below for each in found[:-1]] == [each.above for each in found[1:]]
    best = (loss + price * cost).min()
    (chosen, *_) = (each.policy for each in found if each.above <= price <= each.below)
    assert loss[chosen] + price * cost[chosen] == pytest.approx(best, abs=1e-9)


def test_the_knee_is_where_more_cost_begins_to_buy_little() -> None:
    assert frontier([1.0, 0.30, 0.25, 0.22, 0.21], [0, 1, 2, 3, 4]).knee == 1
    assert frontier([1.0, 0.0], [0, 1]).knee is None
    assert frontier([1.0, 0.5, 0.0], [0, 1, 2]).knee is None  # a straight line has no bend


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="loss is not a finite number"):
        frontier([np.nan], [1])
    with pytest.raises(ValueError, match="one of each"):
        frontier([1.0], [1, 2])


def losses_of(truth: list[float], *, noise: float, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    return np.array(truth)[:, None] + noise * random.normal(size=(len(truth), 60)) + random.normal(size=60)


def test_the_cheapest_of_those_that_cannot_be_told_apart_is_recommended() -> None:
    compared = compare(of_windows(losses_of([0.9, 0.50, 0.46, 0.51], noise=0.2), np.ones(60), greater_is_better=False))
    found = recommend(compared, [0, 40, 120, 30])
    assert found.policy == 3
    assert found.among.tolist() == [3, 1, 2]
    assert found.saves == [0, 40, 120, 30][int(np.argmin(compared.behind))] - 30
    assert found.behind <= found.behind_at_most


def test_where_the_history_can_tell_the_best_is_recommended_whatever_it_costs() -> None:
    compared = compare(of_windows(losses_of([0.9, 0.5, 0.3], noise=0.05), np.ones(60), greater_is_better=False))
    found = recommend(compared, [0, 40, 120])
    assert (found.policy, found.saves, found.behind) == (2, 0.0, 0.0)


def test_of_equally_cheap_ones_the_better_looking_is_recommended() -> None:
    compared = compare(of_windows(losses_of([0.5, 0.45, 0.5], noise=0.5), np.ones(60), greater_is_better=False))
    best = int(np.argmin(compared.behind))
    assert recommend(compared, [7, 7, 7]).policy == best


def test_no_more_than_so_many_errors_behind_the_best() -> None:
    losses = losses_of([0.9, 0.50, 0.46, 0.58], noise=0.3)
    compared = compare(of_windows(losses, np.ones(60), greater_is_better=False))
    cost, best = np.array([0.0, 40, 120, 30]), int(np.argmin(compared.behind))
    assert recommend(compared, cost, errors=0).policy == best
    within = [
        int(place)
        for place in np.argsort(cost)
        if compared.indistinct[place] and compared.behind[place] <= compared.error_between[best, place]
    ]
    assert recommend(compared, cost, errors=1).policy == within[0] != recommend(compared, cost).policy
    short = compare(of_windows(losses[:, :6], np.ones(6), greater_is_better=False))
    assert recommend(short, cost).policy == 0
    assert recommend(short, cost, errors=1).policy == int(np.argmin(short.behind))
