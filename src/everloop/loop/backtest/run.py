"""A whole backtest: reads the history, runs all policies side by side, and says what was found. Decides nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everloop.clock import instant, microseconds
from everloop.data import sources
from everloop.errors import DataError, SpecError
from everloop.jobs.job import Executor
from everloop.loop.backtest import choices
from everloop.loop.backtest.asks import Ask, AskCells
from everloop.loop.backtest.cells import positive, scored
from everloop.loop.backtest.costs import check as check_prices
from everloop.loop.backtest.costs import costs
from everloop.loop.backtest.fits import Fits
from everloop.loop.backtest.floor import floor
from everloop.loop.backtest.grid import Grid, Windows, begin, grid, usual
from everloop.loop.backtest.post import Post
from everloop.loop.backtest.result import BacktestResult, Fit, PolicyRun, Prices
from everloop.loop.backtest.simulation import Simulation
from everloop.loop.backtest.timeline import Timeline, prepare
from everloop.loop.backtest.world import World
from everloop.loop.environment import Environment
from everloop.loop.executing import executor_of
from everloop.loop.installation import label_facts
from everloop.loop.preload import modules
from everloop.measure import metrics
from everloop.records import Encoding, FeatureEncoding, digest_of, encode
from everloop.spec import codec
from everloop.spec.load import functions_of
from everloop.spec.loop import Loop
from everloop.spec.metric import Custom
from everloop.spec.policy import Policy
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.spec.train import Estimator
from everloop.store.files import write_folder_atomically
from everloop.store.home import Home
from everloop.train import threads, warm
from everloop.train.compete import Trained
from everloop.train.fit import Fitted

SHORTEST_SLEEP, LONGEST_SLEEP = 0.0005, 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a backtest is."""

    made: int
    """Fits that were made so far, in this run."""
    under_way: int
    """Letters that workers have."""
    done: int
    """Windows that policies have gone through, of all policies together."""
    wanted: int
    """Windows times policies."""
    finished: int
    """Policies that are through."""
    policies: int


Told = Callable[[Progress], None]


@dataclass(slots=True, kw_only=True)
class Setting:
    """What is backtested, besides the policies. A window of None is as long as is usual for the history."""

    windows: Windows | None = None
    start: datetime | None = None
    end: datetime | None = None
    takes: timedelta | None = None
    looks: int = 1
    later: timedelta = timedelta(0)
    """Labels come so much later than declared."""
    labels: float = 1.0
    """The share of labels that ever come."""
    prices: Prices | None = None
    oracle: bool = False
    """Ask every fit about every window that it could have served."""

    def check(self) -> None:
        """Raises SpecError with the value and what to write instead."""
        if isinstance(self.windows, timedelta) and self.windows < timedelta(minutes=1):
            raise SpecError(f"windows is {self.windows}; write at least a minute, such as 7d.")
        if isinstance(self.windows, int) and self.windows < 20:
            raise SpecError(f"windows is {self.windows} rows; write at least 20: fewer have no score.")
        if not 0 < self.labels <= 1:
            raise SpecError(f"labels is {self.labels:g}; write a share above 0, at most 1.")
        if self.looks < 1:
            raise SpecError(f"looks is {self.looks}; write at least 1.")
        if self.takes is not None and self.takes < timedelta(0):
            raise SpecError(f"takes is {self.takes}; write 0 or more.")
        if self.later < timedelta(0):
            raise SpecError(f"later is {self.later}; a label cannot come before its event: write 0 or more.")


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
        used = executor or executor_of(environment, loop)
        arguments = {
            "cache": str(place.backtests),
            "declaration": str(place.code / code / "declaration.py"),
            "loop": str(place.code / code / "loop.json"),
            "timeline": str(timeline.folder),
            "schema": dict(schema),
            "facts": _plain(facts),
            "cores": max(1, threads.share() // count),
            "preload": modules(loop),
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
            _code=_code(resolved, source),
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
        target = np.asarray(self.timeline.target[self.timeline.labelled], dtype=np.float64)
        every = self.setting.windows
        assert every is not None
        return choices.usual(
            self.loop,
            every=every,
            span=self.span,
            rows=len(times),
            metric=self.resolved.score,
            spread=float(target.std()),
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
        steps = {place: each.steps() for place, each in enumerate(simulations)}
        asked: dict[int, tuple[Ask, ...]] = dict.fromkeys(steps, ())
        finished = 0
        sleep = SHORTEST_SLEEP
        fresh = True
        while steps:
            # Nobody can go on before something has come: to ask them all at every poll would cost more than they do.
            for place in list(steps) if fresh else ():
                if not all(self._fits.have(each) for each in asked[place]):
                    continue
                following = self._advanced(steps[place])
                if following is None:
                    del steps[place]
                    finished += 1
                else:
                    asked[place] = following
                    self._fits.ask(following)
            fresh = self._fits.collect()
            if fresh:
                sleep = SHORTEST_SLEEP
                done = sum(len(each.windows) for each in simulations)
                self._told(
                    Progress(
                        made=self._fits.made,
                        under_way=self._fits.under_way,
                        done=done,
                        wanted=len(simulations) * len(self.grid),
                        finished=finished,
                        policies=len(simulations),
                    )
                )
            elif steps:
                time.sleep(sleep)
                sleep = min(sleep * 1.5, LONGEST_SLEEP)

    def _advanced(self, steps: Any) -> tuple[Ask, ...] | None:
        """What a simulation asks for next that is not known; None when it is through."""
        with contextlib.suppress(StopIteration):
            while True:
                asked: tuple[Ask, ...] = next(steps)
                if not all(self._fits.have(each) for each in asked):
                    return asked
        return None

    def concluded(self, run: Simulation) -> PolicyRun:
        """What a simulation that is through has found."""
        world, resolved = self.world, self.resolved
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
                    dataclasses.replace(each, influence=float(sum_))
                    for each, sum_ in zip(run.windows, sums, strict=True)
                ]
        sign = 1 if resolved.score.greater_is_better else -1
        judged = [each for each in run.windows if each.score is not None]
        worst = min(judged, key=lambda each: sign * (each.score or 0.0), default=None)
        return PolicyRun(
            policy=run.policy,
            windows=tuple(run.windows),
            retrains=tuple(run.retrains),
            score=figure,
            costs=costs(run.retrains, run.windows, run.used, self.setting.prices),
            worst=worst.window if worst is not None else 0,
            problem=run.problem,
        )

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
        self._fits.ask(asks)
        while not all(self._fits.have(each) for each in asks):
            if not self._fits.collect():
                time.sleep(LONGEST_SLEEP)
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


def _code(resolved: Resolved, source: bytes) -> str:
    """Digest of all that a fit depends on besides rows, features and seed."""
    loop = resolved.loop
    meaning = {
        "train": codec.to_json(loop.train if isinstance(loop.train, tuple) else (loop.train,)),
        "score": codec.to_json(resolved.score),
        "label": codec.to_json(loop.label),
        "source": digest_of(source) if functions_of(loop) else None,
        "libraries": sorted(set(_libraries(loop))),
        # Models are kept as they are in memory: of another form they could not be read again.
        "kept": [
            [each.name for each in dataclasses.fields(kind)] for kind in (Trained, Fitted, Encoding, FeatureEncoding)
        ],
    }
    return digest_of(encode(meaning))


def _libraries(loop: Loop) -> list[str]:
    """Versions of the libraries that fit: another one may fit otherwise."""
    found = [f"everloop {importlib.metadata.version('everloop')}"]
    for each in loop.trains:
        if isinstance(each.estimator, Estimator):
            name = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu"}.get(
                top := each.estimator.path.partition(".")[0], top
            )
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def _plain(facts: LabelFacts | None) -> Any:
    return msgspec.json.decode(encode(facts)) if facts is not None else None
