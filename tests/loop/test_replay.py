"""A replay is honest: the same twice, never ahead of what was known, and no request fails."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from everloop.errors import DataError, SpecError
from everloop.loop.account import Account
from everloop.loop.replay import read_history
from everloop.spec.load import load
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.store.ledger import Ledger, snapshots
from small_loop import DAY, START, SmallLoop, made_rows

DAYS, SERVED_FROM, DELAY = 26, START + 11 * DAY, DAY
ALTERED = START + 19 * DAY
"""From here on the altered history tells every label the other way round."""
ROLLOUT = (
    "el.Canary(shares=(0.5,), guards=(el.guard.Errors(),), minimum=td(days=1), minimum_requests=20, longest=td(days=6))"
)


class Replayed:
    """One replay and the home that it left."""

    def __init__(self, folder: Path, rows: pl.DataFrame) -> None:
        loop = SmallLoop(
            folder / "loop",
            rows=rows,
            window="el.Last(td(days=10), test=td(days=3))",
            retrain="el.Every(td(days=7))",
            rollout=ROLLOUT,
        )
        self.account: Account = loop.replay(folder / "home")
        self.folder = folder / "home"
        self.home = Home(self.folder / ".everloop")
        self.lake = Lake(self.home.lake(loop.name))

    def answers(self, before: datetime | None = None) -> pl.DataFrame:
        """What was answered, in order: id, event_time, version, arm, p_0, p_1."""
        logged = self.lake.read("predictions").sort("event_time", "id", "arm")
        chosen = logged if before is None else logged.filter(pl.col("event_time") < before)
        return chosen.select("id", "event_time", "version", "arm", "share", "p_0", "p_1")


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    return made_rows(1_600, days=DAYS)


@pytest.fixture(scope="module")
def replayed(history: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    return Replayed(tmp_path_factory.mktemp("replayed"), history)


def test_the_loop_turns_under_a_replay(replayed: Replayed) -> None:
    actions = {each.action for each in replayed.account.decisions}
    assert {"turn started", "released", "shadow", "canary", "promoted"} <= actions
    assert len(replayed.account.versions) == 3


def test_no_request_fails_and_each_row_is_answered_once(replayed: Replayed, history: pl.DataFrame) -> None:
    served = history.filter(pl.col("sent") >= SERVED_FROM.replace(tzinfo=None))
    assert replayed.account.failed == 0
    assert replayed.account.predictions == len(served)
    answered = replayed.answers().filter(~pl.col("arm").is_in(["shadow", "former"]))
    assert sorted(answered["id"]) == sorted(served["parcel"])


def test_the_same_seed_gives_the_same_account_twice(replayed: Replayed, history: pl.DataFrame, tmp_path: Path) -> None:
    again = Replayed(tmp_path, history)
    first, second = replayed.account.summary(), again.account.summary()
    for changing in ("seconds", "predictions_per_second"):
        first.pop(changing)
        second.pop(changing)
    assert first == second
    assert replayed.account.periods == again.account.periods
    assert replayed.answers().equals(again.answers())


def test_labels_of_the_future_change_no_answer_before_they_are_known(
    replayed: Replayed, history: pl.DataFrame, tmp_path: Path
) -> None:
    later = pl.col("sent") >= ALTERED.replace(tzinfo=None)
    altered = history.with_columns(pl.when(later).then(~pl.col("late")).otherwise("late").alias("late"))
    other = Replayed(tmp_path, altered)
    known = ALTERED + DELAY
    assert replayed.answers(known).equals(other.answers(known))
    assert len(replayed.answers(known)) > 400
    ours, theirs = (
        [(each.at, each.action, each.because) for each in found.account.decisions if each.at <= known]
        for found in (replayed, other)
    )
    assert ours == theirs
    assert replayed.account.score != other.account.score, "afterwards the two worlds differ"


def test_no_file_delivers_a_label_before_its_time(replayed: Replayed) -> None:
    files = sorted((replayed.folder / "source").glob("*.parquet"))
    assert len(files) > 10
    for number, file in enumerate(files):
        now = SERVED_FROM + number * DAY
        rows = pl.read_parquet(file)
        assert rows.filter(pl.col("sent") > now).is_empty()
        assert rows.filter(pl.col("late").is_not_null() & (pl.col("sent") + DELAY > now)).is_empty()


def test_no_snapshot_holds_a_label_before_its_time(replayed: Replayed) -> None:
    ledger = Ledger.open(replayed.home.ledger)
    with ledger.read() as connection:
        taken = [snapshots.get(connection, each.snapshot) for each in replayed.account.versions]
    ledger.close()
    for each in taken:
        assert each.train_from < each.test_from < each.to <= each.as_of - DELAY + timedelta(microseconds=1)
    outcomes = replayed.lake.read("outcomes").join(
        replayed.lake.read("raw").select("_key", "_event_time"), left_on="id", right_on="_key"
    )
    assert (outcomes["at"] - outcomes["_event_time"] == DELAY).all()


def test_the_summary_is_json_for_machines(replayed: Replayed) -> None:
    summary = json.loads(json.dumps(replayed.account.summary()))
    assert summary["loop"] == "parcels"
    assert summary["task"] == "binary"
    assert summary["metric"] == "log_loss"
    assert set(summary["scores"]) == {"accuracy", "roc_auc", "average_precision", "log_loss", "brier"}
    assert 0 < summary["score"] < 0.69, "better than a coin"
    assert summary["from"] == SERVED_FROM.isoformat()
    assert summary["versions"] == 3
    assert summary["champion"] in (1, 2, 3)
    assert summary["actions"]["turn started"] == 3
    assert set(summary["seconds"]) == {
        "ingest", "turns", "server", "traffic", "outcomes", "look", "release", "total"
    }  # fmt: skip
    assert sum(each for part, each in summary["seconds"].items() if part != "total") == pytest.approx(
        summary["seconds"]["total"], abs=0.05
    )
    assert all(set(each) == {"at", "action", "version", "because"} for each in summary["decisions"])


def test_periods_follow_one_another_without_a_gap(replayed: Replayed) -> None:
    periods = replayed.account.periods
    assert periods[0].start == SERVED_FROM
    assert all(before.end == after.start for before, after in pairwise(periods))
    assert sum(each.rows for each in periods) == replayed.account.predictions


def test_a_history_without_the_label_cannot_be_replayed(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(50).drop("late"))
    declared = load(loop.file)
    with pytest.raises(DataError, match="no column 'late'"):
        read_history(declared.loops[0], declared.source, loop.folder)


def test_a_history_shorter_than_the_first_window_is_refused(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(50), window="el.Last(500, test=0.2)")
    with pytest.raises(DataError, match=r"holds 50 rows, the first window alone needs 500"):
        loop.replay(tmp_path / "home")


def test_a_first_turn_that_makes_no_version_ends_the_replay_with_its_reason(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(300), train="el.Train(LogisticRegression(C=-1.0))")
    with pytest.raises((DataError, SpecError), match=r"made no version.*InvalidParameterError"):
        loop.replay(tmp_path / "home")
