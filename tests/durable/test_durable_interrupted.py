"""Random programs, interrupted at random places: the result is that of a run which nobody disturbed."""

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from everloop.clock import SimulatedClock
from everloop.durable import Engine, Run, crash, runs
from everloop.store.ledger import Ledger, watermarks

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)


class Interrupt(BaseException):
    pass


class Interruptions:
    """Raises where the product could be killed, each time that the count of such places says so."""

    def __init__(self, gaps: list[int]) -> None:
        self.gaps = list(gaps)
        self.inside: Counter[str] = Counter()

    def reached(self, name: str) -> None:
        if not self.gaps:
            return
        self.gaps[0] -= 1
        if self.gaps[0] < 0:
            self.gaps.pop(0)
            self.inside[name] += 1
            raise Interrupt(name)


@settings(deadline=None, max_examples=25)
@given(
    program=some.lists(some.sampled_from(["step", "commit", "sleep", "wait"]), min_size=1, max_size=8),
    gaps=some.lists(some.integers(0, 12), max_size=6),
)
def test_an_interrupted_run_ends_like_one_that_was_left_in_peace(program: list[str], gaps: list[int]) -> None:
    clock = SimulatedClock(START)
    interruptions = Interruptions(gaps)
    called: Counter[int] = Counter()

    def double(number: int) -> int:
        called[number] += 1
        return number * 2

    def function(run: Run) -> Any:
        answers: list[Any] = []
        for number, what in enumerate(program):
            if what == "step":
                answers.append(run.step(f"step {number}", partial(double, number)))
            elif what == "commit":

                def count(connection: Any) -> int:
                    total: int = watermarks.get(connection, "flights", "commits", 0) + 1
                    watermarks.put(connection, "flights", "commits", total)
                    return total

                answers.append(run.commit(f"commit {number}", count))
            elif what == "sleep":
                run.sleep(clock.now() + HOUR)
            else:
                answers.append(run.wait("news"))
        return answers

    waits = program.count("wait")
    expected: list[Any] = []
    for number, what in enumerate(program):
        if what == "step":
            expected.append(number * 2)
        elif what == "commit":
            expected.append(1 + program[:number].count("commit"))
        elif what == "wait":
            expected.append(f"news {program[:number].count('wait')}")

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger.sqlite")
        engine = Engine(ledger, clock)
        run = engine.submit("turn", "flights", {}, "code")
        for number in range(waits):
            engine.signal(run, "news", f"news {number}")
        original, crash.reached = crash.reached, interruptions.reached
        try:
            for _ in range(len(program) + len(gaps) + 2):
                try:
                    engine.work({"turn": function}, "code")
                except Interrupt:
                    continue
                clock.sleep(HOUR)
        finally:
            crash.reached = original
        with ledger.read() as connection:
            state = runs.get(connection, run)
        engine.close()
        ledger.close()
    assert (state.status, state.result) == ("done", expected)
    for number, times in called.items():
        assert times == 1 + interruptions.inside[f"turn.step {number}.inside"]
    assert START + program.count("sleep") * HOUR <= clock.now()
