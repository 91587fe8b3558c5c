"""Free texts and arrays: how often quiet windows alarm, and how soon a new topic, a changed mix or a darker picture is seen.

Texts of 30 topics with words of their own (Zipf) and words of all, 4,000 in training; pictures of 3 × 32 × 32 in four
kinds; windows of 1,000, through the profile and the limits of the live code before it is calibrated. Beside it the
naive rule: the two-sample test of Kolmogorov and Smirnov on the distance from the nearest centroid, p < .05.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from bench.rows import Row
from bench.watch.parts import Part
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from everloop.measure import drift, profile, space
from everloop.measure.comparison import compare
from everloop.measure.profile import Profile

TOPICS, ROWS, TRAINED = 30, 1_000, 4_000
Drawn = Callable[[np.random.Generator, int], NDArray[Any]]


def texts(*, new: float = 0.0, turned: float = 0.0) -> Drawn:
    """``new``: share of a topic that was never there; ``turned``: so much of the mix is turned round."""
    shares = 1 / np.arange(1, TOPICS + 1)
    shares = (1 - turned) * shares + turned * shares[::-1]

    def drawn(random: np.random.Generator, rows: int) -> NDArray[Any]:
        topic = np.where(random.random(rows) < new, TOPICS, random.choice(TOPICS, rows, p=shares / shares.sum()))
        own = np.minimum(random.zipf(1.3, (rows, 12)), 200).tolist()
        common = np.minimum(random.zipf(1.2, (rows, 12)), 400).tolist()
        return np.array(
            [
                " ".join([*(f"t{each}w{word}" for word in one), *(f"w{word}" for word in other)])
                for each, one, other in zip(topic.tolist(), own, common, strict=True)
            ],
            dtype=object,
        )

    return drawn


def pictures(*, new: float = 0.0, dark: float = 0.0) -> Drawn:
    def drawn(random: np.random.Generator, rows: int) -> NDArray[Any]:
        made = random.normal(0.5, 0.1, (rows, 3, 32, 32)) * random.uniform(0.8, 1.2, (rows, 1, 1, 1)) - dark
        kind = random.integers(0, 4, rows)
        for place in range(4):
            half = np.s_[:, :16] if place < 2 else np.s_[:, :, :16]
            made[kind == place][(slice(None), *half[:1])] += 0.3 * (place + 1) / 4
        made[random.random(rows) < new] += np.where(np.arange(32) % 2 == 0, 0.4, -0.4)
        return made.astype(np.float32)

    return drawn


def learned(drawn: Drawn, seed: int) -> Profile:
    values = drawn(np.random.default_rng([seed, 0]), TRAINED)
    columns = {"body": values} if values.dtype == object else {}
    spaces, later = space.learned(columns, {"body": "text"}, {} if columns else {"body": values})
    return profile.with_spaces(profile.Profile(rows=TRAINED, columns={}), spaces, later)


def window(held: Profile, drawn: Drawn, random: np.random.Generator) -> tuple[tuple[drift.Signal, ...], Any]:
    values = drawn(random, ROWS)
    points = values if values.dtype == object else space.summary(values)
    columns = space.replaced({"body": points}, held.spaces)
    return drift.signals(compare(held, profile.build(columns, like=held))), columns["body (distance)"]


def part(*, quick: bool = False) -> Part:
    seeds, windows = (2, 5) if quick else (8, 15)
    made: list[Row] = []
    for what, usual, changed in (
        ("texts", texts(), {"2 % of a new topic": texts(new=0.02), "5 % of a new topic": texts(new=0.05),
                            "half of the mix turned round": texts(turned=0.5)}),
        ("pictures", pictures(), {"5 % of a new kind": pictures(new=0.05), "darker by one deviation": pictures(dark=0.06)}),
    ):  # fmt: skip
        alarmed, naive, found, naively = 0, 0, {name: [] for name in changed}, dict.fromkeys(changed, 0)
        for seed in range(seeds):
            random = np.random.default_rng([seed, 1])
            held = learned(usual, seed)
            known = held.columns["body (distance)"].quantiles
            chance = drift.false_alarm_chance(drift.DAY * 90, 1, 4)
            before = window(held, usual, random)[0]
            for _ in range(windows):
                now, distance = window(held, usual, random)
                alarmed += bool(drift.in_both(before, now, chance, None))
                naive += bool(ks_2samp(known, distance).pvalue < 0.05)
                before = now
            for name, world in changed.items():
                last, hit = before, 99
                for number in range(1, 7):
                    now, distance = window(held, world, random)
                    if drift.in_both(last, now, chance, None):
                        hit = number
                        break
                    last = now
                found[name].append(hit)
                naively[name] += bool(ks_2samp(known, window(held, world, random)[1]).pvalue < 0.05)
        total = seeds * windows
        made.append(
            Row(what=f"{what}: quiet windows that alarm", ours=alarmed / total, peer=naive / total, peer_name="KS, p < .05",
                target=1 / 90, unit="of windows", rounds=total)
        )  # fmt: skip
        for name, hits in found.items():
            made.append(
                Row(what=f"{what}: {name} found, share of worlds within 3 windows", ours=float(np.mean(np.array(hits) <= 3)),
                    peer=naively[name] / seeds, peer_name="KS, p < .05, in one", unit="of 1", rounds=seeds)
            )  # fmt: skip
    return Part(rows=made)
