"""Short versions of the published simulations of the judge and the gate: the same code, bounds that a defect would break.

The long ones (docs/release-figures.md) have 2,000 runs; here a bound lies where chance goes less than once in a
thousand seeds, and the seeds stand.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The parts of `bench.release` by name: the bench is no package of the distribution."""
    sys.path.insert(0, str(ROOT))
    try:
        yield lambda name: import_module(f"bench.release.{name}")
    finally:
        sys.path.remove(str(ROOT))


def test_three_guards_with_late_labels_and_a_look_after_every_request_turn_few_equal_ones_back(bench: Any) -> None:
    policy = bench("policy")
    ends = policy.ends(policy.EQUAL[0], 60, seed=1)
    assert policy.share(ends, "rolled back") <= 0.15  # .036 of 2,000; a rule without its three parts of alpha: .09
    assert policy.share(ends, "promoted") >= 0.85
    promoted = [each.canary for each in ends if each.action == "promoted"]
    assert 3_500 <= np.median(promoted) <= 7_500


def test_at_the_margin_hardly_one_is_promoted_and_beyond_it_none(bench: Any) -> None:
    policy = bench("policy")
    for world in policy.AT_MARGIN[:2]:
        assert policy.share(policy.ends(world, 40, seed=2), "promoted") <= 0.075
    for world in policy.BEYOND:
        ends = policy.ends(world, 20, seed=3)
        assert policy.share(ends, "promoted") == 0
        assert policy.share(ends, "rolled back") >= 0.95


def test_sticky_callers_are_counted_by_what_was_drawn_and_each_request_would_not_do(bench: Any) -> None:
    back = bench("traffic").sticky_ends(80)
    assert back["a unit an hour"] <= 0.10
    assert back["a unit for good"] <= 0.10
    assert back["each request"] >= 0.15, "the simulation is hard enough to break the usual count"
    worse = bench("traffic").sticky_ends(20, seed=5, lift=3.0)
    assert worse["a unit an hour"] >= 0.9


def test_a_share_change_while_both_arms_get_worse_turns_few_equal_ones_back(bench: Any) -> None:
    by_epoch, pooled = bench("traffic").drifting_ends(12)
    assert by_epoch <= 0.17
    assert pooled == 1.0


def test_labels_that_come_late_and_unevenly_turn_few_equal_ones_back(bench: Any) -> None:
    back = bench("traffic").uneven_ends(24)
    assert back["at a fixed age"] <= 0.125
    assert back["as they come"] >= 0.9


def test_a_fourfold_rise_in_errors_is_found_within_its_budget_of_canary_requests(bench: Any) -> None:
    harm = bench("harm")
    found = harm.found_after(0.01, 0.04, runs=200, canary=3_000)
    ours = found[harm.OURS]
    assert np.median(ours) <= 260
    assert harm.at(ours, 0.95) <= 700
    equal = harm.found_after(0.01, 0.01, runs=100, canary=6_000, seed=3)
    assert np.isfinite(equal[harm.OURS]).mean() <= 0.08
    assert np.isfinite(equal[harm.Z_TEST]).mean() >= 0.15, "a z-test that peeks"
    assert np.isfinite(equal[harm.THRESHOLD]).mean() >= 0.4, "a fixed threshold"


@pytest.mark.parametrize("place", range(8))
def test_the_gate_keeps_its_level_at_the_margin_for_every_metric(bench: Any, place: int) -> None:
    gate = bench("gate")
    gate.WHOLE = 300_000
    world = gate.WORLDS[place]
    runs = 300 if place != 5 else 200
    level = gate.level(world, gate.worse_by(world), 1_000, runs)
    assert level <= 0.10, world.metric.name  # .05 nominal: 3.7 standard errors
    assert level >= 0.01, "a gate that promotes nobody keeps any level"


def test_a_year_of_slightly_worse_challengers_costs_a_point_where_scores_alone_cost_six(bench: Any) -> None:
    gate = bench("gate")
    cost = {
        rule: 100 * float(np.mean([gate.year(random, rule, 0.003, gate.ALIKE["10 %"]) for _ in range(8)]))
        for rule, random in ((name, np.random.default_rng(4)) for name in ("anchors", "margin", "score"))
    }
    assert cost["anchors"] <= 1.5
    assert cost["margin"] > 1.3 * cost["anchors"]
    assert cost["score"] >= 4.5


def test_the_best_of_forty_is_judged_on_rows_it_was_not_chosen_by_and_days_are_blocks(bench: Any) -> None:
    gate = bench("gate")
    (best,) = gate.best_of(150)
    assert best.ours <= 0.12
    assert best.peer >= 0.25
    days = gate.by_day(300)
    assert max(row.ours for row in days) <= 0.10


def test_routing_by_meaning_answers_high_value_queries_much_sooner_at_the_same_load(bench: Any) -> None:
    queueing = bench("queueing")
    for load in (0.85, 1.1):
        alike, high = queueing.replay("alike", load, 4_000, budget=0.25, seed=1)
        routed, _ = queueing.replay("routed", load, 4_000, budget=0.25, seed=1)
        assert np.nanmedian(routed[high]) <= 0.6 * np.nanmedian(alike[high])
        assert np.nanmedian(routed[~high]) <= np.nanmedian(alike[~high]), "the others pay nothing for it"
    crowded, high = queueing.replay("first", 1.1, 4_000, budget=0.25, seed=1)
    alike, _ = queueing.replay("alike", 1.1, 4_000, budget=0.25, seed=1)
    assert np.nanmedian(crowded[high]) <= 0.3 * np.nanmedian(alike[high])
