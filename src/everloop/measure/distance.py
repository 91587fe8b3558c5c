"""How far two distributions lie apart, from counts or quantiles. Knows no thresholds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def psi(reference: ArrayLike, current: ArrayLike) -> float:
    """Population stability index Σ(q − p)·ln(q/p) of two rows of counts over the same bins; half a row is added to
    each bin so that an empty one is not infinitely far.

    With no change it is about χ² with bins − 1 degrees of freedom, times (1/n + 1/m).

    >>> psi([10, 10], [10, 10])
    0.0
    """
    p, q = (np.asarray(each, dtype=np.float64) + 0.5 for each in (reference, current))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def ks(reference: ArrayLike, current: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of two grids of quantiles at even levels (values that occurred, rising).

    Exact to about the spacing of the levels: half a point with 201.

    >>> ks([1, 2, 3, 4], [1, 2, 3, 4]), ks([1, 2], [3, 4])
    (0.0, 1.0)
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if not len(p) or not len(q):
        return 0.0
    values = np.union1d(p, q)
    return float(np.max(np.abs(_share_at_or_below(p, values) - _share_at_or_below(q, values))))


def counts_from_quantiles(quantiles: ArrayLike, edges: ArrayLike, rows: int) -> Floats:
    """About how many of ``rows`` fall into each bin between inner ``edges``, from a grid of quantiles."""
    grid = np.asarray(quantiles, dtype=np.float64)
    if not len(grid):
        return np.zeros(len(np.asarray(edges)) + 1)
    below = _share_at_or_below(grid, np.asarray(edges, dtype=np.float64))
    shares: Floats = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return shares * rows


def _share_at_or_below(grid: Floats, values: Floats) -> Floats:
    return np.searchsorted(grid, values, side="right") / len(grid)
