"""When to make a new version. Fires nothing: that is ``watch.triggers``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, shown
from everloop.spec.detector import Detector
from everloop.spec.source import known_zone
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True, kw_only=True)
class Every:
    """On a schedule; whole days fall on midnight in ``time_zone``.

    After an absence ``catch_up`` makes one turn for the last missed slot, one for each of them, or none.
    """

    period: timedelta = field(kw_only=False)
    time_zone: str = "UTC"
    catch_up: Literal["last", "all", "skip"] = "last"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.period, "Every.period", example="timedelta(days=7)")
        known_zone(self.time_zone, "Every.time_zone")


LEAST_WINDOW = 300
"""Rows of the smallest window: thirty for each of ten bins."""


@taught
@dataclass(frozen=True, kw_only=True)
class Drift:
    """When inputs (all, or ``columns``) have moved away from the champion's training rows, with an alarm budget.

    ``window``: how long, or how many rows, are looked at together. ``season``: what a window is held against, "day" for
    training rows of the same hours, "week" for those of the same hours of the same weekdays, "detect" for what the
    training rows show, "none" for all of them.
    """

    columns: tuple[str, ...] | None = None
    false_alarm_every: timedelta = timedelta(days=90)
    window: timedelta | int = timedelta(days=7)
    season: Literal["detect", "day", "week", "none"] = "detect"

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            columns: str | Sequence[str] | None = None,
            false_alarm_every: timedelta = timedelta(days=90),
            window: timedelta | int = timedelta(days=7),
            season: Literal["detect", "day", "week", "none"] = "detect",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", (self.columns,) if isinstance(self.columns, str) else self.columns)
        conform(self)
        if self.columns is not None and not self.columns:
            raise SpecError("Drift.columns is (); name columns, or leave it out to watch all of them.")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise SpecError(f"Drift.columns is {self.columns}; name each column once.")
        positive(self.false_alarm_every, "Drift.false_alarm_every", example="timedelta(days=90)")
        if isinstance(self.window, timedelta):
            if not timedelta(minutes=1) <= self.window <= timedelta(days=366):
                raise SpecError(f"Drift.window is {self.window}; write a minute to a year, such as timedelta(days=1).")
        elif self.window < LEAST_WINDOW:
            raise SpecError(
                f"Drift.window is {self.window} rows; write at least {LEAST_WINDOW}: fewer say nothing of a distribution."
            )


@taught
@dataclass(frozen=True, kw_only=True)
class Degraded:
    """When the score on matured labels is worse than it was by ``by`` (in the score's units), beyond its noise.

    With a ``detector``, such as ``el.detector.Adwin()``, also when it finds in the losses of the newest labels that they
    have become worse by so much: against what they just were, not what the champion once reached.
    """

    by: float = 0.02
    over: timedelta | None = None
    detector: Detector | None = field(default=None, metadata={"omitted": "default"})

    def __post_init__(self) -> None:
        conform(self)
        if self.by <= 0:
            raise SpecError(f"Degraded.by is {self.by:g}; write more than 0, in the score's units.")
        positive(self.over, "Degraded.over", example="timedelta(days=7)")


@taught
@dataclass(frozen=True)
class Rows:
    """When so many new labelled rows have come."""

    count: int

    def __post_init__(self) -> None:
        conform(self)
        if self.count < 1:
            raise SpecError(f"Rows.count is {self.count}; write at least 1.")


@taught
@dataclass(frozen=True)
class Manual:
    """Only by ``everloop run``."""


@taught
@dataclass(frozen=True, init=False)
class AnyOf:
    """When one of them fires."""

    triggers: tuple[Trigger, ...]

    def __init__(self, *triggers: Trigger) -> None:
        object.__setattr__(self, "triggers", _parts("AnyOf", triggers))


@taught
@dataclass(frozen=True, init=False)
class AllOf:
    """When all of them hold at one look."""

    triggers: tuple[Trigger, ...]

    def __init__(self, *triggers: Trigger) -> None:
        object.__setattr__(self, "triggers", _parts("AllOf", triggers))
        if any(isinstance(each, Manual) for each in leaves(self)):
            raise SpecError("AllOf holds Manual(), which never fires by itself; leave it out, or write AnyOf(…).")


Trigger = Every | Drift | Degraded | Rows | Manual | AnyOf | AllOf
KINDS = (Every, Drift, Degraded, Rows, Manual, AnyOf, AllOf)


def _parts(name: str, triggers: tuple[Trigger, ...]) -> tuple[Trigger, ...]:
    for each in triggers:
        if not isinstance(each, KINDS):
            raise SpecError(f"{name} is given {shown(each)}; write triggers such as Every(timedelta(days=7)).")
    if len(triggers) < 2:
        raise SpecError(f"{name} is given {len(triggers)} trigger; write at least two, or the one by itself.")
    if len(set(triggers)) < len(triggers):
        twice = next(each for each in triggers if triggers.count(each) > 1)
        raise SpecError(f"{name} is given {twice!r} twice; leave one out.")
    return triggers


def leaves(trigger: Trigger) -> Iterator[Every | Drift | Degraded | Rows | Manual]:
    """Every single trigger, in order."""
    if isinstance(trigger, AnyOf | AllOf):
        for each in trigger.triggers:
            yield from leaves(each)
    else:
        yield trigger
