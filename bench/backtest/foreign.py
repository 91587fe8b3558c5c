"""The triggers of the published baselines, in place of production's own: the same engine must give the same figures.

perf-drop: the window's score lies so far below the best since the last retrain. Page-Hinkley (delta 0.005, threshold 50)
and ADWIN (delta 0.002) of river on the error of each row, begun anew at each retrain. PSI > 0.2 and KS D > 0.1 on at
least 30 % of the columns, the window against the rows of the last fit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from bench.backtest.sets import Set
from river import drift as river

from everloop.clock import instant
from everloop.loop.backtest.asks import Ask
from everloop.loop.backtest.versions import Version
from everloop.loop.backtest.world import World
from everloop.spec.policy import Policy
from everloop.watch.triggers import Fired, Signals

SHARE = 0.3


class Foreign:
    """Takes the place of `everloop.loop.backtest.signals.Signalling`."""

    def __init__(
        self, world: World, rule: Callable[[World, int, str, int, int], bool], anew: Callable[[], None]
    ) -> None:
        self._world, self._rule, self._anew = world, rule, anew
        self._window = -1
        self._fires = False
        self._fitted = (0, 0)

    def begin(self, start: int) -> None:
        pass

    def wanted(self, fit: str) -> tuple[Ask, ...]:
        return ()

    def champion(self, version: Version, now: int) -> Generator[tuple[Ask, ...], None, None]:
        self._fitted = (version.taken.begin, version.fitted_until)
        self._anew()
        yield ()

    def look(self, champion: Version, now: int, *, busy: bool) -> Signals:
        self._window += 1
        self._fires = self._rule(self._world, self._window, champion.fit, *self._fitted)
        return Signals()

    def fired(self, signals: Signals, now: int) -> Fired | None:
        return Fired(because=f"window {self._window} at {instant(now)}") if self._fires else None


def watching(each: Set, name: str) -> Callable[[Policy, World], Any]:
    """What says when that policy retrains."""

    def make(policy: Policy, world: World) -> Any:
        kinds: dict[str, Any] = {
            "perf-drop": _Drop, "Page-Hinkley": _PageHinkley, "ADWIN": _Adwin, "PSI": _Psi, "KS": _Ks,
        }  # fmt: skip
        rule = kinds[name](each) if name in kinds else _Counted(int(name.removeprefix("every-").partition(" ")[0]))
        return Foreign(world, rule, rule.anew)

    return make


class _Counted:
    """After so many windows."""

    def __init__(self, count: int) -> None:
        self._count = count

    def anew(self) -> None:
        pass

    def __call__(self, world: World, window: int, fit: str, since: int, until: int) -> bool:
        return (window + 1) % self._count == 0


class _Drop:
    def __init__(self, each: Set) -> None:
        self._each = each
        self._best: float | None = None

    def anew(self) -> None:
        self._best = None

    def __call__(self, world: World, window: int, fit: str, since: int, until: int) -> bool:
        score = world.cell(fit, window).score
        if score is None:
            return False
        if world.resolved.task == "regression":
            self._best = score if self._best is None else min(self._best, score)
            return score > self._best * (1 + self._each.drop)
        self._best = score if self._best is None else max(self._best, score)
        return score < self._best - self._each.drop


class _Rows:
    """A detector of river on the error of each row."""

    def __init__(self, each: Set) -> None:
        self._detector: Any = None
        self.anew()

    def anew(self) -> None:
        raise NotImplementedError

    def __call__(self, world: World, window: int, fit: str, since: int, until: int) -> bool:
        low, high = world.grid.places[window], world.grid.places[window + 1]
        places, truth = world.timeline.truths(low, high)
        said = world.fits.answers(fit, low, high)[places - low]
        regression = world.resolved.task == "regression"
        losses = np.abs(said.reshape(-1) - truth) if regression else (said.argmax(axis=1) != truth).astype(float)
        found = False
        for loss in losses.tolist():
            self._detector.update(loss)
            found |= bool(self._detector.drift_detected)
        return found


class _PageHinkley(_Rows):
    def anew(self) -> None:
        self._detector = river.PageHinkley(delta=0.005, threshold=50.0)


class _Adwin(_Rows):
    def anew(self) -> None:
        self._detector = river.ADWIN(delta=0.002)


class _Psi:
    def __init__(self, each: Set) -> None:
        self._columns = each.columns

    def anew(self) -> None:
        pass

    def distance(self, then: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> bool:
        edges = np.unique(np.quantile(then, np.arange(1, 10) / 10))
        p = np.bincount(np.searchsorted(edges, then), minlength=len(edges) + 1) / len(then)
        q = np.bincount(np.searchsorted(edges, now), minlength=len(edges) + 1) / len(now)
        p, q = np.clip(p, 1e-4, None), np.clip(q, 1e-4, None)
        return float(np.sum((q - p) * np.log(q / p))) > 0.2

    def __call__(self, world: World, window: int, fit: str, since: int, until: int) -> bool:
        line = world.timeline
        then = line.raw(line.place(since), line.place(until))
        now = line.raw(world.grid.places[window], world.grid.places[window + 1])
        moved = [
            self.distance(then[name].to_numpy().astype(float), now[name].to_numpy().astype(float))
            for name in self._columns
        ]
        return sum(moved) >= SHARE * len(moved)


class _Ks(_Psi):
    def distance(self, then: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> bool:
        levels = np.unique(np.concatenate([then, now]))
        a = np.searchsorted(np.sort(then), levels, side="right") / len(then)
        b = np.searchsorted(np.sort(now), levels, side="right") / len(now)
        return float(np.max(np.abs(a - b))) > 0.1
