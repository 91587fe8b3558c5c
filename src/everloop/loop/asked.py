"""Asks a served graph what columns, words of a text and parts of an image bring to one row's answer. Knows no log."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure.shapley import Coalitions, Numbers, Shares, shapley
from everloop.package.pack import feeds
from everloop.package.predict import Predictor

BACKGROUND = 40
"""Other rows that a column is exchanged with."""
ROWS_AT_ONCE, BYTES_AT_ONCE = 8_192, 64 * 2**20
GRID = 8
"""An image is told apart in at most so many parts a side."""
MOST_PIECES = 48
"""Pieces of a text that are told apart; of a longer one neighbours go together."""
WORD = re.compile(r"\S+\s*")
NEVER = 1e-12
"""Probabilities nearer to 0 or 1 than this count as it: log odds must be finite."""


class Asked:
    """``place``: which column of the answer is explained: as log odds where it is a probability, else as it is."""

    def __init__(self, predictor: Predictor, background: pl.DataFrame, place: int) -> None:
        self._predictor, self._place = predictor, place
        self._signature = predictor.signature
        self._inputs = self._signature.inputs
        self.names = [*(each.name for each in self._inputs), *(each.name for each in self._signature.tensors)]
        self._background = feeds(background, self._signature)
        a_row = sum(table[:1].nbytes for table in self._background.values())
        self._at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, a_row)))

    def columns(self, row: pl.DataFrame, seed: int) -> Shares:
        """What each raw column of the one row brings, beside the same column of other rows."""
        own = feeds(row, self._signature)
        count = len(next(iter(self._background.values())))
        kinds = {"number": "numbers", "text": "texts"}
        at: list[tuple[str, Any]] = [
            (kinds.get(each.type, "integers"), (slice(None), each.index)) for each in self._inputs
        ]
        at += [(each.name, slice(None)) for each in self._signature.tensors]

        def value(present: Coalitions) -> Numbers:
            found: list[Numbers] = []
            step = max(1, self._at_once // count)
            for start in range(0, len(present), step):
                chosen = present[start : start + step]
                packed = {
                    kind: np.tile(table, (len(chosen), *[1] * (table.ndim - 1)))
                    for kind, table in self._background.items()
                }
                for player, (kind, where) in enumerate(at):
                    rows = np.repeat(chosen[:, player], count)
                    if isinstance(where, tuple):
                        packed[kind][rows, where[1]] = own[kind][0, where[1]]
                    else:
                        packed[kind][rows] = own[kind][0]
                found.append(self._answers(packed).reshape(len(chosen), count).mean(axis=1))
            return np.concatenate(found)

        return shapley(value, len(at), seed=seed)

    def parts(self, row: pl.DataFrame, image: str, seed: int) -> tuple[tuple[float, ...], ...]:
        """What each part of an image brings, beside the image's mean colour in its place: rows of parts from the top."""
        own = feeds(row, self._signature)
        pixels = own[image][0]
        height, width = pixels.shape[:2]
        down, across = min(GRID, height), min(GRID, width)
        rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
        place = rows[:, None] * across + columns[None, :]
        plain = pixels.reshape(-1, pixels.shape[2]).mean(axis=0).round().astype(pixels.dtype)

        def value(present: Coalitions) -> Numbers:
            found: list[Numbers] = []
            for start in range(0, len(present), self._at_once):
                chosen = present[start : start + self._at_once]
                packed = {kind: np.repeat(table, len(chosen), axis=0) for kind, table in own.items()}
                packed[image] = np.where(chosen[:, place][..., None], pixels, plain)
                found.append(self._answers(packed))
            return np.concatenate(found)

        shares = shapley(value, down * across, seed=seed).shares.reshape(down, across)
        return tuple(tuple(float(share) for share in each) for each in shares)

    def words(self, row: pl.DataFrame, column: str, seed: int) -> tuple[tuple[str, float], ...]:
        """What each word of a text brings, beside the same row without it."""
        pieces = WORD.findall(str(row[column][0]))
        if len(pieces) < 2:
            return ()
        together = -(-len(pieces) // MOST_PIECES)
        pieces = ["".join(pieces[at : at + together]) for at in range(0, len(pieces), together)]
        own = feeds(row, self._signature)
        index = next(each.index for each in self._inputs if each.name == column)

        def value(present: Coalitions) -> Numbers:
            found: list[Numbers] = []
            for start in range(0, len(present), self._at_once):
                chosen = present[start : start + self._at_once]
                packed = {kind: np.repeat(table, len(chosen), axis=0) for kind, table in own.items()}
                packed["texts"][:, index] = [
                    "".join(piece for piece, there in zip(pieces, each, strict=True) if there) for each in chosen
                ]
                found.append(self._answers(packed))
            return np.concatenate(found)

        shares = shapley(value, len(pieces), seed=seed)
        return tuple((piece.strip(), float(share)) for piece, share in zip(pieces, shares.shares, strict=True))

    def _answers(self, packed: dict[str, npt.NDArray[Any]]) -> Numbers:
        said = self._predictor.packed(packed).prediction[:, self._place]
        if not self._predictor.signature.classes:
            return said
        bounded = np.clip(said, NEVER, 1.0 - NEVER)
        odds: Numbers = np.log(bounded) - np.log1p(-bounded)
        return odds
