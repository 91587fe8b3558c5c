"""How often drift alarms are wrong and what they find, by their formulas alone: ours beside what is usually done.

Run: python -m bench.statistics [--quick] [--json]. Seeded simulations: 30 columns over made quiet years. Through the live
code: `bench.drift`. The gate: `bench.release`.
"""

from datetime import timedelta

import numpy as np
from bench.rows import Row, parser, show
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from everloop.measure import drift, profile

Floats = NDArray[np.float64]
COLUMNS = 30
QUARTER = timedelta(days=90)


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
    return [
        *drift_budget(4 if quick else 20),
        *drift_found(5 if quick else 20),
    ]


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    show(rows(quick=options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
