"""How soon the detectors of a worsening find it, and how often they cry for nothing: ours beside river's ADWIN and DDM.

Seeded streams of right and wrong: 5,000 labels at an error rate of .10, then
.20 or .15; quiet ones of 10,000 labels. Only alarms of a worsening count, of the peers' too.
"""

from collections.abc import Callable

import numpy as np
from bench.rows import Row
from bench.watch.parts import Part
from river.drift import ADWIN
from river.drift.binary import DDM

from everloop.measure.detectors import running
from everloop.spec.detector import Adwin, Ddm, Detector, Kswin, PageHinkley

QUIET, BEFORE, AFTER = 10_000, 5_000, 8_000
Watch = Callable[[float], bool]


def ours(detector: Detector) -> Watch:
    watching = running(detector)
    return lambda value: watching.update(value) is not None


def river_adwin() -> Watch:
    peer = ADWIN()

    def told(value: float) -> bool:
        before = peer.estimation
        peer.update(value)
        return bool(peer.drift_detected and peer.estimation > before)

    return told


def river_ddm() -> Watch:
    peer = DDM()

    def told(value: float) -> bool:
        peer.update(bool(value))
        return bool(peer.drift_detected)

    return told


def quiet(watch: Callable[[], Watch], runs: int) -> float:
    """Alarms in 10,000 labels."""
    random = np.random.default_rng(1)
    return sum(sum(map(watch(), (random.random(QUIET) < 0.1).astype(float).tolist())) for _ in range(runs)) / runs


def delay(watch: Callable[[], Watch], rate: float, runs: int) -> float:
    """The median of labels until it is found, `AFTER` for never; what was told before is passed over."""
    found = []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        rates = np.r_[np.full(BEFORE, 0.1), np.full(AFTER, rate)]
        told = watch()
        alarms = [place for place, value in enumerate((random.random(len(rates)) < rates).astype(float)) if told(value)]
        found.append(next((each - BEFORE + 1 for each in alarms if each >= BEFORE), np.inf))
    return float(min(np.median(found), AFTER))


def rows_of(
    name: str, watch: Callable[[], Watch], runs: int, peer: Callable[[], Watch] | None, named: str
) -> list[Row]:
    targets = (0.1, 500.0, 1_000.0) if name == "Adwin" else (None, None, None)
    asked: tuple[tuple[str, str, Callable[[Callable[[], Watch]], float]], ...] = (
        ("false alarms in 10,000 quiet labels", "alarms", lambda each: quiet(each, runs)),
        ("error .10 to .20 found after", "labels", lambda each: delay(each, 0.2, runs // 2)),
        ("error .10 to .15 found after", "labels", lambda each: delay(each, 0.15, runs // 2)),
    )
    return [
        Row(
            what=f"{name}: {what}",
            ours=measure(watch),
            peer=measure(peer) if peer is not None else None,
            peer_name=named if peer is not None else None,
            target=target,
            unit=unit,
            rounds=runs,
        )
        for (what, unit, measure), target in zip(asked, targets, strict=True)
    ]


def part(*, quick: bool = False) -> Part:
    runs = 40 if quick else 200
    rows = [
        *rows_of("Adwin", lambda: ours(Adwin()), runs, river_adwin, "river, delta .002"),
        *rows_of("PageHinkley", lambda: ours(PageHinkley()), runs, None, ""),
        *rows_of("Kswin", lambda: ours(Kswin()), runs, None, ""),
        *rows_of("Ddm", lambda: ours(Ddm()), runs, river_ddm, "river"),
    ]
    notes = ["Medians; 8,000 labels: never found. Only alarms of a worsening count, of the peers' too."]
    return Part(rows=rows, notes=notes)
