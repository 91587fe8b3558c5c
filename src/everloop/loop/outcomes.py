"""Outcomes from a file, put where a server would put them: on disk before they are acknowledged."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from everloop.clock import microseconds
from everloop.errors import DataError
from everloop.loop.installation import Installation
from everloop.measure import truth
from everloop.records import Outcome, Task
from everloop.store import segments


def read_outcomes(
    path: Path, *, label: str, now: datetime, task: Task, classes: Sequence[truth.Class] = ()
) -> list[Outcome]:
    """Columns ``id`` and ``value``; ``name`` (the label unless given) and ``at`` (now unless given) may be there.

    Where a class is a text, the label's values are texts, also those that look like numbers in a CSV file, such as 007.
    An id is a text in every file. Raises DataError for a file that cannot be read or lacks a column, for an id that is
    missing and a value that cannot be such a label, naming the row.
    """
    text = any(isinstance(each, str) for each in classes)
    frame = _frame(path)
    missing = [name for name in ("id", "value") if name not in frame.columns]
    if missing:
        raise DataError(f"{path} has no column {' and '.join(missing)}; it has {', '.join(frame.columns)}.")
    outcomes: list[Outcome] = []
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        if row["id"] is None:
            raise DataError(f"{path}, row {number}: id is missing; every outcome names its prediction.")
        if row["id"] == "" or isinstance(row["id"], bool) or not isinstance(row["id"], str | int):
            raise DataError(f"{path}, row {number}: id is {row['id']!r}; write the text that the prediction came with.")
        name = str(row.get("name") or label)
        value = _value(row["value"], path, number, written=path.suffix == ".csv" and not (text and name == label))
        unfit = truth.unfit(value, task, classes) if name == label else None
        if unfit is not None:
            raise DataError(f"{path}, row {number}: value is {value!r}, which is no {label}; {unfit}.")
        outcomes.append(
            Outcome(id=str(row["id"]), name=name, value=value, at=_instant(row.get("at"), now, path, number))
        )
    return outcomes


def _value(value: Any, path: Path, number: int, *, written: bool) -> str | int | float | bool | None:
    """A value that a segment can hold. ``written``: a text that may stand for a boolean or a number."""
    if isinstance(value, str) and written:
        value = _read(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime):
        return _instant(value, value, path, number).isoformat()
    if value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    raise DataError(f"{path}, row {number}: value is {value!r}; an outcome is a text, a number, true or false.")


def _read(text: str) -> str | int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


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
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise DataError(
            f"{path}, row {number}: at is {value}, which is no instant in UTC; write one before 9999."
        ) from None


def _frame(path: Path) -> pl.DataFrame:
    readers: dict[str, Any] = {
        ".parquet": pl.read_parquet,
        # All as it is written: read as a number, an id such as 007 would name another row.
        ".csv": partial(pl.read_csv, infer_schema=False),
        ".jsonl": pl.read_ndjson,
        ".ndjson": pl.read_ndjson,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} ends with {path.suffix!r}; outcomes come as {', '.join(readers)}.")
    try:
        frame: pl.DataFrame = reader(path)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        if _empty(path):
            raise DataError(f"{path} is empty: it names no column. Write id and value for each outcome.") from None
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return frame


def _empty(path: Path) -> bool:
    try:
        return not path.read_bytes().strip()
    except OSError:
        return False


def report(installation: Installation, outcomes: list[Outcome]) -> None:
    """Force them to disk. Raises StoreFull, and then none of them was taken."""
    writer = segments.Writer(
        installation.home.segments(installation.name), f"outcomes-{os.getpid()}-{os.urandom(4).hex()}"
    )
    frame = segments.OutcomeFrame(
        loop=installation.name, outcomes=[(each.id, each.name, each.value, microseconds(each.at)) for each in outcomes]
    )
    writer.write_now(segments.encode(frame))
    writer.close()
