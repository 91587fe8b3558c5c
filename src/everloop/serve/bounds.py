"""What one client may take: bytes, connections, time. Knows nothing of protocols."""

from dataclasses import dataclass, field
from math import ceil

EARLY_BYTES = 64 * 2**10
"""A longer body is read on only from who may come in: a stranger cannot make the server hold megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one client may take. Times are in seconds; a tick, in which they are looked at, in seconds as well."""

    body_bytes: int = 16 * 2**20
    header_bytes: int = 32 * 2**10
    connections: int = 10_000
    request_seconds: float = 30.0
    idle_seconds: float = 75.0
    linger_seconds: float = 3.0
    tick_seconds: float = field(init=False)
    """A second, or less where a bound is so short that a second would be too coarse."""
    request_ticks: int = field(init=False)
    idle_ticks: int = field(init=False)
    linger_ticks: int = field(init=False)

    def __post_init__(self) -> None:
        tick = max(0.02, min(1.0, self.request_seconds / 5, self.idle_seconds / 5, self.linger_seconds / 3))
        object.__setattr__(self, "tick_seconds", tick)
        for name in ("request", "idle", "linger"):
            object.__setattr__(self, f"{name}_ticks", ceil(getattr(self, f"{name}_seconds") / tick))
