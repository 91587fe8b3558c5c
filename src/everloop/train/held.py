"""Rows that a fit is judged on after each epoch, and how. Knows nothing of what is fitted."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from everloop.measure.tensors import Tensors
from everloop.spec.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Held:
    inputs: Tensors
    target: npt.NDArray[Any]
    """As the fit takes it."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The declared score."""

    metric: Metric
    positive: int = 1
