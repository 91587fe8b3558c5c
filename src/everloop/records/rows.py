"""Rows as they were taken in, as a fit sees them, and what came true of them."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One file of rows as it was taken in. ``digest`` is of its content: the same content twice is one batch."""

    loop: str
    digest: str
    path: str
    at: datetime
    rows: int
    added: int = 0
    copies: int = 0
    outcomes: int = 0
    quarantined: int = 0
    raw_version: int = -1
    """The version of the raw table after this batch."""
    refused: str | None = None
    """Why the whole batch was refused, if it was."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows were quarantined → how many."""
    new_columns: tuple[str, ...] = ()
    """Columns that no batch before had."""
    absent_columns: tuple[str, ...] = ()
    """Columns that batches before had and this one lacks: missing in its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Exactly which rows a fit sees: the same rows for ever. Instants bound ``event_time``: from ≤ t < to."""

    digest: str
    loop: str
    as_of: datetime
    raw_version: int
    outcomes_version: int
    train_from: datetime
    test_from: datetime
    to: datetime
    train_rows: int
    test_rows: int
    unlabelled_rows: int = 0
    """Rows of the window that are left out because their label is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came true. ``id`` is the prediction's id or the row's key joined by '|'. Late and corrected is normal."""

    id: str
    name: str
    value: str | int | float | bool | None
    at: datetime
