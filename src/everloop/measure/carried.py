"""Which rows carry a drift: the bins or values whose share changed, then and now. Knows no limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from everloop.measure.comparison import counts_in
from everloop.measure.profile import ColumnProfile

MOST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """One bin or value. Shares are of the rows that have one."""

    rows: str
    """Such as "1.5 to 2.25", "over 9", "'heron'", "missing"."""
    then: float
    now: float

    def __str__(self) -> str:
        return f"{self.rows} {self.then:.1%} → {self.now:.1%}"


def carried(
    before: ColumnProfile, now: ColumnProfile, newcomers: Sequence[tuple[str, int]] = (), *, most: int = MOST
) -> tuple[Carried, ...]:
    """The bins or values that make up most of the distance, largest part first; new values by name.

    ``now`` best built `like` ``before``. The part of a bin is its term of PSI, (q − p)·ln(q/p).
    """
    if before.kind == "number":
        names = _bins(before.edges)
        then, here = np.array(before.counts, dtype=np.float64), counts_in(now, before.edges)
    else:
        found = dict(zip(now.values, now.value_counts, strict=True))
        known = [
            (repr(each), count, found.get(each, 0))
            for each, count in zip(before.values, before.value_counts, strict=True)
        ]
        rest = now.present - sum(each[2] for each in known)
        fresh = [(f"{value!r} (new)", 0, count) for value, count in newcomers]
        others = ("other values", before.other, max(0, rest - sum(each[2] for each in fresh)))
        every = [*known, *fresh, others]
        names = [each[0] for each in every]
        then, here = (np.array([each[place] for each in every], dtype=np.float64) for place in (1, 2))
    if not then.sum() or not here.sum():
        return ()
    shares = then / then.sum(), here / here.sum()
    p, q = ((each + 0.5) / (each.sum() + 0.5 * len(each)) for each in (then, here))
    part: NDArray[np.float64] = (q - p) * np.log(q / p)
    order = [place for place in np.argsort(-part, kind="stable").tolist() if part[place] > 0 and (then + here)[place]]
    return tuple(
        Carried(rows=names[place], then=float(shares[0][place]), now=float(shares[1][place])) for place in order[:most]
    )


def _bins(edges: Sequence[float]) -> list[str]:
    """A value equal to an edge lies below it."""
    if not edges:
        return ["all"]
    inner = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]:.4g}", *inner, f"over {edges[-1]:.4g}"]
