"""Simulations side by side: each goes on as soon as what it asked for is known. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from everloop.loop.backtest.asks import Ask
from everloop.loop.backtest.fits import Fits
from everloop.loop.backtest.progress import Progress, Told
from everloop.loop.backtest.scoring import Steps
from everloop.loop.backtest.simulation import Simulation

SHORTEST_SLEEP, LONGEST_SLEEP = 0.001, 0.02


def drive(simulations: Sequence[Simulation], fits: Fits, *, windows: int, told: Told) -> None:
    """Run each of them to its end over so many windows; ``told`` hears how far they are whenever something has come."""
    steps = {place: each.steps() for place, each in enumerate(simulations)}
    asked: dict[int, tuple[Ask, ...]] = dict.fromkeys(steps, ())
    waiting: dict[str, set[int]] = {}
    """Fit → who waits for something of it: nobody else can go on when that has come."""
    sleep = SHORTEST_SLEEP
    ready = list(steps)
    while steps:
        for place in ready:
            if all(fits.have(each) for each in asked[place]):
                following = _advanced(steps[place], fits)
                if following is None:
                    del steps[place]
                    continue
                asked[place] = following
                fits.ask(following)
            for each in asked[place]:
                waiting.setdefault(each.fit, set()).add(place)
        fresh = fits.collect()
        ready = sorted({place for fit in fresh for place in waiting.pop(fit, ()) if place in steps})
        if fresh:
            sleep = SHORTEST_SLEEP
            told(
                Progress(
                    made=fits.made,
                    under_way=fits.under_way,
                    done=sum(len(each.windows) for each in simulations),
                    wanted=len(simulations) * windows,
                    finished=len(simulations) - len(steps),
                    policies=len(simulations),
                )
            )
        elif steps:
            time.sleep(sleep)
            sleep = min(sleep * 1.5, LONGEST_SLEEP)


def finish(asks: Sequence[Ask], fits: Fits) -> None:
    """Ask, and wait until all of it is known."""
    fits.ask(asks)
    while not all(fits.have(each) for each in asks):
        if not fits.collect():
            time.sleep(LONGEST_SLEEP)


def _advanced(steps: Steps, fits: Fits) -> tuple[Ask, ...] | None:
    """What a simulation asks for next that is not known; None when it is through."""
    for asked in steps:
        if not all(fits.have(each) for each in asked):
            return asked
    return None
