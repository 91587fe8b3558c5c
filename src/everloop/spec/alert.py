"""What somebody is to be told about (users see ``el.alert``). Measures nothing and tells nobody.

A rule says what is too much; how it is seen, and how chance is kept out of it, is in ``loop.readings``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, within
from everloop.spec.retrain import Drift
from everloop.spec.taught import taught

Severity = Literal["critical", "warning"]
Level = Literal["infrastructure", "service", "data", "business"]
REASONS = (
    "queue_full", "deadline", "connections", "decoding", "loading", "unloaded", "unavailable", "rate_limit", "quota",
)  # fmt: skip
"""Why a server refuses a request that is as it should be: with 503 but for the last two, which are a 429."""


# The machine


@taught
@dataclass(frozen=True, kw_only=True)
class DiskFull:
    """When the disk that holds the home is filled to more than ``above``."""

    above: float = 0.9
    severity: Severity = "critical"

    def __post_init__(self) -> None:
        conform(self)
        within(self.above, 0, 1, "alert.DiskFull.above")


@taught
@dataclass(frozen=True, kw_only=True)
class MemoryFull:
    """When more than ``above`` of the memory is used: of the container's limit where there is one."""

    above: float = 0.9
    severity: Severity = "critical"

    def __post_init__(self) -> None:
        conform(self)
        within(self.above, 0, 1, "alert.MemoryFull.above")


@taught
@dataclass(frozen=True, kw_only=True)
class ProcessorFull:
    """When more than ``above`` of the processor time there is was used ``within``: of the container's, where it has a limit."""

    above: float = 0.95
    within: timedelta = timedelta(minutes=15)
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        within(self.above, 0, 1, "alert.ProcessorFull.above")
        positive(self.within, "alert.ProcessorFull.within", example="timedelta(minutes=15)")


@taught
@dataclass(frozen=True, kw_only=True)
class GpuFull:
    """When more than ``above`` of the memory of a GPU is used, where NVIDIA's library tells of one."""

    above: float = 0.95
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        within(self.above, 0, 1, "alert.GpuFull.above")


# The service


@taught
@dataclass(frozen=True, kw_only=True)
class NotServing:
    """When a version is released and no server has answered for it for ``after``."""

    after: timedelta = timedelta(minutes=1)
    severity: Severity = "critical"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.after, "alert.NotServing.after", example="timedelta(minutes=1)")


@taught
@dataclass(frozen=True, kw_only=True)
class Errors:
    """When more than the share ``above`` of the rows asked for ``within`` failed, beyond chance."""

    above: float = 0.01
    within: timedelta = timedelta(minutes=5)
    severity: Severity = "critical"

    def __post_init__(self) -> None:
        conform(self)
        within(self.above, 0, 1, "alert.Errors.above")
        positive(self.within, "alert.Errors.within", example="timedelta(minutes=5)")


@taught
@dataclass(frozen=True, kw_only=True)
class Latency:
    """When the ``quantile`` of the answers of ``within`` takes longer than ``above``, beyond chance."""

    above: timedelta
    quantile: float = 0.99
    within: timedelta = timedelta(minutes=5)
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.above, "alert.Latency.above", example="timedelta(milliseconds=50)")
        within(self.quantile, 0, 1, "alert.Latency.quantile")
        positive(self.within, "alert.Latency.within", example="timedelta(minutes=5)")


@taught
@dataclass(frozen=True, kw_only=True)
class Refused:
    """When more than the share ``above`` of the requests of ``within`` were refused (429 or 503), beyond chance.

    ``reasons``: which refusals count, of `REASONS`; all of them unless named. Of all loops that a server holds: who is
    refused at the door has not said yet which one is meant.
    """

    reasons: tuple[str, ...] | None = field(default=None, kw_only=False)
    above: float = 0.01
    within: timedelta = timedelta(minutes=5)
    severity: Severity = "warning"

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            reasons: str | Sequence[str] | None = None,
            *,
            above: float = 0.01,
            within: timedelta = timedelta(minutes=5),
            severity: Severity = "warning",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "reasons", (self.reasons,) if isinstance(self.reasons, str) else self.reasons)
        conform(self)
        unknown = [each for each in self.reasons or () if each not in REASONS]
        if unknown or self.reasons == ():
            raise SpecError(
                f"alert.Refused.reasons is {self.reasons}; write some of {', '.join(REASONS)}, or leave it out for all."
            )
        within(self.above, 0, 1, "alert.Refused.above")
        positive(self.within, "alert.Refused.within", example="timedelta(minutes=5)")


@taught
@dataclass(frozen=True, kw_only=True)
class Unusual:
    """When five minutes of requests are unlike the same time of the days before: ``rate``, ``latency`` (p99) or ``errors``.

    ``above``: standard deviations, as ``measure.unusual`` counts them. For what has no limit of its own.
    """

    signal: Literal["rate", "latency", "errors"] = field(kw_only=False)
    above: float = 10.0
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        if self.above <= 0:
            raise SpecError(f"alert.Unusual.above is {self.above:g}; write standard deviations above 0, such as 10.")


# The data


@taught
@dataclass(frozen=True, kw_only=True)
class DriftFound:
    """When inputs (all, or ``columns``) have moved away from the champion's training rows, with an alarm budget."""

    columns: tuple[str, ...] | None = None
    false_alarm_every: timedelta = timedelta(days=90)
    severity: Severity = "warning"

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            columns: str | Sequence[str] | None = None,
            false_alarm_every: timedelta = timedelta(days=90),
            severity: Severity = "warning",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", (self.columns,) if isinstance(self.columns, str) else self.columns)
        conform(self)
        if self.columns is not None and not self.columns:
            raise SpecError("alert.DriftFound.columns is (); name columns, or leave it out to watch all of them.")
        positive(self.false_alarm_every, "alert.DriftFound.false_alarm_every", example="timedelta(days=90)")

    @property
    def asked(self) -> Drift:
        """The same as a trigger, with its windows."""
        return Drift(columns=self.columns, false_alarm_every=self.false_alarm_every)


@taught
@dataclass(frozen=True, kw_only=True)
class LabelCoverage:
    """When fewer than the share ``below`` of the champion's answers have a label once it is due."""

    below: float = 0.5
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        within(self.below, 0, 1, "alert.LabelCoverage.below")


@taught
@dataclass(frozen=True, kw_only=True)
class Stale:
    """When the champion is older than ``after``: no newer version has taken its place."""

    after: timedelta = timedelta(days=30)
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.after, "alert.Stale.after", example="timedelta(days=30)")


# What it is all for


@taught
@dataclass(frozen=True, kw_only=True)
class Score:
    """When the score on matured labels is worse than it was by ``by`` (in the score's units), beyond its noise."""

    by: float = 0.05
    severity: Severity = "critical"

    def __post_init__(self) -> None:
        conform(self)
        if self.by <= 0:
            raise SpecError(f"alert.Score.by is {self.by:g}; write more than 0, in the score's units.")


@taught
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """When the mean of the outcomes named ``name`` that came ``within`` is below or above a limit, beyond chance."""

    name: str = field(kw_only=False)
    below: float | None = None
    above: float | None = None
    within: timedelta = timedelta(days=1)
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.within, "alert.Outcome.within", example="timedelta(days=1)")
        if (self.below is None) == (self.above is None):
            raise SpecError(
                f"alert.Outcome({self.name!r}) has below={self.below} and above={self.above}; write one of them."
            )


@taught
@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """When the newest turn has failed, or waits for somebody's decision; until one goes well."""

    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)


@taught
@dataclass(frozen=True, kw_only=True)
class ReleaseStuck:
    """When a challenger is neither promoted nor turned back for ``after``."""

    after: timedelta = timedelta(days=30)
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        conform(self)
        positive(self.after, "alert.ReleaseStuck.after", example="timedelta(days=30)")


Rule = (
    DiskFull
    | MemoryFull
    | ProcessorFull
    | GpuFull
    | NotServing
    | Errors
    | Latency
    | Refused
    | Unusual
    | DriftFound
    | LabelCoverage
    | Stale
    | Score
    | Outcome
    | RunFailed
    | ReleaseStuck
)
BLIND = (Errors, Latency, Unusual, LabelCoverage, Score)
"""What sees nothing where predictions are not kept; drift is seen in sketches there."""
DEFAULT: tuple[Rule, ...] = (
    DiskFull(),
    MemoryFull(),
    NotServing(),
    Errors(),
    Refused(),
    DriftFound(),
    LabelCoverage(),
    Score(),
    RunFailed(),
    ReleaseStuck(),
)
LEVELS: dict[type, Level] = {
    DiskFull: "infrastructure",
    MemoryFull: "infrastructure",
    ProcessorFull: "infrastructure",
    GpuFull: "infrastructure",
    NotServing: "service",
    Errors: "service",
    Latency: "service",
    Refused: "service",
    Unusual: "service",
    DriftFound: "data",
    LabelCoverage: "data",
    Stale: "data",
    RunFailed: "data",
    ReleaseStuck: "data",
    Score: "business",
    Outcome: "business",
}


def name_of(rule: Rule) -> str:
    """As it is called in lists, labels and messages.

    >>> name_of(DiskFull()), name_of(Outcome("revenue", below=10))
    ('disk full', 'outcome revenue')
    """
    words = "".join(f" {each.lower()}" if each.isupper() else each for each in type(rule).__name__).strip()
    if isinstance(rule, Refused) and rule.reasons is not None:
        return f"{words} {' '.join(rule.reasons)}"
    if isinstance(rule, Outcome | Unusual):
        return f"{words} {rule.name if isinstance(rule, Outcome) else rule.signal}"
    return words
