"""Turns one loop: looks at the signals, asks ``decide``, performs what it says. Holds no rule of its own.

Everything it knows is in the ledger: another controller can go on where this one was killed. Two of them at once do
no harm: what a look remembers is written in the transaction that does what follows from it, and only if nobody else
has looked meanwhile; a release changes by compare-and-swap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from everloop.data.arrivals import Arrivals
from everloop.data.ingest import Ingest
from everloop.durable import runs
from everloop.durable.engine import Engine
from everloop.errors import DataError
from everloop.jobs.process import ProcessExecutor
from everloop.loop.decide import decide
from everloop.loop.events import (
    Asked,
    ChangeRelease,
    Command,
    Event,
    KeepTrigger,
    Looked,
    Note,
    StartTurn,
    State,
    TurnEnded,
)
from everloop.loop.installation import Installation
from everloop.loop.meaning import reweighed
from everloop.loop.publish import publish
from everloop.loop.signals import Found, Watcher
from everloop.loop.turn import Turn, plain, restored
from everloop.records import Batch, Decision, Evidence, Release
from everloop.release import plan
from everloop.release.judge import Judgement, judge
from everloop.store.ledger import batches, decisions, experiments, releases, watermarks
from everloop.watch.look import Seen
from everloop.watch.triggers import Fired

Told = Callable[[Decision], None]
MEMORY = "controller"
"""The name under which the ledger keeps the trigger that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look saw and did."""

    batches: tuple[Batch, ...]
    seen: Seen
    commands: tuple[Command, ...]


class Controller:
    def __init__(
        self,
        installation: Installation,
        engine: Engine,
        executor: ProcessExecutor,
        *,
        told: Told | None = None,
        progress: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.installation = installation
        self.engine = engine
        self._listener = told or (lambda decision: None)
        self._told: list[Decision] = []
        self._published = -1
        self._arrivals = Arrivals(installation.loop.source, installation.folder)
        self._ingest = Ingest(installation.resolved, installation.lake)
        self._watcher = Watcher(installation)
        self._turn = Turn(installation, executor, self._end, progress)
        self._problems: set[str] = set()
        self._waiting = -1
        """The revision of the release of which it is said that it waits."""

    # What it remembers, in the ledger.

    def state(self) -> State:
        with self.installation.ledger.read() as connection:
            return self._state(connection)

    def _state(self, connection: Connection, *, ending: str | None = None) -> State:
        """``ending``: a run that comes to its end in this transaction and must not stand in its own way."""
        each = self.installation
        kept = watermarks.get(connection, each.name, MEMORY, {})
        waiting = kept.get("waiting")
        turns = [run.id for run in runs.under_way(connection, each.name, name="turn") if run.id != ending]
        return State(
            release=releases.get(connection, each.name),
            rollout=each.loop.rollout,
            gate=each.loop.gate,
            turn=turns[-1] if turns else None,
            waiting=restored(waiting, Fired) if waiting else None,
        )

    # What it does.

    def take_in(self) -> tuple[Batch, ...]:
        """Take in every file of the source that is new. A bad file is noted once and stops nobody else's."""
        each = self.installation
        try:
            new = self._arrivals.new()
        except DataError as error:  # a source that cannot be read for a while: what serves is judged all the same
            self._refused(error)
            return ()
        if not new:
            return ()
        with each.ledger.read() as connection:
            # What was refused is tried again once by each controller: the declaration may allow it by now.
            known = batches.known(connection, each.name, refused=False)
        taken: list[Batch] = []
        for path in new:
            try:
                batch = self._ingest.file(path, known=known, now=each.clock.now())
            except DataError as error:
                self._refused(error)
                continue
            if batch is not None:
                with each.ledger.write() as connection:
                    batches.add(connection, batch)
                taken.append(batch)
                if batch.refused is not None:
                    self._note(Note(action="batch refused", because=batch.refused))
            self._arrivals.done(path)
        return tuple(taken)

    def _refused(self, error: DataError) -> None:
        """Note it, once."""
        if str(error) not in self._problems:
            self._problems.add(str(error))
            self._note(Note(action="batch refused", because=str(error)))

    def look(self) -> Look:
        """One look: take in files and answers, read the signals, decide, perform."""
        taken = self.take_in()
        state = self.state()
        found = self._watcher.look(state.release, busy=state.turn is not None or _divided(state.release))
        now = self.installation.clock.now()
        judgement = None
        if state.release.challenger is not None and found.seen.evidence is not None:
            judgement = judge(state.rollout, found.seen.evidence, release=state.release, now=now)
            self._say_waiting(state, judgement, now)
        event = Looked(fired=found.fired, judgement=judgement, weights=reweighed(self.installation, state.release))
        commands = self._decide(event, now, found=found, judged=state.release.revision)
        return Look(batches=taken, seen=found.seen, commands=commands)

    def _say_waiting(self, state: State, judgement: Judgement, now: datetime) -> None:
        """Once of each release that its time is over and too little is seen."""
        release, each = state.release, self.installation
        because = plan.waits(release, state.rollout, judgement, now=now)
        if because is None or release.revision == self._waiting:
            return
        self._waiting = release.revision
        with each.ledger.read() as connection:
            said = decisions.of(connection, each.name, version=release.challenger, since=release.started)
        if not any(one.action == "waiting" for one in said):
            self._note(Note(action="waiting", because=because, version=release.challenger))

    def ask(self, asked: Asked) -> tuple[Command, ...]:
        """Do what a person asks for. Raises ReleaseError when it cannot be done."""
        return self._decide(asked, self.installation.clock.now())

    def work(self) -> int:
        """Carry on the runs that are due, in this thread; returns how many were worked on."""
        worked = self.engine.work({"turn": self._turn}, self.installation.code, loop=self.installation.name)
        if worked:
            self._note_failures()
        self._tell()
        return worked

    def _note_failures(self) -> None:
        """A run that failed before its last step could say so is told here, once."""
        each = self.installation
        with each.ledger.read() as connection:
            failed = runs.of(connection, each.name, name="turn", status="failed", newest=1)
            unsaid = [
                run
                for run in failed
                if not any(d.action == "turn failed" for d in decisions.of(connection, each.name, run=run.id))
            ]
        for run in unsaid:
            self._note(Note(action="turn failed", because=run.because or "no reason was kept", run=run.id))

    def _end(self, connection: Connection, ended: TurnEnded) -> None:
        """What follows from a turn, in the transaction that ends its last step: exactly once, however often killed."""
        now = self.installation.clock.now()
        state = self._state(connection, ending=ended.run)
        self._told.extend(self._perform(connection, decide(state, ended, now)))

    def _decide(
        self, event: Event, now: datetime, *, found: Found | None = None, judged: int | None = None
    ) -> tuple[Command, ...]:
        """Decide and perform in one transaction, so that nothing changes between the two and a kill leaves neither.

        ``found`` is remembered with it: a trigger is used up exactly when what follows from it is done. ``judged`` is
        the release's revision that a judgement is about; of another one it says nothing.
        """
        with self.installation.ledger.write() as connection:
            if found is not None:
                self._watcher.keep(connection, found)
            state = self._state(connection)
            if isinstance(event, Looked) and state.release.revision != judged:
                event = replace(event, judgement=None, weights=None)
            commands = decide(state, event, now)
            done = self._perform(connection, commands)
        self._told.extend(done)
        self._tell()
        return commands

    def _tell(self) -> None:
        """After the transaction: servers and people hear what is now so."""
        told, self._told = self._told, []
        if self._published != self._revision():
            self._published = publish(self.installation).revision
        for decision in told:
            self._listener(decision)

    def _revision(self) -> int:
        with self.installation.ledger.read() as connection:
            return releases.get(connection, self.installation.name).revision

    def _perform(self, connection: Connection, commands: Sequence[Command]) -> list[Decision]:
        return [done for command in commands if (done := self._performed(connection, command)) is not None]

    def _performed(self, connection: Connection, command: Command) -> Decision | None:
        each = self.installation
        match command:
            case StartTurn():
                arguments = {"because": command.because}
                run = self.engine.submit("turn", each.name, arguments, each.code, connection=connection)
                decision = self._decision("turn started", command.because, command.evidence, run=run)
            case KeepTrigger():
                self._remember(connection, waiting=plain(command.fired) if command.fired else None)
                return None
            case Note():
                decision = self._decision(
                    command.action, command.because, command.evidence, version=command.version, run=command.run
                )
            case ChangeRelease():
                change = command.change
                decision = self._decision(
                    change.action, change.because, change.evidence, version=command.version, run=command.run
                )
                if command.experiment is not None:
                    experiments.add(connection, command.experiment)
                releases.change(connection, change.release.revision - 1, change.release, decision)
                return decision
        return decisions.add(connection, decision)

    def _decision(self, action: str, because: str, evidence: tuple[Evidence, ...], **named: Any) -> Decision:
        now = self.installation.clock.now()
        return Decision(loop=self.installation.name, at=now, action=action, because=because, evidence=evidence, **named)

    def _note(self, note: Note) -> None:
        with self.installation.ledger.write() as connection:
            self._told.extend(self._perform(connection, [note]))

    def _remember(self, connection: Connection, **values: Any) -> None:
        kept = watermarks.get(connection, self.installation.name, MEMORY, {})
        watermarks.put(connection, self.installation.name, MEMORY, {**kept, **values})


def _divided(release: Release) -> bool:
    """Whether a turn that started now could not be released."""
    return release.challenger is not None or plan.divided(release) is not None
