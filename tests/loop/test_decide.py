"""What is decided, case by case: state and event in, commands out, nothing else read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everloop.errors import ReleaseError
from everloop.loop.decide import decide
from everloop.loop.events import Asked, ChangeRelease, Event, KeepTrigger, Looked, Note, StartTurn, State, TurnEnded
from everloop.loop.meaning import Reweighed
from everloop.records import Evidence, Experiment, ExperimentArm, Release, Route, RouteArm, Verdict
from everloop.release.judge import Judgement
from everloop.spec.gate import Better, NotWorse
from everloop.spec.rollout import Canary, Direct
from everloop.watch.triggers import Fired

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
EMPTY = Release(loop="parcels")
STEADY = Release(
    loop="parcels", revision=4, stage="steady", champion=3, epoch=4, previous=2, since=NOW - timedelta(days=9)
)
SHADOW = replace(STEADY, stage="shadow", challenger=4, started=NOW - timedelta(hours=1), since=NOW - timedelta(hours=1))
CANARY = replace(SHADOW, stage="canary", share=0.1)
LATE = replace(SHADOW, stage="canary", share=0.5, started=NOW - timedelta(days=15), since=NOW - timedelta(days=9))
PAUSED = replace(STEADY, paused=True, paused_at=NOW - timedelta(hours=2))
PRICE = Experiment(
    loop="parcels",
    name="price",
    arms=(ExperimentArm(name="a", version=3, share=0.5), ExperimentArm(name="b", version=2, share=0.5)),
    salt="s",
    started=NOW,
)
ROUTE = Route(arms=(RouteArm(name="cheap", version=1), RouteArm(name="dear", version=3)), threshold=0.8, started=NOW)
TRIED = replace(STEADY, experiment="price")
ROUTED = replace(STEADY, route=ROUTE)
DRIFT = Fired(because="drift of distance", evidence=(Evidence(name="psi", value=0.4, limit=0.2),))
WEEK = Fired(because="every 7 days", evidence=())
HARM = Judgement(rollback=True, promote=False, because="errors 9% against 1%")
PROOF = Judgement(rollback=False, promote=True, because="shown not worse", requests=10_000)
LEANING = Judgement(rollback=False, promote=False, because="leaning to harm, not shown", hold=True, requests=900)
NOTHING = Judgement(rollback=False, promote=False, because="no labelled pairs yet")


def verdict(outcome: str, *, promote: bool) -> Verdict:
    return Verdict(outcome=outcome, promote=promote, because=f"it is {outcome}")  # type: ignore[arg-type]


def state(release: Release = STEADY, **changes: Any) -> State:
    return State(**{"release": release, "rollout": Canary(), "gate": NotWorse(), **changes})


def ended(outcome: str, *, promote: bool, version: int = 4) -> TurnEnded:
    return TurnEnded(run="turn-1", version=version, verdict=verdict(outcome, promote=promote))


def told(state: State, event: Event) -> list[str]:
    """What is decided, in words short enough for a table."""
    words = []
    for command in decide(state, event, NOW):
        match command:
            case StartTurn():
                words.append(f"turn: {command.because}")
            case KeepTrigger():
                words.append(f"keep: {command.fired.because if command.fired else 'nothing'}")
            case Note():
                words.append(f"note: {command.action}")
            case ChangeRelease():
                to = command.change.release
                words.append(f"{command.change.action}: {to.champion}/{to.challenger} {to.stage} {to.share:g}")
    return words


CASES: list[tuple[str, State, Event, list[str]]] = [
    # A look.
    ("nothing fired", state(), Looked(), []),
    ("a trigger starts a turn", state(), Looked(fired=DRIFT), ["turn: drift of distance"]),
    ("before the first version too", state(EMPTY), Looked(fired=WEEK), ["turn: every 7 days"]),
    (
        "a trigger during a turn is kept",
        state(turn="turn-1"),
        Looked(fired=DRIFT),
        ["keep: drift of distance", "note: kept"],
    ),
    (
        "a trigger during a release is kept",
        state(SHADOW),
        Looked(fired=DRIFT, judgement=NOTHING),
        ["keep: drift of distance", "note: kept"],
    ),
    (
        "the latest trigger wins",
        state(turn="turn-1", waiting=WEEK),
        Looked(fired=DRIFT),
        ["keep: drift of distance", "note: kept"],
    ),
    (
        "who waits beyond its time gives way to a trigger",
        state(LATE),
        Looked(fired=DRIFT, judgement=LEANING),
        ["rolled back: 3/None steady 0", "turn: drift of distance"],
    ),
    (
        "to one that waited too",
        state(LATE, waiting=WEEK),
        Looked(judgement=LEANING),
        ["rolled back: 3/None steady 0", "keep: nothing", "turn: every 7 days"],
    ),
    ("but not to nothing", state(LATE), Looked(judgement=LEANING), []),
    (
        "nor while too few have met it, for the next one would count anew",
        state(LATE, waiting=WEEK),
        Looked(judgement=replace(LEANING, requests=199)),
        [],
    ),
    ("nor during a turn", state(LATE, waiting=WEEK, turn="turn-1"), Looked(judgement=LEANING), []),
    (
        "nor where it is promoted",
        state(LATE, waiting=WEEK),
        Looked(judgement=replace(LEANING, hold=False)),
        ["promoted: 4/None steady 0", "keep: nothing", "turn: every 7 days"],
    ),
    (
        "who leans to harm in shadow gives way as well",
        state(replace(LATE, stage="shadow", share=0.0)),
        Looked(fired=DRIFT, judgement=LEANING),
        ["rolled back: 3/None steady 0", "turn: drift of distance"],
    ),
    ("the same trigger is kept once", state(turn="turn-1", waiting=WEEK), Looked(fired=WEEK), []),
    ("what waits is said once, not at every look", state(turn="turn-1", waiting=WEEK), Looked(), []),
    ("what waited starts a turn", state(waiting=WEEK), Looked(), ["keep: nothing", "turn: every 7 days"]),
    (
        "what fires now wins over what waited",
        state(waiting=WEEK),
        Looked(fired=DRIFT),
        ["keep: nothing", "turn: drift of distance"],
    ),
    ("a paused loop starts nothing", state(PAUSED), Looked(fired=DRIFT), ["keep: drift of distance", "note: kept"]),
    (
        "a paused canary is neither raised nor turned back",
        state(replace(CANARY, paused=True, paused_at=NOW)),
        Looked(judgement=HARM),
        [],
    ),
    ("nothing shown, nothing done", state(SHADOW), Looked(judgement=NOTHING), []),
    ("proof in shadow exposes a first share", state(SHADOW), Looked(judgement=PROOF), ["canary: 3/4 canary 0.1"]),
    ("harm in shadow turns back", state(SHADOW), Looked(judgement=HARM), ["rolled back: 3/None steady 0"]),
    ("harm at a share turns back", state(CANARY), Looked(judgement=HARM), ["rolled back: 3/None steady 0"]),
    (
        "a rollback lets the waiting trigger start",
        state(CANARY, waiting=WEEK),
        Looked(judgement=HARM),
        ["rolled back: 3/None steady 0", "keep: nothing", "turn: every 7 days"],
    ),
    # A turn has ended.
    ("the first version serves at once", state(EMPTY), ended("first", promote=True), ["released: 4/None steady 0"]),
    ("a better one goes into shadow", state(), ended("better", promote=True), ["shadow: 3/4 shadow 0"]),
    ("one not worse goes into shadow", state(), ended("not_worse", promote=True), ["shadow: 3/4 shadow 0"]),
    ("unsure goes into shadow by default", state(), ended("unsure", promote=False), ["shadow: 3/4 shadow 0"]),
    (
        "unsure can keep the champion",
        state(gate=NotWorse(unsure="keep")),
        ended("unsure", promote=False),
        ["note: kept champion"],
    ),
    (
        "unsure can be a rejection",
        state(gate=NotWorse(unsure="reject")),
        ended("unsure", promote=False),
        ["note: kept champion"],
    ),
    (
        "unsure is not better",
        state(gate=Better(by=0.01)),
        ended("unsure", promote=False),
        ["note: kept champion"],
    ),
    ("a worse one is rejected", state(), ended("worse", promote=False), ["note: rejected"]),
    ("ungated goes into shadow", state(gate=None), ended("ungated", promote=True), ["shadow: 3/4 shadow 0"]),
    (
        "without shadow it takes its first share",
        state(rollout=Canary(shadow=False, shares=(0.2, 0.5))),
        ended("better", promote=True),
        ["canary: 3/4 canary 0.2"],
    ),
    ("direct serves at once", state(rollout=Direct()), ended("better", promote=True), ["released: 4/None steady 0"]),
    (
        "a worse one is not released directly",
        state(rollout=Direct()),
        ended("worse", promote=False),
        ["note: rejected"],
    ),
    (
        "a turn without a version is told",
        state(),
        TurnEnded(run="turn-1", version=None, verdict=None, because="DataError: no rows"),
        ["note: turn failed"],
    ),
    # A person asks.
    ("a turn for a person", state(), Asked(action="run"), ["turn: asked for by command"]),
    ("even while paused", state(PAUSED), Asked(action="run"), ["turn: asked for by command"]),
    (
        "what waited is followed by the same turn",
        state(waiting=WEEK),
        Asked(action="run"),
        ["keep: nothing", "turn: asked for by command"],
    ),
    (
        "one turn at a time",
        state(turn="turn-1"),
        Asked(action="run"),
        ["keep: asked for by command", "note: kept"],
    ),
    ("promote the challenger", state(CANARY), Asked(action="promote"), ["promoted: 4/None steady 0"]),
    ("promote an older one", state(), Asked(action="promote", version=1), ["promoted: 1/None steady 0"]),
    ("turn the challenger back", state(CANARY), Asked(action="rollback"), ["rolled back: 3/None steady 0"]),
    ("return to the one before", state(), Asked(action="rollback"), ["rolled back: 2/None steady 0"]),
    ("pause", state(CANARY), Asked(action="pause"), ["paused: 3/4 canary 0.1"]),
    ("resume", state(PAUSED), Asked(action="resume"), ["resumed: 3/None steady 0"]),
    # The traffic is divided.
    (
        "an experiment starts",
        state(),
        Asked(action="start experiment", experiment=PRICE),
        ["experiment started: 3/None steady 0"],
    ),
    (
        "an experiment stops",
        state(TRIED),
        Asked(action="stop experiment", name="price"),
        ["experiment stopped: 3/None steady 0"],
    ),
    ("a route starts", state(), Asked(action="route", route=ROUTE), ["routed: 3/None steady 0"]),
    ("a route stops", state(ROUTED), Asked(action="unroute"), ["unrouted: 3/None steady 0"]),
    (
        "a trigger during an experiment is kept",
        state(TRIED),
        Looked(fired=DRIFT),
        ["keep: drift of distance", "note: kept"],
    ),
    ("and during a route", state(ROUTED), Looked(fired=DRIFT), ["keep: drift of distance", "note: kept"]),
    ("what waited for it follows", state(waiting=DRIFT), Looked(), ["keep: nothing", "turn: drift of distance"]),
    (
        "a turn that ends during an experiment releases nothing",
        state(TRIED),
        ended("better", promote=True),
        ["note: kept champion"],
    ),
    ("nor is it turned for", state(TRIED), Asked(action="run"), ["keep: asked for by command", "note: kept"]),
    ("promote wins", state(TRIED), Asked(action="promote", version=5), ["promoted: 5/None steady 0"]),
    ("rollback wins", state(ROUTED), Asked(action="rollback"), ["rolled back: 2/None steady 0"]),
]


@pytest.mark.parametrize(("given", "event", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_decided(given: State, event: Event, expected: list[str]) -> None:
    assert told(given, event) == expected


@pytest.mark.parametrize(("given", "event"), [case[1:3] for case in CASES], ids=[case[0] for case in CASES])
def test_the_same_state_event_and_time_give_the_same_commands(given: State, event: Event) -> None:
    assert decide(given, event, NOW) == decide(given, event, NOW)


@pytest.mark.parametrize(("given", "event"), [case[1:3] for case in CASES], ids=[case[0] for case in CASES])
def test_a_release_changes_by_one_revision_and_says_why(given: State, event: Event) -> None:
    changes = [command.change for command in decide(given, event, NOW) if isinstance(command, ChangeRelease)]
    assert [each.release.revision for each in changes] == [given.release.revision + 1] * len(changes)
    assert all(each.because for each in changes)


@pytest.mark.parametrize(
    ("given", "event", "message"),
    [
        (state(), Asked(action="promote"), "no challenger; name the version"),
        (state(), Asked(action="promote", version=3), "already the champion"),
        (state(replace(STEADY, previous=None)), Asked(action="rollback"), "no champion before"),
        (state(PAUSED), Asked(action="pause"), "already paused"),
        (state(), Asked(action="resume"), "not paused"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(given: State, event: Event, message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        decide(given, event, NOW)


@pytest.mark.parametrize("rollout", [Canary(), Direct()])
def test_a_turn_that_ends_while_paused_releases_nothing_and_says_how_to(rollout: Canary | Direct) -> None:
    (note,) = decide(state(PAUSED, rollout=rollout), ended("better", promote=True), NOW)

    assert isinstance(note, Note)
    assert note.action == "kept champion"
    assert "paused" in note.because
    assert "everloop promote 4" in note.because


def test_the_evidence_of_a_trigger_travels_with_what_it_causes() -> None:
    (started,) = decide(state(), Looked(fired=DRIFT), NOW)
    assert isinstance(started, StartTurn)
    assert started.evidence == DRIFT.evidence
    kept, noted = decide(state(turn="turn-1"), Looked(fired=DRIFT), NOW)
    assert isinstance(kept, KeepTrigger)
    assert isinstance(noted, Note)
    assert kept.fired == DRIFT
    assert noted.evidence == DRIFT.evidence
    assert noted.because == "drift of distance; waits: a turn is under way"


def test_commands_name_the_version_and_the_run_that_they_are_about() -> None:
    (change,) = decide(state(), ended("better", promote=True), NOW)
    assert isinstance(change, ChangeRelease)
    assert (change.version, change.run) == (4, "turn-1")
    (note,) = decide(state(), ended("worse", promote=False), NOW)
    assert isinstance(note, Note)
    assert (note.version, note.run, note.because) == (4, "turn-1", "it is worse")
    (back,) = decide(state(), Asked(action="rollback"), NOW)
    assert isinstance(back, ChangeRelease)
    assert back.version == 2


def test_a_version_made_during_an_experiment_says_how_it_is_released() -> None:
    (note,) = decide(state(TRIED), ended("better", promote=True), NOW)
    assert isinstance(note, Note)
    assert "experiment price divides the traffic; `everloop promote 4` ends that and releases it" in note.because


def test_an_experiment_travels_with_the_change_that_starts_it() -> None:
    (change,) = decide(state(), Asked(action="start experiment", experiment=PRICE), NOW)
    assert isinstance(change, ChangeRelease)
    assert (change.experiment, change.change.release.experiment) == (PRICE, "price")


def test_what_is_turned_back_by_command_is_what_the_decision_is_about() -> None:
    (back,) = decide(state(SHADOW), Asked(action="rollback"), NOW)
    assert isinstance(back, ChangeRelease)
    assert back.version == 4


def test_the_champion_of_before_goes_when_its_time_is_over_and_keeps_no_turn_waiting() -> None:
    beside = replace(STEADY, former=2, former_until=NOW)
    assert decide(state(replace(beside, former_until=NOW + timedelta(days=1))), Looked(), NOW) == ()
    (ended_,) = decide(state(beside), Looked(), NOW)
    assert isinstance(ended_, ChangeRelease)
    assert (ended_.change.action, ended_.change.release.former) == ("comparison ended", None)
    waits = replace(beside, former_until=NOW + timedelta(days=1))
    (turn,) = decide(state(waits), Looked(fired=DRIFT), NOW)
    assert isinstance(turn, StartTurn), "a turn begins beside it"
    (begun,) = decide(state(waits), ended("not_worse", promote=True), NOW)
    assert isinstance(begun, ChangeRelease)
    assert (begun.change.action, begun.change.release.former) == ("shadow", None), "and its release ends it"


def test_weights_move_as_a_look_says_but_not_while_paused_or_of_another_route() -> None:
    even = replace(ROUTE, threshold=None, weights={"": (0.5, 0.5)})
    wanted = Reweighed(
        route=replace(even, weights={"": (0.5, 0.5), "mail": (0.95, 0.05)}), because="as seen", evidence=()
    )
    routed = replace(STEADY, route=even)
    (moved,) = decide(state(routed), Looked(weights=wanted), NOW)
    assert isinstance(moved, ChangeRelease)
    assert (moved.change.action, moved.change.release.route) == ("weights moved", wanted.route)
    assert moved.change.release.epoch == routed.epoch + 1
    assert decide(state(replace(routed, paused=True, paused_at=NOW)), Looked(weights=wanted), NOW) == ()
    with pytest.raises(ReleaseError, match="routed otherwise"):
        decide(
            state(replace(STEADY, route=replace(even, started=NOW - timedelta(days=1)))), Looked(weights=wanted), NOW
        )
