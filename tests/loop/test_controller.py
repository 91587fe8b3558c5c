"""Looks and turns over a real ledger: nothing is lost or done twice, whoever is killed and however many there are."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from everloop.clock import SimulatedClock
from everloop.durable import runs
from everloop.errors import ReleaseConflict
from everloop.loop.controller import Controller
from everloop.loop.events import Asked, StartTurn
from everloop.loop.turn import _patience
from everloop.store.ledger import decisions, versions
from everloop.testing.small import START, SmallLoop

WEEKLY = 'el.Every(td(days=7), catch_up="all")'
LATER = START + timedelta(days=32)


@pytest.fixture
def small(tmp_path: Path) -> SmallLoop:
    return SmallLoop(tmp_path, retrain=WEEKLY)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(LATER)


@pytest.fixture
def controller(small: SmallLoop, clock: SimulatedClock) -> Iterator[Controller]:
    with small.controller(clock) as made:
        yield made


def turns(controller: Controller) -> list[str]:
    return [command.because for command in controller.look().commands if isinstance(command, StartTurn)]


def test_a_look_that_is_killed_before_it_acts_uses_no_trigger_up(
    controller: Controller, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert turns(controller) == []
    clock.sleep(timedelta(days=7))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(controller, "_perform", killed)
        with pytest.raises(KeyboardInterrupt):
            controller.look()

    assert len(turns(controller)) == 1, "what fired for the look that was killed fires again"


def test_of_two_controllers_only_one_follows_a_trigger(
    controller: Controller, small: SmallLoop, clock: SimulatedClock
) -> None:
    with small.controller(clock) as other:
        assert turns(controller) + turns(other) == []
        clock.sleep(timedelta(days=7))

        assert len(turns(controller) + turns(other)) == 1
        assert controller.state().waiting is None, "the other one keeps nothing for later either"


def test_a_look_is_dropped_when_another_controller_has_looked_meanwhile(
    controller: Controller, small: SmallLoop, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small.controller(clock) as other:
        turns(other)
        clock.sleep(timedelta(days=7))
        own = other._watcher.look

        def overtaken(*given: object, **named: object) -> object:
            found = own(*given, **named)  # type: ignore[arg-type]
            controller.look()
            return found

        monkeypatch.setattr(other._watcher, "look", overtaken)
        with pytest.raises(ReleaseConflict, match="meanwhile"):
            other.look()


def test_two_turns_over_the_same_rows_make_one_candidate(small: SmallLoop, clock: SimulatedClock) -> None:
    ended: list[int] = []

    def turn(controller: Controller) -> None:
        controller.engine.submit(
            "turn", small.name, {"because": "both at once"}, controller.installation.code
        )
        ended.append(controller.engine.work({"turn": controller._turn}, controller.installation.code, limit=1))

    with small.controller(clock) as one, small.controller(clock) as other:
        one.take_in()
        threads = [threading.Thread(target=turn, args=(each,)) for each in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert ended == [1, 1]
        with one.installation.ledger.read() as connection:
            assert [run.because for run in runs.of(connection, small.name)] == [None, None]
            actions = [each.action for each in decisions.of(connection, small.name)]
            known = versions.of(connection, small.name)
        assert sorted(actions) == ["kept champion", "released"]
        assert [each.number for each in known] == [1]
        assert len(list(one.installation.home.candidates.iterdir())) == 1


@pytest.mark.parametrize(
    ("train", "minutes"),
    [
        ("el.Train(LogisticRegression(), timeout=td(minutes=2))", 2),
        ("(el.Train(LogisticRegression(), timeout=td(minutes=2)), el.Train(LogisticRegression(C=2.0), timeout=td(minutes=5)))", 7),
        ("(el.Train(LogisticRegression(), timeout=td(minutes=2)), el.Train(LogisticRegression(C=2.0)))", None),
    ],
)
def test_each_model_has_its_own_time(small: SmallLoop, train: str, minutes: int | None) -> None:
    small.declare(train=train)
    with small.controller() as controller:
        assert _patience(controller.installation) == (None if minutes is None else timedelta(minutes=minutes))


def test_a_turn_over_the_rows_that_made_the_champion_makes_no_version(controller: Controller) -> None:
    controller.take_in()
    for _ in range(2):
        controller.ask(Asked(action="run"))
        controller.work()

    with controller.installation.ledger.read() as connection:
        assert [each.number for each in versions.of(connection, "parcels")] == [1]
        last = decisions.of(connection, "parcels", newest=1)[0]
    assert last.action == "kept champion"
    assert "nothing new" in last.because
    assert controller.state().release.challenger is None
