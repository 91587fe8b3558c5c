"""What the engine promises about runs, steps, sleeps, signals and who may write."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everloop.clock import SimulatedClock
from everloop.durable import Engine, Run, runs
from everloop.errors import DurableError, NotFound
from everloop.store.ledger import Ledger, watermarks

DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(datetime(2024, 1, 1, tzinfo=UTC))


@pytest.fixture
def engine(ledger: Ledger, clock: SimulatedClock) -> Iterator[Engine]:
    made = Engine(ledger, clock)
    yield made
    made.close()


def state(ledger: Ledger, run: str) -> runs.RunState:
    with ledger.read() as connection:
        return runs.get(connection, run)


class Crash(BaseException):
    """Stands for an interrupt: it leaves the run as a dying worker's signal handler would."""


def test_a_finished_step_is_answered_from_the_journal(engine: Engine, ledger: Ledger) -> None:
    called: list[str] = []
    broken = [True]

    def noted(name: str, result: Any) -> Any:
        called.append(name)
        return result

    def function(run: Run) -> Any:
        first = run.step("first", lambda: noted("first", {"rows": (1, 2)}))
        if broken:
            broken.clear()
            raise Crash
        second = run.step("second", lambda: noted("second", first["rows"][1]))
        return {"first": first, "second": second}

    run = engine.submit("turn", "flights", {}, "code")
    with pytest.raises(Crash):
        engine.work({"turn": function}, "code")
    assert engine.work({"turn": function}, "code") == 1
    assert called == ["first", "second"]
    assert state(ledger, run).status == "done"
    assert state(ledger, run).result == {"first": {"rows": [1, 2]}, "second": 2}


def test_the_first_answer_of_a_step_is_what_the_journal_would_give(engine: Engine) -> None:
    seen: list[Any] = []
    engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": lambda run: seen.append(run.step("a", lambda: (1, 2)))}, "code")
    assert seen == [[1, 2]]


def test_the_same_key_is_the_same_run(engine: Engine) -> None:
    assert engine.submit("turn", "flights", {}, "c", key="k") == engine.submit("turn", "flights", {}, "c", key="k")


def test_a_run_submitted_in_a_transaction_that_fails_was_never_submitted(engine: Engine, ledger: Ledger) -> None:
    submitted: list[str] = []

    def fail() -> None:
        with ledger.write() as connection:
            submitted.append(engine.submit("turn", "flights", {}, "code", connection=connection))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(NotFound, match="no run"):
        state(ledger, submitted[0])


def test_a_function_that_raises_has_failed_and_says_where(engine: Engine, ledger: Ledger) -> None:
    def function(run: Run) -> Any:
        raise ValueError("no such carrier")

    run = engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": function}, "code")
    found = state(ledger, run)
    assert found.status == "failed"
    assert found.because is not None
    assert found.because.startswith("ValueError: no such carrier (test_durable_engine.py:")


def test_a_sleeping_run_frees_its_worker_and_goes_on_in_time(
    engine: Engine, ledger: Ledger, clock: SimulatedClock
) -> None:
    woke: list[datetime] = []

    def function(run: Run) -> Any:
        run.sleep(clock.now() + DAY)
        woke.append(clock.now())

    run = engine.submit("turn", "flights", {}, "code")
    assert engine.work({"turn": function}, "code") == 1
    assert state(ledger, run).status == "sleeping"
    assert engine.next_due() == clock.now() + DAY
    clock.sleep(DAY / 2)
    assert engine.work({"turn": function}, "code") == 0
    clock.sleep(DAY / 2)
    assert engine.work({"turn": function}, "code") == 1
    assert woke == [datetime(2024, 1, 2, tzinfo=UTC)]


def test_a_signal_is_kept_until_a_step_takes_it(engine: Engine, ledger: Ledger) -> None:
    def function(run: Run) -> Any:
        return [run.wait("approval"), run.wait("approval")]

    run = engine.submit("turn", "flights", {}, "code")
    engine.signal(run, "approval", {"by": "ada"})
    engine.work({"turn": function}, "code")
    assert state(ledger, run).status == "waiting"
    assert state(ledger, run).waiting == "approval"
    assert engine.work({"turn": function}, "code") == 0
    engine.signal(run, "other", 1)
    assert engine.work({"turn": function}, "code") == 0
    engine.signal(run, "approval", {"by": "bob"})
    engine.work({"turn": function}, "code")
    assert state(ledger, run).result == [{"by": "ada"}, {"by": "bob"}]


def test_a_wait_ends_at_its_first_deadline(engine: Engine, ledger: Ledger, clock: SimulatedClock) -> None:
    run = engine.submit("turn", "flights", {}, "code")
    function = {"turn": lambda run: {"answer": run.wait("approval", until=clock.now() + DAY)}}
    engine.work(function, "code")
    clock.sleep(DAY)
    assert engine.work(function, "code") == 1
    assert state(ledger, run).result == {"answer": None}


def test_a_cancelled_run_writes_nothing_more(engine: Engine, ledger: Ledger) -> None:
    reached: list[str] = []

    def function(run: Run) -> Any:
        def body() -> None:
            engine.cancel(run.id, "not needed")
            assert run.stopped.is_set()

        try:
            run.step("first", body)
        except Exception:
            reached.append("swallowed")
        reached.append("went on")

    run = engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": function}, "code")
    assert reached == []
    assert (state(ledger, run).status, state(ledger, run).because) == ("cancelled", "not needed")
    with ledger.read() as connection:
        assert runs.steps_of(connection, run) == ()
    with pytest.raises(DurableError, match="is cancelled"):
        engine.signal(run, "approval")


def test_a_commit_step_and_its_change_are_one(engine: Engine, ledger: Ledger) -> None:
    def function(run: Run) -> Any:
        def change(connection: Any) -> Any:
            watermarks.put(connection, "flights", "position", 7)
            return 7

        run.commit("good", change)

        def bad(connection: Any) -> Any:
            watermarks.put(connection, "flights", "position", 8)
            raise ValueError("after the change")

        run.commit("bad", bad)

    engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": function}, "code")
    with ledger.read() as connection:
        assert watermarks.get(connection, "flights", "position") == 7


def test_a_fork_keeps_what_came_before_the_step(engine: Engine, ledger: Ledger) -> None:
    called: list[str] = []

    def function(run: Run) -> Any:
        for name in ("a", "b", "c", "d"):
            run.step(name, lambda name=name: called.append(name))  # type: ignore[misc]
        return run.wait("go")

    run = engine.submit("turn", "flights", {"x": 1}, "code")
    engine.signal(run, "go", "now")
    engine.work({"turn": function}, "code")
    called.clear()
    fork = engine.fork(run, "c")
    engine.work({"turn": function}, "code")
    assert called == ["c", "d"]
    assert state(ledger, fork).status == "done"
    assert state(ledger, fork).result == "now"
    assert (state(ledger, fork).forked_from, state(ledger, fork).arguments) == (run, {"x": 1})
    with pytest.raises(NotFound, match="finished no step 'z'"):
        engine.fork(run, "z")


def test_another_worker_leaves_a_living_one_alone(engine: Engine, ledger: Ledger, clock: SimulatedClock) -> None:
    other = Engine(ledger, clock)
    executed: list[int] = []

    def function(run: Run) -> Any:
        clock.sleep(365 * DAY)  # Leases count real time: a simulated year takes nothing from anybody.
        executed.append(other.work({"turn": function}, "code"))

    engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": function}, "code")
    other.close()
    assert executed == [0]


def test_who_lost_a_run_can_write_nothing_more(ledger: Ledger, clock: SimulatedClock) -> None:
    slow = Engine(ledger, clock, term=timedelta(microseconds=1))
    slow._keeper._every = 1e9  # As if it hung: it never renews.
    other = Engine(ledger, clock)
    called: list[str] = []

    def function(run: Run) -> Any:
        def body() -> str:
            called.append("taken over" if called else "slow")
            if len(called) == 1:
                assert other.work({"turn": function}, "code") == 1
            return called[-1]

        return run.step("first", body)

    run = slow.submit("turn", "flights", {}, "code")
    slow.work({"turn": function}, "code")
    slow._keeper._closed.set()
    other.close()
    assert called == ["slow", "taken over"]
    assert state(ledger, run).result == "taken over"


def test_a_run_of_another_loop_is_left_alone(engine: Engine) -> None:
    engine.submit("turn", "flights", {}, "code")
    assert engine.work({"turn": lambda run: None}, "code", loop="power") == 0
    assert engine.work({"other": lambda run: None}, "code", loop="flights") == 0
    assert engine.work({"turn": lambda run: None}, "code", loop="flights") == 1


def test_a_step_within_a_step_is_refused(engine: Engine, ledger: Ledger) -> None:
    run = engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": lambda run: run.step("outer", lambda: run.step("inner", lambda: 1))}, "code")
    assert "inside the step 'outer'" in (state(ledger, run).because or "")


def test_a_result_too_large_for_the_journal_says_what_to_do(engine: Engine, ledger: Ledger) -> None:
    run = engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": lambda run: run.step("big", lambda: "x" * 2_000_000)}, "code")
    assert "return the digest" in (state(ledger, run).because or "")


def test_progress_is_seen_from_outside(engine: Engine, ledger: Ledger) -> None:
    seen: list[Any] = []

    def function(run: Run) -> Any:
        run.progress({"trial": 3, "of": 40})
        with ledger.read() as connection:
            seen.extend(each.progress for each in runs.under_way(connection, "flights"))

    engine.submit("turn", "flights", {}, "code")
    engine.work({"turn": function}, "code")
    assert seen == [{"trial": 3, "of": 40}]


def test_runs_are_executed_in_the_order_they_were_due(engine: Engine, clock: SimulatedClock) -> None:
    order: list[int] = []
    for number in range(5):
        engine.submit("turn", "flights", {"number": number}, "code", due=clock.now() - number * DAY)
    assert engine.work({"turn": lambda run: order.append(run.arguments["number"])}, "code", limit=3) == 3
    assert order == [4, 3, 2]
