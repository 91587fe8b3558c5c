"""What a row must hold to be taken in (users see ``el.check``). Checks nothing itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from everloop.errors import SpecError
from everloop.spec.columns import Column, Columns
from everloop.spec.conform import conform, exact, positive, shown
from everloop.spec.taught import taught
from everloop.spec.trace import trace
from everloop.spec.tree import Call, Constant, Input, Node

Bound = int | float | datetime


@taught
@dataclass(frozen=True, init=False)
class NotNull:
    """These columns are never missing."""

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        object.__setattr__(self, "columns", columns)
        _named(self)


@taught
@dataclass(frozen=True, init=False)
class Unique:
    """No two rows of a batch share these values."""

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        object.__setattr__(self, "columns", columns)
        _named(self)


@taught
@dataclass(frozen=True)
class Between:
    """``low`` ≤ value ≤ ``high``."""

    column: str
    low: Bound
    high: Bound

    def __post_init__(self) -> None:
        conform(self)
        object.__setattr__(self, "low", exact(self.low))
        object.__setattr__(self, "high", exact(self.high))
        if isinstance(self.low, datetime) != isinstance(self.high, datetime):
            raise SpecError(f"Between({self.column!r}) goes from {self.low!r} to {self.high!r}; write two of one kind.")
        if self.low > self.high:  # type: ignore[operator]
            raise SpecError(f"Between({self.column!r}) goes from {self.low} to {self.high}; write the lower one first.")


@taught
@dataclass(frozen=True)
class OneOf:
    """The value is one of these."""

    column: str
    values: tuple[bool | int | float | str, ...]

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            column: str,
            values: Iterable[bool | int | float | str],
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.values, set | frozenset):
            object.__setattr__(self, "values", tuple(self.values))
        conform(self)
        if not self.values:
            raise SpecError(f"OneOf({self.column!r}, []) allows no value at all; write the values that are allowed.")
        # A set is meant: neither order nor repetition changes the digest.
        plain = {(type(value).__name__, value) for value in map(exact, self.values)}
        kinds = {"number" if kind in ("int", "float") else kind for kind, _ in plain}
        if len(kinds) > 1:
            raise SpecError(f"OneOf({self.column!r}) mixes {shown(self.values)}; write values of one type.")
        object.__setattr__(self, "values", tuple(value for _, value in sorted(plain, key=lambda each: each[1])))


@taught
@dataclass(frozen=True)
class Matches:
    """The text holds the regular expression somewhere; anchor it with ^ and $ to mean all of it."""

    column: str
    pattern: str

    def __post_init__(self) -> None:
        conform(self)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SpecError(
                f"Matches({self.column!r}) has the pattern {self.pattern!r}, which is no regular expression: {error}; "
                "correct it."
            ) from None


@taught
@dataclass(frozen=True)
class Fresh:
    """The newest row of a batch is at most ``within`` old when the batch comes."""

    within: timedelta

    def __post_init__(self) -> None:
        conform(self)
        positive(self.within, "Fresh.within", example="timedelta(hours=6)")


@taught
@dataclass(frozen=True, init=False)
class Holds:
    """Any expression on the row that gives true or false: ``Holds(lambda row: row.landed > row.departed, "lands later")``."""

    name: str
    node: Node

    def __init__(self, test: Callable[[Columns], Column] | Node, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise SpecError(f"Holds.name is {name!r}; write a few words, they are the reason in the quarantine.")
        node: Any = test
        if not isinstance(test, Input | Constant | Call):
            if not callable(test):
                raise SpecError(f"Holds({name!r}) is {shown(test)}; write a function of the row.")
            ((_, node),) = trace(lambda row: {"holds": test(row)})
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "node", node)


def _named(check: NotNull | Unique) -> None:
    conform(check)
    if len(set(check.columns)) < len(check.columns):
        raise SpecError(f"{type(check).__name__}{check.columns} names a column twice; leave one out.")
    if not check.columns:
        raise SpecError(
            f'{type(check).__name__}() names no column; write for example {type(check).__name__}("carrier").'
        )


Check = NotNull | Between | OneOf | Matches | Unique | Fresh | Holds
