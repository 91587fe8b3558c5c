import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.records import InputColumn, Signature
from everloop.store.lake import Lake
from everloop.watch.fold import fold, inputs, positions

Signatures = dict[str, Signature]


def ids(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def test_rows_come_back_with_their_types_and_their_missing_values(
    log: Any, lake: Lake, signatures: Signatures, missing: Callable[[str], Any]
) -> None:
    log.predictions(
        ["a", "b"],
        at=[1_000_000, 2_000_000],
        chance=[0.2, 0.9],
        failed=[False, True],
        latency=[300, 70_000],
        numbers=[1.5, np.nan],
        integers=[2**53 + 1, missing("integer"), missing("integer"), 0],
        texts=["heron", missing("text"), "", "hill"],
        arm="challenger",
        share=0.1,
        epoch=7,
        revision=3,
        version=4,
    )
    assert fold(log.folder, lake, signatures).predictions == 2
    first, second = lake.read("predictions").sort("id").rows(named=True)
    assert first == {
        "id": "a",
        "at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "event_time": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "version": 4,
        "arm": "challenger",
        "revision": 3,
        "epoch": 7,
        "share": 0.1,
        "unit": None,
        "latency_us": 300,
        "error": False,
        "decision": 0,
        "p_0": 0.8,
        "p_1": 0.2,
        "input_distance": 1.5,
        "input_items": 2**53 + 1,
        "input_insured": None,
        "input_carrier": "heron",
        "input_region": None,
    }
    assert second["error"]
    assert second["decision"] is None
    assert second["p_1"] is None
    assert second["input_distance"] is None
    assert second["input_items"] is None
    assert second["input_insured"] is False
    assert second["input_carrier"] == ""


def test_a_second_fold_adds_nothing_and_a_later_one_only_what_is_new(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(ids(5))
    log.outcomes([("p0", 1, 10)])
    fold(log.folder, lake, signatures)
    assert fold(log.folder, lake, signatures).predictions == 0
    log.predictions(ids(3, "q"))
    counts = fold(log.folder, lake, signatures)
    assert (counts.predictions, counts.outcomes) == (3, 0)
    assert lake.read("predictions")["id"].n_unique() == len(lake.read("predictions")) == 8
    assert len(lake.read("outcomes")) == 1


def test_a_backlog_is_folded_in_pieces_and_every_row_once(log: Any, lake: Lake, signatures: Signatures) -> None:
    for part in range(7):
        log.predictions(ids(40, f"{part}-"))
        log.outcomes([(f"{part}-{index}", 1.0, index) for index in range(40)])
    counts = fold(log.folder, lake, signatures, limit=100)
    assert (counts.predictions, counts.outcomes) == (280, 280)
    assert lake.version("predictions") >= 2
    assert lake.read("predictions")["id"].n_unique() == 280
    assert lake.read("outcomes")["id"].n_unique() == 280


def test_a_torn_tail_waits_until_it_is_whole(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(ids(2))
    log.predictions(ids(2, "q"))
    whole = log.writer.path.read_bytes()
    log.writer.path.write_bytes(whole[:-5])
    assert fold(log.folder, lake, signatures).predictions == 2
    log.writer.path.write_bytes(whole)
    assert fold(log.folder, lake, signatures).predictions == 2
    assert sorted(lake.read("predictions")["id"]) == ["p0", "p1", "q0", "q1"]


def test_late_and_corrected_outcomes_are_all_kept(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.outcomes([("a", 1, 20), ("a", 0, 30), ("b", "lost", 5), ("c", True, 6), ("d", None, 7)])
    fold(log.folder, lake, signatures)
    kept = lake.read("outcomes").sort("id", "at")
    assert kept["value_number"].to_list() == [1.0, 0.0, None, 1.0, None]
    assert kept["value_text"].to_list() == [None, None, "lost", None, None]


def test_a_package_that_nobody_knows_keeps_its_answers(log: Any, lake: Lake) -> None:
    log.predictions(["a"], chance=[0.7])
    assert fold(log.folder, lake, {}).unknown == 1
    assert lake.read("predictions")["p_1"].to_list() == [0.7]


def test_a_raw_column_that_changed_its_type_does_not_stop_the_log(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a"])
    fold(log.folder, lake, signatures)
    changed = Signature(
        inputs=(
            InputColumn(name="items", type="number", index=0),
            InputColumn(name="carrier", type="text", index=0),
        ),
        task="binary",
        classes=(0, 1),
    )
    log.predictions(["b"], package="other", numbers=[2.5], integers=[], texts=["heron"])
    fold(log.folder, lake, {**signatures, "other": changed})
    rows = lake.read("predictions").filter(pl.col("id") == "b")
    assert inputs(rows, changed.inputs)["items"].to_list() == [2.5]
    assert inputs(rows, changed.inputs)["carrier"].to_list() == ["heron"]


def test_the_row_s_own_event_time_is_used_when_it_brings_one(log: Any, lake: Lake, signatures: Signatures) -> None:
    departs = Signature(
        inputs=(
            InputColumn(name="distance", type="number", index=0),
            InputColumn(name="departure", type="instant", index=0),
        ),
        task="binary",
        classes=(0, 1),
        event_time="departure",
    )
    log.predictions(["a", "b"], at=[5, 6], integers=[86_400_000_000, -(2**63)], texts=[])
    fold(log.folder, lake, {"package": departs})
    times = lake.read("predictions").sort("id")["event_time"].dt.epoch("us").to_list()
    assert times == [86_400_000_000, 6]


def test_two_folds_at_once_double_nothing(log: Any, lake: Lake, signatures: Signatures) -> None:
    for part in range(20):
        log.predictions(ids(10, f"{part}-"))
        log.outcomes([(f"{part}", 1, part)])
    with ThreadPoolExecutor(4) as pool:
        lakes = [Lake(lake.root) for _ in range(4)]
        list(pool.map(lambda each: fold(log.folder, each, signatures), lakes))
    assert len(lake.read("predictions")) == 200
    assert len(lake.read("outcomes")) == 20


KILLED = """
import os, signal, sys
from pathlib import Path
import everloop.store.lake as lakes
from everloop.records import Signature
from everloop.watch.fold import fold

class Deadly(lakes.Lake):
    commits = 0
    def append(self, table, frame, *, note=None):
        before = sys.argv[3] == "before"
        Deadly.commits += 1
        if before and Deadly.commits == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        version = super().append(table, frame, note=note)
        if Deadly.commits == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return version

fold(Path(sys.argv[1]), Deadly(Path(sys.argv[2])), {}, limit=30)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("commit", [1, 2, 3, 4])
def test_a_fold_killed_at_any_commit_loses_and_doubles_nothing(
    log: Any, lake: Lake, tmp_path: Path, moment: str, commit: int
) -> None:
    for part in range(4):
        log.predictions(ids(20, f"{part}-"))
        log.outcomes([(f"{part}-{index}", 1, index) for index in range(5)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(log.folder), str(lake.root), moment, str(commit)],
        env={**os.environ},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    fold(log.folder, lake, {})
    predictions, outcomes = lake.read("predictions"), lake.read("outcomes")
    assert predictions["id"].n_unique() == len(predictions) == 80
    assert outcomes["id"].n_unique() == len(outcomes) == 20


def test_other_commits_to_the_outcomes_table_hide_no_position(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.outcomes([("a", 1, 1)])
    fold(log.folder, lake, signatures)
    lake.append("outcomes", lake.read("outcomes").with_columns(id=pl.lit("b")), note={"batch": "file"})
    assert positions(lake)["outcomes"] != {}
    assert fold(log.folder, lake, signatures).outcomes == 0
    assert sorted(lake.read("outcomes")["id"]) == ["a", "b"]


def test_the_value_of_a_regression_stands_in_value(log: Any, lake: Lake) -> None:
    log.predictions(["a", "b"], values=[12.5, np.nan])
    fold(log.folder, lake, {"package": Signature(inputs=(), task="regression")})
    rows = lake.read("predictions").sort("id")
    assert rows["value"].to_list() == [12.5, None]
    assert rows["decision"].null_count() == 2


def test_the_arm_of_an_experiment_or_a_route_comes_with_its_rows(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["plain"])
    fold(log.folder, lake, signatures)
    assert not {"experiment", "variant", "certainty"} & set(lake.schema("predictions")), "nobody needs them yet"

    log.predictions(["tried"], arm="experiment", experiment="price", variant="treatment", share=0.3)
    log.predictions(["easy", "lost"], arm="route", variant="easy", certainty=[0.9, np.nan])
    log.predictions(["plain too"])
    fold(log.folder, lake, signatures)
    rows = lake.read("predictions", columns=["id", "arm", "experiment", "variant", "certainty", "share"])
    assert {row[0]: row[1:] for row in rows.rows()} == {
        "plain": ("champion", None, None, None, 0.0),
        "tried": ("experiment", "price", "treatment", None, 0.3),
        "easy": ("route", None, "easy", 0.9, 0.0),
        "lost": ("route", None, "easy", None, 0.0),
        "plain too": ("champion", None, None, None, 0.0),
    }
