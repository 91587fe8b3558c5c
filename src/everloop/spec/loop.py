"""The loop: one frozen value that says how a model is made and what it must hold. Does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from everloop.errors import SpecError
from everloop.records import LOOP_NAME
from everloop.spec.alert import BLIND, DriftFound, Rule, name_of
from everloop.spec.alert import DEFAULT as DEFAULT_ALERTS
from everloop.spec.checks import Check
from everloop.spec.columns import Column, Columns
from everloop.spec.conform import conform, shown
from everloop.spec.decision import Threshold
from everloop.spec.gate import Better, NotWorse
from everloop.spec.label import Label
from everloop.spec.metric import METRICS, Custom, Metric
from everloop.spec.notify import DEFAULT_PACE, Pace, Receiver
from everloop.spec.retrain import AnyOf, Degraded, Drift, Every, Trigger
from everloop.spec.retrain import leaves as triggers_of
from everloop.spec.rollout import Canary, Direct
from everloop.spec.serve import Serve
from everloop.spec.source import Source
from everloop.spec.taught import taught
from everloop.spec.trace import trace
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree, inputs_of
from everloop.spec.window import Everything, Last

DEFAULT_WINDOW = Everything()
DEFAULT_GATE = NotWorse()
DEFAULT_SERVE = Serve()
DEFAULT_ROLLOUT = Canary()
DEFAULT_RETRAIN = AnyOf(Every(timedelta(days=7)), Degraded(by=0.02))
LATER = {"omitted": "default"}
"""A field that came later is not written where it has its default: declarations keep their digests."""


@taught
@dataclass(frozen=True, kw_only=True)
class Loop:
    """Source, label and train are needed; every other field has a default that is safe and that ``check`` says aloud.

    ``name`` is the identity of the loop, its digest (``spec.codec``) the identity of its meaning. Raises SpecError
    for a mistake of shape, with the value and what to write instead.
    """

    name: str
    source: Source
    label: Label
    train: Train | tuple[Train, ...]
    checks: tuple[Check, ...] = ()
    features: FeatureTree | None = None
    """Given as a function of the row, kept as the tree that it draws. None: all columns that may be used."""
    window: Last | Everything = DEFAULT_WINDOW
    decision: Threshold | None = None
    score: Metric | None = None
    gate: NotWorse | Better | None = DEFAULT_GATE
    compress: None = None
    serve: Serve = DEFAULT_SERVE
    rollout: Canary | Direct = DEFAULT_ROLLOUT
    retrain: Trigger = DEFAULT_RETRAIN
    quarantine_up_to: float = 0.05
    """The share of a batch that may fail its checks; beyond it the whole batch is refused."""
    cooldown: timedelta = timedelta(0)
    warm: bool = field(default=False, metadata=LATER)
    """Each fit goes on from the champion's model with the rows of its window, instead of from nothing."""
    alerts: tuple[Rule, ...] = field(default=DEFAULT_ALERTS, metadata=LATER)
    """What somebody is told about; those that are written stand in place of the default."""
    notify: tuple[Receiver | Pace, ...] = field(default=(), metadata=LATER)
    """Who is told. Nobody: alerts are kept, and said where `everloop up` runs."""

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            name: str,
            source: Source,
            label: Label | str,
            train: Any,
            checks: Sequence[Check] = (),
            features: Callable[[Columns], Mapping[str, Column]] | FeatureTree | None = None,
            window: Last | Everything = DEFAULT_WINDOW,
            decision: Threshold | None = None,
            score: Metric | Callable[[Any, Any, Any], float] | None = None,
            gate: NotWorse | Better | None = DEFAULT_GATE,
            compress: None = None,
            serve: Serve = DEFAULT_SERVE,
            rollout: Canary | Direct = DEFAULT_ROLLOUT,
            retrain: Trigger = DEFAULT_RETRAIN,
            quarantine_up_to: float = 0.05,
            cooldown: timedelta = timedelta(0),
            warm: bool = False,
            alerts: Sequence[Rule] = DEFAULT_ALERTS,
            notify: Sequence[Receiver | Pace] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        self._take_shapes()
        conform(self)
        if not LOOP_NAME.fullmatch(self.name):
            raise SpecError(
                f"Loop.name is {self.name!r}, which names no folder everywhere; write at most 63 lower-case letters, "
                'digits, - and _, for example "flight-delay".'
            )
        if not 0 <= self.quarantine_up_to <= 1:
            raise SpecError(f"Loop.quarantine_up_to is {self.quarantine_up_to:g}; write a share from 0 to 1.")
        if self.cooldown < timedelta(0):
            raise SpecError(f"Loop.cooldown is {self.cooldown}; write 0 or more.")
        if isinstance(self.train, tuple) and not self.train:
            raise SpecError("Loop.train is (); write Train(LGBMClassifier()), for example.")
        self._each_once()
        self._known_then()
        self._watched()

    def _take_shapes(self) -> None:
        """Accept the short forms that people write."""
        if callable(self.features) and not isinstance(self.features, FeatureTree):
            self._set("features", FeatureTree(columns=trace(self.features)))
        if self.score is not None and not isinstance(self.score, type) and not isinstance(self.score, METRICS):
            self._set("score", Custom(self.score))
        if isinstance(self.retrain, list | tuple):
            raise SpecError(f"Loop.retrain is {shown(self.retrain)}; write AnyOf(…) or AllOf(…) around them.")
        if isinstance(self.train, list | tuple):
            each = tuple(one if isinstance(one, Train) else Train(one) for one in self.train)
            self._set("train", each[0] if len(each) == 1 else each)
        elif not isinstance(self.train, Train):
            self._set("train", Train(self.train))
        if isinstance(self.label, str):
            self._set("label", Label(self.label))
        if isinstance(self.label, list | tuple):
            raise SpecError(
                f"Loop.label is {shown(self.label)}; several labels are not built yet: declare a loop for each."
            )
        if not isinstance(self.checks, list | tuple):
            raise SpecError(f'Loop.checks is {shown(self.checks)}; write a list such as [el.check.NotNull("carrier")].')
        if self.compress is not None:
            raise SpecError(f"Loop.compress is {shown(self.compress)}; compressing is not built yet: leave it out.")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _each_once(self) -> None:
        for where, parts in (
            ("checks", self.checks),
            ("retrain", tuple(triggers_of(self.retrain))),
            ("train", self.train if isinstance(self.train, tuple) else ()),
            ("alerts", self.alerts),
            ("notify", self.notify),
        ):
            for position, each in enumerate(parts):
                if each in parts[:position]:
                    raise SpecError(f"Loop.{where} holds {each!r:.200} twice; leave one out.")

    def _known_then(self) -> None:
        """What a feature, a key or a time reads must be known at the event."""
        label, source = self.label.column, self.source
        if label in source.key or label == source.event_time_column:
            raise SpecError(
                f"Loop.label is {label!r}, which source.key or source.event_time names too; "
                "a label is known only after the event: name another column."
            )
        for name, node in self.features.columns if self.features is not None else ():
            used = inputs_of(node)
            late = sorted(used & set(source.after))
            if late:
                raise SpecError(
                    f"The feature {name!r} uses {', '.join(late)}, which source.after says is known only after the event; "
                    "use a column known before it."
                )
            if label in used:
                raise SpecError(
                    f"The feature {name!r} uses the label {label!r}, which is not known at the event; leave it out."
                )
        unit = self.rollout.unit if isinstance(self.rollout, Canary) else None
        if unit is not None and unit in (*source.after, label):
            raise SpecError(
                f"Canary.unit is {unit!r}, which is known only after the event; name a column of the request."
            )

    def _watched(self) -> None:
        """Whoever wants to watch more than drift needs the log."""
        if sum(isinstance(each, Pace) for each in self.notify) > 1:
            raise SpecError("Loop.notify holds two paces; write one Pace(…) for all receivers.")
        names = [(name_of(each), each.severity) for each in self.alerts]
        for position, each in enumerate(names):
            if each in names[:position]:
                raise SpecError(
                    f"Loop.alerts holds two rules for {each[0]} with the severity {each[1]}; "
                    "leave one out, or give them two severities."
                )
        if self.serve.log:
            return
        blind = [repr(each) for each in triggers_of(self.retrain) if isinstance(each, Degraded)]
        if isinstance(self.rollout, Canary):
            blind.append("Canary(…)")
        if self.alerts != DEFAULT_ALERTS:
            blind += [repr(each) for each in self.alerts if isinstance(each, BLIND)]
        if blind:
            raise SpecError(
                f"Serve.log is False, and {' and '.join(blind)} can judge only predictions that are kept; "
                "leave log=False out, or write rollout=Direct(), retrain=Drift(…) or Every(…), and no such alert."
            )

    @property
    def watched_alerts(self) -> tuple[Rule, ...]:
        """Those that can see something: the default ones go without a log where there is none."""
        return tuple(each for each in self.alerts if self.serve.log or not isinstance(each, BLIND))

    @property
    def sketched(self) -> tuple[Drift, ...]:
        """What watches sketches of the requests, because they are not logged."""
        if self.serve.log:
            return ()
        asked = [each for each in triggers_of(self.retrain) if isinstance(each, Drift)]
        told = [each.asked for each in self.watched_alerts if isinstance(each, DriftFound)]
        return tuple(dict.fromkeys([*asked, *told]))

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        return tuple(each for each in self.notify if not isinstance(each, Pace))

    @property
    def pace(self) -> Pace:
        return next((each for each in self.notify if isinstance(each, Pace)), DEFAULT_PACE)

    @property
    def trains(self) -> tuple[Train, ...]:
        """One, or those that compete on the score."""
        return self.train if isinstance(self.train, tuple) else (self.train,)
