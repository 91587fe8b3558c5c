"""However a history lies in pieces: each key counts once, where it came first, and all rows come in the order of time."""

import resource
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.data.sources import EVENT_TIME, KEY
from everloop.loop.backtest import mapped, pieces
from everloop.loop.backtest.pieces import Piece

START = datetime(2026, 1, 1)


def history(folder: Path, frames: list[pl.DataFrame]) -> list[Piece]:
    return [
        Piece.write(each.sort(EVENT_TIME, KEY), folder / f"piece-{number}.arrow") for number, each in enumerate(frames)
    ]


def rows(keys: list[str], minutes: list[int]) -> pl.DataFrame:
    times = [START + timedelta(minutes=each) for each in minutes]
    return pl.DataFrame({KEY: keys, EVENT_TIME: times}, schema_overrides={EVENT_TIME: pl.Datetime("us")})


@pytest.mark.parametrize("at_once", [1, 7, 64, 2_000_000])
def test_of_rows_with_one_key_the_first_counts_however_many_are_looked_at_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(pieces, "KEYS_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    frames = [rows([f"k{each}" for each in random.integers(0, 150, 100)], list(range(100))) for _ in range(4)]
    made = history(tmp_path, frames)
    seen: set[str] = set()
    expected = []
    for each in frames:
        for key, at in each.sort(EVENT_TIME, KEY).iter_rows():
            if key not in seen:
                expected.append((key, at))
            seen.add(key)
    assert pieces.drop_repeated(made) == 400 - len(expected)
    kept = [row for each in made for row in each.frame(0, each.rows).select(KEY, EVENT_TIME).iter_rows()]
    assert kept == expected


@pytest.mark.parametrize("chunk", [1, 50, 128, 1_000, 200_000])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_rows_come_in_the_order_of_time_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, count: int
) -> None:
    monkeypatch.setattr(pieces, "CHUNK", chunk)
    shuffled = np.random.default_rng(1).permutation(2_700)
    frames = [
        rows([f"k{each}" for each in part], [int(each) for each in part]) for part in np.array_split(shuffled, count)
    ]
    made = history(tmp_path, frames)
    (group,) = pieces.overlapping(made)
    slices = list(pieces.in_order(group))
    whole = pl.concat(slices)
    assert whole[KEY].to_list() == [f"k{each}" for each in range(2_700)]
    assert max(len(each) for each in slices) <= max(chunk, 2)
    assert not list(tmp_path.iterdir()), "pieces are gone when their rows are in order"


def test_many_pieces_take_few_open_files(tmp_path: Path) -> None:
    made = history(tmp_path, [rows([f"k{each}", f"l{each}"], [each, 500 - each]) for each in range(120)])
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, allowed[1]))
    try:
        assert pieces.drop_repeated(made) == 0
        (group,) = pieces.overlapping(made)
        assert sum(len(each) for each in pieces.in_order(group)) == 240
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


def test_pieces_of_other_times_are_apart(tmp_path: Path) -> None:
    made = history(tmp_path, [rows(["c", "d"], [5, 9]), rows(["a"], [1]), rows(["b", "e"], [3, 6])])
    assert [sorted(each.first for each in group) for group in pieces.overlapping(made)] == [
        [made[1].first],
        [made[2].first, made[0].first],
    ]


def test_columns_are_what_was_appended(tmp_path: Path) -> None:
    with mapped.Columns(tmp_path, "a", "b") as columns:
        for part in np.array_split(np.arange(10), 3):
            columns.append("a", part[::-1])
    assert mapped.mapped(tmp_path / "a", np.int64).tolist() == [3, 2, 1, 0, 6, 5, 4, 9, 8, 7]
    assert len(mapped.mapped(tmp_path / "b", np.float64)) == 0


@pytest.mark.parametrize("mapped_from", [0, 1 << 20])
@pytest.mark.parametrize("shape", [(0,), (7,), (100, 3)])
def test_an_array_is_what_its_parts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], mapped_from: int
) -> None:
    monkeypatch.setattr(mapped, "MAPPED_FROM", mapped_from)
    whole = np.random.default_rng(0).normal(size=shape)
    mapped.write_array(tmp_path / "a.npy", np.array_split(whole, 3), rows=len(whole))
    found = mapped.read_array(tmp_path / "a.npy")
    assert found.shape == shape
    assert (found == whole).all()


def test_an_array_whose_parts_end_early_is_not_there(tmp_path: Path) -> None:
    def parts() -> Iterator[np.ndarray[Any, Any]]:
        yield np.zeros(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        mapped.write_array(tmp_path / "a.npy", parts(), rows=6)
    with pytest.raises(ValueError, match="was to hold 6 rows, and its parts have 5"):
        mapped.write_array(tmp_path / "a.npy", [np.zeros(3), np.zeros(2)], rows=6)
    assert not list(tmp_path.iterdir())
