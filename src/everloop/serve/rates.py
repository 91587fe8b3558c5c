"""How often something may happen, as people write it: 100/s, 1000000/d. Knows nothing of who is counted or where."""

from dataclasses import dataclass

from everloop.errors import SpecError

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` in any ``seconds``."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str, *, units: str = "smh", what: str = "The rate") -> "Rate":
        """``100/s``, ``600/m``. Raises SpecError.

        >>> Rate.parse("100/s")
        Rate(count=100, seconds=1)
        """
        amount, slash, unit = text.partition("/")
        if not slash or unit not in SECONDS or unit not in units or not amount.isascii() or not amount.isdigit():
            ways = ", ".join(f"100/{each}" for each in units)
            raise SpecError(f"{what} is {text!r}; write a whole number a {_words(units)}, such as {ways}.")
        if not 1 <= int(amount[:12]) <= MOST:
            raise SpecError(f"{what} is {text!r}; write between 1 and {MOST} before the slash.")
        return cls(int(amount), SECONDS[unit])

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in SECONDS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"


def quota(text: str, *, what: str = "The quota") -> Rate:
    """A quota counts a day in UTC: ``1000000/d``. Raises SpecError."""
    return Rate.parse(text, units="d", what=what)


def _words(units: str) -> str:
    names = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
    return " or ".join(names[each] for each in units)
