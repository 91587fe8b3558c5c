"""A broken rule from its beginning to its end, who is to hear of it, and who is not."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One episode of a rule that was broken: from when it began to fire until it was quiet for long enough."""

    loop: str
    fingerprint: str
    """Of loop and rule: the same for each episode."""
    rule: str
    level: str
    severity: str
    began: datetime
    seen: datetime
    """When it last held."""
    because: str
    value: float | None = None
    limit: float | None = None
    ended: datetime | None = None
    """None while it fires."""
    told: Literal["firing", "resolved"] | None = None
    """What receivers were last told."""
    told_at: datetime | None = None
    messages: int = 0
    settled: bool = False
    """It has ended, and there is nothing more to tell of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nobody is told of the rule (None: of any) until then. What fires is kept all the same."""

    loop: str
    id: str
    rule: str | None
    since: datetime
    until: datetime
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What receivers are told. ``key`` is the same however often it is sent: whoever has seen it may drop it."""

    key: str
    loop: str
    kind: Literal["firing", "repeated", "resolved", "summary"]
    at: datetime
    until: datetime
    """Who hears nothing more by then may take it for over."""
    alerts: tuple[Alert, ...]
    because: str
