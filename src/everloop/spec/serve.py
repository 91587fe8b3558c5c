"""How it is served. Serves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True, kw_only=True)
class Serve:
    """``p99``: the time within which 99 of 100 answers must leave. ``log``: keep predictions (watching needs them)."""

    p99: timedelta | None = None
    log: bool = True
    cache: timedelta | None = None

    def __post_init__(self) -> None:
        conform(self)
        positive(self.p99, "Serve.p99", example="timedelta(milliseconds=20)")
        if self.cache is not None:
            raise SpecError(f"Serve.cache is {self.cache}; the cache is not built yet: leave it out.")
