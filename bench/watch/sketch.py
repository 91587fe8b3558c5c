"""How far merged sketches (KLL, k = 400) are from exact: the distance of Kolmogorov and Smirnov, and PSI.

Both sides in eight shards, each through bytes and back, as replicas hand them over; four shapes of a column, four sizes of
a shift around the limits of alarms (PSI 0 to about .1) and a large one, many seeds. The shares behind PSI come from
the sketches' quantiles alone; a live window is counted in its reference's bins, exactly. "As a window is judged": the
reference is that of a package, described exactly when it was fitted, and the window alone is merged from shards.
"""

from collections.abc import Sequence

import numpy as np
from bench.rows import Row
from bench.watch.parts import Part
from numpy.typing import NDArray

from everloop.measure import profile
from everloop.measure.comparison import compare
from everloop.measure.distance import psi
from everloop.measure.sketch import Sketch, from_bytes, to_bytes

Floats = NDArray[np.float64]
SHIFTS = (0.0, 0.02, 0.1, 0.3)
LARGE = 1.0
SHAPES = ("lognormal", "normal", "counts", "two humps")
SHARDS = 8


def drawn(random: np.random.Generator, shape: str, rows: int, shift: float) -> Floats:
    match shape:
        case "lognormal":
            made = random.lognormal(shift, 1, rows)
        case "normal":
            made = random.normal(shift, 1, rows)
        case "counts":
            made = random.poisson(4 * (1 + shift), rows).astype(np.float64)
        case _:
            made = random.normal(0, 1, rows) + np.where(random.random(rows) < 0.5 - shift / 4, 0.0, 6.0)
    return np.asarray(made, dtype=np.float64)


def merged(values: Floats, like: profile.Profile | None = None) -> Sketch:
    whole = Sketch()
    for part in np.array_split(values, SHARDS):
        each = Sketch()
        each.update({"x": part}, like=like)
        whole.merge(from_bytes(to_bytes(each)))
    return whole


def exact(then: Floats, now: Floats) -> tuple[float, float]:
    one, other = np.sort(then), np.sort(now)
    every = np.concatenate([one, other])
    apart = np.searchsorted(one, every, side="right") / len(one) - np.searchsorted(other, every, side="right") / len(
        other
    )
    edges = np.unique(np.quantile(then, np.arange(1, 10) / 10, method="inverted_cdf"))
    counts = [np.bincount(np.searchsorted(edges, each), minlength=len(edges) + 1) for each in (then, now)]
    return float(np.abs(apart).max()), psi(*counts)


def errors(
    rows: int, seeds: int, shifts: Sequence[float] = SHIFTS, *, relative: bool = False, live: bool = False
) -> tuple[Floats, Floats]:
    ks, moved = [], []
    for shape in SHAPES:
        for shift in shifts:
            for seed in range(seeds):
                random = np.random.default_rng([SHAPES.index(shape), int(100 * shift), seed])
                then, now = drawn(random, shape, rows, 0.0), drawn(random, shape, rows, shift)
                reference = profile.build({"x": then}) if live else merged(then).profile()
                here = merged(now, reference if live else None)
                found = compare(reference, here.profile(like=reference))[0]
                true_ks, true_psi = exact(then, now)
                ks.append(abs((found.ks or 0.0) - true_ks))
                moved.append(abs(found.psi - true_psi) / (true_psi if relative else 1.0))
    return np.array(ks), np.array(moved)


def part(*, quick: bool = False) -> Part:
    made, seeds = [], 2 if quick else 10
    for rows, live in ((10_000, False), (10_000, True), (100_000, False), (100_000, True)):
        ks, moved = errors(rows, seeds, live=live)
        for name, found, target in (("KS", ks, 0.005), ("PSI", moved, 0.01)):
            how = "as a window is judged" if live else "both sides merged"
            what = f"{name} off from exact, {rows:,} rows a side, {how}"
            made += [
                Row(what=f"{what}, mean", ours=float(found.mean()), unit=name, target=target, rounds=len(found)),
                Row(
                    what=f"{what}, 99 % within",
                    ours=float(np.quantile(found, 0.99)),
                    unit=name,
                    target=target,
                    rounds=len(found),
                ),
                Row(what=f"{what}, largest", ours=float(found.max()), unit=name, rounds=len(found)),
            ]
    _, moved = errors(100_000, seeds, [LARGE], relative=True)
    what = f"PSI off from exact as a share of it, a shift of {LARGE:g}, 100,000 rows a side"
    made.append(Row(what=f"{what}, largest", ours=float(moved.max()), unit="of 1", rounds=len(moved)))
    made.append(
        Row(what="PSI off from exact, counted in the reference's bins", ours=in_bins(seeds), unit="PSI", rounds=seeds)
    )
    return Part(rows=made)


def in_bins(seeds: int) -> float:
    """The largest, for windows that are held like their reference, as live ones are."""
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        reference = profile.build({"x": random.lognormal(0, 1, 100_000)})
        now, whole = random.lognormal(0.1, 1, 20_000), Sketch()
        for shard in np.array_split(now, SHARDS):
            each = Sketch()
            each.update({"x": shard}, like=reference)
            whole.merge(each)
        sketched = compare(reference, whole.profile(like=reference))[0].psi
        found.append(abs(sketched - compare(reference, profile.build({"x": now}, like=reference))[0].psi))
    return max(found)
