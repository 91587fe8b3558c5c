"""How it is served. Serves nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive
from everloop.spec.taught import taught

SMALLEST_CACHE = 100_000


@taught
@dataclass(frozen=True, kw_only=True)
class Cache:
    """Predictions are kept in up to ``bytes`` of memory for ``time_to_live``: the same columns get the same answer."""

    bytes: int = 64_000_000
    time_to_live: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        conform(self)
        positive(self.time_to_live, "Cache.time_to_live", example="timedelta(minutes=5)")
        if self.bytes < SMALLEST_CACHE:
            raise SpecError(
                f"Cache.bytes is {self.bytes}, which holds next to nothing; "
                f"write at least {SMALLEST_CACHE}, for example 64_000_000."
            )


@taught
@dataclass(frozen=True, kw_only=True)
class Serve:
    """``p99``: the time within which 99 of 100 answers must leave: a request that would be later is refused.

    ``log``: keep predictions (watching needs them). ``mode``: "throughput" runs the model on one core for each process
    of the server; "latency" on all cores that a process has to itself, which answers sooner where they would rest.

    ``cache``: answer what was answered before without running the model; None: every request runs it.
    """

    p99: timedelta | None = None
    mode: Literal["throughput", "latency"] = field(default="throughput", metadata={"omitted": "default"})
    log: bool = True
    cache: Cache | None = None

    def __post_init__(self) -> None:
        if isinstance(self.cache, timedelta):
            raise SpecError(f"Serve.cache is {self.cache}; write el.Cache(time_to_live={self.cache!r}) or None.")
        conform(self)
        positive(self.p99, "Serve.p99", example="timedelta(milliseconds=20)")
