"""What a backtest found, as frozen values: windows, fits, and of each policy who served, what was scored and what it cost.

Everything that follows from these (frontier, recommendation, oracle, regret, prices) is arithmetic on them and needs no
rows. JSON through `BacktestResult.to_json` and back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, get_type_hints

import msgspec

from everloop.records import Task, Verdict, digest_of, encode
from everloop.spec.policy import Policy

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FitName:
    """All that a fit depends on: two with the same name are one fit. Instants in microseconds since 1970, UTC.

    Labels count from event time plus their delay on, so the labelled rows of [since, until) are the same whenever that
    is asked after ``until`` plus the delay: when a fit is made is no part of its name.
    """

    history: str
    """Digest of the history: rows, labels, what is a feature."""
    since: int
    until: int
    """Training rows: since ≤ event time < until."""
    features: str
    """Digest of the feature tree."""
    code: str
    """Digest of the declared training: estimator or function, search, weight, score and label."""
    seed: int
    parent: str | None = None
    """The digest of the fit that it goes on from; None: from nothing."""
    like: str | None = None
    """The digest of the fit whose estimator and parameters it takes, where those were searched for."""
    share: float = 1.0
    """The share of labels that are known at all."""

    @property
    def digest(self) -> str:
        return _digest(self)


@lru_cache(maxsize=65_536)
def _digest(name: FitName) -> str:
    return digest_of(encode(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredWindow:
    """One stretch of event time that is predicted whole and scored whole: since ≤ event time < until."""

    index: int
    since: datetime
    until: datetime
    rows: int
    """With a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one fit says of one window's rows."""

    rows: int
    score: float | None
    """The declared metric; None where it is not defined (one class only)."""
    loss: float
    """The mean row loss of the metric's companion (``metric.companion.name``): smaller is better, rows × loss adds up."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """How often it was wrong, by kind: ``wrong`` decisions, of two classes also ``missed`` and ``false alarm``; for
    regression ``absolute``, the sum of absolute errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fit that was made, and what it said of the windows it was asked about.

    ``window``: in words, the training window that made it (``last 8 weeks``): fits of one ``window`` are the choices of
    an oracle that may retrain at any boundary.
    """

    name: FitName
    window: str
    rows: int
    """It learned from."""
    ready_before: int
    """The first window that it may serve whole: its labels are known by then, and it is fitted. len(windows): none."""
    seconds: float
    """Of training, measured."""
    cells: Mapping[int, Cell] = field(default_factory=dict)
    """Window index → what it said there; empty where no oracle was asked for."""
    problem: str | None = None
    """Why there is no model, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who answered so many rows of a window: ``fit`` is a key of `BacktestResult.fits`."""

    fit: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRun:
    """One policy in one window, predicted by whoever was live then."""

    window: int
    served: tuple[Served, ...]
    """In the order of time: mostly one, two where a new model went live inside the window."""
    score: float | None
    loss: float
    rows: int
    stale: int = 0
    """Rows answered by the old model while a newer one was being made or released."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """As in `Cell`."""
    influence: float | None = None
    """How the window moves the score over all rows of all windows: the sum of its rows' influences
    (``measure.metrics.influence``); None for a user's own metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrain:
    """One retrain, whatever became of it."""

    window: int
    """The last window that had ended when it was started."""
    started: datetime
    live: datetime | None
    """When its model began to serve; None where it did not."""
    because: str
    """The trigger's words."""
    kinds: tuple[str, ...]
    """Names of the evidence: ``schedule``, ``drift``, ``degraded``, ``rows``; ``first`` for the first model."""
    fit: str | None
    """The fit that was to serve; None where no model could be made."""
    verdict: Verdict | None
    said: str
    """What was decided, in words: released, rejected, kept champion, turn failed."""
    rows: int
    """Labelled rows it used."""
    seconds: float
    """Of training that it stands for; whoever shares the fit is charged the same, as it would have been alone."""
    paid: float | None = None
    """By how much the score over the windows it served is better than that of the model it replaced; None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a policy costs."""

    retrains: int
    """Turns that were started, the first model not among them."""
    released: int
    rejected: int
    never_paid: int
    """Released, and the model before would have done as well or better over the same rows."""
    seconds: float
    """Of training, the first model not among them."""
    stale: int
    """Predictions served by an old model while a newer one was on its way."""
    labels: int
    """Different labelled rows that were used by fits, gates and triggers."""
    money: float | None = None
    """With prices: of all below."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Of ``money``: ``retrains``, ``hours``, and one of each priced kind of error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a retrain, an hour of training and an error of each kind cost, in one currency."""

    retrain: float = 0.0
    hour: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)
    """By the kinds of `Cell.errors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRun:
    """One policy over the whole history."""

    policy: Policy
    windows: tuple[WindowRun, ...]
    retrains: tuple[Retrain, ...]
    """The first model first."""
    score: float | None
    """The declared metric over all rows of all windows together."""
    costs: Costs
    worst: int
    """The index of the window with the worst score."""
    problem: str | None = None
    """Why the policy could not be run to its end; then the windows end there."""

    @property
    def digest(self) -> str:
        return self.policy.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The no-change rule: of each row, the newest label that is known when it comes."""

    windows: tuple[Cell, ...]
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """Everything a backtest found. ``runs`` in the order of the policies."""

    loop: str
    metric: str
    companion: str
    """The metric whose row losses are in ``loss``."""
    greater_is_better: bool
    task: Task
    delay: timedelta
    """Of labels."""
    takes: timedelta | None
    """How long a retrain takes before its model serves, where that was declared; None: what its fit took."""
    windows: tuple[ScoredWindow, ...]
    runs: tuple[PolicyRun, ...]
    fits: Mapping[str, Fit]
    """By `FitName.digest`."""
    floor: Floor
    present: int | None = None
    """The place among ``runs`` of the policy that the loop declares."""
    prices: Prices | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time went, on the wall: ``total``, and by part; ``fits`` is of all processes together."""
    notes: tuple[str, ...] = ()
    """What a reader should know, in words."""

    def to_json(self) -> dict[str, Any]:
        """JSON builtins; policies in their canonical form, with their name, line and digest beside it."""
        form = _plain(dataclasses.replace(self, runs=()))
        form["format"] = FORMAT
        form["runs"] = [_run_to_json(each) for each in self.runs]
        return form

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> BacktestResult:
        """The result of `to_json`. Raises SpecError for a policy and ValidationError for anything else that is none."""
        runs = tuple(
            PolicyRun(policy=Policy.from_json(each["policy"]), **_fields(PolicyRun, each)) for each in form["runs"]
        )
        return cls(runs=runs, **_fields(cls, form))


def _fields(kind: type, form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record as they are in ``form``, without those that hold policies."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in ("policy", "runs")}
    return {name: msgspec.convert(form[name], hint, strict=False) for name, hint in hints.items()}


def _plain(value: Any) -> dict[str, Any]:
    form: dict[str, Any] = msgspec.to_builtins(value, str_keys=True)
    return form


def _run_to_json(run: PolicyRun) -> dict[str, Any]:
    plain: dict[str, Any] = {
        each.name: getattr(run, each.name) for each in dataclasses.fields(run) if each.name != "policy"
    }
    form = _plain(plain)
    policy = run.policy
    return {"policy": policy.to_json(), "name": policy.name, "line": policy.line, "digest": policy.digest, **form}
