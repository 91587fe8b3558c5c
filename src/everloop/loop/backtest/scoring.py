"""How good the answers of one window were, whoever gave them, and what each retrain brought. Decides nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from everloop.clock import microseconds
from everloop.loop.backtest.asks import Ask, AskAnswers
from everloop.loop.backtest.cells import added_up, positive, scored, together
from everloop.loop.backtest.result import Retrain, Served, WindowRun
from everloop.loop.backtest.versions import Version
from everloop.loop.backtest.world import World

Steps = Generator[tuple[Ask, ...], None, None]
Part = tuple[Version, int, int]
"""Who answered the rows [since, until), places."""


def merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring parts of one version as one."""
    found: list[Part] = []
    for version, low, high in parts:
        if found and found[-1][0].number == version.number:
            found[-1] = (version, found[-1][1], high)
        elif high > low:
            found.append((version, low, high))
    return found


def window_run(world: World, window: int, parts: Sequence[Part], stale: int) -> WindowRun:
    """A window that has been answered; ``parts`` are `merged`."""
    whole = (world.grid.places[window], world.grid.places[window + 1])
    cells = [world.part(version.fit, low, high, version.threshold) for version, low, high in parts]
    loss, rows, errors = together(cells)
    if len(cells) == 1:
        figure = cells[0].score
    else:
        figure = added_up(world.resolved.score, loss, rows)
        if figure is None and rows:
            places, truth = world.timeline.truths(*whole)
            figure = scored(
                world.resolved.score,
                truth,
                np.concatenate([world.said(version.fit, low, high) for version, low, high in parts]),
                rows=world.raw(*whole, places),
                positive=positive(world.resolved),
            )
    served = tuple(Served(fit=part[0].fit, rows=each.rows) for part, each in zip(parts, cells, strict=True))
    return WindowRun(
        window=window, served=served, score=figure, loss=loss, rows=rows, stale=max(0, stale), errors=errors
    )  # fmt: skip


def what_paid(world: World, windows: Sequence[WindowRun], retrains: list[Retrain]) -> Steps:
    """Hold each released model against the one it replaced, over the windows that it began and served, in place."""
    edges = world.grid.edges
    released = [(place, each) for place, each in enumerate(retrains) if each.live is not None]
    for (_, old), (place, new) in pairwise(released):
        before, fit = old.fit, new.fit
        assert before is not None
        assert fit is not None
        assert new.live is not None
        following = next((each.live for at, each in released if at > place), None)
        # It serves from its release to the next one: no other window can be mine.
        first = bisect_right(edges, microseconds(new.live)) - 1
        last = len(windows) if following is None else bisect_left(edges, microseconds(following))
        mine = [each.window for each in windows[max(first, 0) : last] if _mostly(each, fit)]
        if before == fit or not mine:
            continue
        yield tuple(
            AskAnswers(fit=before, since=low, until=high)
            for low, high in dict.fromkeys(world.chunk(before, window) for window in mine)
        )
        gain = rows = 0.0
        for window in mine:
            now, then = world.cell(fit, window), world.cell(before, window)
            gain += now.rows * (then.loss - now.loss)
            rows += now.rows
        if rows:
            retrains[place] = replace(new, paid=gain / rows)


def _mostly(run: WindowRun, fit: str) -> bool:
    """Whether the fit answered most of a window."""
    return bool(run.rows) and sum(each.rows for each in run.served if each.fit == fit) * 2 > run.rows
