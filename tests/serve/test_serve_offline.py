"""Files are scored by the same graph as requests: the same answers, in the same order, whole or not at all."""

from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from everloop.errors import DataError
from everloop.serve import offline
from everloop.serve.live import Live
from everloop.serve.model import load
from everloop.serve.offline import Progress
from everloop.serve.releases import ReleaseFile, Served
from everloop.store.packages import trusted_keys
from everloop.testing.serving import ServedHome, signature_of

COLUMNS = {"x": "number", "n": "integer", "b": "boolean", "when": "instant:America/Chicago", "t": "text"}
ROWS = 40_000


def made(rows: int = ROWS) -> pl.DataFrame:
    random = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "other": [f"row {n}" for n in range(rows)],
            "x": [None if n % 7 == 0 else float(value) for n, value in enumerate(random.normal(0, 1, rows))],
            "n": [None if n % 11 == 0 else int(value) for n, value in enumerate(random.integers(-3, 3, rows))],
            "b": [None if n % 13 == 0 else bool(n % 2) for n in range(rows)],
            "when": [None if n % 5 == 0 else datetime(1969, 12, 31, 18, 0, 0, n % 3) for n in range(rows)],
            "t": [None if n % 3 == 0 else "yes" if n % 2 else "no" for n in range(rows)],
        }
    )


def home_of(path: Path) -> tuple[Path, dict[str, Ed25519PublicKey]]:
    served = ServedHome(path / "home")
    digest = served.seal(1, signature_of(COLUMNS))
    return served.home.packages / digest, trusted_keys(served.home.keys)


def write(frame: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.with_columns(pl.col("when").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")).write_ndjson(path)
    else:
        frame.write_parquet(path)


def read(path: Path) -> pl.DataFrame:
    if path.suffix == ".csv":
        return pl.read_csv(path)
    return pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_parquet(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_format_gives_the_answers_of_the_server_in_order(tmp_path: Path, suffix: str) -> None:
    folder, trusted = home_of(tmp_path)
    frame = made()
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(frame, source)
    told: list[Progress] = []
    scored = offline.score(folder, source, target, trusted=trusted, progress=told.append)
    found = read(target)
    assert scored.rows == len(found) == ROWS == told[-1].rows == told[-1].total
    assert found["package"].unique().to_list() == [folder.name]
    assert found["other"].to_list() == frame["other"].to_list()

    model = load(folder, trusted)
    live = Live(ReleaseFile(loop="made", revision=1, champion=Served(1, folder.name)), model, None)
    sample = frame.head(500)
    rows, _ = live.reader.read(
        msgspec.json.encode(
            [{k: v for k, v in row.items() if k != "other"} for row in sample.iter_rows(named=True)],
        )
    )
    prediction, decision = model.run(live.champion.packer.pack(rows))
    assert decision is not None
    assert found["probability_true"].head(500).to_list() == pytest.approx(prediction[:, 1].tolist(), rel=1e-12)
    assert found["predicted"].head(500).cast(pl.Int64).to_list() == decision.tolist()


def test_a_missing_column_or_a_wrong_type_is_named_and_no_target_appears(tmp_path: Path) -> None:
    folder, trusted = home_of(tmp_path)
    target = tmp_path / "out.parquet"
    source = tmp_path / "in.parquet"
    made(10).drop("t").write_parquet(source)
    with pytest.raises(DataError, match="no column 't'"):
        offline.score(folder, source, target, trusted=trusted)
    made(10).with_columns(x=pl.lit("far")).write_parquet(source)
    with pytest.raises(DataError, match=r"'x'.*expected number"):
        offline.score(folder, source, target, trusted=trusted)
    made(10).with_columns(predicted=1).write_parquet(source)
    with pytest.raises(DataError, match="'predicted' already"):
        offline.score(folder, source, target, trusted=trusted)
    with pytest.raises(DataError, match="no file"):
        offline.score(folder, tmp_path / "nowhere.csv", target, trusted=trusted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "in.parquet"]
