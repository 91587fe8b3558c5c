"""How far a backtest is, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a backtest is."""

    made: int
    """Fits that were made so far, in this run."""
    under_way: int
    """Letters that workers have."""
    done: int
    """Windows that policies have gone through, of all policies together."""
    wanted: int
    """Windows times policies."""
    finished: int
    """Policies that are through."""
    policies: int


Told = Callable[[Progress], None]
