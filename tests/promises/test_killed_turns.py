"""Promise 1: SIGKILL at every crash point of a turn; afterwards it ends as if nothing had happened."""

import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from everloop.cli.app import run_app
from everloop.durable import runs
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.store.ledger import Ledger, batches, decisions, releases, versions
from everloop.testing import crash
from small_loop import SmallLoop

TURN = crash.of_steps("turn", crash.STEPS["turn"])
INGEST = tuple(point for point in crash.OTHERS if point.startswith("ingest."))


def state(loop: SmallLoop) -> dict[str, Any]:
    """All that a turn leaves behind, without times, digests and run numbers."""
    home = Home(loop.home)
    lake = Lake(home.lake(loop.name))
    ledger = Ledger.open(home.ledger)
    with ledger.read() as connection:
        release = releases.get(connection, loop.name)
        found = {
            "release": (release.stage, release.champion, release.challenger, release.share, release.revision),
            "releases": len(releases.history(connection, loop.name)),
            "versions": [(each.number, each.verdict.outcome) for each in versions.of(connection, loop.name)],
            "decisions": [(each.action, each.version) for each in decisions.of(connection, loop.name)],
            "runs": [(each.status, each.result) for each in runs.of(connection, loop.name)],
            "batches": [
                (each.rows, each.added, each.outcomes, each.quarantined) for each in batches.of(connection, loop.name)
            ],
        }
    ledger.close()
    found["steps"] = [[name for name, *_ in each] for each in steps(loop)]
    found["rows"] = {table: len(lake.read(table)) for table in lake.tables()}
    found["keys"] = lake.read("raw")["_key"].n_unique()
    found["folders"] = {name: len(list((loop.home / name).iterdir())) for name in ("packages", "candidates", "jobs")}
    found["published"] = home.release_file(loop.name).exists()
    return found


def steps(loop: SmallLoop) -> list[list[tuple[str, Any, Any]]]:
    """Name, start and end of each finished step of each run."""
    ledger = Ledger.open(Home(loop.home).ledger)
    with ledger.read() as connection:
        found = [
            [(step.name, step.started, step.ended) for step in runs.steps_of(connection, run.id)]
            for run in runs.of(connection, loop.name)
        ]
    ledger.close()
    return found


@pytest.fixture(scope="module")
def ready(turned_once: SmallLoop, more_rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """Version 1 serves and a second file has come."""
    loop = turned_once.copy(tmp_path_factory.mktemp("ready"))
    loop.deliver("001", more_rows)
    return loop


@pytest.fixture(scope="module")
def fitted(ready: SmallLoop, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """The second turn was killed after its fit."""
    loop = ready.copy(tmp_path_factory.mktemp("fitted"))
    assert loop.command("run", str(loop.file), crash_at="turn.fit.after").code == -signal.SIGKILL
    return loop


@pytest.fixture(scope="module")
def undisturbed(ready: SmallLoop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    loop = ready.copy(tmp_path_factory.mktemp("undisturbed"))
    assert run_app(["run", str(loop.file)]) == 0
    return state(loop)


def test_the_undisturbed_turn_is_one_worth_killing(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["release"] == ("shadow", 1, 2, 0.0, 2)
    assert [number for number, _ in undisturbed["versions"]] == [1, 2]
    assert undisturbed["batches"] == [(1_500, 1_500, 0, 0), (315, 300, 10, 5)]
    assert undisturbed["rows"] == {"raw": 1_800, "quarantine": 5, "outcomes": 10}
    assert undisturbed["steps"] == [list(crash.STEPS["turn"])] * 2


@pytest.mark.parametrize("point", TURN)
def test_a_turn_killed_at_any_point_ends_as_if_nothing_had_happened(
    point: str, ready: SmallLoop, fitted: SmallLoop, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    late = point.split(".")[1] in ("gate", "package", "release")
    loop = (fitted if late else ready).copy(tmp_path)
    killed = loop.command("run", str(loop.file), crash_at=point)
    assert killed.code == -signal.SIGKILL, killed.err
    before = steps(loop)[-1]

    assert run_app(["run", str(loop.file)]) == 0
    after = steps(loop)[-1]
    assert after[: len(before)] == before, "a finished step is not done again"
    assert state(loop) == undisturbed


@pytest.mark.parametrize("point", INGEST)
def test_a_batch_killed_at_any_point_is_taken_in_once_and_whole(
    point: str, ready: SmallLoop, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    loop = ready.copy(tmp_path)
    killed = loop.command("run", str(loop.file), crash_at=point)
    assert killed.code == -signal.SIGKILL, killed.err
    with loop.controller() as controller:
        controller.take_in()
        assert controller.take_in() == ()
    found = state(loop)
    for what in ("batches", "rows", "keys"):
        assert found[what] == undisturbed[what], what


def test_two_kills_in_one_turn_are_no_worse_than_one(
    fitted: SmallLoop, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    loop = fitted.copy(tmp_path)
    for point in ("turn.package.inside", "turn.package.inside"):
        assert loop.command("run", str(loop.file), crash_at=point).code == -signal.SIGKILL
    assert run_app(["run", str(loop.file)]) == 0
    assert state(loop) == undisturbed
