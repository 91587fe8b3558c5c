"""A named fact, and what a gate found by such facts."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A named fact behind a decision: small, JSON, readable by a person."""

    name: str
    value: Any
    limit: Any = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate found. ``because`` is one sentence with the figures."""

    outcome: Literal["better", "not_worse", "unsure", "worse", "first", "ungated"]
    promote: bool
    because: str
    evidence: tuple[Evidence, ...] = ()
    more_labels: int | None = None
    """Unsure: about how many more labels would settle it if the two are equal."""
