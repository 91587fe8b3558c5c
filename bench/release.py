"""How often a release is wrong, and how soon it finds a harm: ours beside a peeking z-test and a fixed threshold.

Run: python -m bench.release [--quick] [--json]. Shares over 2,000 seeded runs (200 with --quick). Ours looks at every
request where delay counts; everything else looks at each hundred canary requests. The peers are simplified readings of
what canary tools do, not those programs.
"""

import math

import numpy as np
from bench.rows import Row, parser, show
from numpy.typing import NDArray

from everloop.measure import eprocess
from everloop.spec.rollout import Canary
from everloop.testing.canary import Truth, release

Floats = NDArray[np.float64]
ALPHA, PROMOTE_ALPHA, SHARE = 0.05, 0.02, 0.1
EVERY = 100
"""Canary requests between two looks."""
CHUNK = 200
Z_TEST, THRESHOLD = "z-test at each look", "fixed threshold"


def traffic(
    random: np.random.Generator, champion: float, challenger: float, *, runs: int, canary: int, every: int
) -> list[Floats]:
    """Running k1, n1, k0, n0 [runs, looks], a look at each ``every`` canary requests."""
    requests, looks = int(every / SHARE), canary // every
    n1 = random.binomial(requests, SHARE, (runs, looks))
    k1, k0 = random.binomial(n1, challenger), random.binomial(requests - n1, champion)
    return [np.cumsum(each, axis=1, dtype=np.float64) for each in (k1, n1, k0, requests - n1)]


def counted(seen: list[Floats]) -> eprocess.Counts:
    k1, n1, k0, n0 = (each[..., None] for each in seen)
    return eprocess.counts(k1, n1, k0, n0, SHARE)


def first(crossed: NDArray[np.bool_], n1: Floats) -> Floats:
    """Canary requests at the first crossing; infinite if there is none."""
    at = np.take_along_axis(n1, crossed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(crossed.any(axis=1), at, np.inf)


def peeking_z(seen: list[Floats]) -> Floats:
    k1, n1, k0, n0 = seen
    pooled = (k1 + k0) / (n1 + n0)
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / n1 + 1 / n0))
    return first((k1 / n1 - k0 / n0) / error > 1.645, n1)


def fixed_threshold(seen: list[Floats], champion: float) -> Floats:
    """More than one and a half times the usual rate in three windows of a hundred running."""
    k1, n1 = (np.diff(each, axis=1, prepend=0.0) for each in seen[:2])
    over = k1 / np.maximum(n1, 1) > 1.5 * champion
    third = np.zeros_like(over)
    third[:, 2:] = over[:, 2:] & over[:, 1:-1] & over[:, :-2]
    return first(third, seen[1])


def false_rollbacks_of(rate: float, *, runs: int, canary: int) -> dict[str, float]:
    """Share of runs in which each rule rolls an equal canary back, a look at each hundred canary requests."""
    random = np.random.default_rng(1)
    parts: dict[str, list[Floats]] = {"ours": [], Z_TEST: [], THRESHOLD: []}
    for _ in range(runs // CHUNK):
        seen = traffic(random, rate, rate, runs=CHUNK, canary=canary, every=EVERY)
        parts["ours"].append(first(eprocess.rollback(counted(seen), rate) >= math.log(1 / ALPHA), seen[1]))
        parts[Z_TEST].append(peeking_z(seen))
        parts[THRESHOLD].append(fixed_threshold(seen, rate))
    return {name: float(np.isfinite(np.concatenate(each)).mean()) for name, each in parts.items()}


def found_after(
    champion: float, challenger: float, *, runs: int, canary: int, guards: int
) -> tuple[list[float], list[float]]:
    """Canary requests until a harm is found: by ours with a look at each failure, by three windows over a threshold."""
    random = np.random.default_rng(2)
    ours, threshold = [], []
    requests = int(canary / SHARE)
    for _ in range(runs):
        arm = random.random(requests) < SHARE
        fails = random.random(requests) < np.where(arm, challenger, champion)
        # The evidence jumps at the challenger's failures: looking there is looking at every request.
        at = np.flatnonzero(fails & arm)
        n1 = np.cumsum(arm)[at].astype(np.float64)
        k1 = np.arange(1, len(at) + 1, dtype=np.float64)
        k0 = np.cumsum(fails & ~arm)[at].astype(np.float64)
        log_e = eprocess.rollback(counted([k1, n1, k0, at + 1 - n1]), champion)
        crossed = np.flatnonzero(log_e >= math.log(guards / ALPHA))
        ours.append(float(n1[crossed[0]]) if len(crossed) else math.inf)
        its = fails[arm]
        windows = its[: len(its) // EVERY * EVERY].reshape(-1, EVERY).mean(axis=1) > 1.5 * champion
        three = np.flatnonzero(windows[2:] & windows[1:-1] & windows[:-2])
        threshold.append(float((three[0] + 3) * EVERY) if len(three) else math.inf)
    return ours, threshold


def false_rollbacks(runs: int) -> list[Row]:
    rows = []
    for rate in (0.001, 0.02, 0.1):
        shares = false_rollbacks_of(rate, runs=runs, canary=20_000)
        rows += [
            Row(
                what=f"equal canary rolled back, errors {rate:.1%}, within 20,000 canary requests",
                ours=shares["ours"],
                peer=shares[peer],
                peer_name=peer,
                target=ALPHA,
                unit="of runs",
                rounds=runs,
            )
            for peer in (Z_TEST, THRESHOLD)
        ]
    return rows


def detections(runs: int) -> list[Row]:
    """Three guards share alpha, as in the default rollout."""
    rows = []
    budgets: tuple[tuple[float, float, float | None, float | None], ...] = (
        (0.01, 0.04, 220, 600),
        (0.001, 0.004, None, 6_000),
        (0.02, 0.03, None, None),
        (0.02, 0.05, None, None),
    )
    for champion, challenger, median, late in budgets:
        ours, threshold = found_after(champion, challenger, runs=runs, canary=9_000, guards=3)
        what = f"errors {champion:.1%} → {challenger:.1%} found"
        for name, level, target in (("median", 0.5, median), ("95th percentile", 0.95, late)):
            peer = float(np.quantile(threshold, level, method="higher"))
            rows.append(
                Row(
                    what=f"{what}, {name}",
                    ours=float(np.quantile(ours, level, method="higher")),
                    peer=peer if math.isfinite(peer) else None,
                    peer_name=THRESHOLD if math.isfinite(peer) else None,
                    target=target,
                    unit="canary requests",
                    rounds=runs,
                )
            )
    return rows


def promotions(runs: int) -> list[Row]:
    rows = []
    limit = math.log(1 / PROMOTE_ALPHA)
    for champion, margin in ((0.001, 0.002), (0.01, 0.01), (0.02, 0.01), (0.1, 0.02)):
        random = np.random.default_rng(3)
        ours, peer, needed = [], [], []
        for _ in range(runs // CHUNK):
            seen = traffic(random, champion, champion + margin, runs=CHUNK, canary=15_000, every=EVERY)
            ours.append((eprocess.promotion(counted(seen), champion, margin) >= limit).any(axis=1))
            k1, n1, k0, n0 = seen
            p1, p0 = k1 / n1, k0 / n0
            error = np.sqrt(p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0)
            peer.append((p1 - p0 + 2.054 * error < margin).any(axis=1))
            seen = traffic(random, champion, champion, runs=CHUNK, canary=15_000, every=EVERY)
            needed.append(first(eprocess.promotion(counted(seen), champion, margin) >= limit, seen[1]))
        name = f"errors {champion:.1%}, margin {margin:.1%}"
        rows += [
            Row(
                what=f"canary at the margin promoted, {name}",
                ours=float(np.concatenate(ours).mean()),
                peer=float(np.concatenate(peer).mean()),
                peer_name=Z_TEST,
                target=PROMOTE_ALPHA,
                unit="of runs",
                rounds=runs,
            ),
            Row(
                what=f"equal canary promoted, {name}, median",
                ours=float(np.median(np.concatenate(needed))),
                unit="canary requests",
                rounds=runs,
            ),
        ]
    return rows


def share_change(runs: int) -> list[Row]:
    """Both arms 1 % → 4 % while the share goes from 10 to 50 %: counts per epoch, and pooled as must not be."""
    random = np.random.default_rng(4)
    looks, every = 60, 1_000
    shares = np.array([0.1, 0.5])
    halves = []
    for share, rate in zip(shares, (0.01, 0.04), strict=True):
        n1 = random.binomial(every, share, (runs, looks))
        parts = (random.binomial(n1, rate), n1, random.binomial(every - n1, rate), every - n1)
        halves.append([np.cumsum(each, axis=1, dtype=np.float64) for each in parts])
    epochs = []
    for one, other in zip(*halves, strict=True):
        ended = np.repeat(one[:, -1:], looks, axis=1)
        before, after = np.concatenate([one, ended], axis=1), np.concatenate([np.zeros_like(other), other], axis=1)
        epochs.append(np.stack([before, after], axis=-1))
    k1, n1, k0, n0 = epochs
    by_epoch = eprocess.rollback(eprocess.counts(k1, n1, k0, n0, shares), 0.01)
    k1, n1, k0, n0 = (each.sum(axis=-1, keepdims=True) for each in epochs)
    pooled = eprocess.rollback(eprocess.counts(k1, n1, k0, n0, n1 / (n1 + n0)), 0.01)
    limit = math.log(1 / ALPHA)
    return [
        Row(
            what="equal canary rolled back, both arms 1 % → 4 % at a share change",
            ours=float((by_epoch >= limit).any(axis=1).mean()),
            peer=float((pooled >= limit).any(axis=1).mean()),
            peer_name="counts pooled over shares",
            target=ALPHA,
            unit="of runs",
            rounds=runs,
        )
    ]


def whole_releases(runs: int) -> list[Row]:
    """Shadow → 10 % → 50 % → champion, by judge and plan as production runs them."""
    rollout = Canary(alpha=ALPHA, promote_alpha=PROMOTE_ALPHA)
    flipped = Truth(only_champion_wrong=0.1, only_challenger_wrong=0.7)
    worlds = (
        ("an equal candidate is turned back", Truth(), 3_000, "rolled back", ALPHA),
        ("one with its labels flipped is promoted", flipped, 200, "promoted", 0.0),
        ("errors 1 % → 4 % are promoted", Truth(errors=(0.01, 0.04)), 3_000, "promoted", 0.0),
        ("errors at the margin are promoted", Truth(errors=(0.02, 0.03)), 3_000, "promoted", PROMOTE_ALPHA),
    )
    rows = []
    for name, truth, requests, action, target in worlds:
        ends = [release(truth, rollout, seed=seed, requests=requests).change.action for seed in range(runs)]
        rows.append(
            Row(
                what=f"whole release: {name}",
                ours=float(np.mean([each == action for each in ends])),
                target=target,
                unit="of runs",
                rounds=runs,
            )
        )
    return rows


def rows(*, quick: bool = False) -> list[Row]:
    runs = 200 if quick else 2_000
    return [
        *whole_releases(runs),
        *false_rollbacks(runs),
        *detections(runs),
        *promotions(runs),
        *share_change(runs),
    ]


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    show(rows(quick=options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
