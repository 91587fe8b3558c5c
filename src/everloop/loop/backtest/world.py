"""What all simulations of one backtest share: rows, windows, fits, and what was calculated once. Decides nothing.

Everything that a simulation may know is asked for as of an instant, and answered from labels that are due by then: the
only way to look ahead would be to ask with a later instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.clock import instant
from everloop.data.snapshot import LEAST_TEST, LEAST_TRAIN, bounds
from everloop.errors import DataError, EverloopError
from everloop.loop.backtest.asks import Ask, AskAnswers, AskFit
from everloop.loop.backtest.cells import cell, positive
from everloop.loop.backtest.fits import Fits
from everloop.loop.backtest.grid import Grid
from everloop.loop.backtest.result import Cell, FitName
from everloop.loop.backtest.sketches import Sketches
from everloop.loop.backtest.timeline import Timeline
from everloop.loop.backtest.worker import known_share
from everloop.spec.metric import Custom
from everloop.spec.resolve import Resolved
from everloop.spec.window import Everything, Last
from everloop.watch import score as scores
from everloop.watch.score import Judged, Reference, Scored

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
MICROSECOND = timedelta(microseconds=1)
LONGEST_AHEAD = 32
"""Windows that a fit is asked about at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The rows of one turn, in microseconds: train [begin, test), test [test, end)."""

    begin: int
    test: int
    end: int
    train_rows: int
    test_rows: int


@dataclass(slots=True)
class World:
    resolved: Resolved
    timeline: Timeline
    grid: Grid
    fits: Fits
    delay: timedelta
    """After an event its label is known: the declared delay, and more in a counterfactual."""
    takes: timedelta | None
    """How long a retrain takes before its model serves; None: as long as its fit took."""
    code: str
    seeds: int
    looks: int = 1
    """In each window, the last one at its end."""
    share: float = 1.0
    """Of labels that are ever known to fits and triggers. Scores know all."""
    whole: bool = False
    """Every fit is asked about every later window in the end: then all at once."""
    known: Integers = field(init=False)
    """Places of the rows whose labels become known."""
    known_times: Integers = field(init=False)
    first_wanted: dict[str, int] = field(default_factory=dict)
    """Fit → the window from which on it may serve whole."""
    labels_of: dict[str, str] = field(default_factory=dict)
    """Fit → its training window in words."""
    sketches: Sketches = field(init=False)
    _late: int = field(init=False)
    _taken: dict[tuple[Any, int], Taken] = field(default_factory=dict)
    _scored: dict[tuple[str, int, int], Scored | None] = field(default_factory=dict)
    _degraded: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        line = self.timeline
        self.sketches = Sketches(line, self.resolved, self.fits)
        self._late = self.delay // MICROSECOND
        self.known, self.known_times = line.labelled, line.label_times
        if self.share < 1.0:
            kept = known_share(np.asarray(line.keys[line.labelled]), self.share)
            self.known, self.known_times = line.labelled[kept], line.label_times[kept]

    # What is known when.

    def due(self, now: int) -> int:
        """How many labels are known just before ``now``: the first so many of ``known``.

        Just before, so that a row of this very instant, which is still to be answered, never counts.
        """
        return int(np.searchsorted(self.known_times, now - self._late, side="left"))

    def honest(self, newest: int, now: int) -> None:
        """Raises when a label is used that nobody could know yet: of an event at ``newest``, at ``now``."""
        if newest + self._late >= now:
            raise EverloopError(
                f"The backtest looked ahead: at {instant(now)} it used the label of {instant(newest)}, which is known after "
                f"{self.delay}; please report this."
            )

    def take(self, window: Last | Everything, now: int) -> Taken:
        """The rows that a turn takes at ``now``, by the rule of snapshots. Raises DataError where they are too few."""
        count = self.due(now)
        key = (window, count)
        if key not in self._taken:
            times = self.known_times[:count]
            if not count:
                raise DataError("no label is known yet")
            begin, test, end = bounds(window, times)
            low, middle, high = (int(each) for each in np.searchsorted(times, [begin, test, end]))
            self._taken[key] = Taken(
                begin=begin, test=test, end=end, train_rows=middle - low, test_rows=high - middle
            )  # fmt: skip
        found = self._taken[key]
        if found.train_rows < LEAST_TRAIN or found.test_rows < LEAST_TEST:
            raise DataError(
                f"the window is too small: {found.train_rows} rows to train on and {found.test_rows} to test on, needed "
                f"are {LEAST_TRAIN} and {LEAST_TEST}"
            )
        return found

    def known_in(self, since: int, until: int) -> tuple[int, int]:
        """Which of the known labels lie in [since, until), microseconds."""
        low, high = np.searchsorted(self.known_times, [since, until])
        return int(low), int(high)

    def asked_about(self, fit: str, low: int, high: int) -> tuple[Ask, ...]:
        """What to ask before ``judged(fit, low, high)``."""
        if high <= low:
            return ()
        return (AskAnswers(fit=fit, since=int(self.known[low]), until=int(self.known[high - 1]) + 1),)

    def judged(self, fit: str, since: int, until: int) -> Judged:
        """What a fit said of the rows with known labels among ``known[since:until]``, beside what came true."""
        places = self.known[since:until]
        if not len(places):
            empty = np.zeros(0)
            return Judged(truth=empty, prediction=empty, times=places)
        low, high = int(places[0]), int(places[-1]) + 1
        said = self.fits.answers(fit, low, high)
        return Judged(
            truth=np.asarray(self.timeline.target[places]),
            prediction=said if len(places) == high - low else said[places - low],
            times=self.known_times[since:until],
        )

    def rows(self, since: int, until: int) -> Any:
        """Raw columns of ``known[since:until]``, for a metric of the user's."""
        if not isinstance(self.resolved.score, Custom):
            return None
        places = self.known[since:until]
        return self.timeline.raw(int(places[0]), int(places[-1]) + 1, places) if len(places) else None

    # Fits.

    @property
    def searches(self) -> bool:
        """Whether a fit chooses: among parameters, or among several estimators."""
        trains = self.resolved.loop.trains
        return len(trains) > 1 or any(each.search is not None for each in trains)

    def name(self, since: int, until: int, *, parent: str | None = None, like: str | None = None) -> FitName:
        line = self.timeline
        return FitName(
            history=line.about.digest,
            since=since,
            until=until,
            features=self.resolved.features.digest,
            code=self.code,
            seed=self.seeds,
            parent=parent,
            like=like,
            share=self.share,
        )

    def asked(self, name: FitName, window: Last | Everything, words: str) -> AskFit:
        """The fit of a name; remembers from where on it may serve."""
        ask = AskFit(name=name)
        if ask.fit not in self.first_wanted:
            ready = int(np.searchsorted(self.grid.edges, name.until + self._late, side="left"))
            self.first_wanted[ask.fit] = min(ready, len(self.grid))
            self.labels_of[ask.fit] = words
        return ask

    def chunk(self, fit: str, window: int) -> tuple[int, int]:
        """The places of rows that a fit is asked about when ``window`` is wanted: 2, 4, 8 … windows at once.

        Two at first: the one that it serves at least, and the one after, in which it is held against who replaced it.
        """
        first = self.first_wanted.get(fit, 0)
        places, count = self.grid.places, len(self.grid)
        if window < first:
            return places[window], places[window + 1]
        if self.whole:
            return places[first], places[count]
        low, length = first, 2
        while low + length <= window:
            low += length
            length = min(2 * length, LONGEST_AHEAD)
        return places[low], places[min(low + length, count)]

    # What several policies ask for.

    def said(self, fit: str, since: int, until: int) -> Array:
        """What a fit that has been asked said of the labelled rows among [since, until), places."""
        return self.fits.answers(fit, since, until)[self.timeline.truths(since, until)[0] - since]

    def part(self, fit: str, since: int, until: int, threshold: float | None) -> Cell:
        """How good a fit is on the rows [since, until), decided by a threshold where there is one."""

        def made() -> Cell:
            places, truth = self.timeline.truths(since, until)
            said = self.said(fit, since, until)
            return cell(self.resolved, truth, said, rows=self.raw(since, until, places), threshold=threshold)

        found: Cell = self.remembered(("part", fit, since, until, threshold), made)
        return found

    def cell(self, fit: str, window: int) -> Cell:
        """How good a fit is in a window that it has been asked about."""
        known = self.fits.cell(fit, window)
        if known is None:
            known = self.part(fit, self.grid.places[window], self.grid.places[window + 1], None)
            self.fits.note(fit, window, known)
        return known

    def raw(self, low: int, high: int, places: Integers) -> Any:
        return self.timeline.raw(low, high, places) if isinstance(self.resolved.score, Custom) else None

    def scored(self, fit: str, since: int, until: int) -> Scored | None:
        """The score of ``known[since:until]`` with its error, as triggers take it."""
        key = (fit, since, until)
        if key not in self._scored:
            self._scored[key] = scores.score(
                self.resolved.score, self.judged(fit, since, until), positive=positive(self.resolved)
            )
        return self._scored[key]

    def degradation(
        self, fit: str, since: int, until: int, reference: Reference, by: float
    ) -> scores.Degradation | None:
        key = (fit, since, until, reference.value, reference.rows, by)
        if key not in self._degraded:
            self._degraded[key] = scores.degradation(
                self.resolved.score,
                self.judged(fit, since, until),
                reference,
                by=by,
                positive=positive(self.resolved),
            )
        found: scores.Degradation | None = self._degraded[key]
        return found

    def remembered(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Something that only depends on ``key``, calculated once."""
        if key not in self._degraded:
            self._degraded[key] = make()
        return self._degraded[key]
