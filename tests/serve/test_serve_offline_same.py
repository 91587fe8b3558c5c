"""A row gets the same answer from a file as over HTTP, to the last digit, however it is grouped with others."""

from pathlib import Path

import polars as pl
import pytest

from everloop.serve import offline
from everloop.store.packages import trusted_keys
from everloop.testing.boosted import NAMES, Boosted, boosted, made_rows
from everloop.testing.serving import Client

ROWS = 1_003


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Boosted:
    return boosted(tmp_path_factory.mktemp("boosted"), trees=40, fitted_rows=3_000)


@pytest.fixture(scope="module")
def served(model: Boosted) -> list[tuple[bool, float, float]]:
    """Answers over HTTP: some rows alone, some together."""
    rows = made_rows(ROWS, seed=5, missing=0.05)
    asked = [{n: None if v != v else v for n, v in row.items()} for row in rows.to_dicts()]
    with model.home.serve() as server, Client(server.port) as client:
        answers = [client.post("/predict", row)[1] for row in asked[:101]]
        for start in range(101, ROWS, 37):
            answers += client.post("/predict", asked[start : start + 37])[1]
    return [(a["decision"], a["probability"]["false"], a["probability"]["true"]) for a in answers]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("sizes", [None, (1,), (7,), (256,)], ids=str)
def test_file_and_server_answer_the_same_to_the_last_digit(
    suffix: str, sizes: tuple[int, ...] | None, model: Boosted, served: list[tuple[bool, float, float]], tmp_path: Path
) -> None:
    rows = made_rows(ROWS, seed=5, missing=0.05)
    source, target = tmp_path / f"asked{suffix}", tmp_path / "answers.parquet"
    if suffix == ".parquet":
        rows.write_parquet(source, row_group_size=100)
    elif suffix == ".csv":
        rows.fill_nan(None).write_csv(source)
    else:
        rows.fill_nan(None).write_ndjson(source)
    offline.score(model.folder, source, target, trusted=trusted_keys(model.home.home.keys), cores=2, sizes=sizes)
    found = pl.read_parquet(target)
    assert found.select("predicted", "probability_false", "probability_true").rows() == served
    assert found.select(NAMES).fill_nan(None).equals(rows.fill_nan(None)), "what was asked stands beside it"


def test_answers_do_not_depend_on_how_many_cores_worked(model: Boosted, tmp_path: Path) -> None:
    source = tmp_path / "asked.parquet"
    made_rows(20_000, seed=6).write_parquet(source)
    trusted = trusted_keys(model.home.home.keys)
    for cores in (1, 2, 5):
        offline.score(model.folder, source, tmp_path / f"{cores}.parquet", trusted=trusted, cores=cores)
    assert pl.read_parquet(tmp_path / "1.parquet").equals(pl.read_parquet(tmp_path / "2.parquet"))
    assert pl.read_parquet(tmp_path / "1.parquet").equals(pl.read_parquet(tmp_path / "5.parquet"))
