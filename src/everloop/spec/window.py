"""Which rows a fit sees. Knows no rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive
from everloop.spec.taught import taught

Test = timedelta | int | float


def _sound(test: Test, where: str) -> None:
    """The newest matured rows, unseen by the fit: a duration, a number of rows, or a share."""
    if isinstance(test, timedelta):
        positive(test, where, example="timedelta(days=7)")
    elif isinstance(test, int):
        if test < 1:
            raise SpecError(f"{where} is {test}; write at least 1 row, a share such as 0.1, or a timedelta.")
    elif not 0 < test < 1:
        raise SpecError(f"{where} is {test:g}; a share lies between 0 and 1, both excluded, for example 0.1.")


@taught
@dataclass(frozen=True, kw_only=True)
class Last:
    """The newest ``length`` of labelled rows: a duration, or a number of rows.

    What was tested is what ships, unless ``refit``: then the shipped model is fitted again on the test rows too.
    """

    length: timedelta | int = field(kw_only=False)
    test: timedelta | int | float = 0.1
    refit: bool = False

    def __post_init__(self) -> None:
        conform(self)
        if isinstance(self.length, timedelta):
            positive(self.length, "Last.length", example="timedelta(days=90)")
        elif self.length < 2:
            raise SpecError(f"Last.length is {self.length} rows; write more, or a timedelta.")
        _sound(self.test, "Last.test")
        if type(self.test) is type(self.length) and self.test >= self.length:  # type: ignore[operator]
            raise SpecError(f"Last.test is {self.test}, the whole window is {self.length}; leave rows to fit on.")


@taught
@dataclass(frozen=True, kw_only=True)
class Everything:
    """All labelled rows."""

    test: timedelta | int | float = 0.1
    refit: bool = False

    def __post_init__(self) -> None:
        conform(self)
        _sound(self.test, "Everything.test")


Window = Last | Everything
