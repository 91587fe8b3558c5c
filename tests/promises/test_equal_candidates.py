"""Promise 5, the release machine's half: equal candidates are rarely turned back, worse ones never become champion.

Judge and plan as production runs them, over made traffic; the published figures come from 2,000 runs
(bench/release.py).
"""

from everloop.spec.rollout import Canary
from everloop.testing.canary import Truth, release

ROLLOUT = Canary(alpha=0.05, promote_alpha=0.02)
RUNS = 200


def test_an_equal_candidate_is_turned_back_at_most_eighteen_times_in_two_hundred() -> None:
    ends = [release(Truth(), ROLLOUT, seed=seed).change for seed in range(RUNS)]
    turned_back = sum(each.action == "rolled back" for each in ends)
    assert turned_back <= 18
    assert sum(each.release.champion == 2 for each in ends) == RUNS - turned_back


def test_a_candidate_with_its_labels_flipped_never_becomes_champion() -> None:
    flipped = Truth(only_champion_wrong=0.1, only_challenger_wrong=0.7)
    ends = [release(flipped, ROLLOUT, seed=seed, requests=200).change for seed in range(RUNS)]
    assert all(each.action == "rolled back" and each.release.champion == 1 for each in ends)
    assert all("shown worse: paired loss" in each.because for each in ends)


def test_a_candidate_that_fails_four_times_as_often_never_becomes_champion() -> None:
    ends = [release(Truth(errors=(0.01, 0.04)), ROLLOUT, seed=seed) for seed in range(RUNS)]
    assert sum(each.change.release.champion == 2 for each in ends) == 0
    # A look comes every 3,000 requests: it never meets more than a few hundred of them at ten percent.
    assert sorted(each.requests for each in ends)[RUNS // 2] <= 700


def test_a_candidate_at_the_margin_becomes_champion_at_most_eight_times_in_two_hundred() -> None:
    ends = [release(Truth(errors=(0.02, 0.03)), ROLLOUT, seed=seed).change for seed in range(RUNS)]
    assert sum(each.release.champion == 2 for each in ends) <= 8
