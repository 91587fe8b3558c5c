"""Wall clocks and dates as integer operators of a graph. Knows nothing of features; zones come in as tables.

All arithmetic is int64. ONNX Runtime's Div truncates towards zero and its Mod takes the divisor's sign, so a floor
division by a positive constant is (a - Mod(a, b)) / b, which Div then does exactly.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from everloop.package.nodes import INT64, Nodes
from everloop.spec.zones import Transitions

SECOND = 1_000_000
DAY = 86_400 * SECOND
_DAYS_TO_0000_03_01 = 719_468
"""Days from 1 March of year 0 to 1 January 1970; counting years from March puts the leap day at the end."""
_ERA = 146_097
"""Days of 400 years."""
_NEVER = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Equal slices of time from ``begin`` on, in microseconds, each with at most one change of the offset."""

    begin: int
    length: int
    change: tuple[int, ...]
    """`_NEVER` in a slice without one."""
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, table: Transitions) -> "Slices":
        """The first slice ends just before the first change, the last one holds the last: outside, they hold as well."""
        instants, offsets = table.instants, table.offsets
        length = min((later - earlier for earlier, later in pairwise(instants)), default=DAY)
        edges = range(instants[0] - length, instants[-1] + 1, length)
        places = [bisect_left(instants, edge) for edge in edges]
        found = [
            place < len(instants) and instants[place] < edge + length for place, edge in zip(places, edges, strict=True)
        ]
        return cls(
            begin=edges[0],
            length=length,
            change=tuple(instants[place] if one else _NEVER for place, one in zip(places, found, strict=True)),
            before=tuple(offsets[place] for place in places),
            after=tuple(offsets[place + one] for place, one in zip(places, found, strict=True)),
        )


class Clock:
    """Parts of local instants: each method takes and gives int64 tensors [rows, 1]."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def _constant(self, value: int) -> str:
        return self._nodes.constant(value, INT64)

    def _do(self, operator: str, tensor: str, value: int) -> str:
        return self._nodes.add(operator, tensor, self._constant(value))

    def _floor(self, tensor: str, by: int) -> str:
        return self._do("Div", self._nodes.add("Sub", tensor, self._do("Mod", tensor, by)), by)

    def local(self, instant: str, table: Transitions) -> str:
        """Microseconds since 1970 as the wall clock shows them: the instant plus the offset that holds then.

        The offset is found by dividing, not by searching: time is cut into equal slices so short that no slice holds
        two changes, and a slice knows the instant of its change and the offsets before and after.
        """
        if not table.instants:
            return instant if table.offsets == (0,) else self._do("Add", instant, table.offsets[0])
        slices = Slices.of(table)
        place = self._do("Div", self._do("Sub", instant, slices.begin), slices.length)
        ends = (self._nodes.constant(0, INT64, ()), self._nodes.constant(len(slices.change) - 1, INT64, ()))
        place = self._nodes.add("Clip", place, *ends)
        change, before, after = (
            self._nodes.add("Gather", self._nodes.constant(column, INT64, (len(column),)), place)
            for column in (slices.change, slices.before, slices.after)
        )
        shift = self._nodes.where(self._nodes.add("GreaterOrEqual", instant, change), after, before)
        return self._nodes.add("Add", instant, shift)

    def hour(self, local: str) -> str:
        return self._do("Div", self._do("Mod", local, DAY), 3600 * SECOND)

    def minute(self, local: str) -> str:
        return self._do("Div", self._do("Mod", local, 3600 * SECOND), 60 * SECOND)

    def second(self, local: str) -> str:
        return self._do("Div", self._do("Mod", local, 60 * SECOND), SECOND)

    def _days(self, local: str) -> str:
        return self._floor(local, DAY)

    def weekday(self, local: str) -> str:
        """1 is Monday; day 0, 1 January 1970, was a Thursday."""
        return self._do("Add", self._do("Mod", self._do("Add", self._days(local), 3), 7), 1)

    def _march(self, local: str) -> tuple[str, str]:
        """The year that began on 1 March, and the days since then (0 to 365).

        The day's place in its 400 years, less the leap days before it, is a multiple of 365 plus the day of the year.
        """
        shifted = self._do("Add", self._days(local), _DAYS_TO_0000_03_01)
        day = self._do("Mod", shifted, _ERA)
        era = self._do("Div", self._nodes.add("Sub", shifted, day), _ERA)
        leap = self._nodes.add(
            "Add",
            self._nodes.add("Sub", self._do("Div", day, 1460), self._do("Div", day, 36_524)),
            self._do("Div", day, _ERA - 1),
        )
        year = self._do("Div", self._nodes.add("Sub", day, leap), 365)
        begin = self._nodes.add(
            "Sub",
            self._nodes.add("Add", self._do("Mul", year, 365), self._do("Div", year, 4)),
            self._do("Div", year, 100),
        )
        full = self._nodes.add("Add", year, self._do("Mul", era, 400))
        return full, self._nodes.add("Sub", day, begin)

    def _march_month(self, since: str) -> str:
        """0 is March; five months from March have 153 days, twice over."""
        return self._do("Div", self._do("Add", self._do("Mul", since, 5), 2), 153)

    def month(self, local: str) -> str:
        _, since = self._march(local)
        return self._do("Add", self._do("Mod", self._do("Add", self._march_month(since), 2), 12), 1)

    def day(self, local: str) -> str:
        _, since = self._march(local)
        first = self._do("Div", self._do("Add", self._do("Mul", self._march_month(since), 153), 2), 5)
        return self._do("Add", self._nodes.add("Sub", since, first), 1)

    def year(self, local: str) -> str:
        """January and February, from day 306 on, belong to the next year."""
        full, since = self._march(local)
        return self._nodes.add("Add", full, self._nodes.cast(self._do("GreaterOrEqual", since, 306), INT64))

    def day_of_year(self, local: str) -> str:
        """Days since 1 January, found from the days since 1970 at which the year began."""
        before = self._do("Sub", self.year(local), 1)
        leap = self._nodes.add(
            "Add",
            self._nodes.add("Sub", self._floor(before, 4), self._floor(before, 100)),
            self._floor(before, 400),
        )
        begin = self._do("Sub", self._nodes.add("Add", self._do("Mul", before, 365), leap), 719_162)
        return self._do("Add", self._nodes.add("Sub", self._days(local), begin), 1)
