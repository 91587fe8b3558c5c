"""What a person may do wrong with `everloop backtest`: told at once, in words, and what lies damaged is made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from known_world import World, made, rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("mistakes"), rows(days=84))


def typed(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "backtest", "made.py", *words]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=world.folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_fitted(world: World) -> None:
    (world.folder / "taken").write_text("", "utf-8")
    said = typed(world, "--out", "taken")
    assert said.returncode == 2
    assert "--out taken cannot be written" in said.stderr
    assert "Traceback" not in said.stderr
    assert not world.made


def test_a_damaged_fit_is_made_again(world: World) -> None:
    (world.folder / "few.py").write_text(
        "from datetime import timedelta as td\n\nimport everloop as el\n\n"
        "policies = [el.Policy(el.Every(td(days=14)), window=el.Last(td(days=21), test=td(days=7)), gate=None)]\n",
        "utf-8",
    )
    words = ("--policies", "few.py", "--windows", "7d", "--takes", "1h", "--json")
    first = typed(world, *words)
    assert first.returncode == 0, first.stderr
    made_before = len(world.made)
    records = sorted((world.folder / ".everloop" / "backtests").rglob("fit.json"))
    records[0].write_text('{"name":', "utf-8")
    second = typed(world, *words)
    assert second.returncode == 0, second.stderr
    assert len(world.made) == made_before + 1
    before, after = json.loads(first.stdout), json.loads(second.stdout)
    assert [run["score"] for run in before["runs"]] == [run["score"] for run in after["runs"]]
    assert before["answer"]["policies"] == after["answer"]["policies"]
