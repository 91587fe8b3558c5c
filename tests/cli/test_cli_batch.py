"""``everloop batch``: which package it takes, what it says, and how it goes on after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from everloop.store.home import Home
from everloop.testing.serving import ServedHome, signature_of
from small_loop import Ended, SmallLoop, made_rows

Everloop = Callable[..., Ended]
READ: dict[str, Any] = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}
COMMAND = [sys.executable, "-c", "from everloop.cli import main; main()", "batch"]


def written(rows: pl.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        rows.write_csv(file)
    elif file.suffix == ".jsonl":
        rows.write_ndjson(file)
    else:
        rows.write_parquet(file)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_file_is_scored_by_the_champion(
    ending: str, everloop: Everloop, lived_once: SmallLoop, tmp_path: Path
) -> None:
    asked, answers = tmp_path / f"asked{ending}", tmp_path / f"answers{ending}"
    written(made_rows(50, seed=9).drop("late"), asked)
    value = everloop("batch", lived_once.name, asked, answers, "--home", lived_once.home, "--json").value
    assert (value["rows"], value["version"], value["bad"]) == (50, 1, 0)
    found = READ[ending](answers)
    assert found["version"].to_list() == [1] * 50
    assert found["package"].unique().to_list() == [value["package"]]
    assert found["parcel"].to_list() == made_rows(50, seed=9)["parcel"].to_list()


def test_the_package_is_named_by_loop_declaration_folder_or_digest(
    everloop: Everloop, lived_once: SmallLoop, tmp_path: Path
) -> None:
    asked = tmp_path / "asked.parquet"
    written(made_rows(50, seed=9).drop("late"), asked)
    at = ("--home", lived_once.home, "--json")
    digest = everloop("batch", lived_once.name, asked, tmp_path / "a.parquet", *at).value["package"]
    for place, subject in enumerate((lived_once.file, Home(lived_once.home).packages / digest, digest[:12])):
        value = everloop("batch", subject, asked, tmp_path / f"{place}.parquet", *at).value
        assert (value["package"], value["version"]) == (digest, 1)
        assert pl.read_parquet(tmp_path / f"{place}.parquet").equals(pl.read_parquet(tmp_path / "a.parquet"))
    for version, number in (("2", 2), ("v2", 2), ("challenger", 2), ("champion", 1)):
        value = everloop("batch", lived_once.name, asked, tmp_path / "b.parquet", "--version", version, *at).value
        assert value["version"] == number
    assert everloop("batch", lived_once.name, asked, tmp_path / "c.parquet", "--version", "best", *at).code == 2
    assert everloop("batch", lived_once.name, asked, tmp_path / "c.parquet", "--version", "9", *at).code == 11


def test_a_machine_that_only_serves_scores_what_is_released(everloop: Everloop, tmp_path: Path) -> None:
    served = ServedHome(tmp_path / "home")
    served.seal(3, signature_of({"x": "number"}))
    served.release(3)
    written(pl.DataFrame({"x": [0.0, 1.0]}), tmp_path / "asked.csv")
    said = everloop("batch", "made", tmp_path / "asked.csv", tmp_path / "answers.csv", "--home", served.home.root)
    assert said.code == 0
    assert "2 rows scored by version 3" in said.out
    assert pl.read_csv(tmp_path / "answers.csv")["probability_true"][0] == 0.5
    missing = everloop("batch", "other", tmp_path / "asked.csv", tmp_path / "x.csv", "--home", served.home.root)
    assert missing.code == 11
    assert "its loops: made" in missing.err


def test_key_columns_are_kept_alone_when_asked(everloop: Everloop, lived_once: SmallLoop, tmp_path: Path) -> None:
    asked, answers = tmp_path / "asked.parquet", tmp_path / "answers.parquet"
    written(made_rows(50, seed=9).drop("late"), asked)
    at = ("--home", lived_once.home)
    assert everloop("batch", lived_once.name, asked, answers, "--keep", "key", *at).code == 0
    answered = ["predicted", "probability_false", "probability_true", "version", "package"]
    assert pl.read_parquet(answers).columns == ["parcel", "sent", *answered]
    assert everloop("batch", lived_once.name, asked, answers, "--keep", "sent,parcel", *at).code == 0
    assert pl.read_parquet(answers).columns == ["sent", "parcel", *answered]
    nowhere = everloop("batch", lived_once.name, asked, answers, "--keep", "nothing", *at)
    assert nowhere.code == 4
    assert "no column 'nothing'" in nowhere.err


def test_bad_rows_are_named_or_put_aside(everloop: Everloop, tmp_path: Path) -> None:
    served = ServedHome(tmp_path / "home")
    served.seal(1, signature_of({"x": "number"}))
    served.release(1)
    asked, answers = tmp_path / "asked.csv", tmp_path / "answers.csv"
    asked.write_text("id,x\na,1\nb,far\nc,2\n")
    at = ("--home", served.home.root)
    said = everloop("batch", "made", asked, answers, *at)
    assert said.code == 4
    assert "asked.csv, row 2: column 'x' is 'far'; expected a number or null." in said.err
    assert not answers.exists()
    said = everloop("batch", "made", asked, answers, "--skip-bad", *at)
    assert said.code == 0
    assert "1 row put aside" in said.out
    assert pl.read_csv(answers)["id"].to_list() == ["a", "c"]
    (line,) = [json.loads(each) for each in (tmp_path / "answers.bad.jsonl").read_text().splitlines()]
    assert (line["row"], line["column"], line["content"]) == (2, "x", {"id": "b", "x": "far"})


def made_home(folder: Path) -> ServedHome:
    served = ServedHome(folder / "home")
    served.seal(1, signature_of({"x": "number", "t": "text"}))
    served.release(1)
    for day in range(12):
        for part in range(3):
            place = folder / "asked" / f"day={day}" / f"part-{part}.csv"
            place.parent.mkdir(parents=True, exist_ok=True)
            rows = 500 + 100 * part
            frame = pl.DataFrame(
                {"n": range(rows), "x": [(day * 7 + n) % 11 / 7 for n in range(rows)], "t": ["yes"] * rows}
            )
            frame.write_csv(place)
    return served


def answers_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_killed_goes_on_where_it_was_and_does_no_file_twice(tmp_path: Path) -> None:
    served = made_home(tmp_path)
    arguments = ["made", str(tmp_path / "asked"), str(tmp_path / "answers"), "--home", str(served.home.root), "--json"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, start_new_session=True)
    journal = tmp_path / "answers.journal"
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if journal.exists() and journal.read_bytes().count(b"\n") > 4:
            os.killpg(process.pid, signal.SIGKILL)  # in the middle of whatever it does
            break
    process.wait(60)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").rglob("*.csv")}
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, check=True)
    value = json.loads(ended.stdout)
    assert value["files"] + value["before"] == 36
    assert value["before"] >= 3
    done = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert sorted(line["file"] for line in done) == sorted(
        path.relative_to(tmp_path / "asked").as_posix() for path in (tmp_path / "asked").rglob("*.csv")
    ), "every file once"
    for path, modified in first.items():
        assert path.stat().st_mtime_ns == modified, "what had its name was left alone"
    whole = tmp_path / "whole"
    subprocess.run([*COMMAND, "made", arguments[1], str(whole), *arguments[3:]], check=True, stdout=subprocess.DEVNULL)
    assert answers_in(tmp_path / "answers") == answers_in(whole)
    again = json.loads(subprocess.run([*COMMAND, *arguments], capture_output=True, check=True).stdout)
    assert (again["files"], again["before"]) == (0, 36)


def test_answers_of_two_packages_are_never_mixed(everloop: Everloop, tmp_path: Path) -> None:
    served = made_home(tmp_path)
    arguments = ("batch", "made", tmp_path / "asked", tmp_path / "answers", "--home", served.home.root)
    assert everloop(*arguments).code == 0
    before = answers_in(tmp_path / "answers")
    served.seal(2, signature_of({"x": "number", "t": "text"}), bias=1.0)
    served.release(2)
    said = everloop(*arguments)
    assert said.code == 4
    assert f"holds answers of package {served.versions[1][:12]}" in said.err
    assert served.versions[2][:12] in said.err
    assert answers_in(tmp_path / "answers") == before
    shutil.rmtree(tmp_path / "answers")
    (tmp_path / "answers.journal").unlink()
    assert everloop(*arguments, "--json").value["version"] == 2
