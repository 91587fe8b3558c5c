"""Which arm answers a row: drawn at random with a known share, or by a keyed hash of its unit. Knows nothing of rows.

The draw looks at nothing else, so that given an outcome the arm is still a coin with chance ``share``
(research: Turner, Ly, Grünwald 2024, arXiv 2106.02693; the release judge counts on it).
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Literal

HOUR = 3_600_000_000
"""Microseconds."""


def unit_point(unit: str, salt: str) -> float:
    """Where a unit lies in [0, 1): uniform over units, the same for the same salt.

    >>> unit_point("customer 7", "s") == unit_point("customer 7", "s")
    True
    """
    key = blake2b(salt.encode(), digest_size=32).digest()
    digest = blake2b(unit.encode(errors="surrogatepass"), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


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
