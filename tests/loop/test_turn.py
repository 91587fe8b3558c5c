"""One turn: what each step leaves, that nothing is made twice, and how it ends when the user's part fails."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from everloop.clock import SimulatedClock
from everloop.durable import runs
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.records import Decision, Version
from everloop.store import packages
from everloop.store.home import Home
from everloop.store.ledger import decisions, snapshots, versions
from small_loop import DAY, START, SmallLoop, made_rows

NOW = START + 40 * DAY


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def again(turned: SmallLoop, more_rows: pl.DataFrame, clock: SimulatedClock) -> Iterator[Controller]:
    """Version 1 serves, a second file has come and was taken in."""
    turned.deliver("001", more_rows)
    with turned.controller(clock) as controller:
        controller.take_in()
        yield controller


def turn(controller: Controller, by: str = "a test") -> dict[str, Any]:
    """Turn once; the run's result."""
    each = controller.installation
    with each.ledger.read() as connection:
        before = runs.of(connection, each.name)
    controller.ask(Asked(action="run", by=by))
    controller.work()
    with each.ledger.read() as connection:
        (last,) = (run for run in runs.of(connection, each.name) if run.id not in {known.id for known in before})
    assert last.status == "done", last.because
    result: dict[str, Any] = last.result
    return result


def version(controller: Controller, number: int) -> Version:
    each = controller.installation
    with each.ledger.read() as connection:
        return versions.get(connection, each.name, number)


def newest(controller: Controller) -> Decision:
    each = controller.installation
    with each.ledger.read() as connection:
        return decisions.of(connection, each.name)[-1]


def opened(controller: Controller, number: int) -> packages.Opened:
    home = controller.installation.home
    return packages.open_package(home.packages / version(controller, number).package, packages.trusted_keys(home.keys))


def test_a_package_says_what_it_was_made_of(again: Controller) -> None:
    assert turn(again, by="somebody")["version"] == 2
    made, manifest = version(again, 2), opened(again, 2).manifest
    with again.installation.ledger.read() as connection:
        snapshot = snapshots.get(connection, made.snapshot)
    assert manifest.loop == "parcels"
    assert manifest.metric == "log_loss"
    assert manifest.score == made.score
    assert manifest.lineage["snapshot"] == snapshot.digest
    assert manifest.lineage["parent"] == version(again, 1).package
    assert manifest.lineage["code"] == again.installation.code
    assert (manifest.lineage["raw_version"], manifest.lineage["outcomes_version"]) == (1, 0)
    assert "LogisticRegression" in str(manifest.lineage["estimator"])
    assert snapshot.as_of == NOW
    assert snapshot.train_rows + snapshot.test_rows == 1_800
    assert "scikit-learn" in manifest.requirements


def test_a_package_carries_its_trigger_its_verdict_and_its_proof(again: Controller) -> None:
    turn(again, by="somebody")
    evidence = msgspec.json.decode(opened(again, 2).files["evidence.json"])
    assert evidence["trigger"] == version(again, 2).trigger == "asked for by somebody"
    assert evidence["verdict"]["because"] == version(again, 2).verdict.because
    assert evidence["parity"]["rows"] > 1_000


def test_corrected_labels_are_what_the_fit_sees(again: Controller, turned: SmallLoop) -> None:
    turn(again)
    test = pl.concat(pl.read_parquet(file) for file in Home(turned.home).candidates.glob("*/test.parquet"))
    assert test["_truth"].is_not_null().all()
    with again.installation.ledger.read() as connection:
        snapshot = snapshots.get(connection, version(again, 2).snapshot)
    assert snapshot.outcomes_version == 0, "the ten labels that turned out otherwise"


def test_nothing_of_the_job_is_left_but_its_candidate(again: Controller, turned: SmallLoop) -> None:
    turn(again)
    home = Home(turned.home)
    assert [each.name for each in home.jobs.iterdir() if each.is_dir()] == []
    folders = sorted(home.candidates.iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert {each.name for each in folder.iterdir()} == {
            "candidate.json", "details.json", "graph.onnx", "profile.json", "test.parquet"
        }  # fmt: skip


def test_the_same_rows_code_and_parameters_are_not_fitted_again(
    again: Controller, turned: SmallLoop, more_rows: pl.DataFrame
) -> None:
    turn(again)
    said: list[dict[str, Any]] = []
    with turned.controller(again.installation.clock) as other:
        other._turn._progress = lambda step, detail: said.append(detail) if step == "fit" else None
        other.ask(Asked(action="rollback"))
        turn(other)
    assert [list(each) for each in said] == [["reused"]]


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"train": "el.Train(LogisticRegression(C=-1.0))"}, "InvalidParameterError"),
        ({"train": "el.Train(LogisticRegression(max_iter=10**9, tol=0.0), timeout=td(seconds=0.01))"}, "JobTimedOut"),
        ({"window": "el.Last(td(minutes=1), test=td(seconds=30))"}, "DataError"),
    ],
    ids=["its estimator", "its time", "its window"],
)
def test_a_turn_that_cannot_end_well_says_why_and_the_champion_stays(
    fields: dict[str, str], because: str, turned: SmallLoop, clock: SimulatedClock
) -> None:
    turned.declare(**fields)
    with turned.controller(clock) as controller:
        result = turn(controller)
        assert result["version"] is None
        assert because in result["because"]
        assert newest(controller).action == "turn failed"
        assert because in newest(controller).because
        assert controller.state().release.champion == 1
        assert controller.state().turn is None, "the next one may start"


def test_a_candidate_that_is_shown_worse_is_kept_as_a_version_and_not_released(
    turned: SmallLoop, clock: SimulatedClock
) -> None:
    """Twenty days of flipped labels to learn from, nine sound ones to be tested on."""
    turned.declare(window="el.Last(td(days=30), test=td(days=9))")
    turned.deliver("001", made_rows(1_500, start=START + 31 * DAY, days=20, seed=3, flipped=True))
    turned.deliver("002", made_rows(600, start=START + 51 * DAY, days=9, seed=4))
    clock.advance_to(START + 61 * DAY)
    with turned.controller(clock) as controller:
        controller.take_in()
        turn(controller)
        assert version(controller, 2).verdict.outcome == "worse"
        assert newest(controller).action == "rejected"
        assert newest(controller).version == 2
        release = controller.state().release
        assert (release.champion, release.challenger, release.revision) == (1, None, 1)


def test_a_home_that_is_moved_while_a_turn_waits_goes_on_in_its_new_place(
    turned: SmallLoop, tmp_path: Path, clock: SimulatedClock
) -> None:
    turned.deliver("001", made_rows(300, start=START + 30 * DAY, seed=5))
    assert turned.command("run", str(turned.file), crash_at="turn.fit.after").code == -9
    moved = turned.copy(tmp_path / "moved")
    shutil.rmtree(turned.folder)
    with moved.controller() as controller:
        assert controller.work() == 1
        assert version(controller, 2).number == 2
        assert controller.state().release.challenger == 2


def test_a_trigger_that_waited_starts_its_turn_when_the_release_has_ended(
    again: Controller, clock: SimulatedClock
) -> None:
    turn(again)
    again.ask(Asked(action="run", by="somebody impatient"))
    assert newest(again).action == "kept"
    assert again.work() == 0
    again.ask(Asked(action="rollback"))
    look = again.look()
    assert [type(command).__name__ for command in look.commands] == ["KeepTrigger", "StartTurn"]
    assert newest(again).because == "asked for by somebody impatient"
    assert again.state().waiting is None
