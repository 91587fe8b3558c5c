"""What a business metric goes with: how often something is said of signals that have nothing to do with it, and what is found.

Daily series of 120 days: a weekly habit, a memory (AR .7, or a random walk) and a trend of its own in each; twelve
signals, each of the same day and of the day before. Beside it the naive rule: Pearson's correlation, p < .05.
"""

import numpy as np
from bench.rows import Row
from bench.watch.parts import Part
from numpy.typing import NDArray
from scipy.stats import pearsonr

from everloop.measure.association import associations

Floats = NDArray[np.float64]
DAYS, SIGNALS = 120, 12


def series(random: np.random.Generator, shocks: Floats, *, memory: float) -> Floats:
    """A habit, a trend and a memory around these shocks."""
    made, level = np.zeros(len(shocks)), 0.0
    for day, shock in enumerate(shocks.tolist()):
        level = memory * level + shock
        made[day] = level
    habit = random.normal(0, 2, 7)[np.arange(len(shocks)) % 7]
    return made + habit + random.normal(0, 3) * np.arange(len(shocks)) / len(shocks)


def world(
    random: np.random.Generator, *, memory: float, together: float = 0.0, heavy: bool = False
) -> tuple[Floats, dict[str, Floats]]:
    """``together``: the correlation of the outcome's shocks with those of the first signal."""

    def shocks() -> Floats:
        return random.standard_t(2.5, DAYS) if heavy else random.normal(0, 1, DAYS)

    own = shocks()
    first = together * own + np.sqrt(1 - together**2) * shocks()
    signals = {
        f"signal {place}": series(random, first if place == 0 else shocks(), memory=memory) for place in range(SIGNALS)
    }
    return series(random, own, memory=memory), signals


def part(*, quick: bool = False) -> Part:
    runs = 100 if quick else 2_000
    made = []
    for name, memory, heavy in (
        ("a memory of .7", 0.7, False),
        ("random walks", 1.0, False),
        ("wild days, a memory of .7", 0.7, True),
    ):
        said = naive = 0
        for seed in range(runs):
            outcome, signals = world(np.random.default_rng([1, seed]), memory=memory, heavy=heavy)
            said += any(each.shown for each in associations(outcome, signals))
            naive += any(pearsonr(outcome, each).pvalue < 0.05 for each in signals.values())
        made.append(
            Row(what=f"something is said of twelve unrelated signals, {name}", ours=said / runs, peer=naive / runs,
                peer_name="Pearson, p < .05", target=0.05, unit="of runs", rounds=runs)
        )  # fmt: skip
    for together in (0.4, 0.5, 0.7):
        found = wrong = covered = 0
        # Spearman's correlation of Gaussian shocks.
        truth = 6 / np.pi * np.arcsin(together / 2)
        for seed in range(runs // 4):
            outcome, signals = world(np.random.default_rng([2, seed]), memory=0.7, together=-together)
            told = associations(outcome, signals)
            first = next(each for each in told if each.signal == "signal 0" and each.lag == 0)
            found += first.shown and first.correlation < 0
            covered += first.low <= -truth <= first.high
            wrong += any(each.shown for each in told if each.signal != "signal 0")
        rounds = runs // 4
        made += [
            Row(what=f"a signal with a correlation of −{together} is found", ours=found / rounds, unit="of runs", rounds=rounds),
            Row(what=f"… its interval holds the truth, correlation −{together}", ours=covered / rounds, target=0.95, unit="of runs",
                greater_is_better=True, rounds=rounds),
        ]  # fmt: skip
    return Part(rows=made)
