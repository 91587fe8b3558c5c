"""The no-change rule: a row is what the newest label was that was known when it came. What every model must beat.

With labels that are known at once this rule is hard to beat wherever neighbours in time are alike, which says something
of the labels and nothing of models. Knows no policies.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.cells import added_up, cell, positive, scored, together
from everloop.loop.backtest.result import Floor
from everloop.loop.backtest.world import MICROSECOND, World

Array = npt.NDArray[Any]


def floor(world: World) -> Floor:
    """Of all windows. A label is known once its event's time plus the delay has passed, so never for its own row."""
    line, resolved = world.timeline, world.resolved
    cells = []
    truths: list[Array] = []
    answers: list[Array] = []
    edges = world.grid.places
    adds = added_up(resolved.score, 0.0, 1) is not None
    for low, high in pairwise(edges):
        places, truth = line.truths(low, high)
        times = np.asarray(line.times[places])
        limit = times - world.delay // MICROSECOND
        newest = np.searchsorted(world.known_times, limit, side="left") - 1
        values = np.asarray(line.target[world.known[np.maximum(newest, 0)]])
        said = _as_answers(values, newest < 0, len(resolved.classes), regression=resolved.task == "regression")
        cells.append(cell(resolved, truth, said, rows=world.raw(low, high, places)))
        if not adds:
            truths.append(truth)
            answers.append(said)
    if adds:
        loss, rows, _ = together(cells)
        figure = added_up(resolved.score, loss, rows)
        return Floor(windows=tuple(cells), score=figure if figure is not None and math.isfinite(figure) else None)
    low, high = edges[0], edges[-1]
    places, _ = line.truths(low, high)
    whole = scored(
        resolved.score,
        np.concatenate(truths),
        np.concatenate(answers),
        rows=world.raw(low, high, places),
        positive=positive(resolved),
    )
    return Floor(windows=tuple(cells), score=whole)


def _as_answers(values: Array, unknown: npt.NDArray[np.bool_], classes: int, *, regression: bool) -> Array:
    """The label as an answer: certain of its class; of no label known yet, evenly undecided."""
    if regression:
        return np.where(unknown, 0.0, values)
    table = np.zeros((len(values), classes))
    table[np.arange(len(values)), values] = 1.0
    table[unknown] = 1.0 / classes
    return table
