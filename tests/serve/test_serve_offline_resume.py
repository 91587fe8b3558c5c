"""A batch run that is killed at its worst moments, files that change, disks that fill up: never half, never twice."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from everloop.errors import DataError, StoreFull
from everloop.serve import offline
from everloop.serve.offline import Scored
from everloop.store.packages import trusted_keys
from everloop.testing.serving import ServedHome, signature_of

FILES = 6
KILL = """
import os, signal, sys
from pathlib import Path
from everloop.serve import offline, offline_sinks, offline_journal, offline_targets
from everloop.store.packages import trusted_keys
count = 0
def dies(function, before):
    def wrapped(*given, **more):
        global count
        count += 1
        if count == 4 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*given, **more)
        if count == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
home, package, source, target, form, place, when = sys.argv[1:]
where = {"write": offline_targets.Target, "finish": offline_targets.Target, "add": offline_journal.Journal,
         "place_it": offline_sinks, "_commit": offline_sinks.TableSink}[place]
if place == "_commit":
    count = 3
setattr(where, place, dies(getattr(where, place), when == "before"))
offline.score(Path(home) / "packages" / package, source, Path(target), trusted=trusted_keys(Path(home) / "keys"),
              form=form or None)
"""


class Made:
    """Six files and a package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "asked"
        self.served = ServedHome(folder / "home")
        self.package = self.served.seal(1, signature_of({"x": "number"}, key=("id",)))
        self.source.mkdir()
        for n in range(FILES):
            self.write(n)

    def write(self, n: int, shift: float = 0.0) -> None:
        rows = [float(n + row % 5) + shift for row in range(200)]
        pl.DataFrame({"id": range(n * 1000, n * 1000 + 200), "x": rows}).write_parquet(self.source / f"{n}.parquet")

    def score(self, target: Path, form: str | None = None, keep: str = "all") -> Scored:
        home = self.served.home
        return offline.score(
            home.packages / self.package, self.source, target, trusted=trusted_keys(home.keys), form=form, keep=keep
        )

    def killed(self, target: Path, form: str, place: str, when: str) -> None:
        home = str(self.served.home.root)
        given = [home, self.package, str(self.source), str(target), form, place, when]
        assert subprocess.run([sys.executable, "-c", KILL, *given], check=False).returncode == -9


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def answers(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*"))}


def files_of(journal: Path) -> list[str]:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [line["file"] for line in lines if line["type"] == "done"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", ["write", "finish", "add", "place_it"])
def test_a_kill_at_any_step_costs_no_answer_and_no_work_twice(
    made: Made, place: str, when: str, tmp_path: Path
) -> None:
    target = tmp_path / "answers"
    made.killed(target, "", place, when)
    named = {path: path.stat().st_ino for path in target.glob("*.parquet")}
    scored = made.score(target)
    assert 3 <= scored.before <= 4
    assert scored.files + scored.before == FILES
    assert sorted(files_of(tmp_path / "answers.journal")) == [f"{n}.parquet" for n in range(FILES)]
    assert all(path.stat().st_ino == inode for path, inode in named.items())
    whole = tmp_path / "whole"
    made.score(whole)
    assert list(answers(target)) == list(answers(whole)) == [f"{n}.parquet" for n in range(FILES)]
    for name, frame in answers(whole).items():
        assert answers(target)[name].equals(frame)


@pytest.mark.parametrize(
    ("place", "when"), [("add", "after"), ("place_it", "before"), ("_commit", "before"), ("_commit", "after")]
)
def test_a_table_gets_its_rows_in_one_commit_however_often_the_run_is_killed(
    made: Made, place: str, when: str, tmp_path: Path
) -> None:
    target = tmp_path / "table"
    made.killed(target, "delta", place, when)
    scored = made.score(target, "delta")
    assert scored.table_version == 0
    rows = pl.read_delta(str(target))
    assert sorted(rows["id"].to_list()) == sorted(n * 1000 + row for n in range(FILES) for row in range(200))
    assert made.score(target, "delta").files == 0
    assert len(pl.read_delta(str(target))) == FILES * 200


def test_a_run_killed_between_the_commit_and_its_line_does_not_append_again(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "table"
    made.score(target, "delta")
    journal = tmp_path / "table.journal"
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["type"] == "committed"
    journal.write_text("".join(lines[:-1]))
    assert made.score(target, "delta").table_version == 0
    assert len(pl.read_delta(str(target))) == FILES * 200


def test_new_and_changed_files_are_scored_the_others_left_alone(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers"
    made.score(target)
    before = answers(target)
    made.write(2, shift=0.5)
    made.write(FILES)
    scored = made.score(target)
    assert (scored.files, scored.before) == (2, FILES - 1)
    after = answers(target)
    assert not after["2.parquet"].equals(before["2.parquet"])
    assert len(after) == FILES + 1
    assert after["3.parquet"].equals(before["3.parquet"])


def test_a_target_that_is_gone_is_made_again(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers"
    made.score(target)
    (target / "4.parquet").unlink()
    assert made.score(target).files == 1
    assert len(answers(target)) == FILES


def test_another_selection_of_columns_is_not_mixed_in(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers"
    made.score(target)
    with pytest.raises(DataError, match="was begun with keep 'all', and this run has 'id'"):
        made.score(target, keep="key")


def test_two_runs_do_not_write_to_one_folder_at_once(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers"
    made.score(target)
    holder = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "answers.journal")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DataError, match="Another run writes"):
            made.score(target)
    finally:
        process.communicate()
    assert made.score(target).files == 0


def test_a_line_that_was_cut_off_is_taken_for_undone(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers"
    made.score(target)
    journal = tmp_path / "answers.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert made.score(target).files == 1
    assert sorted(files_of(journal)) == [f"{n}.parquet" for n in range(FILES)]
    journal.write_text("something else\n")
    with pytest.raises(DataError, match="is not the journal of a batch run"):
        made.score(target)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A limit on the size of a file stands for a full disk: the same failing write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("target", ["answers", "answers.parquet", "answers.csv", "answers.jsonl"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(made: Made, target: str, tmp_path: Path) -> None:
    place = tmp_path / "out" / target
    with files_up_to(3000), pytest.raises(StoreFull, match="No space is left"):
        made.score(place)
    left = [path for path in place.parent.rglob("*") if path.is_file() and path.suffix != ".journal"]
    assert left == []
    made.score(place)
    assert place.exists()
    assert not list(place.parent.rglob(".*"))


def test_what_a_killed_run_left_is_cleared_away(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "answers.parquet"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".answers.parquet.{dead.pid}.part").write_bytes(b"half")
    (tmp_path / f".answers.parquet.{os.getppid()}.part").write_bytes(b"of somebody who lives")
    made.score(target)
    assert [path.name for path in tmp_path.glob(".*")] == [f".answers.parquet.{os.getppid()}.part"]
