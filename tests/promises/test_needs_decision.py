"""The code changed under a waiting run: it needs a decision, visibly, at the next look, and there are three ways on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everloop.clock import SimulatedClock
from everloop.durable import Engine, Run, runs
from everloop.errors import DurableError
from everloop.store.ledger import Ledger

Function = Callable[[Run], Any]


class Setting:
    def __init__(self, place: Path) -> None:
        self.ledger = Ledger.open(place)
        self.engine = Engine(self.ledger, SimulatedClock(datetime(2024, 1, 1, tzinfo=UTC)))
        self.called: list[str] = []

    def function(self, *names: str) -> Function:
        """Steps of these names; "?" waits for approval."""

        def do(run: Run) -> Any:
            return [
                run.wait("approval") if name == "?" else run.step(name, lambda name=name: self.note(name))  # type: ignore[misc]
                for name in names
            ]

        return do

    def note(self, name: str) -> str:
        self.called.append(name)
        return name

    def work(self, function: Function, code: str) -> int:
        self.called.clear()
        return self.engine.work({"turn": function}, code)

    def state(self, run: str) -> runs.RunState:
        with self.ledger.read() as connection:
            return runs.get(connection, run)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path / "ledger.sqlite")
    yield made
    made.engine.close()
    made.ledger.close()


@pytest.fixture
def waiting(setting: Setting) -> str:
    """A run that has done two steps of the code "old" and waits."""
    run = setting.engine.submit("turn", "flights", {}, "old")
    setting.work(setting.function("read", "fit", "?", "release"), "old")
    assert setting.state(run).status == "waiting"
    return run


def test_a_waiting_run_whose_code_changed_needs_a_decision_at_the_next_look(setting: Setting, waiting: str) -> None:
    assert setting.work(setting.function("read", "fit", "?", "release"), "new") == 0
    state = setting.state(waiting)
    assert state.status == "needs-decision"
    assert state.because is not None
    assert "changed from old to new; 2 finished steps are kept" in state.because
    for way in ("continue", "restart", "cancel"):
        assert way in state.because
    with setting.ledger.read() as connection:
        assert [each.id for each in runs.under_way(connection, "flights")] == [waiting]
    assert setting.work(setting.function("read"), "old") == 0, "nor does the old code go on by itself"


def test_continue_goes_on_after_the_finished_steps_with_the_new_code(setting: Setting, waiting: str) -> None:
    new = setting.function("read", "fit", "?", "sign", "release")
    setting.work(new, "new")
    setting.engine.signal(waiting, "approval", "yes")
    assert setting.state(waiting).status == "needs-decision", "a signal is kept and decides nothing"
    setting.engine.decide(waiting, "continue")
    setting.work(new, "new")
    assert setting.called == ["sign", "release"]
    assert setting.state(waiting).result == ["read", "fit", "yes", "sign", "release"]


def test_continue_forgets_only_the_steps_from_which_on_the_new_code_differs(setting: Setting, waiting: str) -> None:
    new = setting.function("read", "clean", "fit", "?")
    setting.work(new, "new")
    setting.engine.decide(waiting, "continue")
    setting.work(new, "new")
    assert setting.called == ["clean", "fit"]
    assert setting.state(waiting).status == "waiting"
    setting.engine.signal(waiting, "approval", "yes")
    setting.work(new, "new")
    assert setting.called == []
    assert setting.state(waiting).result == ["read", "clean", "fit", "yes"]


def test_restart_begins_with_the_first_step(setting: Setting, waiting: str) -> None:
    new = setting.function("read", "fit", "release")
    setting.work(new, "new")
    setting.engine.decide(waiting, "restart")
    setting.work(new, "new")
    assert setting.called == ["read", "fit", "release"]
    assert setting.state(waiting).status == "done"


def test_cancel_ends_it(setting: Setting, waiting: str) -> None:
    setting.work(setting.function("read"), "new")
    setting.engine.decide(waiting, "cancel")
    assert setting.state(waiting).status == "cancelled"
    assert setting.work(setting.function("read"), "new") == 0


def test_other_steps_under_the_same_digest_need_a_decision_too(setting: Setting, waiting: str) -> None:
    setting.engine.signal(waiting, "approval")
    setting.work(setting.function("read", "search", "?"), "old")
    state = setting.state(waiting)
    assert state.status == "needs-decision"
    assert "step 2 was 'fit' when it ran and is 'search' in the code now" in (state.because or "")


def test_a_run_that_never_began_takes_the_code_as_it_is(setting: Setting) -> None:
    run = setting.engine.submit("turn", "flights", {}, "old")
    assert setting.work(setting.function("read"), "new") == 1
    assert setting.state(run).status == "done"


def test_only_a_run_that_needs_one_can_be_decided(setting: Setting, waiting: str) -> None:
    with pytest.raises(DurableError, match="is waiting"):
        setting.engine.decide(waiting, "continue")
