"""Where rows come from, what identifies them and when they happened. Reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, shown
from everloop.spec.taught import taught


@taught
@dataclass(frozen=True)
class Fixed:
    """Event time for rows without a clock: ``start`` + ``every`` × ``column`` (a whole number)."""

    column: str
    start: datetime
    every: timedelta

    def __post_init__(self) -> None:
        conform(self)
        positive(self.every, "Fixed.every", example="timedelta(minutes=1)")


@dataclass(frozen=True, kw_only=True)
class _Files:
    path: str = field(kw_only=False)
    """A pattern such as "flights/*.parquet", relative to the declaration's folder."""
    key: tuple[str, ...]
    """What identifies a row: same key, same row."""
    event_time: str | Fixed
    time_zone: str | None = None
    """The zone of naive instants, and the zone of local hours and days in features."""
    after: tuple[str, ...] = ()
    """Columns known only after the event: never features."""
    files: tuple[str, ...] = field(default=(), metadata={"omitted": "default"})
    """Text columns that hold paths, relative to the file that names them: the column is what those files hold."""

    def __post_init__(self) -> None:
        for name in ("key", "after", "files"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else given)
        if isinstance(self.path, PathLike):
            object.__setattr__(self, "path", Path(self.path).as_posix())
        conform(self)
        kind = type(self).__name__
        if not self.path:
            raise SpecError(f'{kind}.path is empty; write a pattern, for example "rows/*.parquet".')
        if not self.key or "" in self.key or len(set(self.key)) < len(self.key):
            raise SpecError(f"{kind}.key is {self.key}; name the columns that identify a row, each once.")
        if len(set(self.after)) < len(self.after):
            raise SpecError(f"{kind}.after is {self.after}; name each column once.")
        if self.time_zone is not None:
            known_zone(self.time_zone, f"{kind}.time_zone")
        early = {self.event_time} if isinstance(self.event_time, str) else {self.event_time.column}
        named = sorted(set(self.files) & (set(self.key) | early))
        if named:
            raise SpecError(f"{kind}.files names {', '.join(named)}, which the key or event_time needs; leave it out.")
        both = sorted(set(self.after) & (set(self.key) | early))
        if both:
            raise SpecError(
                f"{kind}.after names {', '.join(both)}, which the key or event_time needs at the event; leave it out."
            )

    @property
    def event_time_column(self) -> str:
        return self.event_time if isinstance(self.event_time, str) else self.event_time.column


def known_zone(name: str, where: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise SpecError(
            f'{where} is {shown(name)}; write a zone of the IANA table, for example "Europe/Berlin".'
        ) from None


@taught
@dataclass(frozen=True, kw_only=True)
class Parquet(_Files):
    """A folder of Parquet files, or of a Delta table: each new file is a batch.

    >>> Parquet("flights/*.parquet", key="id", event_time="departure").key
    ('id',)
    """

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            path: str | PathLike[str],
            *,
            key: str | Sequence[str],
            event_time: str | Fixed,
            time_zone: str | None = None,
            after: str | Sequence[str] = (),
            files: str | Sequence[str] = (),
        ) -> None: ...


@taught
@dataclass(frozen=True, kw_only=True)
class Csv(_Files):
    """A folder of CSV files with a head line."""

    separator: str = ","

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            path: str | PathLike[str],
            *,
            key: str | Sequence[str],
            event_time: str | Fixed,
            time_zone: str | None = None,
            after: str | Sequence[str] = (),
            files: str | Sequence[str] = (),
            separator: str = ",",
        ) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.separator.encode()) != 1:
            raise SpecError(f'Csv.separator is {self.separator!r}; write one character, for example ";".')


@taught
@dataclass(frozen=True, kw_only=True)
class JsonLines(_Files):
    """A folder of files with one JSON object a line."""

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            path: str | PathLike[str],
            *,
            key: str | Sequence[str],
            event_time: str | Fixed,
            time_zone: str | None = None,
            after: str | Sequence[str] = (),
            files: str | Sequence[str] = (),
        ) -> None: ...


Source = Parquet | Csv | JsonLines
