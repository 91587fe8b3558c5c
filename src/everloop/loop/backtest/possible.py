"""What could have been won: the best schedules over the fits that policies share, known only afterwards.

No policy can know them, so the distance to them (regret) is no fault of any; how it divides says whether a better moment or
another training window would have brought more. Reads a `BacktestResult`, fits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.result import BacktestResult, Fit
from everloop.loop.backtest.yardstick import Yardstick
from everloop.measure.schedule import Schedule, best_by_retrains

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best schedule with at most so many retrains."""

    retrains: int
    score: float
    fits: tuple[str, ...]
    """In the order in which they serve, by `FitName.digest`."""
    windows: tuple[int, ...]
    """The first window of each of them but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Possible:
    """The best schedules over all fits, and over those of each training window."""

    curve: tuple[Best, ...]
    """By rising retrains, each better than the one before."""
    by_window: dict[str, tuple[Best, ...]]

    @property
    def best(self) -> Best:
        return self.curve[-1]

    def within(self, window: str | None, retrains: int) -> Best | None:
        """The best with at most so many retrains, of one training window or (None) of all."""
        curve = self.curve if window is None else self.by_window.get(window, ())
        found = [each for each in curve if each.retrains <= retrains]
        return found[-1] if found else None


def possible(result: BacktestResult, *, most: int) -> Possible | None:
    """With at most ``most`` retrains; None where fits that served were not asked about all later windows (``--no-oracle``):
    what is best among the rest would be called the best of all.
    """
    yardstick = Yardstick.of(result)
    rows = np.array([window.rows for window in result.windows], dtype=np.float64)
    fits = {
        digest: fit
        for digest, fit in result.fits.items()
        if fit.problem is None and fit.name.parent is None and _is_whole(fit, rows)
    }
    used = {each.fit for run in result.runs for window in run.windows for each in window.served}
    if not used or any(digest not in fits for digest in used if _from_nothing(result.fits.get(digest))):
        return None
    curve = _curve(fits, rows, yardstick, lag=_lag(result), most=most)
    if not curve:
        return None
    by_window = {
        kind: _curve(
            {digest: fit for digest, fit in fits.items() if fit.window == kind},
            rows,
            yardstick,
            lag=_lag(result),
            most=most,
        )
        for kind in dict.fromkeys(fit.window for fit in fits.values())
    }
    return Possible(curve=curve, by_window=by_window)


def _is_whole(fit: Fit, rows: Floats) -> bool:
    """Whether it was asked about every window from its first on; those without labels need no answer."""
    return all(window in fit.cells for window in range(max(fit.ready_before, 0), len(rows)) if rows[window])


def _from_nothing(fit: Fit | None) -> bool:
    """A warm fit is a choice of its own path and no part of any schedule."""
    return fit is None or fit.name.parent is None


def _lag(result: BacktestResult) -> int:
    """Whole windows that a retrain takes."""
    if result.takes is None or not result.windows:
        return 0
    lengths = sorted(window.until - window.since for window in result.windows)
    middle = lengths[len(lengths) // 2]
    return int(result.takes // middle) if middle else 0


def _curve(fits: dict[str, Fit], rows: Floats, yardstick: Yardstick, *, lag: int, most: int) -> tuple[Best, ...]:
    names = list(fits)
    loss = np.full((len(names), len(rows)), np.nan)
    for place, name in enumerate(names):
        for window, cell in fits[name].cells.items():
            loss[place, window] = yardstick.loss(cell)
    # A window that nobody can be scored on counts for nobody.
    counted = rows * (np.isfinite(loss).any(axis=0) if len(names) else False)
    if not counted.any():
        return ()
    ready = np.array([fits[name].ready_before for name in names], dtype=np.int64)
    loss = np.where(counted > 0, loss * counted, 0.0)
    try:
        schedules = best_by_retrains(loss, ready - lag, ready, most=min(most, len(rows)))
    except ValueError:
        return ()  # nobody could have served from the first window to the last
    return tuple(_best(each, names, yardstick, float(counted.sum())) for each in _rising(schedules))


def _rising(schedules: Sequence[Schedule]) -> list[Schedule]:
    kept: list[Schedule] = []
    for each in schedules:
        if not kept or each.retrains > kept[-1].retrains:
            kept.append(each)
    return kept


def _best(schedule: Schedule, names: Sequence[str], yardstick: Yardstick, rows: float) -> Best:
    return Best(
        retrains=schedule.retrains,
        score=yardstick.value(schedule.loss / rows),
        fits=tuple(names[fit] for fit in schedule.fits),
        windows=tuple(int(np.argmax(schedule.serving == fit)) for fit in schedule.fits[1:]),
    )
