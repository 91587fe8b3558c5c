"""``column.str`` and ``column.dt``: operations on text and on instants. Knows nothing of how they are rendered."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from everloop.errors import SpecError
from everloop.spec.constants import constant
from everloop.spec.patterns import portable
from everloop.spec.refusals import public_names, refuse_name
from everloop.spec.zones import transitions

if TYPE_CHECKING:
    from everloop.spec.expression import Column


class Text:
    """``column.str``: operations on text."""

    __slots__ = ("_column",)

    def __init__(self, column: "Column") -> None:
        self._column = column

    def _literal(self, text: Any, method: str) -> str:
        if not isinstance(text, str) or not text:
            raise SpecError(f"{self._column!r}.str.{method}({text!r}) needs a text that is not empty")
        constant(text, f"{self._column!r}.str.{method}")
        return text

    def matches(self, pattern: str) -> "Column":
        """Does the whole text match the regular expression? See `everloop.spec.patterns` for its syntax."""
        return self._column._call("str_matches", pattern=portable(pattern))

    def contains(self, text: str) -> "Column":
        """Is ``text`` inside, as it is (no regular expression)?"""
        return self._column._call("str_contains", text=self._literal(text, "contains"))

    def starts_with(self, text: str) -> "Column":
        return self._column._call("str_starts_with", text=self._literal(text, "starts_with"))

    def ends_with(self, text: str) -> "Column":
        return self._column._call("str_ends_with", text=self._literal(text, "ends_with"))

    def lower(self) -> "Column":
        """Lower case, letter by letter: never longer than the text was."""
        return self._column._call("str_lower")

    def upper(self) -> "Column":
        """Upper case, letter by letter: never longer than the text was."""
        return self._column._call("str_upper")

    def length(self) -> "Column":
        """The number of Unicode code points."""
        return self._column._call("str_length")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_name(f"{self._column!r}.str", name, public_names(Text))


class Dates:
    """``column.dt``: parts of an instant as the wall clock of a zone shows them.

    The zone is the one that the source declares for the column; ``time_zone`` names another.
    """

    __slots__ = ("_column",)

    def __init__(self, column: "Column") -> None:
        self._column = column

    def _part(self, part: str, time_zone: str | None) -> "Column":
        if time_zone is not None:
            transitions(time_zone)  # refuses an unknown zone
        return self._column._call(f"dt_{part}", time_zone=time_zone)

    def year(self, *, time_zone: str | None = None) -> "Column":
        return self._part("year", time_zone)

    def month(self, *, time_zone: str | None = None) -> "Column":
        """1 to 12."""
        return self._part("month", time_zone)

    def day(self, *, time_zone: str | None = None) -> "Column":
        """Day of the month, 1 to 31."""
        return self._part("day", time_zone)

    def day_of_year(self, *, time_zone: str | None = None) -> "Column":
        """1 to 366."""
        return self._part("day_of_year", time_zone)

    def weekday(self, *, time_zone: str | None = None) -> "Column":
        """1 is Monday, 7 is Sunday."""
        return self._part("weekday", time_zone)

    def hour(self, *, time_zone: str | None = None) -> "Column":
        """0 to 23."""
        return self._part("hour", time_zone)

    def minute(self, *, time_zone: str | None = None) -> "Column":
        """0 to 59."""
        return self._part("minute", time_zone)

    def second(self, *, time_zone: str | None = None) -> "Column":
        """0 to 59."""
        return self._part("second", time_zone)

    def seconds_since(self, other: "Column | datetime") -> "Column":
        """Seconds from ``other`` (an instant column or an aware datetime) to this instant, negative if it is later."""
        return self._column._call("dt_seconds_since", other)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_name(f"{self._column!r}.dt", name, public_names(Dates))
