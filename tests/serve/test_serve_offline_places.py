"""Where rows come from and where answers go: files, folders, patterns, compressed files, Delta tables."""

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from everloop.errors import DataError
from everloop.serve import offline
from everloop.serve.offline import Scored
from everloop.store.packages import trusted_keys
from everloop.testing.serving import ServedHome, expected, signature_of


class Place:
    """A folder with a package that answers sigmoid(x)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served = ServedHome(folder / "home")
        self.package = self.served.seal(1, signature_of({"x": "number"}))

    def score(self, source: str, target: str, **more: Any) -> Scored:
        home = self.served.home
        return offline.score(
            home.packages / self.package, str(self.folder / source), self.folder / target,
            trusted=trusted_keys(home.keys), **more,
        )  # fmt: skip

    def rows(self, *values: float, **others: Any) -> pl.DataFrame:
        return pl.DataFrame({"x": list(values), **others})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def partitioned(place: Place, folder: str = "asked") -> None:
    for day in (1, 2):
        for name in ("a", "b"):
            path = place.folder / folder / f"day={day}" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            place.rows(float(day), -1.0, name=[name, name]).write_parquet(path)


def probabilities(path: Path) -> list[float]:
    found: list[float] = pl.read_parquet(path)["probability_true"].to_list()
    return found


def test_a_folder_keeps_its_paths_and_holds_nothing_but_answers(place: Place) -> None:
    partitioned(place)
    scored = place.score("asked", "answers")
    assert (scored.rows, scored.files) == (8, 4)
    found = sorted(
        path.relative_to(place.folder / "answers").as_posix() for path in (place.folder / "answers").rglob("*.*")
    )
    assert found == ["day=1/a.parquet", "day=1/b.parquet", "day=2/a.parquet", "day=2/b.parquet"]
    assert probabilities(place.folder / "answers/day=2/a.parquet") == pytest.approx([expected(2.0), expected(-1.0)])
    together = pl.read_parquet(place.folder / "answers", hive_partitioning=True)
    assert sorted(together["day"].to_list()) == [1] * 4 + [2] * 4, "it can be read as one partitioned table"


def test_the_form_of_a_folder_can_be_another(place: Place) -> None:
    partitioned(place)
    place.score("asked", "answers", form="csv")
    found = sorted(path.name for path in (place.folder / "answers/day=1").iterdir())
    assert found == ["a.csv", "b.csv"]
    with pytest.raises(DataError, match="--format is 'xlsx'"):
        place.score("asked", "other", form="xlsx")


def test_a_pattern_chooses_files_and_keeps_their_paths(place: Place) -> None:
    partitioned(place)
    assert place.score("asked/day=*/a.parquet", "answers").files == 2
    assert (place.folder / "answers/day=2/a.parquet").exists()
    with pytest.raises(DataError, match="holds no file"):
        place.score("asked/*.csv", "other")


def test_several_files_become_one_in_order_with_what_their_folders_say(place: Place) -> None:
    partitioned(place)
    place.score("asked", "answers.parquet")
    found = pl.read_parquet(place.folder / "answers.parquet")
    assert found["x"].to_list() == [1.0, -1.0] * 2 + [2.0, -1.0] * 2
    assert found["day"].to_list() == ["1"] * 4 + ["2"] * 4


def test_a_column_that_only_the_folders_name_is_a_column(tmp_path: Path) -> None:
    place = Place(tmp_path)
    partitioned(place)
    place.package = place.served.seal(2, signature_of({"day": "number"}))
    place.score("asked", "answers")
    assert probabilities(tmp_path / "answers/day=2/a.parquet") == pytest.approx([expected(2.0)] * 2)
    assert "day" not in pl.read_parquet(tmp_path / "answers/day=2/a.parquet", hive_partitioning=False).columns


def test_files_with_other_columns_do_not_go_into_one_table(place: Place) -> None:
    (place.folder / "asked").mkdir()
    place.rows(1.0).write_parquet(place.folder / "asked/a.parquet")
    place.rows(1.0, more=[1]).write_parquet(place.folder / "asked/b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'more' is not in every file"):
        place.score("asked", "answers.parquet")
    assert not (place.folder / "answers.parquet").exists()
    place.score("asked", "answers.parquet", keep="x")
    assert place.score("asked", "answers").files == 2


@pytest.mark.parametrize("name", ["asked.csv.gz", "asked.jsonl.gz", "asked.ndjson"])
def test_compressed_files_are_read(name: str, place: Place) -> None:
    rows = place.rows(1.0, 2.0, 3.0)
    text = (rows.write_csv() if ".csv" in name else rows.write_ndjson()).encode()
    (place.folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    place.score(name, "answers.parquet")
    assert probabilities(place.folder / "answers.parquet") == pytest.approx([expected(x) for x in (1.0, 2.0, 3.0)])
    (place.folder / "all").mkdir()
    (place.folder / name).rename(place.folder / "all" / name)
    place.score("all", "folder")
    assert (place.folder / "folder" / name.removesuffix(".gz")).exists()


def test_a_damaged_file_is_named(place: Place) -> None:
    place.rows(*range(1000)).write_parquet(place.folder / "asked.parquet")
    content = (place.folder / "asked.parquet").read_bytes()
    (place.folder / "asked.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"asked.parquet cannot be read"):
        place.score("asked.parquet", "answers.parquet")
    (place.folder / "asked.csv").write_text("x,y\n1,2\n3,4,5\n")
    with pytest.raises(DataError, match=r"asked.csv cannot be read"):
        place.score("asked.csv", "answers.parquet")


def test_a_file_without_rows_has_an_answer_without_rows(place: Place) -> None:
    place.rows().cast({"x": pl.Float64}).write_parquet(place.folder / "asked.parquet")
    (place.folder / "asked.csv").write_text("x\n")
    for name in ("asked.parquet", "asked.csv"):
        assert place.score(name, "answers.parquet").rows == 0
        assert pl.read_parquet(place.folder / "answers.parquet").schema == {
            "x": pl.Float64 if name == "asked.parquet" else pl.String, "predicted": pl.Boolean,
            "probability_false": pl.Float64, "probability_true": pl.Float64, "version": pl.Int64, "package": pl.String,
        }  # fmt: skip


def test_answers_never_land_among_the_questions(place: Place) -> None:
    partitioned(place)
    for target in ("asked", "asked/answers"):
        with pytest.raises(DataError, match="lies in"):
            place.score("asked", target)


def test_two_files_that_would_become_one_are_refused(place: Place) -> None:
    (place.folder / "asked").mkdir()
    place.rows(1.0).write_csv(place.folder / "asked/a.csv")
    place.rows(1.0).write_parquet(place.folder / "asked/a.parquet")
    with pytest.raises(DataError, match=r"would both become a\.parquet"):
        place.score("asked", "answers", form="parquet")
    assert place.score("asked", "answers").files == 2


def test_many_small_row_groups_and_one_large_give_the_same(place: Place) -> None:
    rows = place.rows(*(n / 1000 for n in range(5000)))
    rows.write_parquet(place.folder / "a.parquet", row_group_size=7)
    rows.write_parquet(place.folder / "b.parquet")
    place.score("a.parquet", "out-a.parquet")
    place.score("b.parquet", "out-b.parquet")
    assert pl.read_parquet(place.folder / "out-a.parquet").equals(pl.read_parquet(place.folder / "out-b.parquet"))


# Delta tables


def test_a_delta_table_is_read_as_of_now_without_what_was_removed(place: Place) -> None:
    table = place.folder / "table"
    write_deltalake(table, place.rows(1.0, 2.0, day=["a", "b"]), partition_by=["day"])
    write_deltalake(table, place.rows(5.0, 6.0, day=["c", "c"]), mode="append")
    DeltaTable(table).delete("day = 'a'")
    place.score("table", "answers.parquet")
    found = pl.read_parquet(place.folder / "answers.parquet").sort("x")
    assert found["x"].to_list() == [2.0, 5.0, 6.0]
    assert found["day"].to_list() == ["b", "c", "c"]
    scored = place.score("table", "answers")
    assert (scored.rows, scored.files) == (3, 2)


def test_answers_for_an_older_version_of_a_table_are_not_taken_for_those_of_today(place: Place) -> None:
    table = place.folder / "table"
    write_deltalake(table, place.rows(1.0))
    place.score("table", "answers")
    write_deltalake(table, place.rows(2.0), mode="append")
    with pytest.raises(DataError, match=r"holds answers for version 0 of .*, which is at version 1 now"):
        place.score("table", "answers")


def test_answers_are_appended_to_a_table_in_one_commit(place: Place) -> None:
    partitioned(place)
    table = place.folder / "scored"
    scored = place.score("asked", "scored", form="delta", version=3)
    assert scored.table_version == 0
    rows = pl.read_delta(str(table))
    assert len(rows) == 8
    assert rows["version"].unique().to_list() == [3]
    assert sorted(rows["day"].to_list()) == ["1"] * 4 + ["2"] * 4
    assert place.score("asked", "scored", version=3).files == 0, "the same again changes nothing"
    place.rows(9.0, name=["z"]).write_parquet(place.folder / "asked/day=2/z.parquet")
    assert place.score("asked", "scored", version=3).table_version == 1
    assert len(pl.read_delta(str(table))) == 9
    (history,) = DeltaTable(table).history(1)
    assert history["operation"] == "WRITE"


def test_another_package_appends_to_the_same_table(place: Place) -> None:
    partitioned(place)
    place.score("asked", "scored", form="delta", version=1)
    place.package = place.served.seal(2, signature_of({"x": "number"}), bias=1.0)
    assert place.score("asked", "scored", version=2).rows == 8
    rows = pl.read_delta(str(place.folder / "scored"))
    assert rows.group_by("version").len().sort("version").rows() == [(1, 8), (2, 8)]


def test_a_table_with_other_columns_is_left_as_it_is(place: Place) -> None:
    partitioned(place)
    table = place.folder / "scored"
    write_deltalake(table, pl.DataFrame({"something": [1]}))
    with pytest.raises(DataError, match="is not in every file"):
        place.score("asked", "scored")
    assert pl.read_delta(str(table)).rows() == [(1,)]
    assert not list(table.glob("part-0*.parquet")) or DeltaTable(table).version() == 0


def test_a_delta_table_scored_into_a_delta_table_follows_its_versions(place: Place) -> None:
    write_deltalake(place.folder / "table", place.rows(1.0, 2.0))
    place.score("table", "scored", form="delta")
    write_deltalake(place.folder / "table", place.rows(3.0), mode="append")
    place.score("table", "scored")
    found = pl.read_delta(str(place.folder / "scored"))
    assert sorted(found["x"].to_list()) == [1.0, 1.0, 2.0, 2.0, 3.0], "every version is scored whole"


PEAK = """
import sys
from pathlib import Path
from everloop.serve import offline
from everloop.store.packages import trusted_keys
home, package, source, target = map(Path, sys.argv[1:])
offline.score(home / "packages" / str(package), source, target, trusted=trusted_keys(home / "keys"))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    columns = {f"c{n}": "number" for n in range(10)}
    home = ServedHome(tmp_path / "home")
    package = home.seal(1, signature_of(columns))

    def peak(rows: int) -> float:
        """Megabytes."""
        source = tmp_path / f"{rows}.parquet"
        values = pl.Series("c0", range(rows), dtype=pl.Float64)
        pl.DataFrame([values.alias(name) * n for n, name in enumerate(columns)]).write_parquet(
            source, row_group_size=rows, compression="uncompressed"
        )
        given = [str(home.home.root), package, str(source), str(tmp_path / "out.parquet")]
        ended = subprocess.run([sys.executable, "-c", PEAK, *given], check=True, capture_output=True, text=True)
        return int(ended.stdout) / 1000

    small, large = peak(500_000), peak(2_500_000)  # 40 and 200 MB, each in one row group
    assert large < small + 60
