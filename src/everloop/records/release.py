"""Who serves what and by which rule, and each decision that made it so. Decides nothing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from everloop.records.evidence import Evidence
from everloop.records.kinds import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentArm:
    """A named part of the traffic and the version that answers it. ``share``: in (0, 1); all arms' shares are 1."""

    name: str
    version: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An A/B test as it was started. It never changes: other shares or arms are another experiment.

    ``salt`` and the arms' shares are all that it takes to know the arm of an id (`everloop.serve.arms.assign`).
    """

    loop: str
    name: str
    arms: tuple[ExperimentArm, ...]
    salt: str
    unit: str | None = None
    """The column whose value decides; None: the prediction's id."""
    sticky: Literal["hour", "always"] = "always"
    started: datetime
    stopped: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteArm:
    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers is decided by what is asked: by a small model's decision, by the first arm's confidence, or by meaning.

    With ``weights`` an arm is drawn by the weights that it has in the query's class (`everloop.spec.serve.Meaning`), and
    ``by_package`` is whose clusters are meant, if any are. With ``by`` the arms are named as the decisions of that loop's package. With ``threshold`` (a cascade) they are
    asked in their order: the first one that is confident enough answers, and the last one always.
    """

    arms: tuple[RouteArm, ...]
    by: str | None = None
    """The loop whose package decides."""
    by_version: int | None = None
    by_package: str | None = None
    threshold: float | None = None
    weights: dict[str, tuple[float, ...]] | None = None
    """By meaning: class → the weight of each arm, in their order; "" stands for every class that is not named."""
    started: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Who serves what, now. ``revision`` rises by one with each change and is what compare-and-swap compares."""

    loop: str
    revision: int = 0
    stage: Stage = "empty"
    champion: int | None = None
    challenger: int | None = None
    share: float = 0.0
    """The challenger's share of live traffic: 0 in shadow."""
    epoch: int = 0
    """Rises whenever the share or a participant changes; counts are kept per epoch."""
    started: datetime | None = None
    """When this challenger began (shadow or canary)."""
    since: datetime | None = None
    """When the present stage and share began."""
    previous: int | None = None
    """The champion before this one: where a rollback by command goes."""
    former: int | None = None
    """The champion before this one while it goes on answering in shadow, so that what the release gained can be seen."""
    former_until: datetime | None = None
    paused: bool = False
    paused_at: datetime | None = None
    paused_seconds: float = 0.0
    """How long this release has been paused before: the time counts for no limit."""
    experiment: str | None = None
    """The experiment that divides the traffic now; only while there is no challenger."""
    route: Route | None = None
    """The rule that chooses the version by what is asked; only while there is no challenger and no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that was decided, with its reason, kept for ever."""

    loop: str
    at: datetime
    action: str
    because: str
    evidence: tuple[Evidence, ...] = ()
    version: int | None = None
    revision: int | None = None
    run: str | None = None
