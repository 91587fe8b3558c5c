"""How often an experiment's interval is wrong under continuous looks, and what it finds: ours beside what is usually done.

10,000 customers at even odds, a look at each 100 from 300 on. They make 1 to 100 requests (Pareto 1.2) and differ in how
they answer.
"""

import math

import numpy as np
from bench.rows import Row
from numpy.typing import NDArray
from scipy.special import chdtri

from everloop.measure import experiment
from everloop.measure.experiment import Units

Floats = NDArray[np.float64]
CUSTOMERS = 10_000
LOOKS = np.arange(300, CUSTOMERS + 1, 100)
Z = 1.96


def customers(random: np.random.Generator, lift: float) -> tuple[Units, Units, Units]:
    """Clicks over requests by customer; the same with how they clicked before; each request alone."""
    arm = (random.random(CUSTOMERS) < 0.5).astype(np.int64)
    requests = np.minimum(np.ceil(random.pareto(1.2, CUSTOMERS)), 100).astype(np.int64)
    taste = random.beta(0.8, 7.2, CUSTOMERS)
    clicks = random.binomial(requests, np.clip(taste + lift * arm, 0, 1)).astype(np.float64)
    before = random.binomial(20, taste) - 2.0
    plain = Units(arm=arm, numerator=clicks, denominator=requests.astype(np.float64))
    with_before = Units(arm=arm, numerator=clicks, denominator=plain.denominator, covariate=before)
    each = np.repeat(np.arange(CUSTOMERS), requests)
    place = np.arange(len(each)) - np.repeat(np.cumsum(requests) - requests, requests)
    alone = Units(arm=arm[each], numerator=(place < clicks[each]).astype(np.float64), denominator=np.ones(len(each)))
    return plain, with_before, alone


def found_at(units: Units, looks: NDArray[np.int64]) -> float:
    """Units at the first look whose interval leaves out 0; infinite if none does."""
    for count in looks.tolist():
        if experiment.compare(units.first(count)).shown:
            return float(count)
    return math.inf


def peeked(units: Units, looks: NDArray[np.int64]) -> float:
    """The same with a plain 95 % interval, by the same standard error."""
    for count in looks.tolist():
        found = experiment.compare(units.first(count))
        if abs(found.estimate) > Z * found.standard_error:
            return float(count)
    return math.inf


def by_key(runs: int) -> list[Row]:
    rows: list[Row] = []
    for lift, what in ((0.0, "equal arms told apart"), (0.01, "one point found")):
        random = np.random.default_rng(1)
        ours, adjusted, alone, z, gains = [], [], [], [], []
        for _ in range(runs):
            plain, with_before, naive = customers(random, lift)
            ours.append(found_at(plain, LOOKS))
            adjusted.append(found_at(with_before, LOOKS))
            gains.append(experiment.compare(with_before).gain or 0.0)
            if not lift:
                alone.append(found_at(naive, np.linspace(300, len(naive), 60).astype(np.int64)))
                z.append(peeked(plain, LOOKS))
        for name, seen, peer, peer_name in (
            ("ratio by customer", ours, alone, "each request alone"),
            ("ratio by customer, CUPED", adjusted, z, "95 % interval at each look"),
        ):
            rows.append(
                Row(
                    what=f"{what}, {name}",
                    ours=float(np.mean(np.isfinite(seen))),
                    peer=float(np.mean(np.isfinite(peer))) if peer else None,
                    peer_name=peer_name if peer else None,
                    target=None if lift else 0.05,
                    unit="of runs",
                    rounds=runs,
                )
            )
    rows.append(Row(what="variance that CUPED takes away", ours=float(np.mean(gains)), unit="share", rounds=runs))
    return rows


def rare_events(runs: int) -> list[Row]:
    """Equal arms, one unit a request: rates and shares at which the plain standard error is a guess for long."""
    rows = []
    looks = np.unique(np.geomspace(200, CUSTOMERS, 60).astype(np.int64))
    for share, rate in ((0.5, 0.001), (0.1, 0.005), (0.1, 0.02), (0.5, 0.1)):
        random = np.random.default_rng(2)
        wrong = []
        for _ in range(runs):
            arm = (random.random(CUSTOMERS) < share).astype(np.int64)
            events = (random.random(CUSTOMERS) < rate).astype(np.float64)
            wrong.append(found_at(Units(arm=arm, numerator=events, denominator=np.ones(CUSTOMERS)), looks))
        rows.append(
            Row(
                what=f"equal arms told apart, events at {rate:.1%}, share {share:.0%}",
                ours=float(np.mean(np.isfinite(wrong))),
                target=0.05,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def skewed(runs: int) -> list[Row]:
    """Equal arms, three in ten spend a lognormal amount: with the frozen limits, and without any."""
    random = np.random.default_rng(3)
    looks = np.unique(np.geomspace(800, CUSTOMERS, 40).astype(np.int64))
    ours, uncut, widths = [], [], []
    for _ in range(runs):
        arm = (random.random(CUSTOMERS) < 0.5).astype(np.int64)
        spent = np.where(random.random(CUSTOMERS) < 0.3, random.lognormal(3, 1.5, CUSTOMERS), 0.0)
        units = Units(arm=arm, numerator=spent, denominator=np.ones(CUSTOMERS))
        kept, _ = experiment.cut(units, experiment.limits(units))
        ours.append(found_at(kept, looks))
        uncut.append(found_at(units, looks))
        widths.append(experiment.compare(kept).standard_error / experiment.compare(units).standard_error)
    return [
        Row(
            what="equal arms told apart, lognormal spending",
            ours=float(np.mean(np.isfinite(ours))),
            peer=float(np.mean(np.isfinite(uncut))),
            peer_name="nothing cut off",
            target=0.05,
            unit="of runs",
            rounds=runs,
        ),
        Row(what="standard error with limits, lognormal spending", ours=float(np.mean(widths)), unit="×", rounds=runs),
    ]


def sample_ratio(runs: int) -> list[Row]:
    """A look at each thousand units, up to 100,000; beside it the χ² test at .001 at each of those looks."""
    rows = []
    for shares in ((0.9, 0.1), (0.5, 0.5), (0.5, 0.3, 0.2)):
        for lost in (0.0, 0.05):
            random = np.random.default_rng(4)
            # So many answers of the first arm are lost: what is left falls to the arms otherwise.
            w = np.array(shares) * np.array([1 - lost, *(1.0 for _ in shares[1:])])
            counts = random.multinomial(1_000, w / w.sum(), (runs, 100)).cumsum(axis=1)
            log_e = experiment.sample_ratio(counts, shares)
            alarms = (log_e >= math.log(1 / experiment.SAMPLE_RATIO_ALPHA)).any(axis=1)
            expected = counts.sum(axis=-1, keepdims=True) * np.array(shares)
            squares = ((counts - expected) ** 2 / expected).sum(axis=-1)
            naive = (squares > chdtri(len(shares) - 1, 0.001)).any(axis=1)
            rows.append(
                Row(
                    what=f"sample ratio alarm, {' : '.join(f'{each:.0%}' for each in shares)}, {lost:.0%} of the first arm lost",
                    ours=float(np.mean(alarms)),
                    peer=float(np.mean(naive)),
                    peer_name="chi-square at each look",
                    # Three standard errors of the simulation are allowed on top.
                    target=None if lost else 0.001 + 3 * math.sqrt(0.001 / runs),
                    unit="of runs",
                    rounds=runs,
                )
            )
    return rows


def rows(runs: int) -> list[Row]:
    return [*by_key(runs), *rare_events(runs), *skewed(runs), *sample_ratio(40 * runs)]
