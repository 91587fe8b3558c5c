"""What happens to a loop and what it is told to do. Knows nothing of how either comes about."""

from dataclasses import dataclass
from typing import Literal

from everloop.loop.meaning import Reweighed
from everloop.records import Evidence, Experiment, Release, Route, Verdict
from everloop.release.judge import Judgement
from everloop.release.plan import Change
from everloop.spec.gate import Better, NotWorse
from everloop.spec.rollout import Canary, Direct
from everloop.watch.triggers import Fired


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that a decision may depend on, besides the event and the time."""

    release: Release
    rollout: Canary | Direct
    gate: NotWorse | Better | None
    turn: str | None = None
    """The run of the turn that is under way."""
    waiting: Fired | None = None
    """The latest trigger that fired while it could not be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One look at the signals: what fired, and what the judge makes of the release under way."""

    fired: Fired | None = None
    judgement: Judgement | None = None
    weights: Reweighed | None = None
    """What a route by meaning is to weigh from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """A turn came to its end. ``version`` is None when it made no package; ``because`` then says why."""

    run: str
    version: int | None
    verdict: Verdict | None
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A person asked for something by command."""

    action: Literal[
        "run", "promote", "rollback", "pause", "resume", "start experiment", "stop experiment", "route", "unroute"
    ]
    version: int | None = None
    by: str = "command"
    experiment: Experiment | None = None
    """What is to start."""
    name: str | None = None
    """Which experiment is to stop; None: the one that runs."""
    route: Route | None = None


Event = Looked | TurnEnded | Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTurn:
    because: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepTrigger:
    """Remember what fired until it can be followed; None forgets it."""

    fired: Fired | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRelease:
    change: Change
    version: int | None = None
    run: str | None = None
    experiment: Experiment | None = None
    """One that starts with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Nothing changes; the ledger keeps that it was decided so, and why."""

    action: str
    because: str
    evidence: tuple[Evidence, ...] = ()
    version: int | None = None
    run: str | None = None


Command = StartTurn | KeepTrigger | ChangeRelease | Note
