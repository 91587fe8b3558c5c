"""A search with a pruner beside the same one without: CPU seconds of its fits, and the best score. Knows no estimator.

Equal is a best score whose median over the seeds is that without a pruner, but for half of what seeds differ by (their
standard deviation without a pruner).
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, stdev
from typing import Any

from bench.rows import Row

from everloop.train.judging import Judging
from everloop.train.search import Report, search

PRUNERS = ("median", "hyperband", "halving")
PRUNED_SHARE = 0.5
"""What was promised: half of the seconds at an equal best score."""
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One search."""

    score: float
    seconds: float
    """CPU, of the fits."""
    beside: float
    """CPU, of everything else."""
    given_up: int


def searched(task: Judging) -> Ran:
    """The search that is declared there, one trial after another in this process."""
    fitting = 0.0

    def timed(parameters: dict[str, Any], report: Report) -> float:
        nonlocal fitting
        began = time.process_time()
        try:
            return task(parameters, report)
        finally:
            fitting += time.process_time() - began

    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        found = search(task.plan(()), timed, folder=Path(folder))
        beside = time.process_time() - started - fitting
    given_up = sum(each.state == "pruned" for each in found.trials)
    return Ran(score=found.score, seconds=fitting, beside=beside, given_up=given_up)


Measure = Callable[[str, str | None, int], Ran]
"""Of a set, with a pruner, from a seed. Called in a process of its own."""


def figures(name: str, measure: Measure, *, seeds: int, trials: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Rows of one set."""
    plans = [(pruner, seed) for pruner in (None, *PRUNERS) for seed in range(seeds)]
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        ran = dict(
            zip(plans, pool.map(measure, [name] * len(plans), *map(list, zip(*plans, strict=True))), strict=True)
        )
    whole = [ran[None, seed] for seed in range(seeds)]
    spread = stdev(each.score for each in whole) if seeds > 1 else 0.0
    peer, best = median(each.seconds for each in whole), median(each.score for each in whole)
    may = 0.5 * spread
    for pruner in PRUNERS:
        found = [ran[pruner, seed] for seed in range(seeds)]
        for seed, (ours, theirs) in enumerate(zip(found, whole, strict=True)):
            say(
                f"{name} {pruner} seed {seed}: {ours.seconds:.1f} s of {theirs.seconds:.1f}, {ours.given_up} of {trials} "
                f"given up, best {ours.score:.5f} beside {theirs.score:.5f}"
            )
        shared = {"rounds": seeds, "peer_name": "no pruner"}
        yield Row(
            what=f"{name}: training CPU seconds of {trials} trials, {pruner}", unit="s", peer=peer,
            ours=median(each.seconds for each in found), target=PRUNED_SHARE * peer, **shared,
        )  # type: ignore[arg-type]  # fmt: skip
        yield Row(
            what=f"{name}: best score, {pruner}", unit="", peer=best, ours=median(each.score for each in found),
            target=best + may, **shared,
        )  # type: ignore[arg-type]  # fmt: skip
    yield Row(
        what=f"{name}: standard deviation of the best score between seeds, no pruner",
        ours=spread,
        unit="",
        rounds=seeds,
    )
    yield Row(what=f"{name}: what may be lost to be equal", ours=may, unit="", rounds=seeds)
    beside = median(each.beside for each in whole) / trials * 1000
    yield Row(what=f"{name}: CPU beside the fits, a trial", ours=beside, unit="ms", rounds=seeds)
