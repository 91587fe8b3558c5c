"""A graph asked offline: batch scoring, the gate, tests. Knows nothing of packages; the server has its own way in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.package import parity
from everloop.package.pack import AT_ONCE, feeds
from everloop.records import Signature


@dataclass(frozen=True, kw_only=True)
class Answers:
    prediction: npt.NDArray[np.float64]
    """[rows, classes] probabilities, or [rows, 1]."""
    decision: npt.NDArray[np.int64] | None
    """[rows] indices into the classes; None for regression."""


class Predictor:
    """An open graph and what its columns mean."""

    def __init__(self, opened: parity.Opened, signature: Signature) -> None:
        self._opened = opened
        self.signature = signature

    @classmethod
    def of(cls, graph: bytes, signature: Signature, *, extensions: bool = False, threads: int = 0) -> "Predictor":
        return cls(parity.session(graph, extensions=extensions, threads=threads), signature)

    def predict(self, rows: pl.DataFrame | Mapping[str, Any]) -> Answers:
        """Raw rows, as a frame or as columns by name; raises DataError for a column that is not there."""
        if isinstance(rows, pl.DataFrame) and self.signature.tensors and len(rows) > AT_ONCE:
            parts = [self.predict(rows[begin : begin + AT_ONCE]) for begin in range(0, len(rows), AT_ONCE)]
            decisions = [each.decision for each in parts if each.decision is not None]
            return Answers(
                prediction=np.concatenate([each.prediction for each in parts]),
                decision=np.concatenate(decisions) if decisions else None,
            )
        return self.packed(feeds(rows, self.signature))

    def packed(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Answers:
        """Rows as `everloop.package.pack.feeds` packs them."""
        prediction, decision = parity.run(self._opened, inputs)
        return Answers(prediction=prediction, decision=decision)
