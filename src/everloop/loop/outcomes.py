"""Outcomes from a file, put where a server would put them: on disk before they are acknowledged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from everloop.clock import microseconds
from everloop.errors import DataError
from everloop.loop.installation import Installation
from everloop.records import Outcome
from everloop.store import segments


def read_outcomes(path: Path, *, label: str, now: datetime) -> list[Outcome]:
    """Columns ``id`` and ``value``; ``name`` (the label unless given) and ``at`` (now unless given) may be there.

    Raises DataError for a file that cannot be read or lacks a column, naming the row where one is missing.
    """
    frame = _frame(path)
    missing = [name for name in ("id", "value") if name not in frame.columns]
    if missing:
        raise DataError(f"{path} has no column {' and '.join(missing)}; it has {', '.join(frame.columns)}.")
    outcomes: list[Outcome] = []
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if row["id"] is None:
            raise DataError(f"{path}, row {number}: id is missing; every outcome names its prediction.")
        outcomes.append(
            Outcome(
                id=str(row["id"]), name=row.get("name") or label, value=row["value"], at=_instant(row.get("at"), now, path, number)
            )
        )
    return outcomes


def _instant(value: Any, now: datetime, path: Path, number: int) -> datetime:
    if value is None:
        return now
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise DataError(f"{path}, row {number}: at is {value!r}; write an ISO instant.") from None
    if not isinstance(value, datetime):
        raise DataError(f"{path}, row {number}: at is {value!r}; write an ISO instant.")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _frame(path: Path) -> pl.DataFrame:
    readers: dict[str, Any] = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".ndjson": pl.read_ndjson}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} ends with {path.suffix!r}; outcomes come as {', '.join(readers)}.")
    try:
        frame: pl.DataFrame = reader(path)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return frame


def report(installation: Installation, outcomes: list[Outcome]) -> None:
    """Force them to disk. Raises StoreFull, and then none of them was taken."""
    writer = segments.Writer(installation.home.segments(installation.name), f"outcomes-{os.getpid()}-{os.urandom(4).hex()}")
    frame = segments.OutcomeFrame(
        loop=installation.name, outcomes=[(each.id, each.name, each.value, microseconds(each.at)) for each in outcomes]
    )
    writer.write_now(segments.encode(frame))
    writer.close()
