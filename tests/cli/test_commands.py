"""Every command: what it says to people and to machines, its exit codes, and that nonsense never ends in a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main

from everloop.cli.app import app
from everloop.store.home import Home
from everloop.store.segments import files
from small_loop import Ended, SmallLoop, made_rows

Everloop = Callable[..., Ended]
ID = made_rows(60, seed=7)["parcel"][0]
READING = {
    "status": ("status",),
    "versions": ("versions",),
    "why a version": ("why", "v2"),
    "why a prediction": ("why", ID),
    "live-at": ("live-at", f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M}"),
    "data log": ("data", "log"),
    "data diff": ("data", "diff", 0, 1),
    "data show": ("data", "show"),
    "data show predictions": ("data", "show", "predictions", "--limit", 3),
    "data show quarantine": ("data", "show", "quarantine"),
    "package verify": ("package", "verify", "v1"),
    "package show": ("package", "show", "v1"),
}
"""Commands that change nothing, and so may share a home."""


def commands() -> list[tuple[str, ...]]:
    """Every command that there is."""
    found: list[tuple[str, ...]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, each in getattr(command, "commands", {}).items():
            walk(each, (*words, name))
        if not hasattr(command, "commands"):
            found.append(words)

    walk(typer.main.get_command(app), ())
    return found


COMMANDS = commands()
DECLARED = ("check", "run", "up", "replay", "demo", "monitoring", "backtest", "drift")
"""They begin with a declaration or with files; the others with a home."""


@pytest.mark.parametrize("command", [(), ("data",), ("package",), ("keys",), *COMMANDS], ids=" ".join)
def test_help_teaches(command: tuple[str, ...], everloop: Everloop) -> None:
    said = everloop(*command, "--help")
    assert said.code == 0
    assert "Usage:" in said.out
    assert len(said.out.splitlines()) >= 6


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_a_mistake_of_the_command_line(command: tuple[str, ...], everloop: Everloop) -> None:
    said = everloop(*command, "--nonsense")
    assert said.code == 2
    assert "--nonsense" in said.err


# What reads.


@pytest.mark.parametrize("what", READING)
def test_a_reading_command_tells_people_and_machines(what: str, everloop: Everloop, lived_once: SmallLoop) -> None:
    people = everloop(*READING[what], "--home", lived_once.home)
    assert (people.code, people.err) == (0, "")
    assert len(people.out) > 20
    machines = everloop(*READING[what], "--home", lived_once.home, "--json")
    assert (machines.code, machines.err) == (0, "")
    assert machines.out.count("\n") == 1
    assert machines.value


def test_reading_changes_nothing(everloop: Everloop, lived: SmallLoop) -> None:
    before = everloop("status", "--home", lived.home, "--json").value
    for arguments in READING.values():
        everloop(*arguments, "--home", lived.home)
    assert everloop("status", "--home", lived.home, "--json").value == before


def test_status_says_how_far_labels_cover_what_the_champion_answered(everloop: Everloop, lived_once: SmallLoop) -> None:
    labels = everloop("status", "--home", lived_once.home, "--json").value["labels"]
    assert labels["version"] == 1
    assert labels["coverage"] is None, (
        "what it answered is older than it is: replayed rows are judged by their own time"
    )
    assert labels["words"] == []


def test_status_says_who_serves_and_what_was_decided(everloop: Everloop, lived_once: SmallLoop) -> None:
    said = everloop("status", "--home", lived_once.home)
    assert "parcels: version 1 serves, version 2 in shadow" in said.out
    value = everloop("status", "--home", lived_once.home, "--json").value
    release = value["release"]
    assert (release["champion"], release["challenger"], release["stage"]) == (1, 2, "shadow")
    assert [each["action"] for each in value["decisions"]] == ["turn started", "released", "turn started", "shadow"]
    assert value["runs"] == []


def test_versions_tell_their_score_their_gate_and_their_fate(everloop: Everloop, lived_once: SmallLoop) -> None:
    first, second = everloop("versions", "--home", lived_once.home, "--json").value
    assert (first["number"], first["now"], first["verdict"]["outcome"]) == (1, "champion", "first")
    assert (second["number"], second["now"]) == (2, "challenger")
    assert 0 < first["score"] < 0.69


def test_why_walks_back_from_a_prediction_to_its_rows(everloop: Everloop, lived_once: SmallLoop) -> None:
    value = everloop("why", ID, "--home", lived_once.home, "--json").value
    (prediction,) = value["prediction"]
    assert (prediction["id"], prediction["version"], prediction["arm"]) == (ID, 1, "champion")
    assert value["outcomes"][0]["name"] == "late"
    assert value["version"]["number"] == 1
    assert value["package"]["lineage"]["snapshot"] == value["rows"]["digest"]
    assert value["rows"]["train_rows"] + value["rows"]["test_rows"] == 1_500
    assert value["trigger"][0]["because"] == "asked for by command"
    assert value["gate"]["outcome"] == "first"
    assert "released" in [each["action"] for each in value["decisions"]]


def test_live_at_says_what_served_then(everloop: Everloop, lived_once: SmallLoop) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    value = everloop("live-at", later, "--home", lived_once.home, "--json").value
    assert value["release"]["champion"] == 1
    assert set(value["packages"]) == {"champion", "challenger"}
    before = everloop("live-at", "2020-01-01", "--home", lived_once.home)
    assert before.code == 11
    assert "the first release came into force" in before.err


def test_the_data_log_tells_every_batch(everloop: Everloop, lived_once: SmallLoop) -> None:
    first, second = everloop("data", "log", "--home", lived_once.home, "--json").value
    assert (first["rows"], first["added"]) == (1_500, 1_500)
    assert (second["added"], second["outcomes"], second["quarantined"]) == (300, 10, 5)
    assert second["reasons"]
    difference = everloop("data", "diff", 0, 1, "--home", lived_once.home, "--json").value
    assert difference["rows"] == 300


def test_data_can_be_shown_as_it_was(everloop: Everloop, lived_once: SmallLoop) -> None:
    newest = everloop("data", "show", "--limit", 1, "--home", lived_once.home, "--json").value
    before = everloop("data", "show", "--limit", 1, "--version", 0, "--home", lived_once.home, "--json").value
    assert newest[0]["sent"] > before[0]["sent"]
    aside = everloop("data", "show", "quarantine", "--home", lived_once.home, "--json").value
    assert len(aside) == 5
    assert all("carrier" in each["_reason"] for each in aside)


# What begins with a declaration.


def test_check_says_what_the_loop_will_do(everloop: Everloop, turned_once: SmallLoop) -> None:
    said = everloop("check", turned_once.file)
    assert said.code == 0
    assert "parcels is sound" in said.out
    value = everloop("check", turned_once.file, "--json").value
    assert value["sound"] is True
    assert value["source"]["rows"] == 1_500
    assert value["turn"] is None
    assert any("LogisticRegression" in line for line in value["will"])


def test_check_makes_a_whole_turn_that_is_released_to_nobody(everloop: Everloop, turned: SmallLoop) -> None:
    before = everloop("status", "--home", turned.home, "--json").value
    value = everloop("check", turned.file, "--turn", 600, "--json").value
    assert value["turn"]["rows"] == 600
    assert value["turn"]["verdict"]["outcome"] == "first"
    assert everloop("status", "--home", turned.home, "--json").value == before


@pytest.mark.parametrize("rows", [-1, 10**20])
def test_a_turn_on_no_number_of_rows_is_a_mistake_of_the_command_line(
    rows: int, everloop: Everloop, turned_once: SmallLoop
) -> None:
    said = everloop("check", turned_once.file, "--turn", rows)
    assert said.code == 2
    assert "--turn" in said.err


def test_a_page_that_would_be_a_folder_is_said_before_any_work(
    everloop: Everloop, turned_once: SmallLoop, tmp_path: Path
) -> None:
    for line in (("replay", turned_once.file), ("drift", tmp_path, tmp_path), ("business", "--home", turned_once.home)):
        said = everloop(*line, "--out", tmp_path)
        assert said.code == 2
        assert f"--out {tmp_path} is a folder" in said.err


def test_run_prints_one_value_with_the_version_it_made(
    everloop: Everloop, turned: SmallLoop, more_rows: pl.DataFrame
) -> None:
    turned.deliver("001", more_rows)
    said = everloop("run", turned.file, "--json")
    assert said.code == 0
    assert said.value["version"]["number"] == 2
    assert said.value["release"]["challenger"] == 2
    assert [each["action"] for each in said.value["decisions"]] == ["turn started", "shadow"]


def test_a_fit_that_fails_is_told_and_ends_with_five(everloop: Everloop, turned: SmallLoop) -> None:
    turned.declare(train="el.Train(LogisticRegression(C=-1.0))")
    said = everloop("run", turned.file)
    assert said.code == 5
    assert "InvalidParameterError" in said.err
    assert "Traceback" not in said.err
    assert "version 1 serves" in said.out
    again = everloop("run", turned.file, "--json")
    assert again.code == 5
    assert again.value["exit_code"] == 5
    assert "InvalidParameterError" in again.value["error"]


def test_a_turn_under_changed_code_waits_for_a_person(everloop: Everloop, turned: SmallLoop) -> None:
    turned.deliver("001", made_rows(300, seed=8))
    assert turned.command("run", str(turned.file), crash_at="turn.snapshot.after").code == -signal.SIGKILL
    turned.declare(gate="el.NotWorse(margin=0.02)", checks='[el.check.NotNull("carrier")]')
    said = everloop("run", turned.file)
    assert said.code == 9
    found = re.search(r"everloop decide (\S+) continue", said.err)
    assert found is not None, said.err
    run = found.group(1)
    status = everloop("status", "--home", turned.home)
    assert f"everloop decide {run} continue | restart | cancel" in " ".join(status.out.split())

    assert everloop("decide", run, "maybe", "--home", turned.home).code == 2
    assert everloop("decide", run, "cancel", "--home", turned.home).code == 0
    assert everloop("decide", run, "cancel", "--home", turned.home).code == 9
    value = everloop("run", turned.file, "--json").value
    assert value["version"]["number"] == 2


def test_up_serves_and_ends_with_zero(turned: SmallLoop) -> None:
    command = [sys.executable, "-c", "from everloop.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "up", str(turned.file), "--port", "0", "--every", "0.1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]  # first where its own metrics are, or why not
        assert "serving on http://127.0.0.1:" in said[1]
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "stopping: the server drains" in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_up_does_not_start_on_a_sick_declaration(everloop: Everloop, small: SmallLoop) -> None:
    small.declare(rollout="el.Canary(shares=(0.5, 0.1))")
    said = everloop("up", small.file)
    assert said.code == 3
    assert "shares" in said.err


def test_replay_prints_its_account_and_keeps_its_home(everloop: Everloop, tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path / "loop", rows=made_rows(700, days=14))
    home, report = tmp_path / "kept", tmp_path / "out" / "report.html"
    arguments = ("--start", "2024-01-11", "--look", "2d", "--poison", "0.8+1d", "--home", home, "--out", report)
    said = everloop("replay", loop.file, *arguments, "--json")
    assert said.code == 0, said.err
    assert said.value["failed"] == 0
    assert said.value["predictions"] == 200
    assert said.value["actions"]["released"] == 1
    assert report.read_text("utf-8").lstrip().startswith("<!")
    kept = next(each for each in (home / ".everloop", home) if (each / "ledger.sqlite").exists())
    assert everloop("status", "--home", kept, "--json").value["release"]["champion"] == 1
    again = everloop("replay", loop.file, "--home", home)
    assert again.code == 4
    assert "not empty" in again.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--start", "yesterday"),
        ("--to", "2024-13-01"),
        ("--look", "soon"),
        ("--look", "-1d"),
        ("--look", "0h"),
        ("--drift", "1.5"),
        ("--drift", "never"),
        ("--poison", "0.5+x"),
        ("--poison", "0.5+"),
    ],
)
def test_a_replay_with_a_mistaken_option_says_how_to_write_it(
    option: str, value: str, everloop: Everloop, turned_once: SmallLoop
) -> None:
    said = everloop("replay", turned_once.file, f"{option}={value}")
    assert said.code == 2
    assert said.err.strip()
    assert "Traceback" not in said.err


def test_demo_knows_its_sets(everloop: Everloop, tmp_path: Path) -> None:
    said = everloop("demo", "--data", "nothing", "--out", tmp_path / "demo")
    assert said.code == 2
    assert "hflights" in said.err
    assert not (tmp_path / "demo").exists()


# What asks.


def test_promote_rollback_pause_and_resume_are_published(everloop: Everloop, lived: SmallLoop) -> None:
    def released() -> tuple[Any, Any, Any]:
        content = json.loads(Home(lived.home).release_file(lived.name).read_bytes())
        numbers = [content[each]["version"] if content[each] else None for each in ("champion", "challenger")]
        return numbers[0], numbers[1], content["revision"]

    at = ("--home", lived.home)
    assert released() == (1, 2, 2)
    assert "paused" in everloop("pause", *at).out
    assert everloop("pause", *at).code == 8
    assert everloop("resume", *at, "--json").value["paused"] is False
    assert everloop("resume", *at).code == 8
    assert everloop("promote", *at).code == 0
    assert released() == (2, None, 5)
    assert everloop("promote", *at).code == 8, "there is no challenger"
    assert everloop("promote", 2, *at).code == 8, "it serves already"
    assert everloop("promote", 7, *at).code == 11
    assert everloop("rollback", *at).code == 0
    assert released() == (1, None, 6)
    assert everloop("rollback", *at).code == 8, "there is nothing before it"
    actions = [each["action"] for each in everloop("status", *at, "--json").value["decisions"]]
    assert actions[-4:] == ["paused", "resumed", "promoted", "rolled back"]


def written(rows: pl.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        rows.write_csv(file)
    elif file.suffix == ".jsonl":
        rows.write_ndjson(file)
    else:
        rows.write_parquet(file)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_outcomes_from_a_file_are_taken_in_at_the_next_look(ending: str, everloop: Everloop, lived: SmallLoop) -> None:
    file = lived.folder / f"told{ending}"
    rows = pl.DataFrame({"id": ["a", "b"], "value": [True, False], "at": ["2024-03-01T00:00:00+00:00"] * 2})
    written(rows, file)
    assert everloop("outcomes", file, "--home", lived.home, "--json").value == {"outcomes": 2}
    with lived.controller() as controller:
        controller.look()
    shown = everloop("data", "show", "outcomes", "--limit", 100, "--home", lived.home, "--json").value
    assert {"a", "b"} <= {each["id"] for each in shown}


def test_a_package_with_one_changed_byte_is_found(everloop: Everloop, lived: SmallLoop) -> None:
    digest = everloop("package", "verify", "v1", "--home", lived.home, "--json").value["digest"]
    folder = Home(lived.home).packages / digest
    for target in (digest[:12], folder):
        assert everloop("package", "verify", target, "--home", lived.home).code == 0
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(bytes(content))
    said = everloop("package", "verify", "v1", "--home", lived.home, "--json")
    assert said.code == 6
    assert "model.onnx" in said.value["error"]
    assert everloop("package", "verify", "v2", "--home", lived.home).code == 0


# Nonsense.

NONSENSE = [
    "",
    " ",
    "v",
    "v0",
    "v-1",
    "v999999999999999999999",
    "V２",  # a digit, but none of ours
    "é💥",
    "..",
    "../..",
    "/",
    "/dev/null",
    "~",
    "%s%s%n",
    "';--",
    "[bold]x[/bold]",
    "[/]",
    "{}",
    "null",
    "a" * 5_000,
    "2024-01-01T00:00:00+99:00",
    "0001-01-01",
    "9999-12-31T23:59:59.999999-12:00",
]
CODES = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: repr(text)[:30])
def test_nonsense_is_answered_with_an_exit_code(
    text: str, everloop: Everloop, lived_once: SmallLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "one" / "two"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)  # what lies two folders above somebody's clone is none of the test's business
    at = ("--home", lived_once.home)
    lines: list[tuple[Any, ...]] = [
        ("check", text),
        ("run", text),
        ("why", text, *at),
        ("live-at", text, *at),
        ("promote", text, *at),
        ("outcomes", text, *at),
        ("decide", text, "cancel", *at),
        ("decide", "turn-1", text, *at),
        ("batch", text, lived_once.folder / "nowhere.csv", lived_once.folder / "out.csv", *at),
        ("batch", lived_once.name, text, lived_once.folder / "out.csv", *at),
        ("data", "diff", text, 1, *at),
        ("data", "show", text, *at),
        ("package", "verify", text, *at),
        ("package", "show", text, *at),
        ("status", "--loop", text, *at),
        ("check", lived_once.file, "--loop", text),
        ("check", lived_once.file, "--env", text),
        ("replay", lived_once.file, f"--start={text}x"),
    ]
    for line in lines:
        said = everloop(*line)
        assert said.code in CODES, line
        assert said.err.strip(), line
        assert "Traceback" not in said.err
        machines = everloop(*line, "--json")
        assert machines.code == said.code, line
        if machines.code != 2:
            assert machines.value["exit_code"] == said.code


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, os.urandom(1_000), b"{" * 1_000, b"id,value\n\xff\xfe,1\n", b"[1,2"]
)
@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".py", ".xlsx", ""])
def test_garbage_in_a_file_is_answered_with_an_exit_code(
    content: bytes, ending: str, everloop: Everloop, lived_once: SmallLoop, tmp_path: Path
) -> None:
    file = tmp_path / f"garbage{ending}"
    file.write_bytes(content)
    at = ("--home", lived_once.home)
    segments = files(Home(lived_once.home).segments(lived_once.name))
    for line in (
        ("check", file),
        ("run", file),
        ("outcomes", file, *at),
        ("batch", lived_once.name, file, tmp_path / "out.parquet", *at),
        ("batch", file, file, tmp_path / "out.parquet", *at),
    ):
        said = everloop(*line)
        assert said.code in CODES, line
        assert said.err.strip(), line
        assert "Traceback" not in said.err
    assert not (tmp_path / "out.parquet").exists()
    assert files(Home(lived_once.home).segments(lived_once.name)) == segments, "nothing of it was taken"


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] not in DECLARED], ids=" ".join)
def test_a_home_that_is_none_is_said_to_be_none(command: tuple[str, ...], everloop: Everloop, tmp_path: Path) -> None:
    arguments = {
        "why": ("v1",),
        "live-at": ("2024-01-01",),
        "outcomes": (tmp_path / "x.csv",),
        "decide": ("turn-1", "cancel"),
        "batch": ("parcels", tmp_path / "x.csv", tmp_path / "y.csv"),
        "diff": (0, 1),
        "verify": ("v1",),
        "add": ("partner",),
        "revoke": ("partner",),
        "rotate": ("partner",),
        "experiment start": ("price", "--arm", "a=v1"),
        "experiment stop": ("price",),
        "experiment report": ("price",),
        "alerts silence": ("score",),
        "alerts unsilence": ("1",),
        "experiment assign": ("price", "ada"),
        "package show": ("v1",),
    }
    known = arguments.get(" ".join(command), arguments.get(command[-1], ()))
    for home in (tmp_path / "nowhere", tmp_path, Path("/dev/null")):
        said = everloop(*command, *known, "--home", home)
        assert said.code == 11, home
        assert "home" in said.err
        assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_a_home_that_is_damaged_is_an_error_of_storage(everloop: Everloop, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no ledger" * 100)
    said = everloop("status", "--home", tmp_path)
    assert said.code == 10
    assert "not a ledger" in said.err


def test_an_interrupt_ends_with_130(everloop: Everloop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from everloop.cli import kept

    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "status", interrupted)
    said = everloop("status", "--home", tmp_path)
    assert (said.code, said.err.strip()) == (130, "interrupted")
