"""Looks and turns over a real ledger: nothing is lost or done twice, whoever is killed and however many there are."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from everloop.clock import SimulatedClock
from everloop.data import sources
from everloop.durable import runs
from everloop.errors import DataError, PackageTampered, ReleaseConflict
from everloop.loop import gating
from everloop.loop.controller import Controller
from everloop.loop.events import Asked, StartTurn
from everloop.loop.turn import _patience
from everloop.store.ledger import decisions, snapshots, versions
from small_loop import START, SmallLoop, made_rows

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
        controller.engine.submit("turn", small.name, {"because": "both at once"}, controller.installation.code)
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
        (
            "(el.Train(LogisticRegression(), timeout=td(minutes=2)), el.Train(LogisticRegression(C=2.0), timeout=td(minutes=5)))",
            7,
        ),
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


def test_rows_that_a_turn_has_seen_are_not_new_ones(small: SmallLoop, clock: SimulatedClock) -> None:
    small.declare(retrain="el.Rows(100)")
    with small.controller(clock) as controller:
        controller.take_in()
        controller.ask(Asked(action="run"))
        controller.work()
        assert turns(controller) == [], "the first version was fitted on all 1,500"

        small.deliver("001", made_rows(90, start=START + timedelta(days=30), days=1, seed=1))
        assert turns(controller) == []
        small.deliver("002", made_rows(10, start=START + timedelta(days=31), days=0.5, seed=2))
        assert turns(controller) == ["100 new labelled rows came"]


def test_triggers_declared_anew_go_on_from_the_last_look(small: SmallLoop, clock: SimulatedClock) -> None:
    every = 'el.Every(td(days=7), catch_up="all")'
    small.declare(retrain=f"el.AnyOf({every}, el.Degraded())")
    with small.controller(clock) as controller:
        turns(controller)
        clock.sleep(timedelta(days=21))
        assert sum(len(turns(controller)) for _ in range(4)) == 1, "one turn at a time"
        controller.engine.cancel(str(controller.state().turn))
    small.declare(retrain=f"el.AnyOf(el.Degraded(), {every})")
    with small.controller(clock) as controller:
        assert turns(controller) == [], "what was due before the last look is not due again in another place"
        clock.sleep(timedelta(days=7))
        assert len(turns(controller)) == 1


def two_versions(controller: Controller, small: SmallLoop, clock: SimulatedClock) -> None:
    """The second one is in shadow."""
    controller.take_in()
    controller.ask(Asked(action="run"))
    controller.work()
    clock.sleep(timedelta(days=3))
    small.deliver("001", made_rows(300, start=START + timedelta(days=30), days=3, seed=1))
    controller.take_in()
    controller.ask(Asked(action="run"))
    controller.work()


def test_a_release_that_nobody_asks_anything_waits_and_says_so_once(
    controller: Controller, small: SmallLoop, clock: SimulatedClock
) -> None:
    two_versions(controller, small, clock)
    assert (controller.state().release.stage, controller.state().release.challenger) == ("shadow", 2)
    for _ in range(6):
        clock.sleep(timedelta(days=8))
        controller.look()
    with small.controller(clock) as fresh:
        fresh.look()
    release = controller.state().release
    assert (release.champion, release.challenger, release.share) == (1, 2, 0.5), "no request, no promotion"
    with controller.installation.ledger.read() as connection:
        said = [each for each in decisions.of(connection, "parcels") if each.action == "waiting"]
    assert [each.version for each in said] == [2]
    assert "version 2 waits at 50%, version 1 stays champion: after 14 days and 0 answers" in said[0].because


def damaged(controller: Controller, number: int) -> None:
    with controller.installation.ledger.read() as connection:
        package = versions.get(connection, "parcels", number).package
    model = controller.installation.home.packages / package / "model.onnx"
    model.write_bytes(model.read_bytes() + b" ")


def test_a_damaged_package_that_nobody_serves_stops_no_look(
    controller: Controller, small: SmallLoop, clock: SimulatedClock
) -> None:
    two_versions(controller, small, clock)
    controller.ask(Asked(action="promote", version=2))
    damaged(controller, 1)
    with small.controller(clock) as fresh:
        fresh.look()
        damaged(fresh, 2)
    with small.controller(clock) as fresh, pytest.raises(PackageTampered):
        fresh.look()


def test_the_margin_of_a_root_is_put_into_the_units_of_its_square(small: SmallLoop, clock: SimulatedClock) -> None:
    rows = made_rows().with_columns(late=pl.col("distance") / 7)
    small.deliver("000", rows)
    small.declare(
        train="el.Train(LinearRegression())",
        score="el.metric.RootMeanSquaredError()",
        gate="el.NotWorse(margin=0.5)",
        features='lambda row: {"carrier": row.carrier}',
    )
    small.file.write_text("from sklearn.linear_model import LinearRegression\n" + small.file.read_text())
    with small.controller(clock) as controller:
        controller.take_in()
        controller.ask(Asked(action="run"))
        controller.work()
        watcher = controller._watcher
        champion = watcher._champion(controller.state().release)
        assert champion is not None
        assert champion.score > 10
        margin = watcher._shadow_margin(champion)
    assert margin == pytest.approx((champion.score + 0.5) ** 2 - champion.score**2)


def test_rows_that_a_refitted_champion_has_seen_judge_nobody_even_when_the_declaration_changed(
    small: SmallLoop, clock: SimulatedClock
) -> None:
    small.declare(window="el.Everything(test=0.2, refit=True)")
    with small.controller(clock) as controller:
        controller.take_in()
        controller.ask(Asked(action="run"))
        controller.work()
    small.declare(window="el.Everything(test=0.2)")
    with small.controller(clock) as controller:
        with controller.installation.ledger.read() as connection:
            version = versions.get(connection, small.name, 1)
            snapshot = snapshots.get(connection, version.snapshot)
        assert gating._fitted_until(controller.installation, version) == snapshot.to


def test_a_refused_file_is_told_with_its_reason_and_tried_again_as_declared_anew(
    small: SmallLoop, clock: SimulatedClock
) -> None:
    small.declare(checks='[el.check.Between("distance", 0, 500)]')
    with small.controller(clock) as controller:
        assert [batch.added for batch in controller.take_in()] == [0]
        assert controller.take_in() == ()
        with controller.installation.ledger.read() as connection:
            (said,) = decisions.of(connection, small.name)
    assert said.action == "batch refused"
    assert "distance is not between 0 and 500" in said.because

    small.declare(checks='[el.check.Between("distance", 0, 1000)]')
    with small.controller(clock) as controller:
        assert [batch.added for batch in controller.take_in()] == [1_500]
        assert controller.take_in() == ()


def test_a_source_that_cannot_be_read_for_a_while_stops_no_look_and_is_said_once(
    small: SmallLoop, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> list[str]:
        raise DataError("The Delta table parcels cannot be read: its log is torn.")

    with small.controller(clock) as controller:
        with monkeypatch.context() as patched:
            patched.setattr(sources, "places", broken)
            controller.look()
            controller.look()
        with controller.installation.ledger.read() as connection:
            (said,) = [each for each in decisions.of(connection, small.name) if each.action == "batch refused"]
        assert "its log is torn" in said.because
        assert [batch.added for batch in controller.take_in()] == [1_500]
