"""Count, mean and squares about it: of some values, and of two parts as of one. Knows nothing of what they are of.

What is too large for a float stays the largest there is, so that one absurd value neither raises nor becomes a null where
it is written down.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

Moments = tuple[int, float, float]
"""How many; their mean; the sum of squares about it."""
NONE: Moments = (0, 0.0, 0.0)
LARGEST = sys.float_info.max


def of(values: NDArray[np.float64]) -> Moments:
    """Of at least one value, [n], none of them missing."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = _finite(float(values.mean()))
        return len(values), mean, _finite(float(np.square(values - mean).sum()))


def together(one: Moments, other: Moments) -> Moments:
    """Of both, which are not both empty. Chan, Golub, LeVeque 1983."""
    count = one[0] + other[0]
    apart = other[1] - one[1]
    squares = one[2] + other[2] + apart * (one[0] * other[0] / count) * apart
    return count, _finite(one[1] + apart * (other[0] / count)), _finite(squares)


def _finite(value: float) -> float:
    if -LARGEST <= value <= LARGEST:
        return value
    return 0.0 if value != value else LARGEST if value > 0 else -LARGEST
