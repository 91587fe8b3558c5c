"""A model before it is signed, and a signed one under its number."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from everloop.records.evidence import Verdict
from everloop.records.signature import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fitted and exported model before it is signed. ``digest`` names snapshot + code + parameters."""

    digest: str
    loop: str
    snapshot: str
    code: str
    """Digest of the declaration's meaning and of the source that defines user functions."""
    estimator: str
    parameters: dict[str, Any]
    seed: int
    folder: str
    """Where graph.onnx, profile.json and test.parquet lie."""
    signature: Signature
    score: float
    """On the snapshot's test rows, in the declared score."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went: read, features, search, fit, export, parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A package under its number in its loop. Numbers rise by one and are never used again."""

    loop: str
    number: int
    package: str
    snapshot: str
    created_at: datetime
    score: float
    verdict: Verdict
    trigger: str
