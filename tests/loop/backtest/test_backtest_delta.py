"""A history in a Delta table gives the answer of the same rows in one file, however its commits overlap in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from everloop.loop.backtest import pieces
from everloop.spec.load import load
from everloop.spec.retrain import Every, Manual
from known_world import World, made, rows


def test_commits_that_overlap_and_partitions_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = rows(days=84)
    plain = made(tmp_path / "plain", frame)
    table = made(
        tmp_path / "table", frame.head(1), source='el.Parquet("history", key="id", event_time="at", time_zone="UTC")'
    )
    # Late and early rows in every commit: nothing comes in the order of time.
    shuffled = frame.with_columns(pl.col("at").dt.replace_time_zone("UTC")).sample(fraction=1, shuffle=True, seed=1)
    for at in range(4):
        part = shuffled.slice(at * 600, 600)
        write_deltalake(table.folder / "history", part.to_arrow(), mode="append", partition_by=["group"])
    (table.folder / "rows.parquet").unlink()
    table = World(folder=table.folder, declaration=load(table.folder / "made.py"))
    monkeypatch.setattr(pieces, "CHUNK", 100)
    monkeypatch.setattr("everloop.loop.backtest.timeline.CHUNK", 100)
    largest = list[int]()
    whole = pieces.in_order

    def watched(group: Sequence[pieces.Piece]) -> Iterator[pl.DataFrame]:
        for each in whole(group):
            largest.append(len(each))
            yield each

    monkeypatch.setattr("everloop.loop.backtest.timeline.in_order", watched)
    found = []
    for world in (plain, table):
        policies = [world.policy(Manual()), world.policy(Every(timedelta(days=14)))]
        found.append(world.run(policies))
    one, other = found
    assert [run.score for run in one.runs] == [run.score for run in other.runs]
    assert [[each.score for each in run.windows] for run in one.runs] == [
        [each.score for each in run.windows] for run in other.runs
    ]
    assert max(largest) <= 100  # however many commits overlap, no more of their rows are in memory at once
