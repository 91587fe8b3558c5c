"""How often the gate and the drift alarms are wrong, and what they find: ours beside what is usually done.

Run: python -m bench.statistics [--quick] [--json]. Seeded simulations: the gate with made predictions, drift with 30
columns over made quiet years.
"""

from datetime import timedelta

import numpy as np
from bench.rows import Row, parser, show
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from everloop.gate.compare import compare
from everloop.measure import drift, profile
from everloop.measure.paired import look_alpha
from everloop.spec.gate import NotWorse
from everloop.spec.metric import Accuracy, AveragePrecision, Brier, LogLoss, Metric, RocAuc

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
COLUMNS = 30
QUARTER = timedelta(days=90)


def decisions(
    random: np.random.Generator, n: int, *, disagreement: float, worse: float
) -> tuple[Integers, Integers, Integers]:
    """Truth, champion, challenger: the challenger is wrong in ``worse`` more of all rows."""
    drawn = random.random(n)
    ours = (drawn < (disagreement + worse) / 2).astype(np.int64)
    theirs = (drawn > 1 - (disagreement - worse) / 2).astype(np.int64)
    return np.zeros(n, np.int64), theirs, ours


def gate_at_the_margin(runs: int) -> list[Row]:
    rows = []
    for disagreement in (0.05, 0.1, 0.2):
        random = np.random.default_rng(1)
        passed, plain = [], []
        for _ in range(runs):
            y, theirs, ours = decisions(random, 1_000, disagreement=disagreement, worse=0.01)
            found = compare(NotWorse(margin=0.01), Accuracy(), truth=y, champion=theirs, challenger=ours)
            passed.append(found.promote)
            plain.append(np.mean(ours) <= np.mean(theirs))
        rows.append(
            Row(
                what=f"one point worse promoted, 1,000 rows, {disagreement:.0%} disagreement",
                ours=float(np.mean(passed)),
                peer=float(np.mean(plain)),
                peer_name="score ≥ champion's",
                # Nominal .05; three standard errors of the simulation are allowed on top.
                target=0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def gate_power(runs: int) -> list[Row]:
    rows = []
    for disagreement, margin in ((0.05, 0.02), (0.1, 0.02), (0.1, 0.01)):
        random = np.random.default_rng(2)
        n = int(np.ceil(6.183 * disagreement / margin**2))
        passed = []
        for _ in range(runs):
            y, theirs, ours = decisions(random, n, disagreement=disagreement, worse=0.0)
            gate = NotWorse(margin=margin)
            passed.append(compare(gate, Accuracy(), truth=y, champion=theirs, challenger=ours).promote)
        rows.append(
            Row(
                what=f"equal challenger promoted, {n:,} rows, {disagreement:.0%} disagreement, margin {margin}",
                ours=float(np.mean(passed)),
                target=0.75,
                greater_is_better=True,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def gate_metrics(runs: int) -> list[Row]:
    """Two exchangeable models: how often the bound calls one of them better."""
    rows = []
    metrics: tuple[Metric, ...] = (LogLoss(), Brier(), RocAuc(), AveragePrecision())
    for metric in metrics:
        random = np.random.default_rng(3)
        wrong = []
        for _ in range(runs):
            signal = random.normal(0, 1, 600)
            y = (random.random(600) < ndtr(signal)).astype(np.int64)
            chances = [ndtr(signal + random.normal(0, 0.3, 600)) for _ in range(2)]
            p, q = (np.stack([1 - each, each], axis=1) for each in chances)
            wrong.append(compare(NotWorse(), metric, truth=y, champion=p, challenger=q).outcome == "better")
        rows.append(
            Row(
                what=f"equal challenger called better, {metric.name}, 600 rows",
                ours=float(np.mean(wrong)),
                target=0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def gate_looks(runs: int) -> list[Row]:
    """One at the margin, asked again as labels arrive: two planned looks, and ten that nobody planned."""
    random = np.random.default_rng(4)
    planned, unplanned = [], []
    critical = -float(ndtri(look_alpha(0.05, 0.5)))
    for _ in range(10):
        steps = np.cumsum(random.normal(0, 1, (runs, 10)), axis=1) / np.sqrt(np.arange(1, 11))
        planned.append((steps[:, [4, 9]] > critical).any(axis=1).mean())
        unplanned.append((steps > 1.645).any(axis=1).mean())
    return [
        Row(
            what="one at the margin promoted, asked again as labels arrive",
            ours=float(np.mean(planned)),
            peer=float(np.mean(unplanned)),
            peer_name="ten looks, z each time",
            target=0.05 + 3 * (0.05 * 0.95 / (10 * runs)) ** 0.5,
            unit="of runs",
            rounds=10 * runs,
        )
    ]


def quiet_psi(random: np.random.Generator, days: int, windows: int, n: int, half: int) -> Floats:
    """PSI [windows, columns] of restless but quiet columns against their own first ``half`` days."""
    spread = random.uniform(0.02, 0.10, COLUMNS)
    effect = np.zeros((days, COLUMNS))
    for day in range(1, days):
        effect[day] = 0.5 * effect[day - 1] + np.sqrt(0.75) * random.normal(0, spread)
    inner = ndtr(ndtri(np.arange(1, 10) / 10) - effect[..., None])
    zero = np.zeros((days, COLUMNS, 1))
    chances = np.diff(np.concatenate([zero, inner, zero + 1], axis=2), axis=2)
    counts = np.stack([random.multinomial(n, chances) for _ in range(windows)], axis=1) + 0.5
    reference = counts[:half].sum(axis=(0, 1))
    p, q = reference / reference.sum(-1, keepdims=True), counts / counts.sum(-1, keepdims=True)
    found: Floats = np.sum((q - p) * np.log(q / p), axis=-1).reshape(-1, COLUMNS)
    return found


def alarm_days(over: NDArray[np.bool_], windows: int) -> float:
    """Days with an alarm per 90: over the limit in two windows running, same column."""
    twice = np.r_[False, (over[1:] & over[:-1]).any(axis=1)].reshape(-1, windows)
    return float(twice.any(axis=1).mean() * 90)


def drift_budget(years: int) -> list[Row]:
    rows = []
    names = [str(index) for index in range(COLUMNS)]
    for n, windows in ((100, 20), (1_000, 10), (10_000, 1)):
        ours, conventional, by_value = [], [], []
        for year in range(years):
            history = 60
            seen = quiet_psi(np.random.default_rng(year), history + 360, windows, n, history // 2)
            quiet, live = seen[history // 2 * windows : history * windows], seen[history * windows :]
            made = drift.calibrate(quiet, names, windows_per_day=windows, false_alarm_every=QUARTER)
            assert made is not None
            limit = made.threshold * np.array([made.scales[name] for name in names])
            floor = drift.FLOOR + 9 / n
            ours.append(alarm_days(live > np.maximum(limit, floor), windows))
            conventional.append(float((live > 0.2).any(axis=1).reshape(-1, windows).any(axis=1).mean() * 90))
            usual = drift.psi_threshold(0.05 / COLUMNS, 10, n, n * windows * history // 2)
            by_value.append(float((live > usual).any(axis=1).reshape(-1, windows).any(axis=1).mean() * 90))
        rows += [
            Row(
                what=f"alarm days per 90 quiet ones, days differ, {n:,} rows a window",
                ours=float(np.mean(ours)),
                peer=float(np.mean(peer)),
                peer_name=name,
                target=1.0,
                unit="days",
                rounds=years,
            )
            for name, peer in (("PSI > 0.2", conventional), ("p < .05/30", by_value))
        ]
    return rows


def drift_found(runs: int) -> list[Row]:
    """A shift of .6 standard deviations in one of 30 columns, without any history: windows until it is found."""
    rows = []
    for n in (100, 1_000, 10_000):
        random = np.random.default_rng(6)
        names = [f"c{index}" for index in range(COLUMNS)]
        reference = profile.build({name: random.normal(0, 1, 20_000) for name in names})
        needed = []
        for _ in range(runs):
            seen: list[profile.Profile] = []
            while len(seen) < 12:
                shifted = {name: random.normal(0.6 if name == "c3" else 0.0, 1, n) for name in names}
                seen.append(profile.build(shifted, like=reference))
                if drift.alarms(reference, seen, false_alarm_every=QUARTER, windows_per_day=10_000 / n):
                    break
            needed.append(len(seen))
        rows.append(
            Row(
                what=f"a shift of .6 sd in one of 30 columns found, {n:,} rows a window, median",
                ours=float(np.median(needed)),
                target=3,
                unit="windows",
                rounds=runs,
            )
        )
    return rows


def rows(*, quick: bool = False) -> list[Row]:
    runs = 400 if quick else 2_000
    return [
        *gate_at_the_margin(runs),
        *gate_power(runs // 4),
        *gate_metrics(runs),
        *gate_looks(runs),
        *drift_budget(4 if quick else 20),
        *drift_found(5 if quick else 20),
    ]


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    show(rows(quick=options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
