"""Two tables beside each other: what moved is named with its rows, what did not is not, and odd tables break nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from everloop.cli.app import app
from everloop.errors import DataError
from everloop.loop import tables, tables_page


def frame(seed: int, rows: int = 3_000, *, moved: bool = False) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    number = random.normal(0.6 if moved else 0, 1, rows)
    return pl.DataFrame(
        {
            "number": pl.Series(np.where(random.random(rows) < (0.2 if moved else 0.02), np.nan, number)).fill_nan(
                None
            ),
            "whole": random.poisson(3, rows).astype(np.int32),
            "flag": random.random(rows) < (0.6 if moved else 0.2),
            "name": random.choice(["heron", "plover", "kestrel"] if moved else ["heron", "plover"], rows),
            "body": [
                " ".join(f"{'new' if moved and place % 8 == 0 else 'w'}{word}" for word in words)
                for place, words in enumerate(random.integers(0, 60, (rows, 6)).tolist())
            ],
            "at": pl.Series([0] * rows).cast(pl.Datetime),
            "both": pl.Series([[1.0, 2.0]] * rows),
        }
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    before, now = tmp_path / "before.parquet", tmp_path / "now.parquet"
    frame(1).write_parquet(before)
    frame(2, moved=True).with_columns(extra=pl.lit(1)).write_parquet(now)
    return before, now


def test_what_moved_is_named_with_why_and_what_did_not_is_not(pair: tuple[Path, Path]) -> None:
    found = tables.compare(*pair)
    said = {each.column: " ".join(each.moved) for each in found.moved}
    assert set(said) >= {"number", "flag", "name", "body (distance)"}
    assert "whole" not in said
    assert "PSI" in said["number"]
    assert "missing" in said["number"]
    assert "33" in said["name"], "a third are new values"
    assert "novel rows" in said["body (distance)"]
    flag = next(each for each in found.columns if each.column == "flag")
    assert {name: round(now, 1) for name, _, now in flag.shares}["true"] == 0.6
    assert found.only_now == ("extra",)
    assert set(found.left_out) == {"at", "both"}


def test_equal_tables_name_a_column_in_one_report_of_a_hundred_at_most(tmp_path: Path) -> None:
    named = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        paths = [tmp_path / f"{side}.parquet" for side in ("one", "other")]
        for path in paths:
            pl.DataFrame({f"c{place}": random.lognormal(0, 1, 1_000) for place in range(20)}).write_parquet(path)
        named += bool(tables.compare(*paths).moved)
    assert named <= 2


def test_columns_read_a_few_at_a_time_say_the_same(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = tables.compare(*pair), []
    monkeypatch.setattr(tables, "AT_ONCE", 3_000)
    assert tables.compare(*pair, told=lambda done, of: seen.append((done, of))) == whole
    assert seen == [(each, 5) for each in range(1, 6)]


def test_a_folder_a_csv_and_json_lines_are_tables_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    kept = pl.read_parquet(pair[0])
    for place in range(3):
        kept[place * 1_000 : (place + 1) * 1_000].write_parquet(folder / f"{place}.parquet")
    assert tables.compare(folder, pair[1]) == tables.compare(*pair)
    flat = pl.read_parquet(pair[1]).select("number", "whole", "name")
    flat.write_csv(tmp_path / "now.csv")
    flat.write_ndjson(tmp_path / "now.jsonl")
    names = ("number", "whole", "name")
    wanted = {each.column: each.psi for each in tables.compare(*pair, columns=names).columns}
    for name in ("now.csv", "now.jsonl"):
        found = tables.compare(pair[0], tmp_path / name, columns=names)
        assert {each.column: each.psi for each in found.columns} == pytest.approx(wanted)


ODD: dict[str, Any] = {
    "a single row": {"x": [1.0], "c": ["a"]},
    "all missing": {"x": pl.Series([None] * 500, dtype=pl.Float64), "c": pl.Series([None] * 500, dtype=pl.String)},
    "constant": {"x": [5.0] * 500, "c": ["a"] * 500},
    "huge categories": {"x": np.arange(500.0), "c": ["x" * 100_000 + str(each) for each in range(500)]},
    "infinities": {"x": [float("inf"), float("-inf"), float("nan")] * 200, "c": ["", "\x00", "a"] * 200},
    "large": {"x": [1e308, -1e308] * 250, "c": ["\ud7ff", "漢字"] * 250},
    "usual": {"x": np.random.default_rng(1).normal(0, 1, 500), "c": ["a", "b"] * 250},
}


@pytest.mark.parametrize("before", ODD)
@pytest.mark.parametrize("now", ODD)
def test_odd_tables_are_compared_and_drawn(before: str, now: str, tmp_path: Path) -> None:
    paths = []
    for side, name in (("before", before), ("now", now)):
        paths.append(tmp_path / f"{side}.parquet")
        pl.DataFrame(ODD[name], strict=False).write_parquet(paths[-1])
    found = tables.compare(*paths)
    assert {each.column.split(" (")[0] for each in found.columns} == {"x", "c"}
    assert all(np.isfinite(each.psi) for each in found.columns)
    assert "<script" not in tables_page.page(found, before="<script>", now="b")
    if before == now:
        assert not found.moved


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no file or folder"),
        (lambda path: path.write_bytes(b"not parquet"), "cannot be read"),
        (lambda path: pl.DataFrame({"x": pl.Series([], dtype=pl.Float64)}).write_parquet(path), "no rows"),
        (lambda path: path.mkdir(), "holds no .parquet file"),
    ],
)
def test_what_is_no_table_is_said(make: Any, words: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "odd.parquet"
    make(path)
    with pytest.raises(DataError, match=words):
        tables.compare(pair[0], path)


@pytest.mark.parametrize(("column", "words"), [("other", "share no column"), ("amount", "amount: ")])
def test_two_tables_with_nothing_to_compare_are_no_quiet_ones(tmp_path: Path, column: str, words: str) -> None:
    before, now = tmp_path / "before.parquet", tmp_path / "now.parquet"
    pl.DataFrame({"amount": [1.0, 2.0]}).write_parquet(before)
    pl.DataFrame({column: ["a", "b"]}).write_parquet(now)
    ended = CliRunner().invoke(app, ["drift", str(before), str(now)])
    assert isinstance(ended.exception, DataError)
    assert words in str(ended.exception)


def test_a_column_that_is_not_there_and_a_strange_ending_are_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'nmae'"):
        tables.compare(*pair, columns=["nmae"])
    with pytest.raises(DataError, match=r"\.xlsx"):
        tables.compare(pair[0], tmp_path / "now.xlsx")


def test_the_command_says_it_prints_it_and_draws_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    ended = CliRunner().invoke(app, ["drift", str(pair[0]), str(pair[1]), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "columns moved" in ended.output
    assert "not compared: at" in ended.output
    assert "<svg" in out.read_text()
    ended = CliRunner().invoke(app, ["drift", str(pair[0]), str(pair[1]), "--json", "--column", "whole"])
    assert json.loads(ended.stdout)["moved"] == []
