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
    """Kolmogorov-Smirnov distance of two grids of quantiles at even levels from 0 to 1 (values that occurred, rising).

    Within .0025 of the distance of all rows at 401 levels, usually within a tenth of that.

    >>> ks([1, 2, 3, 4], [1, 2, 3, 4]), ks([1, 2], [3, 4])
    (0.0, 1.0)
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if not len(p) or not len(q):
        return 0.0
    levels, others = _shares(p), _shares(q)
    # At each value of either side, and just below it: either may be a jump.
    values = np.concatenate([p, q])
    values = np.concatenate([values, np.nextafter(values, -np.inf)])
    return float(np.abs(np.interp(values, p, levels, left=0.0) - np.interp(values, q, others, left=0.0)).max())


def jensen_shannon(reference: ArrayLike, current: ArrayLike) -> float:
    """Jensen-Shannon divergence of two rows of counts over the same bins, in bits: 0 for equal shares, 1 for no overlap.

    >>> jensen_shannon([10, 0], [0, 10]), jensen_shannon([5, 5], [10, 10])
    (1.0, 0.0)
    """
    p, q = (np.asarray(each, dtype=np.float64) for each in (reference, current))
    if not p.sum() or not q.sum():
        return 0.0
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    parts = [float(np.sum(each[each > 0] * np.log2(each[each > 0] / middle[each > 0]))) for each in (p, q)]
    return max(0.0, sum(parts) / 2)


def wasserstein(reference: ArrayLike, current: ArrayLike) -> float:
    """The earth mover's distance of two grids of quantiles at the same even levels, in the values' own unit: how far
    the average row has moved. The outermost levels, single rows, count half.

    >>> wasserstein([0, 1, 2], [1, 2, 3])
    1.0
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if len(p) != len(q) or not len(p):
        return 0.0
    return float(np.trapezoid(np.abs(p - q)) / max(len(p) - 1, 1))


def chi_square(reference: ArrayLike, current: ArrayLike) -> tuple[float, int]:
    """Pearson's χ² that two rows of counts have the same shares, and its degrees of freedom (bins with rows less one).

    >>> chi_square([10, 20], [20, 10])[1]
    1
    """
    table = np.array([np.asarray(each, dtype=np.float64) for each in (reference, current)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 0.0, 0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(np.sum((table - expected) ** 2 / expected)), table.shape[1] - 1


def share_outside(grid: ArrayLike, least: float, most: float) -> float:
    """The share of a grid of quantiles below ``least`` or above ``most``."""
    values = np.asarray(grid, dtype=np.float64)
    if not len(values):
        return 0.0
    below, above = np.searchsorted(values, least, side="left"), np.searchsorted(values, most, side="right")
    return float(below + len(values) - above) / len(values)


def counts_from_quantiles(quantiles: ArrayLike, edges: ArrayLike, rows: int) -> Floats:
    """About how many of ``rows`` fall into each bin between inner ``edges``, from a grid of quantiles."""
    grid = np.asarray(quantiles, dtype=np.float64)
    if not len(grid):
        return np.zeros(len(np.asarray(edges)) + 1)
    below = np.interp(np.asarray(edges, dtype=np.float64), grid, _shares(grid), left=0.0)
    shares: Floats = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return shares * rows


def _shares(grid: Floats) -> Floats:
    """The share of rows at or below each value of a grid, as `numpy.interp` takes it.

    Between two values rows lie evenly, as far as is known; a value that stands there twice or more often is a jump, which
    begins and ends somewhere within a step of the levels: half a step is the best guess.
    """
    step = 1 / max(len(grid) - 1, 1)
    levels: Floats = np.arange(len(grid), dtype=np.float64) * step
    same = grid[1:] == grid[:-1]
    if same.any():
        before, after = np.append(False, same), np.append(same, False)
        levels = np.clip(
            levels + np.where(before & ~after, step / 2, 0.0) - np.where(after & ~before, step / 2, 0.0), 0, 1
        )
        levels[0] = 0.0
    levels[-1] = 1.0
    return levels
