"""What one simulation has come to: its score over all rows, what each window did to it, and what it cost."""

from __future__ import annotations

import dataclasses

import numpy as np

from everloop.loop.backtest.cells import positive, scored
from everloop.loop.backtest.costs import costs
from everloop.loop.backtest.result import PolicyRun, Prices
from everloop.loop.backtest.simulation import Simulation
from everloop.measure import metrics
from everloop.spec.metric import Custom


def concluded(run: Simulation, prices: Prices | None = None) -> PolicyRun:
    """What a simulation that is through has found."""
    world, resolved = run.world, run.world.resolved
    figure = None
    if run.windows:
        parts = []
        truths = []
        for _, fit, low, high in run.segments:
            places, truth = world.timeline.truths(low, high)
            truths.append(truth)
            parts.append(world.fits.answers(fit, low, high)[places - low])
        rows = None
        if isinstance(resolved.score, Custom):
            low, high = world.grid.places[0], world.grid.places[len(run.windows)]
            rows = world.timeline.raw(low, high, world.timeline.truths(low, high)[0])
        truth, said = np.concatenate(truths), np.concatenate(parts)
        figure = scored(resolved.score, truth, said, rows=rows, positive=positive(resolved))
        if figure is not None and not isinstance(resolved.score, Custom):
            moved = metrics.influence(resolved.score, truth, said, positive=positive(resolved))
            of = np.repeat([window for window, *_ in run.segments], [len(each) for each in truths])
            sums = np.bincount(of, weights=moved, minlength=len(run.windows))
            run.windows = [
                dataclasses.replace(each, influence=float(sum_)) for each, sum_ in zip(run.windows, sums, strict=True)
            ]
    sign = 1 if resolved.score.greater_is_better else -1
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
