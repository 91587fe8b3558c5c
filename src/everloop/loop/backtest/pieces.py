"""Chunks of a history on the disk, until all are known: which rows repeat a key, and all of them in the order of time.

However long a history is and however its chunks overlap, no more than a few of its rows are in memory. Knows neither
features nor labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.data.sources import EVENT_TIME, KEY
from everloop.loop.backtest.mapped import Columns, mapped

Integers = npt.NDArray[np.int64]

CHUNK = 200_000
"""Rows that are read, and put into order, together."""
KEYS_AT_ONCE = 2_000_000
"""Of so many rows, about, it is looked at once whether their keys came before: 40 bytes each."""
HASH = "_hash"
"""Of the key, uint64: a column of a piece."""
TIMES, KEYS = ".times", ".keys"
"""Columns of a piece that are read alone, beside its file."""


@dataclass(slots=True)
class Piece:
    """Rows of one chunk, in the order of time."""

    path: Path
    rows: int
    first: int
    last: int
    dropped: npt.NDArray[np.bool_] | None = None
    """Rows that repeat a key, [rows]; None: not one does."""

    @classmethod
    def write(cls, rows: pl.DataFrame, path: Path) -> Piece:
        """Rows with `EVENT_TIME` and `KEY`, in the order of time, at least one; ``path`` ends in .arrow."""
        rows = rows.with_columns(pl.col(KEY).hash(seed=0).alias(HASH))
        rows.write_ipc(path)
        times = rows[EVENT_TIME].dt.epoch("us").to_numpy()
        made = cls(path=path, rows=len(rows), first=int(times[0]), last=int(times[-1]))
        beside = [made._of(kind).name for kind in (TIMES, KEYS)]
        with Columns(path.parent, *beside) as columns:
            for name, values in zip(beside, (times, rows[HASH].to_numpy()), strict=True):
                columns.append(name, values)
        return made

    @property
    def times(self) -> Integers:
        """Event times in microseconds, [rows], rising."""
        return mapped(self._of(TIMES), np.int64)

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """Hashes of the keys, [rows]."""
        return mapped(self._of(KEYS), np.uint64)

    def frame(self, low: int, high: int) -> pl.DataFrame:
        """The rows [low, high) that count."""
        rows = pl.scan_ipc(self.path).slice(low, high - low).collect()
        return rows if self.dropped is None else rows.filter(pl.Series(~self.dropped[low:high]))

    def remove(self) -> None:
        for path in (self.path, self._of(TIMES), self._of(KEYS)):
            path.unlink()

    def _of(self, kind: str) -> Path:
        return self.path.with_suffix(kind)


def drop_repeated(pieces: Sequence[Piece]) -> int:
    """Mark rows whose key came before, in the order of the files; returns how many.

    Keys are looked at in shares by their hash, so that a longer history takes more looks and not more memory.
    """
    shares = np.uint64(-(-sum(piece.rows for piece in pieces) // KEYS_AT_ONCE))
    repeated = 0
    for share in range(int(shares)):
        mine = [np.flatnonzero(piece.keys % shares == share) for piece in pieces]
        whole = np.concatenate([piece.keys[places] for piece, places in zip(pieces, mine, strict=True)])
        again = np.ones(len(whole), dtype=np.bool_)
        again[np.unique(whole, return_index=True)[1]] = False
        at = 0
        for piece, places in zip(pieces, mine, strict=True):
            here = again[at : at + len(places)]
            at += len(places)
            if here.any():
                if piece.dropped is None:
                    piece.dropped = np.zeros(piece.rows, dtype=np.bool_)
                piece.dropped[places[here]] = True
                repeated += int(here.sum())
    return repeated


def overlapping(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces in the order of time; those whose times overlap together."""
    group: list[Piece] = []
    last = 0
    for piece in sorted(pieces, key=lambda each: each.first):
        if group and piece.first > last:
            yield group
            group = []
        group.append(piece)
        last = max(last, piece.last) if len(group) > 1 else piece.last
    if group:
        yield group


def in_order(group: Sequence[Piece]) -> Iterator[pl.DataFrame]:
    """The rows of pieces that overlap in time, in its order, about `CHUNK` at a time: however many there are, no more of
    them are in memory. Rows of one instant stay together; the pieces are removed.
    """
    cuts = _cuts(group)
    places = [np.concatenate([[0], np.searchsorted(each.times, cuts, side="left"), [each.rows]]) for each in group]
    for at in range(len(cuts) + 1):
        rows = [
            piece.frame(int(place[at]), int(place[at + 1]))
            for piece, place in zip(group, places, strict=True)
            if place[at + 1] > place[at]
        ]
        yield pl.concat(rows, how="diagonal").sort(EVENT_TIME, KEY) if rows else pl.DataFrame()
    for piece in group:
        piece.remove()


def _cuts(group: Sequence[Piece]) -> Integers:
    """Instants between which about `CHUNK` rows lie: from every so many-th row of each piece, which is in order.

    One piece after the other: each that is mapped takes one of the files that a process may have open.
    """
    if sum(piece.rows for piece in group) <= CHUNK:
        return np.zeros(0, np.int64)
    step = max(1, CHUNK // (8 * len(group)))
    together = np.sort(np.concatenate([piece.times[step - 1 :: step].copy() for piece in group]))
    every = max(1, CHUNK // step - len(group))  # A piece may have up to a step more between two of its rows.
    return np.unique(together[every::every])
