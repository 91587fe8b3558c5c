"""How a worsening is found in a stream of losses (users see ``el.detector``). Computes nothing: that is ``measure.detectors``."""

from __future__ import annotations

from dataclasses import dataclass, field

from everloop.errors import SpecError
from everloop.spec.conform import conform
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True)
class Adwin:
    """A window that is cut where its newer part differs from its older one beyond what ``delta`` leaves to chance."""

    delta: float = field(default=0.02, kw_only=True)

    def __post_init__(self) -> None:
        conform(self)
        if not 0 < self.delta < 1:
            raise SpecError(f"Adwin.delta is {self.delta:g}; write a chance between 0 and 1, such as 0.02.")


@taught
@dataclass(frozen=True)
class PageHinkley:
    """A running sum of how far losses lie over their mean, in standard deviations: quick and cheap."""

    threshold: float = field(default=75.0, kw_only=True)
    """What the sum must reach."""
    slack: float = field(default=0.05, kw_only=True)
    """What is taken off each loss: half of the smallest rise that matters, in standard deviations."""

    def __post_init__(self) -> None:
        conform(self)
        if self.threshold <= 0 or self.slack < 0:
            raise SpecError(
                f"PageHinkley has threshold={self.threshold:g} and slack={self.slack:g}; write a threshold above 0 and "
                "a slack of 0 or more, both in standard deviations."
            )


@taught
@dataclass(frozen=True)
class Kswin:
    """The newest losses against those before them by Kolmogorov and Smirnov's distance: sees more than a mean."""

    alpha: float = field(default=0.0005, kw_only=True)
    """The chance of a false alarm at one comparison; there is one for each fifth of ``recent``."""
    window: int = field(default=2_500, kw_only=True)
    recent: int = field(default=500, kw_only=True)

    def __post_init__(self) -> None:
        conform(self)
        if not 0 < self.alpha < 1:
            raise SpecError(f"Kswin.alpha is {self.alpha:g}; write a chance between 0 and 1, such as 0.0005.")
        if not 10 <= self.recent <= self.window / 2:
            raise SpecError(
                f"Kswin has window={self.window} and recent={self.recent}; recent is at least 10 and at most half of window."
            )


@taught
@dataclass(frozen=True)
class Ddm:
    """The mean loss since the start against the best it has been, in standard errors (Gama): well known, restless."""

    level: float = field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        conform(self)
        if self.level <= 0:
            raise SpecError(f"Ddm.level is {self.level:g}; write how many standard errors, such as 3.0.")


Detector = Adwin | PageHinkley | Kswin | Ddm
