"""What goes together is found with an interval; habit, trend and memory go together with nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr

from everloop.measure.association import LEAST, associations, surprises

Floats = NDArray[np.float64]
DAYS = 120


def series(random: np.random.Generator, shocks: Floats, memory: float) -> Floats:
    made, level = np.zeros(len(shocks)), 0.0
    for day, shock in enumerate(shocks.tolist()):
        made[day] = level = memory * level + shock
    return made + random.normal(0, 2, 7)[np.arange(len(shocks)) % 7] + 0.03 * np.arange(len(shocks))


@pytest.mark.parametrize("memory", [0.7, 1.0])
def test_of_unrelated_signals_something_is_said_in_one_of_twenty_runs_at_most(memory: float) -> None:
    runs, said, naive = 150, 0, 0
    for seed in range(runs):
        random = np.random.default_rng(seed)
        outcome = series(random, random.normal(0, 1, DAYS), memory)
        signals = {f"s{place}": series(random, random.normal(0, 1, DAYS), memory) for place in range(6)}
        said += any(each.shown for each in associations(outcome, signals))
        naive += any(pearsonr(outcome, each).pvalue < 0.05 for each in signals.values())
    assert said <= 15, "binomial: more than 15 of 150 at .05 in one of 200"
    assert naive > 0.9 * runs, "the same data fool the naive rule"


def test_a_signal_that_goes_with_it_is_found_with_its_sign_its_lag_and_an_interval_that_holds() -> None:
    truth, held = 6 / np.pi * np.arcsin(0.6 / 2), 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        shocks = random.normal(0, 1, DAYS)
        other = -0.6 * np.roll(shocks, -1) + 0.8 * random.normal(0, 1, DAYS)  # the day before
        told = associations(
            series(random, shocks, 0.6),
            {"latency": series(random, other, 0.6), "noise": series(random, random.normal(0, 1, DAYS), 0.6)},
        )
        assert (told[0].signal, told[0].lag) == ("latency", 1)
        assert told[0].correlation < 0
        held += told[0].low <= -truth <= told[0].high and told[0].shown
    assert held >= 54


def test_one_wild_day_decides_nothing() -> None:
    random = np.random.default_rng(1)
    outcome, signal = random.normal(0, 1, DAYS), random.normal(0, 1, DAYS)
    outcome[60] = signal[60] = 1e6
    assert not any(each.shown for each in associations(outcome, {"s": signal}))


def test_gaps_constants_and_short_series_say_nothing_and_break_nothing() -> None:
    random = np.random.default_rng(2)
    y = random.normal(0, 1, DAYS)
    gaps = np.where(random.random(DAYS) < 0.3, np.nan, y)
    signals = {
        "constant": np.full(DAYS, 3.0),
        "none": np.full(DAYS, np.nan),
        "two values": (np.arange(DAYS) % 2).astype(float),
        "infinite": np.where(np.arange(DAYS) == 5, np.inf, y),
        "huge": y * 1e300,
        "tiny": y * 1e-300,
    }
    for outcome in (y, gaps, np.full(DAYS, 7.0), np.full(DAYS, np.nan), y[:0], y[:1], y[: LEAST - 1]):
        for each in associations(outcome, {name: values[: len(outcome)] for name, values in signals.items()}):
            assert -1 <= each.low <= each.correlation <= each.high <= 1
    assert np.isnan(surprises(np.full(DAYS, 3.0))).all()
    assert associations(y[: LEAST - 1], {"s": y[: LEAST - 1]}) == ()
