"""What one simulation has come to: its score over all rows, what each window did to it, and what it cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from everloop.loop.backtest.cells import added_up, moves, positive, scored
from everloop.loop.backtest.costs import costs
from everloop.loop.backtest.result import PolicyRun, Prices
from everloop.loop.backtest.simulation import Simulation
from everloop.measure import metrics
from everloop.spec.metric import Custom


def concluded(run: Simulation, prices: Prices | None = None) -> PolicyRun:
    """What a simulation that is through has found."""
    metric = run.world.resolved.score
    figure = None
    moved: Sequence[float] | None = None
    parts = [(each.loss, each.rows) for each in run.windows]
    rows = sum(count for _, count in parts)
    added = added_up(metric, sum(loss * count for loss, count in parts) / max(rows, 1), rows)
    if added is not None:
        if math.isfinite(added):
            figure, moved = added, moves(metric, parts)
    elif run.windows:
        figure, moved = _of_all_rows(run)
    if moved is not None:
        run.windows = [
            dataclasses.replace(each, influence=float(sum_)) for each, sum_ in zip(run.windows, moved, strict=True)
        ]
    sign = 1 if metric.greater_is_better else -1
    judged = [each for each in run.windows if each.score is not None]
    worst = min(judged, key=lambda each: sign * (each.score or 0.0), default=None)
    return PolicyRun(
        policy=run.policy,
        windows=tuple(run.windows),
        retrains=tuple(run.retrains),
        score=figure,
        costs=costs(run.retrains, run.windows, run.used, prices),
        worst=worst.window if worst is not None else 0,
        problem=run.problem,
    )


def _of_all_rows(run: Simulation) -> tuple[float | None, Sequence[float] | None]:
    """The score, and how each window moves it, of a metric that takes all rows together."""
    world, metric = run.world, run.world.resolved.score
    yes = positive(world.resolved)
    parts, truths = [], []
    for _, fit, low, high in run.segments:
        places, truth = world.timeline.truths(low, high)
        truths.append(truth)
        parts.append(world.fits.answers(fit, low, high)[places - low])
    rows = None
    if isinstance(metric, Custom):
        low, high = world.grid.places[0], world.grid.places[len(run.windows)]
        rows = world.timeline.raw(low, high, world.timeline.truths(low, high)[0])
    truth, said = np.concatenate(truths), np.concatenate(parts)
    figure = scored(metric, truth, said, rows=rows, positive=yes)
    if figure is None or isinstance(metric, Custom):
        return figure, None
    of = np.repeat([window for window, *_ in run.segments], [len(each) for each in truths])
    moved = metrics.influence(metric, truth, said, positive=yes)
    return figure, np.bincount(of, weights=moved, minlength=len(run.windows)).tolist()
