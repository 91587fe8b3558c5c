"""A whole backtest: reads the history, runs all policies side by side, and says what was found. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everloop.clock import instant, microseconds
from everloop.data import sources
from everloop.errors import DataError
from everloop.jobs.job import Executor
from everloop.loop.backtest import choices
from everloop.loop.backtest.asks import Ask, AskCells
from everloop.loop.backtest.code import code_of
from everloop.loop.backtest.conclusion import concluded
from everloop.loop.backtest.costs import check as check_prices
from everloop.loop.backtest.driving import drive, finish
from everloop.loop.backtest.fits import Fits
from everloop.loop.backtest.floor import floor
from everloop.loop.backtest.grid import Grid, begin, grid, usual
from everloop.loop.backtest.post import Post
from everloop.loop.backtest.progress import Told
from everloop.loop.backtest.result import BacktestResult, Fit, PolicyRun
from everloop.loop.backtest.setting import Setting
from everloop.loop.backtest.simulation import Simulation
from everloop.loop.backtest.timeline import Timeline, prepare
from everloop.loop.backtest.world import World
from everloop.loop.environment import Environment
from everloop.loop.executing import executor_of
from everloop.loop.installation import label_facts
from everloop.loop.preload import libraries
from everloop.records import encode
from everloop.spec import codec
from everloop.spec.loop import Loop
from everloop.spec.policy import Policy
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.store.files import write_folder_atomically
from everloop.store.home import Home
from everloop.train import threads, warm


@dataclass(slots=True)
class Backtest:
    """An opened backtest: policies may be run on it again and again, and share their fits.

    Use it as a context manager: workers stand by until it is closed.
    """

    loop: Loop
    resolved: Resolved
    timeline: Timeline
    setting: Setting
    grid: Grid
    notes: list[str]
    _cache: Path
    _post: Post
    _fits: Fits
    _executor: Any
    _own: bool
    _code: str
    _told: Told
    _began: float
    _seconds: dict[str, float] = field(default_factory=dict)
    _runs: dict[str, PolicyRun] = field(default_factory=dict)
    _world: World | None = None

    # Opening.

    @classmethod
    def open(
        cls,
        loop: Loop,
        *,
        folder: Path,
        source: bytes,
        policies: Sequence[Policy] = (),
        setting: Setting | None = None,
        environment: Environment | None = None,
        home: Path | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
        told: Told | None = None,
    ) -> Backtest:
        """Read and render the history, and let workers come.

        ``folder``: what the source's path is relative to; ``source``: the declaration's text; ``policies``: those that
        will be run, as far as they are known; ``environment``: where the home is and where jobs run, by default what
        everloop.toml says; ``home`` and ``executor`` stand in its place. Raises SpecError and DataError for what cannot be backtested.
        """
        began = time.perf_counter()
        chosen = setting or Setting()
        chosen.check()
        _check_warm(loop, policies)
        schema = sources.schema_of(loop.source, folder)
        facts = label_facts(loop, folder, schema)
        resolved = resolve(loop, schema, facts)
        check_prices(chosen.prices, resolved.task)
        slices = [name for gate in choices.gates(policies) for name in gate.slices]
        environment = environment or Environment.read(folder, None)
        place = Home(home or environment.home)
        timeline = prepare(resolved, folder, place.backtests / "history", also=slices)
        notes: list[str] = []
        made, chosen = _grid(resolved, timeline, chosen, policies, notes)
        if timeline.about.put_aside:
            notes.append(f"{timeline.about.put_aside:,} rows do not pass the declared checks and are left out.")
        code = codec.digest(loop)
        kept = {"declaration.py": source, "loop.json": codec.to_bytes(loop)}
        write_folder_atomically(place.code / code, kept)
        count = workers or threads.share()
        own = executor is None
        used = executor or executor_of(environment, loop, standing=False)
        arguments = {
            "cache": str(place.backtests),
            "declaration": str(place.code / code / "declaration.py"),
            "loop": str(place.code / code / "loop.json"),
            "timeline": str(timeline.folder),
            "schema": dict(schema),
            "facts": _plain(facts),
            "cores": max(1, threads.share() // count),
            "preload": libraries(loop),
        }
        post = Post(used, arguments, folder=place.backtests, workers=count)
        return cls(
            loop=loop,
            resolved=resolved,
            timeline=timeline,
            setting=chosen,
            grid=made,
            notes=notes,
            _cache=place.backtests,
            _post=post,
            _fits=Fits(place.backtests, post),
            _executor=used,
            _own=own,
            _code=code_of(resolved, source),
            _told=told or (lambda progress: None),
            _began=began,
            _seconds={"prepare": time.perf_counter() - began},
        )

    def __enter__(self) -> Backtest:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._post.close()
        if self._own:
            self._executor.close()

    def policies(self) -> tuple[Policy, ...]:
        """Those that are compared when nobody names any."""
        times = self.timeline.label_times
        every = self.setting.windows
        assert every is not None
        return choices.usual(
            self.loop,
            every=every,
            span=self.span,
            rows=len(times),
            metric=self.resolved.score,
            spread=self.timeline.about.spread,
        )

    @property
    def span(self) -> timedelta:
        """From the first labelled row to the last."""
        times = self.timeline.label_times
        return instant(int(times[-1])) - instant(int(times[0]))

    @property
    def window(self) -> timedelta:
        """How long a scored window usually is."""
        lengths = sorted(each.until - each.since for each in self.grid.windows)
        return lengths[len(lengths) // 2]

    @property
    def made(self) -> int:
        """Fits that were made so far; all others were known."""
        return self._fits.made

    def otherwise(self, *, later: timedelta = timedelta(0), labels: float = 1.0) -> Backtest:
        """The same history, windows, workers and fits, in a world where labels come later or fewer. Not to be closed."""
        setting = replace(self.setting, later=self.setting.later + later, labels=labels, oracle=False)
        setting.check()
        return replace(
            self, setting=setting, notes=[], _began=time.perf_counter(), _seconds={}, _runs={}, _world=None
        )  # fmt: skip

    # Running.

    def run(self, policies: Sequence[Policy]) -> tuple[PolicyRun, ...]:
        """Each policy over the whole history; one that ran before is not run again."""
        began = time.perf_counter()
        _check_warm(self.loop, policies)
        fresh = [each for each in choices.once(policies) if each.digest not in self._runs]
        simulations = [Simulation(each, self.world) for each in fresh]
        self.drive(simulations)
        for each in simulations:
            self._runs[each.policy.digest] = self.concluded(each)
        self._seconds["policies"] = self._seconds.get("policies", 0.0) + time.perf_counter() - began
        return tuple(self._runs[each.digest] for each in policies)

    @property
    def world(self) -> World:
        if self._world is None:
            self._world = World(
                resolved=self.resolved,
                timeline=self.timeline,
                grid=self.grid,
                fits=self._fits,
                delay=self.loop.label.delay + self.setting.later,
                takes=self.setting.takes,
                code=self._code,
                seeds=self.loop.trains[0].seed,
                looks=self.setting.looks,
                share=self.setting.labels,
                whole=self.setting.oracle,
            )
        return self._world

    def drive(self, simulations: Sequence[Simulation]) -> None:
        """Let each go on as soon as what it asked for is known."""
        drive(simulations, self._fits, windows=len(self.grid), told=self._told)

    def concluded(self, run: Simulation) -> PolicyRun:
        """What a simulation that is through has found."""
        return concluded(run, self.setting.prices)

    # What was found.

    def result(self, policies: Sequence[Policy]) -> BacktestResult:
        """Everything about these policies, run as far as they have not been."""
        chosen = choices.once(policies)
        runs = self.run(chosen)
        if all(each.problem is not None for each in runs):
            raise DataError(f"No policy could be run: {runs[0].problem}")
        if self.setting.oracle:
            self._ask_everything(runs)
        began = time.perf_counter()
        present = Policy.of(self.loop).digest
        ground = floor(self.world)
        self._seconds["floor"] = time.perf_counter() - began
        label = self.loop.label
        total = time.perf_counter() - self._began
        return BacktestResult(
            loop=self.loop.name,
            metric=self.resolved.score.name,
            companion=self.resolved.score.companion.name,
            greater_is_better=self.resolved.score.greater_is_better,
            task=self.resolved.task,
            delay=label.delay + self.setting.later,
            takes=self.setting.takes,
            windows=self.grid.windows,
            runs=runs,
            fits=self._known_fits(runs),
            floor=ground,
            present=next((place for place, each in enumerate(runs) if each.digest == present), None),
            prices=self.setting.prices,
            seconds={
                **self._seconds,
                "total": total,
                "fits": self._fits.seconds,
                "made": float(self._fits.made),
                "workers": self._post.busy,
                "workers cpu": self._post.cpu,
                "fits cpu": self._fits.cpu,
                "predictions cpu": self._post.predicting,
            },
            notes=tuple(self.notes),
        )

    def _known_fits(self, runs: Sequence[PolicyRun]) -> dict[str, Fit]:
        cells = self._fits.known_cells()
        named = {each.fit for run in runs for each in run.retrains if each.fit is not None}
        named |= {each.fit for run in runs for window in run.windows for each in window.served}
        found: dict[str, Fit] = {}
        for digest, record in self._fits.records().items():
            if digest not in named and digest not in cells:
                continue
            found[digest] = Fit(
                name=record.name,
                window=self.world.labels_of.get(digest, ""),
                rows=record.rows,
                ready_before=self.world.first_wanted.get(digest, 0),
                seconds=record.seconds,
                # Of some windows alone they would look like the best that could have been, and would not be.
                cells=cells.get(digest, {}) if self.setting.oracle else {},
                problem=record.problem,
            )
        return found

    def _ask_everything(self, runs: Sequence[PolicyRun]) -> None:
        """Every released fit about every window that it could have served: what an oracle chooses from."""
        began = time.perf_counter()
        world = self.world
        asks: list[Ask] = []
        named = dict.fromkeys(
            each.fit for run in runs for each in run.retrains if each.fit is not None and each.verdict is not None
        )
        for fit in named:
            first = world.first_wanted[fit]
            spans = tuple(
                (index, world.grid.places[index], world.grid.places[index + 1])
                for index in range(first, len(self.grid))
            )
            if spans:
                asks.append(AskCells(fit=fit, windows=spans))
        finish(asks, self._fits)
        self._seconds["oracle"] = time.perf_counter() - began


def _grid(
    resolved: Resolved, timeline: Timeline, setting: Setting, policies: Sequence[Policy], notes: list[str]
) -> tuple[Grid, Setting]:
    loop = resolved.loop
    delay = loop.label.delay + setting.later
    times = timeline.label_times
    last = int(np.asarray(timeline.times[-1])) + 1
    end = last if setting.end is None else min(last, microseconds(setting.end))
    every = setting.windows or usual(instant(last) - instant(int(times[0])))
    zone = loop.source.time_zone
    if setting.start is not None:
        start = microseconds(setting.start)
    else:
        declared = [each.window for each in (*policies, Policy.of(loop))]
        start, note = begin(declared, times, delay, every=every, time_zone=zone)
        if note is not None:
            notes.append(note)
    if not int(times[0]) < start < end:
        raise DataError(
            f"The windows would go from {instant(start):%Y-%m-%d %H:%M} to {instant(end):%Y-%m-%d %H:%M}, and the history "
            f"from {instant(int(times[0])):%Y-%m-%d %H:%M} to {instant(last):%Y-%m-%d %H:%M}; write --from and --to "
            "inside it, with rows before the first window to learn from."
        )
    made = grid(timeline.times, times, start=start, end=end, every=every, time_zone=zone)
    return made, replace(setting, windows=every)


def _check_warm(loop: Loop, policies: Sequence[Policy]) -> None:
    if any(each.warm for each in policies):
        warm.check(loop.trains, "A policy has")


def _plain(facts: LabelFacts | None) -> Any:
    return msgspec.json.decode(encode(facts)) if facts is not None else None
