"""What a canary must not make worse (users see ``el.guard``). Judges nothing: that is ``release.judge``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from everloop.errors import SpecError
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


@taught
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The mean of an outcome that you report, such as conversion or revenue: at most ``margin`` worse than the champion's.

    Each request counts once, at the age ``delay``, with the outcome that was known then: the same for both versions,
    whenever their outcomes happen to come. ``between``: the least and the largest value; 0 and 1 for a share, and what
    lies beyond counts as the limit. ``margin`` is in the outcome's own units. ``absent``: what a request without an
    outcome counts as; None: it is left out.
    """

    name: str = field(kw_only=False)
    margin: float
    better: Literal["higher", "lower"] = "higher"
    between: tuple[float, float] = (0.0, 1.0)
    delay: timedelta = timedelta(days=1)
    absent: float | None = 0.0

    def __post_init__(self) -> None:
        conform(self)
        low, high = self.between
        if not low < high:
            raise SpecError(
                f"guard.Outcome.between is {self.between}; write the least and the largest value, as (0, 500)."
            )
        if not 0 < self.margin < high - low:
            raise SpecError(
                f"guard.Outcome.margin is {self.margin:g}; write how much worse the mean may be, more than 0 and less "
                f"than {high - low:g}, as far as between reaches."
            )
        if self.delay < timedelta(0):
            raise SpecError(f"guard.Outcome.delay is {self.delay}; write 0 or more, for example timedelta(days=1).")
        if self.absent is not None and not low <= self.absent <= high:
            raise SpecError(
                f"guard.Outcome.absent is {self.absent:g}, which is not between {self.between}; write what a request without "
                "an outcome counts as, or None to leave it out."
            )


Guard = Errors | Latency | Outcome
