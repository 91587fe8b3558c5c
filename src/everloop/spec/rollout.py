"""How a version that passed its gate comes to serve. Moves nothing: that is ``release.plan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, within
from everloop.spec.guard import Errors, Guard, Latency, Outcome
from everloop.spec.taught import taught


def _guarded_once(guards: tuple[Guard, ...], where: str) -> None:
    if len(set(guards)) < len(guards):
        raise SpecError(f"{where}.guards is ({', '.join(map(repr, guards))}) with the same guard twice; leave one out.")
    named = [each.name for each in guards if isinstance(each, Outcome)]
    if len(set(named)) < len(named):
        raise SpecError(f"{where}.guards names the outcome {max(named, key=named.count)!r} twice; leave one out.")


@taught
@dataclass(frozen=True, kw_only=True)
class Canary:
    """In shadow of all traffic, then at rising shares of it, then champion; back as soon as harm is shown.

    ``alpha``: how often an equal version may be turned back. ``promote_alpha``: how often one at the margin may pass.
    ``unit``: a column whose callers stay on one side (and are what is counted), anew each hour or always. ``longest``:
    then it ends as ``then`` says, with the record "no sign of harm": "wait" promotes only what ``minimum_requests`` have met
    at the last share without a sign of harm, and goes on waiting otherwise, until a trigger asks for a newer version;
    "promote" whatever was not shown worse;
    "rollback" nothing that was not shown good. ``minimum`` and ``minimum_requests``: not sooner.
    ``former``: so long after a promotion the champion of before goes on answering in shadow, so that what the release
    gained can be seen; it ends sooner when the next release begins.
    """

    shares: tuple[float, ...] = (0.1, 0.5)
    guards: tuple[Guard, ...] = (Errors(), Latency())
    alpha: float = 0.05
    promote_alpha: float = 0.02
    unit: str | None = None
    sticky: Literal["hour", "always"] = "hour"
    shadow: bool = True
    longest: timedelta = timedelta(days=14)
    then: Literal["wait", "promote", "rollback"] = "wait"
    minimum: timedelta = timedelta(days=1)
    minimum_requests: int = 200
    former: timedelta = field(default=timedelta(days=7), metadata={"omitted": "default"})

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            shares: Sequence[float] = (0.1, 0.5),
            guards: Sequence[Guard] = (Errors(), Latency()),
            alpha: float = 0.05,
            promote_alpha: float = 0.02,
            unit: str | None = None,
            sticky: Literal["hour", "always"] = "hour",
            shadow: bool = True,
            longest: timedelta = timedelta(days=14),
            then: Literal["wait", "promote", "rollback"] = "wait",
            minimum: timedelta = timedelta(days=1),
            minimum_requests: int = 200,
            former: timedelta = timedelta(days=7),
        ) -> None: ...

    def __post_init__(self) -> None:
        conform(self)
        rising = all(low < high for low, high in pairwise(self.shares))
        if not self.shares or not rising or not all(0 < share < 1 for share in self.shares):
            raise SpecError(
                f"Canary.shares is {self.shares}; write rising shares between 0 and 1, for example (0.1, 0.5)."
            )
        _guarded_once(self.guards, "Canary")
        within(self.alpha, 0, 0.5, "Canary.alpha")
        within(self.promote_alpha, 0, 0.5, "Canary.promote_alpha")
        positive(self.longest, "Canary.longest", example="timedelta(days=14)")
        if self.minimum < timedelta(0) or self.minimum > self.longest:
            raise SpecError(f"Canary.minimum is {self.minimum}; write between 0 and longest, which is {self.longest}.")
        for each in self.guards:
            if isinstance(each, Outcome) and each.delay >= self.longest:
                raise SpecError(
                    f"guard.Outcome({each.name!r}).delay is {each.delay}, but a release ends after {self.longest}: no outcome "
                    "would count before; write a longer Canary.longest."
                )
        if self.former < timedelta(0):
            raise SpecError(f"Canary.former is {self.former}; write 0 or more, for example timedelta(days=7).")
        if self.minimum_requests < 1:
            raise SpecError(f"Canary.minimum_requests is {self.minimum_requests}; write at least 1.")


@taught
@dataclass(frozen=True, kw_only=True)
class Direct:
    """Champion at once."""

    guards: tuple[Guard, ...] = ()

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            guards: Sequence[Guard] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        conform(self)
        _guarded_once(self.guards, "Direct")
        if self.guards:
            # There is no second arm to hold the new version against; to say it is guarded would be untrue.
            raise SpecError(
                f"Direct.guards is {self.guards}; guarding a release at once is not built yet: leave guards out, "
                "or use Canary(shares=(0.5,), shadow=False, guards=…)."
            )


Rollout = Canary | Direct
