"""One policy over one history, in event time: who was live, what was known, what was decided.

The functions that decide are production's own: ``watch.triggers`` says what fires, ``gate.compare`` what a challenger
has shown, ``loop.decide`` what follows. What differs is where rows come from, and that a released model serves as soon
as its retrain is over: shadow and canary take the time that ``takes`` allows them and turn nobody back.

A generator: it yields what it asks of fits and goes on when that is known. So many run side by side, and what they
share is made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from everloop.clock import instant
from everloop.errors import DataError, TrainError
from everloop.loop.backtest.asks import Ask, AskAnswers, AskFit
from everloop.loop.backtest.cells import positive, scored
from everloop.loop.backtest.gating import judge
from everloop.loop.backtest.result import Retrain, WindowRun
from everloop.loop.backtest.scoring import Part, Steps, merged, what_paid, window_run
from everloop.loop.backtest.signals import Signalling
from everloop.loop.backtest.versions import Turn, Version
from everloop.loop.backtest.world import MICROSECOND, Taken, World
from everloop.loop.decide import decide
from everloop.loop.events import ChangeRelease, Command, KeepTrigger, Looked, Note, StartTurn, State, TurnEnded
from everloop.loop.gating import ANCHOR_MEMORY, anchors_among
from everloop.package.threshold import choose
from everloop.records import Release, Verdict
from everloop.spec.gate import NotWorse
from everloop.spec.policy import Policy, rows_words
from everloop.spec.retrain import Degraded, leaves
from everloop.spec.rollout import Direct
from everloop.watch.triggers import Fired

AT_ONCE = Direct()


@dataclass(slots=True)
class Simulation:
    """Run it with `steps`; afterwards ``windows`` and ``retrains`` are what happened."""

    policy: Policy
    world: World
    windows: list[WindowRun] = field(default_factory=list)
    retrains: list[Retrain] = field(default_factory=list)
    used: list[tuple[int, int]] = field(default_factory=list)
    """Which of the known labels anything was learned or decided from."""
    segments: list[tuple[int, str, int, int]] = field(default_factory=list)
    """Who served: (window, fit, since, until), places of rows."""
    problem: str | None = None
    watching: Callable[[Policy, World], Signalling] = Signalling
    """Who says what fires: production's triggers, unless somebody brings others to compare them with."""
    _release: Release = field(init=False)
    _versions: list[Version] = field(default_factory=list)
    _waiting: Fired | None = None
    _turn: Turn | None = None
    _signals: Signalling = field(init=False)

    def __post_init__(self) -> None:
        self._release = Release(loop=self.world.resolved.loop.name)
        self._signals = self.watching(self.policy, self.world)

    # The whole of it.

    def steps(self) -> Steps:
        """Raises nothing: what stops the policy is its ``problem``."""
        try:
            yield from self._first(self.world.grid.edges[0])
        except (TrainError, DataError) as error:
            self.problem = f"the first model could not be made: {error}"
            return
        try:
            yield from self._through()
        except (TrainError, DataError) as error:
            self.problem = f"in window {len(self.windows)}: {error}"

    def _through(self) -> Steps:
        """Window after window: serve, look, decide, score."""
        grid, world = self.world.grid, self.world
        now = grid.edges[0]
        self._signals.begin(now)
        for window in range(len(grid)):
            since, until = grid.edges[window], grid.edges[window + 1]
            parts: list[Part] = []
            stale = 0
            for look in range(1, world.looks + 1):
                then = since + (until - since) * look // world.looks
                served, late = yield from self._serve(window, now, then)
                parts += served
                stale += late
                now = then
                yield from self._look(window, now)
            self._score(window, parts, stale)
        if self._turn is not None:
            self._unfinished(self._turn)
        yield from what_paid(self.world, self.windows, self.retrains)

    def _serve(self, window: int, now: int, then: int) -> Generator[tuple[Ask, ...], None, tuple[list[Part], int]]:
        """Rows of (now, then], each answered by whoever was champion at its time."""
        parts: list[Part] = []
        stale = 0
        place, end = self.world.timeline.place(now), self.world.timeline.place(then)
        if self._turn is not None and self._turn.ends <= then:
            turn = self._turn
            border = max(place, self.world.timeline.place(turn.ends))
            if border > place:
                parts.append((self._champion, place, border))
            before = self._champion.number
            yield from self._end(turn)
            if self._champion.number != before:
                # From its start on; what lies in windows before this one is theirs.
                stale = border - self.world.timeline.place(turn.started)
            place = border
        if end > place:
            parts.append((self._champion, place, end))
        for version, _, _ in parts:
            low, high = self.world.chunk(version.fit, window)
            yield (AskAnswers(fit=version.fit, since=low, until=high),)
        return parts, stale

    def _score(self, window: int, parts: list[Part], stale: int) -> None:
        parts = merged(parts)
        self.segments += [(window, version.fit, low, high) for version, low, high in parts]
        self.windows.append(window_run(self.world, window, parts, stale))

    # Turns.

    def _first(self, now: int) -> Steps:
        """The first model: made from what is known when serving begins, and there when it begins."""
        turn = yield from self._made(Fired(because="the first model"), now, -1)
        if turn.version is None:
            raise TrainError(turn.problem or "no reason was kept")
        yield from self._end(turn, at=now)

    def _made(self, fired: Fired, now: int, window: int) -> Generator[tuple[Ask, ...], None, Turn]:
        """The rows and the fits of a turn that starts now. What is wrong with them is found when it ends."""
        world, policy = self.world, self.policy
        kinds = tuple(dict.fromkeys(each.name for each in fired.evidence)) or ("first",)
        turn = Turn(
            started=now, ends=now, because=fired.because, kinds=kinds, taken=None, version=None, problem=None,
            seconds=0.0, window=window,
        )  # fmt: skip
        try:
            taken = world.take(policy.window, now)
            world.honest(taken.end - 1, now)
            turn.taken = taken
            words = rows_words(policy.window)
            parent = self._champion.fit if policy.warm and self._versions else None
            asks = [world.asked(world.name(taken.begin, taken.test, parent=parent), policy.window, words)]
            refit = policy.window.refit
            if refit:
                like = asks[0].fit if world.searches and parent is None else None
                name = world.name(taken.begin, taken.end, parent=parent, like=like)
                if like is not None:
                    yield (asks[0],)
                asks.append(world.asked(name, policy.window, words))
                if not self._needs_test and like is None:
                    asks = asks[1:]  # Nobody will ask how good it was on its test rows.
            yield (*asks, *self._soon(asks[0], asks[-1], taken))
            records = [world.fits.record(ask.fit) for ask in asks]
            turn.seconds = sum(each.seconds for each in records)
            bad = next((each.problem for each in records if each.problem is not None), None)
            if bad is not None:
                raise TrainError(bad)
            version = Version(
                number=len(self._versions) + 1,
                fit=asks[-1].fit,
                tested=asks[0].fit,
                taken=taken,
                made=now,
                score=math.nan,
                fitted_until=taken.end if refit else taken.test,
            )
            if self._needs_test:
                yield from self._test(version)
            turn.version = version
        except (DataError, TrainError) as error:
            turn.problem = f"{type(error).__name__}: {error}"
        takes = world.takes if world.takes is not None else timedelta(seconds=turn.seconds)
        turn.ends = now + takes // MICROSECOND
        low = int(np.searchsorted(world.known_times, turn.taken.begin)) if turn.taken else 0
        self.used.append((low, low + turn.taken.train_rows + turn.taken.test_rows) if turn.taken else (0, 0))
        return turn

    def _soon(self, tested: AskFit, serving: AskFit, taken: Taken) -> Iterator[Ask]:
        """What will be asked about a new fit as soon as it is there: in one letter with it."""
        world = self.world
        first = world.first_wanted[serving.fit]
        if first < len(world.grid):
            low, high = world.chunk(serving.fit, first)
            yield AskAnswers(fit=serving.fit, since=low, until=high)
        if self._needs_test:
            yield from world.asked_about(tested.fit, *world.known_in(taken.test, taken.end))
        yield from self._signals.wanted(serving.fit)

    def _test(self, version: Version) -> Steps:
        """The candidate's score on its test rows, which it has not seen. Raises TrainError where it has none."""
        world = self.world
        low, high = world.known_in(version.taken.test, version.taken.end)
        yield world.asked_about(version.tested, low, high)
        judged = world.judged(version.tested, low, high)
        resolved = world.resolved
        if resolved.loop.decision is not None and resolved.positive is not None:
            version.threshold = choose(
                resolved.loop.decision, judged.truth, judged.prediction, positive=resolved.positive
            )
        found = scored(
            resolved.score, judged.truth, judged.prediction, rows=world.rows(low, high), positive=positive(resolved)
        )
        version.score = math.nan if found is None else found
        if found is None and self._needs_score:
            raise TrainError(
                f"The score {resolved.score.name} is not defined on {len(judged)} held-out rows; hold out more in window.test."
            )

    def _end(self, turn: Turn, *, at: int | None = None) -> Steps:
        """What follows from a turn that is over."""
        now = turn.ends if at is None else at
        verdict: Verdict | None = None
        version = turn.version
        number = None
        if version is not None:
            same = self._release.champion is not None and version.fit == self._champion.fit
            if same:
                verdict = Verdict(outcome="not_worse", promote=False, because="it serves already")
                number = self._champion.number
            else:
                before = None if self._release.champion is None else self._champion
                verdict = yield from judge(self.world, self.policy.gate, version, before, self._anchors(now))
                self._versions.append(version)
                number = version.number
        state = self._state(ending=True)
        self._turn = None
        ended = TurnEnded(run="", version=number, verdict=verdict, because=turn.problem or "")
        commands = decide(state, ended, instant(now))
        released = self._perform(commands, now)
        if turn.window < 0 and not released:
            raise TrainError(commands[0].because if isinstance(commands[0], Note) else "it was not released")
        note = next((each for each in commands if isinstance(each, Note)), None)
        self.retrains.append(
            Retrain(
                window=turn.window,
                started=instant(turn.started),
                live=instant(now) if released else None,
                because=turn.because,
                kinds=turn.kinds,
                fit=None if version is None else version.fit,
                verdict=verdict,
                said="released" if released else note.action if note is not None else "",
                rows=0 if turn.taken is None else turn.taken.train_rows + turn.taken.test_rows,
                seconds=turn.seconds,
            )
        )
        if released:
            assert version is not None
            yield from self._signals.champion(version, now)

    def _unfinished(self, turn: Turn) -> None:
        """The history ends before the turn does: it has cost what it costs."""
        self.retrains.append(
            Retrain(
                window=turn.window,
                started=instant(turn.started),
                live=None,
                because=turn.because,
                kinds=turn.kinds,
                fit=None if turn.version is None else turn.version.fit,
                verdict=None,
                said="turn failed" if turn.problem else "not over when the history ends",
                rows=0 if turn.taken is None else turn.taken.train_rows + turn.taken.test_rows,
                seconds=turn.seconds,
            )
        )

    def _anchors(self, now: int) -> dict[str, Version]:
        """As `loop.gating` chooses them."""
        if not isinstance(self.policy.gate, NotWorse):
            return {}
        recent = now - ANCHOR_MEMORY // MICROSECOND
        others = [
            each
            for each in self._versions
            if each.served and each.number != self._release.champion and each.made >= recent
        ]
        return anchors_among(others, greater_is_better=self.world.resolved.score.greater_is_better)

    # Looks and decisions.

    def _look(self, window: int, now: int) -> Steps:
        signals = self._signals.look(self._champion, now, busy=self._turn is not None)
        fired = self._signals.fired(signals, now)
        commands = decide(self._state(), Looked(fired=fired), instant(now))
        self._perform(commands, now)
        for command in commands:
            if isinstance(command, StartTurn):
                because = Fired(because=command.because, evidence=command.evidence)
                self._turn = yield from self._made(because, now, window)

    def _perform(self, commands: tuple[Command, ...], now: int) -> bool:
        """Whether somebody was released."""
        released = False
        for command in commands:
            match command:
                case KeepTrigger():
                    self._waiting = command.fired
                case ChangeRelease():
                    self._release = command.change.release
                    self._champion.served = True
                    self._champion.since = now
                    released = True
                case _:
                    pass
        return released

    def _state(self, *, ending: bool = False) -> State:
        return State(
            release=self._release,
            rollout=AT_ONCE,
            gate=self.policy.gate,
            turn="turn" if self._turn is not None and not ending else None,
            waiting=self._waiting,
        )

    # Small things.

    @property
    def _champion(self) -> Version:
        number = self._release.champion
        return self._versions[(number or 1) - 1]

    @property
    def _needs_score(self) -> bool:
        """Whether anything depends on how good a candidate was on its test rows."""
        watched = any(isinstance(each, Degraded) for each in leaves(self.policy.retrain))
        return watched or self.policy.gate is not None

    @property
    def _needs_test(self) -> bool:
        """Whether a candidate is asked about its test rows: for a score, or for the threshold of a decision."""
        return self._needs_score or self.world.resolved.loop.decision is not None
