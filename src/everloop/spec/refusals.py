"""What to write instead of a method that cannot be served. Knows nothing of trees."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from everloop.errors import SpecError

_INSTEAD = {
    "apply": "python cannot run inside the served graph; write it with arithmetic, when() and .map({…})",
    "rolling": "history over other rows is not served yet; compute it in your source, known before the event",
    "aggregate": "a feature sees one row, never the others; compute it in your source, known before the event",
    "fillna": ".fill_missing(value)", "fill_null": ".fill_missing(value)", "fill_nan": ".fill_missing(value)",
    "isna": ".is_missing()", "isnull": ".is_missing()", "is_null": ".is_missing()", "is_nan": ".is_missing()",
    "notna": "~column.is_missing()", "notnull": "~column.is_missing()", "is_not_null": "~column.is_missing()",
    "astype": ".to_number(), .to_integer(), .to_boolean() or .to_text()", "isin": ".is_in([…])",
    "cast": ".to_number(), .to_integer(), .to_boolean() or .to_text()", "replace": ".map({…}) or when()",
    "where": "el.when(test).then(a).otherwise(b)", "mask": "el.when(test).then(a).otherwise(b)",
    "between": "(column >= low) & (column <= high)", "is_between": "(column >= low) & (column <= high)",
    "sin": ".dt.hour() as it is, or .is_in([…])", "cos": ".dt.hour() as it is, or .is_in([…])",
    "lower": ".str.lower()", "upper": ".str.upper()", "length": ".str.length()", "contains": ".str.contains(text)",
    "match": ".str.matches(pattern)", "matches": ".str.matches(pattern)", "startswith": ".str.starts_with(text)",
    "len": ".str.length()", "len_chars": ".str.length()", "fullmatch": ".str.matches(pattern)",
    "year": ".dt.year()", "month": ".dt.month()", "day": ".dt.day()", "hour": ".dt.hour()", "minute": ".dt.minute()",
    "dayofweek": ".dt.weekday() (1 is Monday)", "day_of_week": ".dt.weekday() (1 is Monday)",
    "dayofyear": ".dt.day_of_year()", "ordinal_day": ".dt.day_of_year()", "weekday": ".dt.weekday() (1 is Monday)",
    "total_seconds": "the difference of two instants: it is in seconds already",
    "total_minutes": "the difference of two instants / 60: it is in seconds", "timestamp": ".dt.seconds_since(datetime)",
    "lower_bound": ".clip(low, high)", "min": ".clip(high=…) for one row", "max": ".clip(low) for one row",
}  # fmt: skip
_ALIASES = {
    "apply": ("map_elements", "map_batches", "applymap", "pipe", "transform", "numpy", "eval"),
    "rolling": (
        "rolling_mean", "rolling_sum", "rolling_max", "rolling_min", "ewm", "ewm_mean", "expanding", "shift", "diff",
        "pct_change", "cumsum", "cum_sum", "lag", "lead", "interpolate", "forward_fill", "ffill", "bfill",
    ),
    "aggregate": (
        "mean", "sum", "std", "var", "median", "quantile", "count", "nunique", "n_unique", "unique", "rank", "over",
        "groupby", "group_by", "value_counts", "mode", "cut", "qcut", "sort", "sort_values", "agg", "first", "last",
    ),
}  # fmt: skip


def refuse_name(owner: str, name: str, offered: Iterable[str]) -> NoReturn:
    kind = next((kind for kind, names in _ALIASES.items() if name in names), name)
    instead = _INSTEAD.get(kind)
    if instead is not None:
        remedy = instead if " " in instead and not instead.startswith((".", "(", "~")) else f"use {instead}"
    else:
        close = get_close_matches(name, list(offered), n=1)
        remedy = f"did you mean .{close[0]}?" if close else f"there are {', '.join(sorted(offered))}"
    raise SpecError(f"{owner}.{name} cannot be served; {remedy}")


def public_names(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]
