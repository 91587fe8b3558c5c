"""When a probability becomes a yes. Chooses nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from everloop.errors import SpecError
from everloop.spec.conform import conform, within
from everloop.spec.metric import Metric
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The positive class from this probability on: a fixed one, or chosen on the test rows to reach what is written."""

    value: float | None = field(default=None, kw_only=False)
    precision: float | None = None
    false_positive_rate: float | None = None
    minimise: Metric | None = None

    def __post_init__(self) -> None:
        conform(self)
        modes = {
            name: getattr(self, name)
            for name in ("value", "precision", "false_positive_rate", "minimise")
            if getattr(self, name) is not None
        }
        if len(modes) != 1:
            given = ", ".join(modes) or "nothing"
            raise SpecError(
                f"Threshold is given {given}; write one of 0.5, precision=, false_positive_rate=, minimise=."
            )
        for name, value in modes.items():
            if name != "minimise":
                within(value, 0, 1, f"Threshold.{name}")
