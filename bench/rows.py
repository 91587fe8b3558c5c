"""Figures as rows: what a bench measured, beside its peer and its target. Knows nothing of what is measured.

A script makes rows and hands them to `show`. Every script takes ``--json`` (rows for machines) and ``--quick`` (an
answer within a minute); `parser` adds both.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, all in ``unit``."""

    what: str
    ours: float
    unit: str
    rounds: int = 1
    """So many measurements are behind the figure."""
    peer: float | None = None
    """The same thing done without everloop, or by somebody else, measured in the same run."""
    peer_name: str | None = None
    limit: float | None = None
    """What nothing on this machine can beat, where that is known."""
    target: float | None = None
    """What was promised."""
    greater_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours as a multiple of the peer's."""
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ours >= self.target if self.greater_is_better else self.ours <= self.target

    def to_json(self) -> dict[str, Any]:
        """The keys that results are kept under."""
        names = ("what", "ours", "peer", "peer_name", "limit", "ratio", "target", "met", "unit", "rounds")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Row":
        """What `to_json` wrote. Which way is better follows from whether the target was met."""
        names = ("what", "ours", "unit", "rounds", "peer", "peer_name", "limit", "target")
        target, met = kept.get("target"), kept.get("met")
        greater = target is not None and kept["ours"] != target and (kept["ours"] > target) == met
        return cls(**{name: kept[name] for name in names if name in kept}, greater_is_better=greater)


def parser(description: str) -> argparse.ArgumentParser:
    """With ``--json`` and ``--quick``; add the script's own arguments to it."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print rows for machines")
    made.add_argument("--quick", action="store_true", help="fewer rounds: an answer within a minute")
    return made


def middle(measure: Callable[[], float], rounds: int) -> float:
    """The median of so many measurements."""
    return median(measure() for _ in range(rounds))


def show(rows: Iterable[Row], *, as_json: bool = False) -> None:
    """Print a table, or one JSON list."""
    rows = list(rows)
    print(json.dumps([row.to_json() for row in rows], indent=1) if as_json else table(rows))


HEAD = ("what", "ours", "unit", "peer", "ratio", "limit", "target", "met", "rounds")


def table(rows: Sequence[Row]) -> str:
    """Columns as wide as they must be, numbers to the right.

    >>> print(table([Row(what="start", ours=0.0123, unit="s", target=0.3, rounds=5)]))
    what     ours  unit  peer  ratio  limit  target  met  rounds
    start  0.0123  s                          ≤ 0.3  yes       5
    """
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    left = {HEAD.index(name) for name in ("what", "unit")}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    peer = "" if row.peer is None else f"{number(row.peer)}{f' ({row.peer_name})' if row.peer_name else ''}"
    target = "" if row.target is None else f"{'≥' if row.greater_is_better else '≤'} {number(row.target)}"
    return (
        row.what,
        number(row.ours),
        row.unit,
        peer,
        "" if row.ratio is None else number(row.ratio),
        "" if row.limit is None else number(row.limit),
        target,
        {True: "yes", False: "NO", None: ""}[row.met],
        str(row.rounds),
    )


def number(value: float) -> str:
    """Three digits that count, thousands set apart.

    >>> number(0.012345), number(4.5), number(12345.6)
    ('0.0123', '4.5', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
