"""What the judge of a release looks at: counts of both arms, and pairs of answers. Judges nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Four counts of one guard in one share epoch: enough for every rule (statistics: counts form)."""

    share: float
    challenger_events: float
    challenger_units: float
    champion_events: float
    champion_units: float
    log_worse: tuple[float, ...] = ()
    """Of outcomes between the limits that are not 0 or 1: what each bet has won, which the counts do not tell."""
    log_not_worse: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvidence:
    """One guard's counts, one entry per share epoch, and the champion rate frozen before the canary."""

    guard: str
    baseline: float
    margin: float
    epochs: tuple[ArmCounts, ...]
    only_challenger_failed: int = 0
    """In shadow, of the same rows: on so many the challenger alone failed, on so many the champion alone."""
    only_champion_failed: int = 0
    scale: tuple[float, float] = (0.0, 1.0)
    """Of an outcome: which of its values are no event at all and a whole one. Rates and margins here are of events."""
    variance: float | None = None
    """Of the events in the champion's requests before, frozen with the rate; None: they are 0 or 1."""
    counted: str = ""
    """What its shares are of, in words, where ``guard`` alone would read as a value."""
    silent: str = ""
    """In words, that nothing is reported of what is guarded: such a guard is never shown not worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Paired shadow answers on the same rows, once labels are known.

    ``differences`` are loss(challenger) − loss(champion) summed up: pairs, sum and sum of squares; for 0/1 losses
    ``only_challenger_wrong`` and ``only_champion_wrong`` are the discordant counts.
    """

    pairs: int
    total: float
    squares: float
    only_challenger_wrong: int = 0
    only_champion_wrong: int = 0
    bounded: bool = False
    """True when every difference lies in [-1, 1] (0/1 loss, Brier)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseEvidence:
    """All that the judge looks at: additive over replicas and time."""

    guards: tuple[GuardEvidence, ...] = ()
    shadow: PairedCounts | None = None
    shadow_margin: float | None = None
    requests: int = 0
    """Challenger requests in all epochs of this release."""
