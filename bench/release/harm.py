"""How soon a harm is found at 10 %, and how often an equal canary is thrown out: ours beside three usual rules.

The peers are simplified readings of what canary tools do, not those programs: more than one and a half times the usual
rate in three windows of a hundred running; a one-sided z-test at each hundred canary requests (1.645); Mann and
Whitney's test of the arms' rates in windows of a hundred canary requests, at each window from the tenth on (.05).
"""

import math

import numpy as np
from bench.release.streams import ALPHA, Floats
from bench.rows import Row
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from everloop.measure import eprocess

SHARE = 0.1
EVERY = 100
"""Canary requests between two looks of the peers."""
GUARDS = 3
"""Share alpha, as in the policy."""
OURS, THRESHOLD, Z_TEST, RANKS = "ours", "fixed threshold", "z-test at each look", "Mann-Whitney"
PEERS = (THRESHOLD, Z_TEST, RANKS)
LEAST_WINDOWS = 10
STRIDE = 5
"""Mann and Whitney's test at each fifth window: each one would take hours here and alarm more often still."""


def first(crossed: NDArray[np.bool_], n1: Floats) -> Floats:
    """Canary requests at the first crossing; infinite if there is none."""
    at = np.take_along_axis(n1, crossed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(crossed.any(axis=1), at, np.inf)


def found_after(champion: float, challenger: float, *, runs: int, canary: int, seed: int = 2) -> dict[str, Floats]:
    """Canary requests until each rule turns the challenger back, [runs]; infinite where none did within ``canary``."""
    random = np.random.default_rng(seed)
    windows = canary // EVERY
    ours: list[float] = []
    k1 = np.empty((runs, windows))
    k0, n0 = np.empty((runs, windows)), np.empty((runs, windows))
    for run in range(runs):
        requests = int(canary / SHARE * 1.1) + 2_000
        arm = random.random(requests) < SHARE
        fails = random.random(requests) < np.where(arm, challenger, champion)
        ours.append(_ours(arm, fails, champion, canary))
        # Windows end with each hundredth canary request.
        ends = np.flatnonzero(arm)[EVERY - 1 : canary : EVERY][:windows]
        for kept, column in ((k1[run], fails & arm), (k0[run], fails & ~arm), (n0[run], ~arm)):
            kept[:] = np.diff(np.cumsum(column)[ends], prepend=0.0)
    n1 = np.full((runs, windows), float(EVERY)).cumsum(axis=1)
    return {OURS: np.array(ours), **_peers(k1, k0, n0, n1, champion)}


def ours_after(champion: float, challenger: float, *, runs: int, canary: int, seed: int = 3) -> Floats:
    """Ours alone, which is soon simulated: more runs, for quantiles that stand beside a target."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        requests = int(canary / SHARE * 1.1) + 2_000
        arm = random.random(requests) < SHARE
        fails = random.random(requests) < np.where(arm, challenger, champion)
        found.append(_ours(arm, fails, champion, canary))
    return np.array(found)


def _ours(arm: NDArray[np.bool_], fails: NDArray[np.bool_], champion: float, canary: int) -> float:
    """With a look after every request."""
    columns = [fails & arm, arm, fails & ~arm, ~arm]
    running = [np.cumsum(each, dtype=np.float64) for each in columns]
    block = 5_000
    for begin in range(0, len(arm), block):
        k1, n1, k0, n0 = (each[begin : begin + block, None] for each in running)
        log_e = eprocess.rollback(eprocess.counts(k1, n1, k0, n0, SHARE), champion)
        over = np.flatnonzero(log_e >= math.log(GUARDS / ALPHA))
        if len(over):
            found = float(n1[over[0], 0])
            return found if found <= canary else math.inf
    return math.inf


def _peers(k1: Floats, k0: Floats, n0: Floats, n1: Floats, champion: float) -> dict[str, Floats]:
    over = k1 / EVERY > 1.5 * champion
    third = np.zeros_like(over)
    third[:, 2:] = over[:, 2:] & over[:, 1:-1] & over[:, :-2]
    events, others, units = k1.cumsum(axis=1), k0.cumsum(axis=1), n0.cumsum(axis=1)
    pooled = (events + others) / (n1 + units)
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / n1 + 1 / units))
    rates, usual = k1 / EVERY, k0 / np.maximum(n0, 1)
    ranked = np.zeros_like(over)
    for window in range(LEAST_WINDOWS, k1.shape[1] + 1, STRIDE):
        told = mannwhitneyu(rates[:, :window], usual[:, :window], axis=1, alternative="greater", method="asymptotic")
        ranked[:, window - 1] = told.pvalue < 0.05
    return {
        THRESHOLD: first(third, n1),
        Z_TEST: first((events / n1 - others / units) / error > 1.645, n1),
        RANKS: first(ranked, n1),
    }


def at(found: Floats, level: float) -> float:
    return float(np.quantile(found, level, method="higher"))


def equal(runs: int) -> list[Row]:
    rows = []
    for rate in (0.001, 0.01, 0.1):
        found = found_after(rate, rate, runs=runs, canary=9_000, seed=1)
        shares = {name: float(np.isfinite(each).mean()) for name, each in found.items()}
        rows += [
            Row(
                what=f"equal canary rolled back within 9,000 canary requests, errors {rate:.1%}",
                ours=shares[OURS],
                peer=shares[peer],
                peer_name=peer,
                target=ALPHA,
                unit="of runs",
                rounds=runs,
            )
            for peer in PEERS
        ]
    return rows


BUDGETS: tuple[tuple[float, float, float | None, float | None, int], ...] = (
    (0.01, 0.04, 220, 600, 3_000),
    (0.001, 0.004, None, 6_000, 9_000),
)


def harms(runs: int) -> list[Row]:
    rows = []
    for champion, challenger, median, most, canary in BUDGETS:
        found = found_after(champion, challenger, runs=runs, canary=canary)
        more = ours_after(champion, challenger, runs=5 * runs, canary=canary)
        what = f"errors {champion:.1%} → {challenger:.1%}"
        for name, level, target in (("median", 0.5, median), ("95 of 100", 0.95, most)):
            for peer in PEERS:
                theirs = at(found[peer], level)
                rows.append(
                    Row(
                        what=f"{what} found, {name}",
                        ours=at(more, level),
                        peer=theirs if math.isfinite(theirs) else None,
                        peer_name=peer if math.isfinite(theirs) else None,
                        target=target,
                        unit="canary requests",
                        rounds=5 * runs,
                    )
                )
        rows += [
            Row(
                what=f"{what} not found within {canary:,} canary requests",
                ours=float(np.isinf(more).mean()),
                peer=float(np.isinf(found[peer]).mean()),
                peer_name=peer,
                target=0.05,
                unit="of runs",
                rounds=runs,
            )
            for peer in PEERS
        ]
    return rows


def rows(runs: int) -> list[Row]:
    return [*equal(runs), *harms(runs)]
