"""Looks and turns over a real ledger: nothing is lost or done twice, whoever is killed and however many there are."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from everloop.clock import SimulatedClock
from everloop.errors import ReleaseConflict
from everloop.loop.controller import Controller
from everloop.loop.events import StartTurn
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
