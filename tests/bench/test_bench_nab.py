"""The scorer of the Numenta benchmark says what its published formula says."""

import numpy as np
import pytest
from bench.watch import nab_score

N = 1_000
INSIDE = np.zeros(N, dtype=bool)
INSIDE[400:500] = True
INSIDE[700:800] = True


def scored(*places: int) -> nab_score.Scored:
    scores = np.zeros(N)
    scores[list(places)] = 1.0
    return nab_score.score([(scores, INSIDE)])


def sigma(y: float) -> float:
    return float(2 / (1 + np.exp(5 * y)) - 1)


def test_the_left_end_of_every_window_is_a_hundred_and_silence_is_nothing() -> None:
    assert scored(400, 700).value == pytest.approx(100)
    assert nab_score.score([(np.zeros(N), INSIDE)]).value == pytest.approx(0, abs=1e-9)


def test_later_in_a_window_is_worth_less_and_only_the_first_counts() -> None:
    late = sigma(-50 / 100) / sigma(-1)
    assert scored(450, 700).value == pytest.approx(100 * ((late + 1) + 2) / 4)
    assert scored(450, 460, 499, 700).value == scored(450, 700).value


def test_a_false_alarm_costs_by_how_far_it_is_from_the_window_before() -> None:
    before, soon, far = scored(400, 700, 200), scored(400, 700, 505), scored(400, 700, 999)
    assert before.value == pytest.approx(100 - 100 * 0.11 / 4)
    assert soon.value == pytest.approx(100 + 100 * 0.11 * sigma(6 / 99) / 4)
    assert far.value == pytest.approx(100 + 100 * 0.11 * sigma(200 / 99) / 4)
    assert before.false == soon.false == far.false == 1


def test_the_first_part_of_a_series_counts_nothing_and_the_best_threshold_is_found() -> None:
    assert nab_score.probation(N) == 150
    assert nab_score.probation(22_000) == 750
    assert scored(400, 700, 10, 149).value == pytest.approx(100)
    noisy = np.random.default_rng(1).random(N) * 0.5
    noisy[[400, 700]] = 0.9
    found = nab_score.score([(noisy, INSIDE)])
    assert found.value == pytest.approx(100)
    assert (found.threshold, found.found, found.windows, found.false) == (0.9, 2, 2, 0)
