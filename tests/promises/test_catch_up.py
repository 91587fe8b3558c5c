"""Seven days down: ``last`` makes up with one run, ``all`` with seven, ``skip`` with none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from everloop.clock import SimulatedClock
from everloop.durable import Engine, Run
from everloop.spec.retrain import Every
from everloop.store.ledger import Ledger
from everloop.watch import triggers

DAY = timedelta(days=1)
BEGAN = datetime(2024, 3, 1, 6, tzinfo=UTC)
WEEK_LATER = BEGAN + 7 * DAY
EXPECTED = [("last", 1), ("all", 7), ("skip", 0)]
CatchUp = Literal["last", "all", "skip"]


class Controller:
    """One process's share: a ledger of its own, and an engine that asks for ticks and runs them."""

    def __init__(self, place: Path, now: datetime, catch_up: CatchUp) -> None:
        self.clock = SimulatedClock(now)
        self.ledger = Ledger.open(place)
        self.engine = Engine(self.ledger, self.clock)
        self.every = Every(DAY, catch_up=catch_up)

    def look(self) -> list[str]:
        ticks: list[str] = []

        def function(run: Run) -> Any:
            ticks.append(run.arguments["tick"])

        self.engine.schedule("flights retrain", self.every, "turn", "flights", {}, "code")
        self.engine.work({"turn": function}, "code")
        return ticks

    def close(self) -> None:
        self.engine.close()
        self.ledger.close()


@pytest.mark.parametrize(("catch_up", "runs"), EXPECTED)
def test_after_seven_days_down_the_schedule_makes_up_as_declared(tmp_path: Path, catch_up: CatchUp, runs: int) -> None:
    before = Controller(tmp_path / "ledger.sqlite", BEGAN, catch_up)
    assert before.look() == []
    before.clock.sleep(DAY - timedelta(hours=6))  # To midnight, when it is there and on time.
    assert before.look() == ["2024-03-02T00:00:00+00:00"]
    before.close()

    after = Controller(tmp_path / "ledger.sqlite", before.clock.now() + 7 * DAY + timedelta(hours=6), catch_up)
    second = Controller(tmp_path / "ledger.sqlite", after.clock.now(), catch_up)
    made_up = after.look() + second.look() + after.look()
    days = [f"2024-03-{day:02}T00:00:00+00:00" for day in range(3, 10)]
    assert made_up == days[len(days) - runs :]
    after.clock.sleep(DAY - timedelta(hours=6))
    assert after.look() == ["2024-03-10T00:00:00+00:00"], "afterwards it goes on as ever"
    second.close()
    after.close()


@pytest.mark.parametrize(("catch_up", "turns"), EXPECTED)
def test_after_seven_days_down_the_trigger_fires_as_declared(catch_up: CatchUp, turns: int) -> None:
    every = Every(DAY, catch_up=catch_up)
    state = triggers.begin(BEGAN)
    for hour in range(1, 12):
        fired, state = triggers.fired(every, triggers.Signals(), state, BEGAN + timedelta(hours=hour))
        assert fired is None
    count, now = 0, WEEK_LATER
    for _ in range(20):  # Each look ends the turn that the look before began.
        fired, state = triggers.fired(every, triggers.Signals(), state, now)
        count += fired is not None
        now += timedelta(minutes=1)
    assert count == turns
