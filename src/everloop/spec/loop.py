"""The loop: one frozen value that says how a model is made and what it must hold. Does nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from everloop.errors import SpecError
from everloop.spec.checks import Check
from everloop.spec.trace import trace
from everloop.spec.conform import conform, shown
from everloop.spec.decision import Threshold
from everloop.spec.gate import Better, NotWorse
from everloop.spec.label import Label
from everloop.spec.metric import Custom, Metric
from everloop.spec.retrain import AnyOf, Degraded, Every, Trigger
from everloop.spec.retrain import leaves as triggers_of
from everloop.spec.rollout import Canary, Direct
from everloop.spec.serve import Serve
from everloop.spec.source import Source
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree
from everloop.spec.window import Everything, Last

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_RETRAIN = AnyOf(Every(timedelta(days=7)), Degraded(by=0.02))


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
    window: Last | Everything = Everything()
    decision: Threshold | None = None
    score: Metric | None = None
    gate: NotWorse | Better | None = NotWorse()
    compress: None = None
    serve: Serve = Serve()
    rollout: Canary | Direct = Canary()
    retrain: Trigger = DEFAULT_RETRAIN
    quarantine_up_to: float = 0.05
    """The share of a batch that may fail its checks; beyond it the whole batch is refused."""
    cooldown: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self._take_shapes()
        conform(self)
        if not NAME.fullmatch(self.name):
            raise SpecError(
                f"Loop.name is {self.name!r}; write lower-case letters, digits, - and _, for example \"flight-delay\"."
            )
        if not 0 <= self.quarantine_up_to <= 1:
            raise SpecError(f"Loop.quarantine_up_to is {self.quarantine_up_to:g}; write a share from 0 to 1.")
        if self.cooldown < timedelta(0):
            raise SpecError(f"Loop.cooldown is {self.cooldown}; write 0 or more.")
        if isinstance(self.train, tuple) and not self.train:
            raise SpecError("Loop.train is empty; write Train(LGBMClassifier()), for example.")
        self._each_once()
        self._features_known_then()

    def _take_shapes(self) -> None:
        """Accept the short forms that people write."""
        set_to: Callable[[str, Any], None] = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        if callable(self.features) and not isinstance(self.features, FeatureTree):
            set_to("features", FeatureTree(columns=trace(self.features)))
        if self.score is not None and callable(self.score) and not hasattr(type(self.score), "companion"):
            set_to("score", Custom(self.score))
        if isinstance(self.retrain, list | tuple):
            raise SpecError(f"Loop.retrain is {shown(self.retrain)}; write AnyOf(…) or AllOf(…) around them.")
        if not isinstance(self.train, Train | list | tuple):
            set_to("train", Train(self.train))
        if isinstance(self.label, str):
            set_to("label", Label(self.label))
        if isinstance(self.checks, Mapping | str) or not isinstance(self.checks, list | tuple):
            raise SpecError(f"Loop.checks is {shown(self.checks)}; write a list of el.check values.")

    def _each_once(self) -> None:
        for position, each in enumerate(self.checks):
            if each in self.checks[:position]:
                raise SpecError(f"Loop.checks holds {each!r} twice; leave one out.")
        parts = list(triggers_of(self.retrain))
        for position, trigger in enumerate(parts):
            if trigger in parts[:position]:
                raise SpecError(f"Loop.retrain holds {trigger!r} twice; leave one out.")
        if isinstance(self.train, tuple) and len(set(map(repr, self.train))) < len(self.train):
            raise SpecError("Loop.train holds the same Train twice; leave one out.")

    def _features_known_then(self) -> None:
        if self.features is None:
            return
        for name, node in self.features.columns:
            used = FeatureTree(columns=((name, node),)).inputs
            late = sorted(set(used) & set(self.source.after))
            if late:
                raise SpecError(
                    f"The feature {name!r} uses {', '.join(late)}, which source.after says is known only after the event; "
                    "use a column known before it."
                )
            if self.label.column in used:
                raise SpecError(
                    f"The feature {name!r} uses the label {self.label.column!r}; a feature is known before the label is."
                )
