"""Two profiles beside each other, column by column: how far each has moved. Knows nothing of thresholds or alarms."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everloop.measure.distance import (
    chi_square,
    counts_from_quantiles,
    jensen_shannon,
    ks,
    psi,
    share_outside,
    wasserstein,
)
from everloop.measure.profile import ColumnProfile, Profile

LEAST_PER_BIN = 30
"""Rows per bin below which the χ² limit of PSI is more than a few percent too low."""
MOST_CATEGORY_BINS = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnComparison:
    """One column now against its reference. Shares are of all rows (missing) or of those present (new)."""

    column: str
    kind: Literal["number", "category"]
    rows: int
    """Present now; ``reference_rows`` likewise then."""
    reference_rows: int
    psi: float
    bins: int
    """The bins behind ``psi``: at least thirty rows each, so that its χ² limit holds."""
    ks: float | None
    """Numbers only."""
    missing: float
    reference_missing: float
    new: float
    """Categories: share with a value that the reference does not list."""
    reference_new: float
    total: int = 0
    """Rows now, missing ones among them."""
    jensen_shannon: float = 0.0
    """In bits, over the same bins as ``psi``."""
    chi_square: float = 0.0
    freedom: int = 0
    """Degrees of freedom of ``chi_square``."""
    wasserstein: float | None = None
    """Numbers: how far the average row has moved, in standard deviations of the reference."""
    outliers: float = 0.0
    """Numbers: share beyond all but a quarter of a percent of the reference at either end; half a percent is usual."""
    of: str = ""
    """The column that this one follows from."""
    novel: float | None = None
    """Distances from what was known: share beyond what one reference row in a hundred exceeds."""


def compare(reference: Profile, current: Profile) -> tuple[ColumnComparison, ...]:
    """Every column that both have, in the reference's order. Best with ``current`` built `like` the reference."""
    return tuple(
        _compare(name, before, current.columns[name])
        for name, before in reference.columns.items()
        if name in current.columns and current.columns[name].kind == before.kind
    )


def _compare(name: str, before: ColumnProfile, now: ColumnProfile) -> ColumnComparison:
    distance: float | None
    moved: float | None
    if before.kind == "number":
        then, present = np.array(before.counts, dtype=np.float64), counts_in(now, before.edges)
        # Made arrays once: that costs as much as what is asked of them.
        grid, grid_now = np.array(before.quantiles), np.array(now.quantiles)
        # A reference that was made for a season has bins alone: then the distance is that at the edges.
        distance = ks(grid, grid_now) if len(grid) else _ks_of_bins(then, present)
        then, present = _merged(then, present, now.present)
        ends = before.quantiles or before.ends
        outliers = share_outside(grid_now, ends[1], ends[-2]) if len(ends) > 3 else 0.0
        moved = (
            wasserstein(grid, grid_now) / before.deviation if len(grid) and len(grid_now) and before.deviation else None
        )
        new = reference_new = 0.0
    else:
        found = dict(zip(now.values, now.value_counts, strict=True))
        listed = np.array([found.get(each, 0) for each in before.values], dtype=np.float64)
        other = max(0.0, now.present - float(listed.sum()))
        then, present = _largest(np.array(before.value_counts, dtype=np.float64), listed, now.present)
        # What is rare and what is new share the last bin.
        then[-1] += before.other
        present[-1] += other
        distance = moved = None
        outliers = 0.0
        new = other / max(now.present, 1)
        reference_new = before.other / max(before.present, 1)
    apart, freedom = chi_square(then, present)
    return ColumnComparison(
        column=name,
        kind=before.kind,
        rows=now.present,
        reference_rows=before.present,
        psi=psi(then, present) if now.present and before.present and len(then) > 1 else 0.0,
        bins=len(then),
        ks=distance,
        missing=now.missing / max(now.rows, 1),
        reference_missing=before.missing / max(before.rows, 1),
        new=new,
        reference_new=reference_new,
        total=now.rows,
        jensen_shannon=jensen_shannon(then, present),
        chi_square=apart,
        freedom=freedom,
        wasserstein=moved,
        outliers=outliers,
        of=before.of,
        novel=None if before.far is None else share_outside(now.quantiles, -np.inf, before.far),
    )


def _ks_of_bins(then: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    if not then.sum() or not now.sum():
        return 0.0
    return float(np.max(np.abs(np.cumsum(then) / then.sum() - np.cumsum(now) / now.sum())))


def counts_in(now: ColumnProfile, edges: tuple[float, ...]) -> NDArray[np.float64]:
    """Rows in bins: exact where they were counted in them, else from quantiles."""
    if now.edges == edges:
        return np.array(now.counts, dtype=np.float64)
    return counts_from_quantiles(now.quantiles, edges, now.present)


def _merged(
    then: NDArray[np.float64], now: NDArray[np.float64], rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Neighbouring bins put together until each would hold thirty of ``rows``."""
    group = group_of(then, rows)
    if len(then) == int(group[-1]) + 1:
        return then, now
    return (
        np.bincount(group, weights=then).astype(np.float64),
        np.bincount(group, weights=now).astype(np.float64),
    )


def group_of(then: NDArray[np.float64], rows: int) -> NDArray[np.int64]:
    """Into which bin each of a number's bins goes, so that each holds thirty of ``rows``."""
    wanted = max(2, min(len(then), rows // LEAST_PER_BIN))
    if len(then) <= max(wanted, 3):
        return np.arange(len(then))
    middle = (np.cumsum(then) - then / 2) * wanted / max(then.sum(), 1.0)
    group: NDArray[np.int64] = np.minimum(middle, wanted - 1).astype(np.int64)
    return group


def _largest(
    then: NDArray[np.float64], now: NDArray[np.float64], rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A bin for each of the most frequent categories and one last bin for all others."""
    wanted = max(1, min(len(then), MOST_CATEGORY_BINS, rows // LEAST_PER_BIN - 1))
    return (
        np.append(then[:wanted], then[wanted:].sum()),
        np.append(now[:wanted], now[wanted:].sum()),
    )
