"""What each arriving row means beside the rows that are known. Knows no files, tables or checks.

Same key, same row: an identical copy is dropped and counted; a changed label or `after` column is an outcome; anything
else is a conflict. A late value that is missing brings no news. Rows of one batch are held against each other in the
same way, in the order in which they stand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everloop.data.known import NOTHING, Known, Prints, worded
from everloop.records import ColumnType
from everloop.store.lake import OUTCOME_SCHEMA

Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

CONFLICT = "other values than the first row with this key"


@dataclass(slots=True)
class Meaning:
    """Indices of the batch's rows by what they mean. A row may bring several outcomes."""

    new: Places
    copies: Places
    failing: Places
    conflicts: Places
    news: list[tuple[str, Places, int]] = field(default_factory=list)
    """(late column, rows, microseconds at which it became known)."""

    @property
    def outcomes(self) -> int:
        return sum(len(places) for _, places, _ in self.news)


def sort_out(known: Known, prints: Prints, failing: Flags, *, now: int) -> Meaning:
    """Tell what the rows mean, and let ``known`` learn it. ``failing`` rows [rows] never enter, unless they are copies.

    ``now``: microseconds; what a batch says about one key twice becomes known in that order.
    """
    found: dict[str, list[Places]] = {"new": [], "copies": [], "failing": [], "conflicts": []}
    news: list[tuple[str, Places, int]] = []
    turns = _turns(prints.keys)
    for turn, rows in enumerate(turns):
        at = now - (len(turns) - 1 - turn)
        places = known.find([prints.keys[row] for row in rows])
        there = places >= 0
        same = there & (known.fixed(places) == prints.fixed[rows])
        changed = {
            name: same & (values[rows] != NOTHING) & (values[rows] != known.value(name, places))
            for name, values in prints.late.items()
        }
        any_changed = np.logical_or.reduce([np.zeros(len(rows), np.bool_), *changed.values()])
        copies = same & ~any_changed
        fails = failing[rows] & ~copies
        new = ~there & ~fails
        found["copies"].append(rows[copies])
        found["failing"].append(rows[fails])
        found["conflicts"].append(rows[there & ~same & ~fails])
        found["new"].append(rows[new])
        known.add(prints.take(rows[new]))
        for name, flags in changed.items():
            told = flags & ~fails
            if told.any():
                known.learn(name, places[told], prints.late[name][rows[told]], at)
                news.append((name, rows[told], at))
    return Meaning(**{name: np.sort(np.concatenate(parts)) for name, parts in found.items()}, news=news)


def outcome_rows(meaning: Meaning, rows: pl.DataFrame, types: Mapping[str, ColumnType], digest: str) -> pl.DataFrame:
    """The outcomes that a batch brings, as rows of the outcomes table."""
    parts: list[pl.DataFrame] = []
    for name, places, at in meaning.news:
        told = rows[places.tolist()]
        text, number = worded(told[name], types[name])
        parts.append(
            pl.DataFrame({"id": told["_key"], "value_text": text, "value_number": number}).with_columns(
                pl.lit(name).alias("name"),
                pl.lit(at).cast(pl.Datetime("us", "UTC")).alias("at"),
                pl.lit(digest).alias("_batch"),
            )
        )
    empty = OUTCOME_SCHEMA.to_frame()
    return pl.concat([empty, *(part.select(empty.columns) for part in parts)])


def differences(rows: pl.DataFrame, first: pl.DataFrame, late: tuple[str, ...]) -> list[str]:
    """For each conflicting row the reason, with the columns in which it differs from the first row of its key."""
    columns = [name for name in rows.columns if not name.startswith("_") and name in first.columns and name not in late]
    beside = rows.join(
        first.unique("_key", keep="first"), on="_key", how="left", maintain_order="left", suffix=" first"
    )
    differs = beside.select(
        pl.col(name).ne_missing(pl.col(f"{name} first")).alias(name)
        for name in columns
        if f"{name} first" in beside.columns
    )
    return [
        f"{CONFLICT}: {', '.join(name for name, flag in zip(differs.columns, flags, strict=True) if flag)}"
        for flags in differs.iter_rows()
    ]


def _turns(keys: Sequence[str | None]) -> list[Places]:
    """Row indices by how many rows before have the same key: no key is twice in one turn (rows without one aside)."""
    if len(set(keys)) == len(keys):
        return [np.arange(len(keys))]
    seen: dict[str | None, int] = {}
    turns: list[list[int]] = []
    for row, key in enumerate(keys):
        turn = seen[key] = seen.get(key, -1) + 1 if key is not None else 0
        if turn == len(turns):
            turns.append([])
        turns[turn].append(row)
    return [np.array(rows, np.int64) for rows in turns]
