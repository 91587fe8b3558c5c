"""What a canary must not make worse (users see ``el.guard``). Judges nothing: that is ``release.judge``."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.spec.conform import conform, within
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True, kw_only=True)
class Errors:
    """The share of requests that fail; at most ``margin`` more than the champion's."""

    margin: float = 0.01

    def __post_init__(self) -> None:
        conform(self)
        within(self.margin, 0, 1, "guard.Errors.margin")


@taught
@dataclass(frozen=True, kw_only=True)
class Latency:
    """The share of answers slower than the champion's ``quantile``, frozen before; at most ``margin`` more."""

    quantile: float = 0.99
    margin: float = 0.01

    def __post_init__(self) -> None:
        conform(self)
        within(self.quantile, 0, 1, "guard.Latency.quantile")
        within(self.margin, 0, 1, "guard.Latency.margin")


Guard = Errors | Latency
