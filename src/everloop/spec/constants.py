"""Python values as constants of the feature tree. Knows nothing of columns."""

import math
from datetime import datetime, timedelta
from typing import Any

from everloop.clock import microseconds
from everloop.errors import SpecError
from everloop.records import MISSING_INTEGER, MISSING_TEXT
from everloop.spec.tree import Constant


def constant(value: Any, place: object) -> Constant:
    """Refuses what has no place in a column, with ``place`` in the message: where the user wrote it."""
    if hasattr(value, "dtype") and hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    match value:
        case None:
            return Constant(None, "missing")
        case bool():
            return Constant(value, "boolean")
        case int():
            if not MISSING_INTEGER < value < 2**63:
                raise SpecError(
                    f"{place} got {value}, which does not fit into 64 bits; write it as a number: {float(value)}"
                )
            return Constant(value, "integer")
        case float():
            if not math.isfinite(value):
                raise SpecError(
                    f"{place} got {value}; a number is finite, and a missing value is None in a branch of when()"
                )
            return Constant(value, "number")
        case str():
            if MISSING_TEXT in value:
                raise SpecError(f"{place} got {value!r}; a text may not contain the character NUL")
            return Constant(value, "text")
        case datetime():
            if value.tzinfo is None:
                raise SpecError(
                    f"{place} got the naive datetime {value.isoformat()}; give it a zone, for example tzinfo=UTC"
                )
            return Constant(microseconds(value), "instant")
        case timedelta():
            raise SpecError(
                f"{place} got a timedelta; differences of instants are in seconds: write {value.total_seconds():g}"
            )
    raise SpecError(
        f"{place} got {type(value).__name__} {value!r:.60}; give a column, a number, a text, true or false, or a datetime"
    )
