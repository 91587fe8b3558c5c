"""What to do next: state, event and time in, commands with their reasons out.

Pure: the replay, the tests and production call this same function. Knows no files, no processes and no clock.
"""

from datetime import datetime

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
from everloop.records import Release, Verdict
from everloop.release import divide, plan
from everloop.spec.gate import NotWorse
from everloop.spec.rollout import Canary
from everloop.watch.triggers import Fired


def decide(state: State, event: Event, now: datetime) -> tuple[Command, ...]:
    match event:
        case Looked():
            return _looked(state, event, now)
        case TurnEnded():
            return _turn_ended(state, event, now)
        case Asked():
            return _asked(state, event, now)


def _looked(state: State, event: Looked, now: datetime) -> tuple[Command, ...]:
    commands: list[Command] = []
    release, advanced = state.release, False
    if event.judgement is not None and not release.paused:
        change = plan.advance(release, state.rollout, event.judgement, now=now)
        if change is not None:
            commands.append(ChangeRelease(change=change, version=release.challenger))
            release, advanced = change.release, True
    if event.weights is not None and not release.paused:
        wanted_weights = event.weights
        change = divide.reweigh(release, wanted_weights.route, wanted_weights.because, wanted_weights.evidence, now)
        commands.append(ChangeRelease(change=change, version=release.champion))
        release = change.release
    if (ended := plan.relieve(release, now)) is not None:
        commands.append(ChangeRelease(change=ended, version=release.champion))
        release = ended.release
    wanted = event.fired or state.waiting
    if wanted is None:
        return tuple(commands)
    if event.judgement is not None and state.turn is None and not advanced:
        ended = plan.gives_way(release, state.rollout, event.judgement, now=now, to=wanted.because)
        if ended is not None:
            commands.append(ChangeRelease(change=ended, version=release.challenger))
            release = ended.release
    hindrance = _hindrance(state, release, paused=release.paused)
    if hindrance is None:
        if state.waiting is not None:
            commands.append(KeepTrigger(fired=None))
        commands.append(StartTurn(because=wanted.because, evidence=wanted.evidence))
    elif event.fired is not None and (state.waiting is None or state.waiting.because != event.fired.because):
        commands.append(KeepTrigger(fired=event.fired))
        commands.append(
            Note(action="kept", because=f"{event.fired.because}; waits: {hindrance}", evidence=event.fired.evidence)
        )
    return tuple(commands)


def _hindrance(state: State, release: Release, *, paused: bool) -> str | None:
    """Why a turn cannot start now; None when it can."""
    if paused:
        return "the loop is paused"
    if state.turn is not None:
        return "a turn is under way"
    if release.challenger is not None:
        return "a release is under way"
    # What a turn would make could not be released: the judge needs a champion that answers all that it does not.
    return plan.divided(release)


def _turn_ended(state: State, event: TurnEnded, now: datetime) -> tuple[Command, ...]:
    verdict, version = event.verdict, event.version
    if version is None or verdict is None:
        return (Note(action="turn failed", because=event.because, run=event.run),)
    if state.release.champion is None:
        change = plan.begin(state.release, version, state.rollout, now=now, to="direct")
        return (ChangeRelease(change=change, version=version, run=event.run),)
    if version == state.release.champion:
        because = f"version {version} serves already: the same rows, declaration and parameters make nothing new"
        return (Note(action="kept champion", because=because, version=version, run=event.run),)
    if state.release.paused:
        # It was under way, or asked for; to release it would be to decide.
        because = (
            f"the loop is paused; `everloop promote {version}` releases it all the same. Its gate: {verdict.because}"
        )
        return (
            Note(action="kept champion", because=because, evidence=verdict.evidence, version=version, run=event.run),
        )
    if (divided := plan.divided(state.release)) is not None:
        because = f"{divided}; `everloop promote {version}` ends that and releases it. Its gate: {verdict.because}"
        return (
            Note(action="kept champion", because=because, evidence=verdict.evidence, version=version, run=event.run),
        )
    if not _goes_on(state, verdict):
        action = "kept champion" if verdict.outcome == "unsure" else "rejected"
        return (
            Note(action=action, because=verdict.because, evidence=verdict.evidence, version=version, run=event.run),
        )
    # Whoever asked for a canary gets one, however sure the gate is; Direct releases at once.
    to: plan.Start = "shadow" if isinstance(state.rollout, Canary) else "direct"
    change = plan.begin(state.release, version, state.rollout, now=now, to=to)
    return (ChangeRelease(change=change, version=version, run=event.run),)


def _goes_on(state: State, verdict: Verdict) -> bool:
    if verdict.outcome == "unsure" and isinstance(state.gate, NotWorse):
        return state.gate.unsure == "shadow"
    return verdict.promote


def _asked(state: State, event: Asked, now: datetime) -> tuple[Command, ...]:
    match event.action:
        case "run":
            fired = Fired(because=f"asked for by {event.by}", evidence=())
            hindrance = _hindrance(state, state.release, paused=False)
            if hindrance is None:
                # What waited is followed by this turn too: it would see no other rows in one of its own.
                forget = (KeepTrigger(fired=None),) if state.waiting is not None else ()
                return (*forget, StartTurn(because=fired.because))
            return (
                KeepTrigger(fired=fired),
                Note(action="kept", because=f"{fired.because}; waits: {hindrance}"),
            )
        case "promote":
            change = plan.promote(state.release, event.version, now, state.rollout)
        case "rollback":
            change = plan.rollback(state.release, now)
            # What is turned back is what the decision is about; without a challenger, who serves again.
            return (ChangeRelease(change=change, version=state.release.challenger or change.release.champion),)
        case "pause":
            change = plan.pause(state.release, now)
        case "resume":
            change = plan.resume(state.release, now)
        case "start experiment":
            assert event.experiment is not None
            change = divide.start(state.release, event.experiment, now)
            return (ChangeRelease(change=change, experiment=event.experiment),)
        case "stop experiment":
            return (ChangeRelease(change=divide.stop(state.release, event.name, now)),)
        case "route":
            assert event.route is not None
            return (ChangeRelease(change=divide.route(state.release, event.route, now)),)
        case "unroute":
            return (ChangeRelease(change=divide.unroute(state.release, now)),)
    return (ChangeRelease(change=change, version=event.version or change.release.champion),)
