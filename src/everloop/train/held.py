"""Rows that a fit is judged on after each epoch, and how. Knows nothing of what is fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from everloop.measure.tensors import Tensors
from everloop.spec.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Held:
    inputs: Tensors
    target: npt.NDArray[Any]
    """int64 class indices, or float64 in the label's units."""
    columns: Mapping[str, npt.NDArray[Any]] | None = None
    """Raw columns, for a score of the user's own."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The declared score."""

    metric: Metric
    positive: int = 1
