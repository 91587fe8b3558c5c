"""What one column brought to one answer, whoever says so. Explains nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["the model's own", "its gradients", "its graph"]
Scale = Literal["log odds", "margin before softmax", "value", "log1p of the value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    name: str
    value: Any
    """What the row held; None where it was missing."""
    contribution: float
    error: float = 0.0
    """Its standard error, where it was sampled."""
    words: tuple[tuple[str, float], ...] = ()
    """Of a free text: what each of its words (by gradients: tokens) brought, in the text's order."""
    parts: tuple[tuple[float, ...], ...] = ()
    """Of an image: what each part of a grid over it (by gradients: each pixel) brought, rows from the top."""


def largest_first(contributions: Sequence[Contribution]) -> tuple[Contribution, ...]:
    return tuple(sorted(contributions, key=lambda each: (-abs(each.contribution), each.name)))


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))


def shown(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# Many rows
