"""What is to be predicted and when it becomes known. Reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from everloop.errors import SpecError
from everloop.records import Task
from everloop.spec.conform import conform, exact
from everloop.spec.taught import taught

Value = bool | int | float | str


@taught
@dataclass(frozen=True)
class Outcomes:
    """Labels come as outcomes (``POST /outcomes``), not as a column of the source."""


@taught
@dataclass(frozen=True, kw_only=True)
class Label:
    """``delay`` after the event the label is known; before that a row has none.

    ``absent`` is the value where no news is an answer (no complaint within the delay: no damage).
    """

    column: str = field(kw_only=False)
    delay: timedelta = timedelta(0)
    task: Task | None = None
    classes: tuple[Value, ...] | None = None
    positive: Value | None = None
    scale: Literal["log1p"] | None = None
    absent: Value | None = None
    source: Outcomes | None = None

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            column: str,
            *,
            delay: timedelta = timedelta(0),
            task: Task | None = None,
            classes: Sequence[Value] | None = None,
            positive: Value | None = None,
            scale: Literal["log1p"] | None = None,
            absent: Value | None = None,
            source: Outcomes | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        conform(self)
        for name in ("absent", "positive"):
            object.__setattr__(self, name, exact(getattr(self, name)))
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(exact(each) for each in self.classes))
        if self.delay < timedelta(0):
            raise SpecError(f"Label.delay is {self.delay}; a label cannot be known before its event: write 0 or more.")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise SpecError(f"Label.classes is {self.classes}; write at least two different values.")
        if self.positive is not None and self.classes is not None and self.positive not in self.classes:
            raise SpecError(
                f"Label.positive is {self.positive!r}, which is not one of the classes {self.classes}; write one of them."
            )
        if self.task == "regression" and (self.classes or self.positive is not None):
            raise SpecError("Label has task='regression' and classes; leave one of them out.")
        if self.task == "binary" and self.classes is not None and len(self.classes) != 2:
            raise SpecError(
                f"Label.classes is {self.classes} with task='binary'; write two classes, or task='multiclass'."
            )
        if self.positive is not None and self.task == "multiclass":
            raise SpecError(
                f"Label.positive is {self.positive!r} with task='multiclass'; only two classes have a positive one."
            )
        if self.absent is not None and self.source is not None and not self.delay:
            raise SpecError(
                f"Label.absent is {self.absent!r} without a delay, so every outcome would be {self.absent!r} at once; "
                "write the delay after which no news is an answer, for example delay=timedelta(days=3)."
            )
        if self.scale is not None and self.task not in (None, "regression"):
            raise SpecError(
                f"Label.scale is {self.scale!r} with task={self.task!r}; only a regression has a scale: leave one of them out."
            )
