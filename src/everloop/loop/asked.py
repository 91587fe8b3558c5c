"""Asks a served graph what columns, and words of a free text, bring to one row's answer. Knows no package and no log."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure.shapley import Coalitions, Numbers, Shares, shapley
from everloop.package.pack import pack
from everloop.package.predict import Predictor

BACKGROUND = 40
"""Other rows that a column is exchanged with."""
ROWS_AT_ONCE = 8_192
MOST_PIECES = 48
"""Pieces of a text that are told apart; of a longer one neighbours go together."""
WORD = re.compile(r"\S+\s*")
NEVER = 1e-12
"""Probabilities nearer to 0 or 1 than this count as it: log odds must be finite."""


class Asked:
    """``place``: which column of the answer is explained: as log odds where it is a probability, else as it is."""

    def __init__(self, predictor: Predictor, background: pl.DataFrame, place: int) -> None:
        self._predictor, self._place = predictor, place
        self._inputs = predictor.signature.inputs
        self.names = [each.name for each in self._inputs]
        self._background = pack(background, self._inputs)

    def columns(self, row: pl.DataFrame, seed: int) -> Shares:
        """What each raw column of the one row brings, beside the same column of other rows."""
        own = pack(row, self._inputs)
        count = len(next(iter(self._background.values())))
        kinds = {"number": "numbers", "text": "texts"}
        at = [(kinds.get(each.type, "integers"), each.index) for each in self._inputs]

        def value(present: Coalitions) -> Numbers:
            found: list[Numbers] = []
            step = max(1, ROWS_AT_ONCE // count)
            for start in range(0, len(present), step):
                chosen = present[start : start + step]
                packed = {kind: np.tile(table, (len(chosen), 1)) for kind, table in self._background.items()}
                for player, (kind, index) in enumerate(at):
                    rows = np.repeat(chosen[:, player], count)
                    packed[kind][rows, index] = own[kind][0, index]
                found.append(self._answers(packed).reshape(len(chosen), count).mean(axis=1))
            return np.concatenate(found)

        return shapley(value, len(self._inputs), seed=seed)

    def words(self, row: pl.DataFrame, column: str, seed: int) -> tuple[tuple[str, float], ...]:
        """What each word of a text brings, beside the same row without it."""
        pieces = WORD.findall(str(row[column][0]))
        if len(pieces) < 2:
            return ()
        together = -(-len(pieces) // MOST_PIECES)
        pieces = ["".join(pieces[at : at + together]) for at in range(0, len(pieces), together)]
        own = pack(row, self._inputs)
        index = next(each.index for each in self._inputs if each.name == column)

        def value(present: Coalitions) -> Numbers:
            found: list[Numbers] = []
            for start in range(0, len(present), ROWS_AT_ONCE):
                chosen = present[start : start + ROWS_AT_ONCE]
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
