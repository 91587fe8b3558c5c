"""Windows drawn in blocks: means, dependence, coverage of the set and of the bounds, ranking scores."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import metrics
from everloop.measure.bootstrap import Compared, block_length, compare, draw, influences, of_windows
from everloop.spec.metric import Accuracy, AveragePrecision, Custom, LogLoss, Metric, RocAuc, RootMeanSquaredError

Floats = NDArray[np.float64]
CHANCES = 150


def autoregressive(random: np.random.Generator, shape: tuple[int, int], rho: float) -> Floats:
    """Standard normal values whose neighbours in a row have correlation rho."""
    noise = random.normal(size=shape)
    made = noise.copy()
    for step in range(1, shape[1]):
        made[:, step] = rho * made[:, step - 1] + math.sqrt(1 - rho**2) * noise[:, step]
    return made


def simulated(truth: list[float], *, windows: int, rho: float, seed: int, block: float | None = None) -> Compared:
    """Policies with these true losses, weather that all share and six times as large as what differs."""
    random = np.random.default_rng(seed)
    weather = 3 * random.normal(size=windows)
    losses = np.array(truth)[:, None] + 0.5 * autoregressive(random, (len(truth), windows), rho) + weather
    return compare(of_windows(losses, np.ones(windows), greater_is_better=False), draws=400, seed=seed, block=block)


@pytest.mark.parametrize(
    ("windows", "rho", "least"), [(22, 0.0, 0.95), (22, 0.5, 0.85), (126, 0.0, 0.91), (126, 0.5, 0.82)]
)
def test_equal_policies_stay_in_the_set_even_when_bad_weeks_come_together(
    windows: int, rho: float, least: float
) -> None:
    kept = [simulated([0.0] * 5, windows=windows, rho=rho, seed=seed).indistinct.all() for seed in range(CHANCES)]
    assert np.mean(kept) >= least


def test_single_windows_instead_of_blocks_would_call_equal_policies_different() -> None:
    """Why there are blocks: with neighbours correlated by .8 single windows throw out somebody in every second run."""
    alone = [
        simulated([0.0] * 5, windows=126, rho=0.8, seed=seed, block=1.0).indistinct.all() for seed in range(CHANCES)
    ]
    blocks = [simulated([0.0] * 5, windows=126, rho=0.8, seed=seed).indistinct.all() for seed in range(CHANCES)]
    assert np.mean(alone) < 0.35
    assert np.mean(blocks) > np.mean(alone) + 0.25


def test_a_worse_policy_leaves_the_set_though_the_weather_is_larger_than_the_gap() -> None:
    found = [simulated([0.0, 0.0, 0.3, 1.0], windows=126, rho=0.3, seed=seed) for seed in range(40)]
    indistinct = np.mean([each.indistinct for each in found], axis=0)
    assert indistinct[0] > 0.85
    assert indistinct[2] < 0.35  # a gap of .3 beside weather of 3: only pairing sees it
    assert indistinct[3] == 0
    assert np.mean([each.error_between[0, 1] for each in found]) < 0.12
    assert np.mean([each.standard_error[0] for each in found]) > 0.2


def test_the_bounds_on_what_is_lost_hold_for_every_policy_together() -> None:
    truth = [0.0, 0.1, 0.2, 0.4]
    hold = [
        (simulated(truth, windows=22, rho=0.5, seed=seed).behind_at_most >= np.array(truth)).all()
        for seed in range(CHANCES)
    ]
    assert np.mean(hold) >= 0.95
    # And they are not so wide that they say nothing: a year of weeks bounds the worst within three errors.
    wide = [simulated(truth, windows=126, rho=0.3, seed=seed).behind_at_most[3] for seed in range(20)]
    assert 0.4 < np.median(wide) < 0.4 + 3.3 * 0.086


def test_a_score_s_own_bounds_cover_it() -> None:
    inside = []
    for seed in range(CHANCES):
        random = np.random.default_rng(seed)
        losses = 1 + autoregressive(random, (1, 60), 0.5)
        found = compare(of_windows(losses, np.ones(60), greater_is_better=False), draws=400, seed=seed)
        inside.append(found.lower[0] <= 1 <= found.upper[0])
    assert 0.88 <= np.mean(inside) <= 1


def test_twins_are_never_told_apart_and_share_the_chance_to_be_best() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=40)
    found = compare(of_windows([one, one, one + 5], np.ones(40), greater_is_better=False))
    assert found.indistinct.tolist() == [True, True, False]
    assert found.p_value[:2].tolist() == [1.0, 1.0]
    assert found.chance_best.tolist() == [0.5, 0.5, 0.0]
    assert found.error_between[0, 1] == 0
    assert found.behind_at_most[2] == pytest.approx(5)  # they differ by exactly five everywhere: nothing is unsure


def test_the_direction_of_a_score_is_understood() -> None:
    random = np.random.default_rng(1)
    accuracy = np.clip(0.8 + 0.02 * random.normal(size=(3, 60)), 0, 1)
    accuracy[2] -= 0.1
    up = compare(of_windows(accuracy, np.ones(60), greater_is_better=True))
    down = compare(of_windows(1 - accuracy, np.ones(60), greater_is_better=False))
    assert up.indistinct.tolist() == down.indistinct.tolist() == [True, True, False]
    assert up.behind == pytest.approx(down.behind)
    assert up.behind_at_most == pytest.approx(down.behind_at_most)
    assert up.score == pytest.approx(1 - down.score)


def test_seven_windows_tell_nothing_apart() -> None:
    found = compare(of_windows([[0.0] * 7, [9.0] * 7], np.ones(7), greater_is_better=False))
    assert found.indistinct.all()
    assert np.isinf(found.behind_at_most).all()
    with pytest.raises(ValueError, match="no policy"):
        compare(of_windows(np.zeros((0, 9)), np.ones(9), greater_is_better=False))


def test_a_window_without_a_score_counts_for_nobody() -> None:
    scores = np.array([[0.5, np.nan, 0.7], [0.5, 0.1, 0.9]])
    found = of_windows(scores, [10, 90, 30], greater_is_better=True)
    assert found.score == pytest.approx([0.65, 0.8])
    assert found.rows.tolist() == [10, 0, 30]
    assert found.sums.sum(axis=1) == pytest.approx([0, 0])


def two_of_rows(random: np.random.Generator, windows: int, rows: int) -> tuple[NDArray[np.int64], list[Floats], Floats]:
    """Labels, the answers of two policies, and the window of each row; some windows are harder."""
    window = np.repeat(np.arange(windows), rows)
    signal = random.normal(size=len(window)) * (0.3 + random.random(windows))[window]
    truth = (random.random(len(window)) < 1 / (1 + np.exp(-2 * signal))).astype(np.int64)
    made = []
    for noise in (0.3, 0.9):
        chance = 1 / (1 + np.exp(-2 * (signal + random.normal(0, noise, len(window)))))
        made.append(np.stack([1 - chance, chance], axis=1))
    return truth, made, window.astype(np.float64)


@pytest.mark.parametrize("metric", [RocAuc(), AveragePrecision(), Accuracy(), LogLoss()], ids=lambda each: each.name)
def test_influences_say_what_scoring_the_drawn_rows_again_would(metric: Metric) -> None:
    random = np.random.default_rng(2)
    truth, predictions, window = two_of_rows(random, 30, 80)
    found = influences(metric, truth, list(predictions), window.astype(np.int64))
    counts = draw(30, block=3.0, draws=120, seed=4)
    linear = found.score + (counts @ found.sums.T) / (counts @ found.rows)[:, None]
    again = np.array(
        [
            [metrics.score(metric, truth, each, weights=count[window.astype(np.int64)]) for each in predictions]
            for count in counts
        ]
    )
    assert np.corrcoef(linear[:, 0] - linear[:, 1], again[:, 0] - again[:, 1])[0, 1] > 0.98
    assert (linear[:, 0] - linear[:, 1]).std() == pytest.approx((again[:, 0] - again[:, 1]).std(), rel=0.08)
    if metric in (Accuracy(), LogLoss()):
        assert linear == pytest.approx(again)


def test_an_rmse_is_that_over_all_rows_and_not_the_mean_of_the_windows() -> None:
    truth = np.zeros(40)
    prediction = np.repeat([1.0, 3.0], 20)
    found = influences(RootMeanSquaredError(), truth, [prediction], np.repeat([0, 1], 20))
    assert found.score[0] == pytest.approx(math.sqrt(5))
    assert found.sums[0] == pytest.approx([-20 * 4 / math.sqrt(5) / 2, 20 * 4 / math.sqrt(5) / 2])


def nothing(truth: object, prediction: object, rows: object) -> float:
    return 0.0


def test_a_function_of_the_user_has_no_influence() -> None:
    metric = Custom(function=nothing)
    with pytest.raises(ValueError, match="of_windows"):
        influences(metric, [0, 1], [np.array([0.0, 1.0])], [0, 0])


def test_draws_are_blocks_of_the_wanted_length_in_which_every_window_is_as_frequent() -> None:
    counts = draw(20, block=5.0, draws=8_000, seed=3)
    assert (counts.sum(axis=1) == 20).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)
    # Neighbours come together; with single windows they do not.
    together = np.corrcoef(counts[:, 8], counts[:, 9])[0, 1]
    assert together > 0.6
    assert abs(np.corrcoef(*draw(20, block=1.0, draws=8_000, seed=3)[:, 8:10].T)[0, 1]) < 0.12
    assert (draw(9, block=2.0, seed=1) == draw(9, block=2.0, seed=1)).all()
    with pytest.raises(ValueError, match="at least 1"):
        draw(9, block=0.5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_block_is_about_as_long_as_theory_has_it_for_an_autoregression(rho: float) -> None:
    """(2·rho/(1 − rho²))^⅔·n^⅓, of which an estimate from 400 values gives somewhat less."""
    series = autoregressive(np.random.default_rng(5), (30, 400), rho)
    wanted = max(1.0, (2 * rho / (1 - rho**2)) ** (2 / 3) * 400 ** (1 / 3))
    assert 0.6 * wanted <= block_length(series) <= 1.25 * wanted


def test_a_series_that_does_not_move_has_blocks_of_one() -> None:
    assert block_length(np.ones(50)) == 1.0
    assert block_length(np.arange(4)) == 1.0
    assert 5 < block_length(np.arange(50)) <= 50 / 3
