"""What a policy has made: versions, and the turn under way. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.loop.backtest.world import Taken


@dataclass(slots=True, kw_only=True)
class Version:
    """One model that a policy made."""

    number: int
    fit: str
    """Serves."""
    tested: str
    """Was tested: the same one, unless the window is fitted again with its test rows."""
    taken: Taken
    made: int
    score: float
    """On its test rows; NaN where nobody asked."""
    fitted_until: int
    threshold: float | None = None
    served: bool = False
    since: int = 0
    """When it became champion."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """A turn under way, or the version it made."""

    started: int
    ends: int
    because: str
    kinds: tuple[str, ...]
    taken: Taken | None
    version: Version | None
    problem: str | None
    seconds: float
    window: int
