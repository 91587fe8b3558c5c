"""Which arm answers a row: drawn at random with a known share, or by a keyed hash of its unit. Knows nothing of rows.

Of a release the challenger's rows are drawn (`draw`); of an experiment every arm is a keyed hash of the unit or of the
prediction's id (`assign`), so that anybody who has salt and shares can say it again, years later and without a log.

The draw looks at nothing else, so that given an outcome the arm is still a coin with chance ``share``
(research: Turner, Ly, Grünwald 2024, arXiv 2106.02693; the release judge counts on it).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Literal

HOUR = 3_600_000_000
"""Microseconds."""


def unit_point(unit: str, salt: str) -> float:
    """Where a unit lies in [0, 1): uniform over units, the same for the same salt.

    >>> unit_point("customer 7", "s") == unit_point("customer 7", "s")
    True
    """
    digest = blake2b(unit.encode(errors="surrogatepass"), digest_size=8, key=_key(salt)).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@lru_cache(maxsize=256)
def _key(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=32).digest()


def bounds(shares: Sequence[float]) -> tuple[float, ...]:
    """Where each arm but the last ends in [0, 1).

    >>> bounds([0.5, 0.25, 0.25])
    (0.5, 0.75)
    """
    return tuple(accumulate(shares))[:-1]


def assign(key: str, ends: Sequence[float], *, salt: str, at: int, sticky: Literal["hour", "always"]) -> int:
    """The place of the arm that answers. ``key``: the unit, or the prediction's id where the row brought no unit.

    ``ends`` as `bounds` gives them. ``at``: microseconds since 1970, for the salt that changes every hour unless
    ``sticky`` is "always".

    >>> assign("customer 7", (0.5,), salt="s", at=0, sticky="always")
    1
    """
    return bisect_right(ends, unit_point(key, f"{salt}/{at // HOUR}" if sticky == "hour" else salt))


def draw(
    count: int,
    share: float,
    random: Callable[[], float],
    *,
    units: Sequence[str | None] | None = None,
    at: Sequence[int] = (),
    salt: str = "",
    sticky: Literal["hour", "always"] = "hour",
) -> list[bool]:
    """True for each row that the challenger answers.

    ``units``: the declared unit of each row; one that is missing is drawn at random. ``at``: microseconds, for the
    salt that changes every hour unless ``sticky`` is "always".
    """
    if units is None:
        return [random() < share for _ in range(count)]
    chosen = []
    for unit, moment in zip(units, at, strict=True):
        if unit is None:
            chosen.append(random() < share)
        else:
            present = f"{salt}/{moment // HOUR}" if sticky == "hour" else salt
            chosen.append(unit_point(unit, present) < share)
    return chosen
