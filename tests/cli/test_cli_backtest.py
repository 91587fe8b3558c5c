"""`everloop backtest` as a person and as a machine meet it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from known_world import World, made, rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("cli"), rows(days=84))


def everloop(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "backtest", "made.py", *words]
    return subprocess.run(command, cwd=world.folder, capture_output=True, text=True, timeout=200, check=False)


def test_a_person_reads_a_table_a_recommendation_and_a_line_to_paste(world: World) -> None:
    said = everloop(
        world, "--windows", "7d", "--takes", "1h", "--out", "out", "--calibrate", "14d", "--what-if", "later=7d",
        "--price", "retrain=5", "--price", "wrong=1", "--search", "4",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "Recommended:" in said.stdout
    assert "    retrain=el." in said.stdout
    assert "What if labels came 7d later?" in said.stdout
    assert "Degraded.by: at most one false alarm in 2 weeks" in said.stdout
    page = (world.folder / "out" / "report.html").read_text("utf-8")
    assert "which retraining policy would have been best?" in page
    kept = json.loads((world.folder / "out" / "result.json").read_text("utf-8"))
    assert kept["answer"]["recommended"] is not None


def test_a_machine_reads_json_and_gives_it_back_as_policies(world: World) -> None:
    said = everloop(world, "--windows", "7d", "--takes", "1h", "--json", "--no-oracle")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    (world.folder / "again.json").write_text(said.stdout)
    again = everloop(world, "--windows", "7d", "--takes", "1h", "--json", "--no-oracle", "--policies", "again.json")
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert [each["score"] for each in second["runs"]] == [each["score"] for each in found["runs"]]
    assert second["seconds"]["made"] == 0
    declared = next(each for each in found["answer"]["policies"] if each["place"] == found["present"])
    assert found["answer"]["budget"] == {"cost": declared["cost"], "source": "declared"}
    asked = everloop(world, "--windows", "7d", "--takes", "1h", "--json", "--no-oracle", "--budget", "0")
    chosen = json.loads(asked.stdout)["answer"]
    assert chosen["budget"] == {"cost": 0.0, "source": "asked"}
    assert next(each["cost"] for each in chosen["policies"] if each["place"] == chosen["recommended"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--windows", "soon"], 2, "--windows is 'soon'; write a duration such as 7d, month, or a number of rows."),
        (["--what-if", "later"], 2, "is not a duration"),
        (["--what-if", "weather=1"], 2, "write later=14d, labels=0.5 or retrain=2."),
        (["--what-if", "retrain=2"], 2, "nothing has a price"),
        (["--price", "retrain=much"], 2, "write a name and a number"),
        (["--budget", "cheap"], 2, "--budget is 'cheap'; write a number of retrains such as 20, one in so much time"),
        (["--budget", "-1"], 2, "--budget is '-1'; write a number of retrains"),
        (["--price", "late=1"], 3, "There is a price for errors of the kind 'late'"),
        (["--policies", "none.py"], 3, "There is no file none.py"),
        (["--from", "2030-01-01"], 4, "write --from and --to inside it"),
        (["--windows", "60d"], 4, "needs at least 4"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(world: World, words: list[str], code: int, says: str) -> None:
    said = everloop(world, *words)
    assert said.returncode == code, said.stderr
    assert says in said.stderr.replace("\n", " ")
    assert "Traceback" not in said.stderr


def test_a_history_without_labels_is_told_so(tmp_path: Path) -> None:
    frame = rows(days=40)
    world = made(
        tmp_path / "unlabelled", frame.with_columns(y=None), label='el.Label("y", task="binary", classes=[False, True])'
    )
    said = everloop(world, "--windows", "7d")
    assert said.returncode in (3, 4)
    assert "Traceback" not in said.stderr
