"""How a user writes features: `Columns`, `Column` and `when` build a tree of nodes. Knows nothing of data or of graphs.

The function is called once, with stand-ins for the columns; what it returns is the tree, rendered to polars for
training and to the served graph. Whatever cannot be served is refused here, with what to use instead.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, NoReturn

from everloop.clock import microseconds
from everloop.errors import SpecError
from everloop.records import MISSING_INTEGER, MISSING_TEXT
from everloop.spec.operations import infer
from everloop.spec.patterns import portable
from everloop.spec.tree import (
    DEEPEST,
    Call,
    Constant,
    FeatureTree,
    Input,
    Node,
    depth_of,
    describe,
    from_json,
    inputs_of,
    to_json,
)

__all__ = [
    "Call", "Column", "Columns", "Constant", "FeatureTree", "Input", "Node", "describe", "from_json", "infer",
    "inputs_of", "past", "to_json", "trace", "when",
]  # fmt: skip

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
    "text": "free text is not served yet; text columns are categories",
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


def _refuse_name(owner: str, name: str, offered: Iterable[str]) -> NoReturn:
    kind = next((kind for kind, names in _ALIASES.items() if name in names), name)
    instead = _INSTEAD.get(kind)
    if instead is not None:
        remedy = instead if " " in instead and not instead.startswith((".", "(", "~")) else f"use {instead}"
    else:
        close = get_close_matches(name, list(offered), n=1)
        remedy = f"did you mean .{close[0]}?" if close else f"there are {', '.join(sorted(offered))}"
    raise SpecError(f"{owner}.{name} cannot be served; {remedy}")


def _public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def _constant(value: Any, place: str) -> Node:
    if hasattr(value, "dtype") and hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    match value:
        case None:
            return Constant(None, "missing")
        case bool():
            return Constant(value, "boolean")
        case int():
            if not MISSING_INTEGER < value < 2**63:
                raise SpecError(f"{place} got {value}, which does not fit into 64 bits; write it as a number: {float(value)}")
            return Constant(value, "integer")
        case float():
            if not math.isfinite(value):
                raise SpecError(f"{place} got {value}; a number is finite, and a missing value is None in a branch of when()")
            return Constant(value, "number")
        case str():
            if MISSING_TEXT in value:
                raise SpecError(f"{place} got {value!r}; a text may not contain the character NUL")
            return Constant(value, "text")
        case datetime():
            if value.tzinfo is None:
                raise SpecError(f"{place} got the naive datetime {value.isoformat()}; give it a zone, for example tzinfo=UTC")
            return Constant(microseconds(value), "instant")
        case timedelta():
            raise SpecError(
                f"{place} got a timedelta; differences of instants are in seconds: write {value.total_seconds():g}"
            )
    raise SpecError(
        f"{place} got {type(value).__name__} {value!r:.60}; give a column, a number, a text, true or false, or a datetime"
    )


def _node(value: Any, place: str) -> Node:
    return value._node if isinstance(value, Column) else _constant(value, place)


def _options(**options: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items()))


class Column:
    """One value of a row that is yet to come. Arithmetic, comparison and the methods below give new columns."""

    __slots__ = ("_node",)
    __array_priority__ = 1000.0

    def __init__(self, node: Node) -> None:
        self._node = node

    def __repr__(self) -> str:
        return describe(self._node)

    def _call(self, operation: str, *arguments: Any, **options: Any) -> "Column":
        place = f"{self!r} .{operation}"
        return Column(
            Call(operation, (self._node, *(_node(each, place) for each in arguments)), _options(**options))
        )

    def _reflected(self, operation: str, left: Any) -> "Column":
        return Column(Call(operation, (_node(left, f"{operation} with {self!r}"), self._node)))

    # Arithmetic

    def __add__(self, other: Any) -> "Column":
        return self._call("add", other)

    def __radd__(self, other: Any) -> "Column":
        return self._reflected("add", other)

    def __sub__(self, other: Any) -> "Column":
        return self._call("subtract", other)

    def __rsub__(self, other: Any) -> "Column":
        return self._reflected("subtract", other)

    def __mul__(self, other: Any) -> "Column":
        return self._call("multiply", other)

    def __rmul__(self, other: Any) -> "Column":
        return self._reflected("multiply", other)

    def __truediv__(self, other: Any) -> "Column":
        return self._call("divide", other)

    def __rtruediv__(self, other: Any) -> "Column":
        return self._reflected("divide", other)

    def __floordiv__(self, other: Any) -> "Column":
        return self._call("floor_divide", other)

    def __rfloordiv__(self, other: Any) -> "Column":
        return self._reflected("floor_divide", other)

    def __mod__(self, other: Any) -> "Column":
        return self._call("modulo", other)

    def __rmod__(self, other: Any) -> "Column":
        return self._reflected("modulo", other)

    def __pow__(self, other: Any) -> "Column":
        return self._call("power", other)

    def __rpow__(self, other: Any) -> "Column":
        return self._reflected("power", other)

    def __neg__(self) -> "Column":
        return self._call("negate")

    def __pos__(self) -> "Column":
        return self

    def __abs__(self) -> "Column":
        return self._call("absolute")

    def __round__(self, digits: int | None = None) -> "Column":
        return self.round(digits or 0)

    def __floor__(self) -> "Column":
        return self.floor()

    def __ceil__(self) -> "Column":
        return self.ceil()

    # Comparison and logic

    def __eq__(self, other: object) -> "Column":  # type: ignore[override]
        return self._comparison("equal", other)

    def __ne__(self, other: object) -> "Column":  # type: ignore[override]
        return self._comparison("not_equal", other)

    def __lt__(self, other: Any) -> "Column":
        return self._comparison("less", other)

    def __le__(self, other: Any) -> "Column":
        return self._comparison("less_equal", other)

    def __gt__(self, other: Any) -> "Column":
        return self._comparison("greater", other)

    def __ge__(self, other: Any) -> "Column":
        return self._comparison("greater_equal", other)

    def _comparison(self, operation: str, other: Any) -> "Column":
        if other is None:
            raise SpecError(f"{self!r} is compared with None; write {self!r}.is_missing()")
        return self._call(operation, other)

    def __and__(self, other: Any) -> "Column":
        return self._call("and", other)

    def __rand__(self, other: Any) -> "Column":
        return self._reflected("and", other)

    def __or__(self, other: Any) -> "Column":
        return self._call("or", other)

    def __ror__(self, other: Any) -> "Column":
        return self._reflected("or", other)

    def __xor__(self, other: Any) -> "Column":
        return self._call("xor", other)

    def __rxor__(self, other: Any) -> "Column":
        return self._reflected("xor", other)

    def __invert__(self) -> "Column":
        return self._call("not")

    # Numbers

    def abs(self) -> "Column":
        """Without its sign."""
        return self._call("absolute")

    def log(self) -> "Column":
        """Natural logarithm; missing where the value is 0 or less."""
        return self._call("log")

    def log1p(self) -> "Column":
        """log(1 + value); missing where the value is -1 or less."""
        return self._call("log1p")

    def exp(self) -> "Column":
        """e to the power of the value."""
        return self._call("exp")

    def expm1(self) -> "Column":
        """exp(value) - 1."""
        return self._call("expm1")

    def sqrt(self) -> "Column":
        """Square root; missing where the value is below 0."""
        return self._call("sqrt")

    def clip(self, low: Any = None, high: Any = None) -> "Column":
        """Not below ``low``, not above ``high``: numbers or columns; at least one of them."""
        if low is None and high is None:
            raise SpecError(f"{self!r}.clip() has no bound; write .clip(low, high), .clip(low) or .clip(high=…)")
        both = isinstance(low, int | float) and isinstance(high, int | float)
        if both and low > high:
            raise SpecError(f"{self!r}.clip({low}, {high}) has its bounds the wrong way round; write .clip({high}, {low})")
        bounded = self if low is None else self._call("at_least", low)
        return bounded if high is None else bounded._call("at_most", high)

    def round(self, digits: int = 0) -> "Column":
        """To so many decimal digits, a half to the even neighbour; negative digits round to tens, hundreds, …"""
        if type(digits) is not int or not -15 <= digits <= 15:
            raise SpecError(f"{self!r}.round({digits!r}) cannot be served; digits is an integer from -15 to 15")
        return self._call("round", digits=digits)

    def floor(self) -> "Column":
        """Rounded down."""
        return self._call("floor")

    def ceil(self) -> "Column":
        """Rounded up."""
        return self._call("ceil")

    # Missing values, types, tables

    def is_missing(self) -> "Column":
        """True where there is no value; never missing itself."""
        return self._call("is_missing")

    def fill_missing(self, value: Any) -> "Column":
        """The value, or ``value`` (a constant or a column of the same type) where it is missing."""
        if value is None:
            raise SpecError(f"{self!r}.fill_missing(None) changes nothing; give the value that stands for missing")
        return self._call("fill_missing", value)

    def to_number(self) -> "Column":
        """As float64. Text that does not read as a number is missing."""
        return self._call("to_number")

    def to_integer(self) -> "Column":
        """As int64: a number loses its fraction, text that does not read as an integer is missing."""
        return self._call("to_integer")

    def to_boolean(self) -> "Column":
        """True where the number is not 0."""
        return self._call("to_boolean")

    def to_text(self) -> "Column":
        """Integers and booleans as text: makes a category of them."""
        return self._call("to_text")

    def is_in(self, values: Iterable[Any]) -> "Column":
        """Is it one of these constants, all of the column's type?"""
        place = f"{self!r}.is_in"
        if isinstance(values, str | Column) or not isinstance(values, Iterable):
            raise SpecError(f"{place}({values!r}) needs a list; write .is_in([{values!r}]) or ==")
        constants = [_constant(each, place) for each in values]
        bare = [each.value for each in constants if isinstance(each, Constant)]
        if not bare:
            raise SpecError(f"{place}([]) is never true; give at least one value")
        if None in bare:
            raise SpecError(f"{place} has None in its list; write (…) | {self!r}.is_missing()")
        unique = sorted(set(bare), key=lambda value: (type(value).__name__, value))
        return self._call("is_in", values=tuple(unique))

    def map(self, table: Mapping[str, Any], default: Any = None) -> "Column":
        """Looks text up in ``table``; unknown text gives ``default`` (None: missing), missing stays missing."""
        place = f"{self!r}.map"
        if callable(table) or not isinstance(table, Mapping):
            raise SpecError(f"{place} takes a dict, not {type(table).__name__}; python cannot run in the served graph")
        if not table:
            raise SpecError(f"{place}({{}}) has an empty table; give at least one entry")
        for key, value in (*table.items(), ("default", default)):
            if not isinstance(key, str):
                raise SpecError(f"{place} has the key {key!r}; keys are text: write .to_text().map({{'{key}': …}})")
            _constant(key, place)
            if value is None and key != "default":
                raise SpecError(f"{place} maps {key!r} to None; leave it out: an unknown text is missing")
            constant = _constant(value, place)
            if isinstance(constant, Constant) and constant.type == "instant":
                raise SpecError(f"{place} maps {key!r} to a datetime; map to text, numbers, integers or booleans")
        values = [*table.values(), *([] if default is None else [default])]
        widen = any(isinstance(each, float) for each in values) and not any(isinstance(each, bool | str) for each in values)
        plain = {key: float(value) if widen else value for key, value in table.items()}
        default = float(default) if widen and default is not None else default
        return self._call("map", table=tuple(sorted(plain.items())), default=default)

    @property
    def str(self) -> "Text":
        """Operations on text."""
        return Text(self)

    @property
    def dt(self) -> "Dates":
        """Parts of an instant, in the column's time zone."""
        return Dates(self)

    # What cannot be served

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        _refuse_name(repr(self), name, _public(Column))

    def __bool__(self) -> NoReturn:
        raise SpecError(
            f"{self!r} has no value while features are declared, so if, and, or, not and chained comparisons cannot "
            "decide on it; use el.when(test).then(a).otherwise(b), &, | and ~ (with parentheses)"
        )

    def _no(self, what: str, instead: str) -> NoReturn:
        raise SpecError(f"{what} on {self!r} cannot be served; {instead}")

    def __iter__(self) -> NoReturn:
        self._no("iterating", "a feature sees one row, never the others")

    def __len__(self) -> NoReturn:
        self._no("len()", "a feature sees one row; the length of a text is .str.length()")

    def __contains__(self, item: object) -> NoReturn:
        self._no("in", "use .is_in([…]) or .str.contains(text)")

    def __getitem__(self, key: object) -> NoReturn:
        self._no("[…]", "a feature sees one row, never the others")

    def __float__(self) -> NoReturn:
        self._no("float() or a function of math", "use .to_number(), .log(), .exp(), .sqrt(), …")

    def __int__(self) -> NoReturn:
        self._no("int()", "use .to_integer()")

    def __index__(self) -> NoReturn:
        self._no("use as an index", "use .map({…}) on text")

    def __trunc__(self) -> NoReturn:
        self._no("trunc()", "use .to_integer()")

    def __hash__(self) -> int:
        self._no("use as a dict key or in a set", "name features with text")

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        self._no("calling", "a column is not a function; methods are listed in docs/features.md")

    def __divmod__(self, other: Any) -> NoReturn:
        self._no("divmod()", "use // and %")

    def __matmul__(self, other: Any) -> NoReturn:
        self._no("@", "write the sum of products")

    def __format__(self, form: Any) -> NoReturn:
        self._no("formatting as text", "use .to_text() for integers")

    def __array__(self, *arguments: Any, **named: Any) -> NoReturn:
        self._no("turning into an array", "numpy and pandas cannot run in the served graph; use methods such as .log()")

    def __array_ufunc__(self, function: Any, method: object, *inputs: Any, **named: Any) -> Any:
        name = getattr(function, "__name__", "?")
        arithmetic = {
            "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__",
            "floor_divide": "__rfloordiv__", "remainder": "__rmod__", "power": "__rpow__", "less": "__gt__",
            "less_equal": "__ge__", "greater": "__lt__", "greater_equal": "__le__", "equal": "__eq__",
            "not_equal": "__ne__",
        }  # fmt: skip
        if name in arithmetic and len(inputs) == 2 and inputs[1] is self:  # a numpy scalar on the left
            return getattr(self, arithmetic[name])(inputs[0])
        own = name if name in _public(Column) else {"absolute": "abs", "rint": "round"}.get(name)
        self._no(f"numpy.{name}", f"use .{own}()" if own else "use the methods of a column; see docs/features.md")

    def __array_function__(self, function: Any, *inputs: Any, **named: Any) -> NoReturn:
        name = getattr(function, "__name__", "?")
        instead = {"where": "use el.when(test).then(a).otherwise(b)", "clip": "use .clip(low, high)"}
        self._no(f"numpy.{name}", instead.get(name, "use the methods of a column; see docs/features.md"))

    def __setattr__(self, name: str, value: Any) -> None:  # type: ignore[valid-type]
        if name != "_node":
            self._no(f"setting .{name}", "columns are values; give the result a name of its own")
        object.__setattr__(self, name, value)


class Text:
    """``column.str``: operations on text."""

    __slots__ = ("_column",)

    def __init__(self, column: Column) -> None:
        self._column = column

    def _literal(self, text: Any, method: str) -> str:
        if not isinstance(text, str) or not text:
            raise SpecError(f"{self._column!r}.str.{method}({text!r}) needs a text that is not empty")
        _constant(text, f"{self._column!r}.str.{method}")
        return text

    def matches(self, pattern: str) -> Column:
        """Does the whole text match the regular expression? See `everloop.spec.patterns` for its syntax."""
        return self._column._call("str_matches", pattern=portable(pattern))

    def contains(self, text: str) -> Column:
        """Is ``text`` inside, as it is (no regular expression)?"""
        return self._column._call("str_contains", text=self._literal(text, "contains"))

    def starts_with(self, text: str) -> Column:
        return self._column._call("str_starts_with", text=self._literal(text, "starts_with"))

    def ends_with(self, text: str) -> Column:
        return self._column._call("str_ends_with", text=self._literal(text, "ends_with"))

    def lower(self) -> Column:
        """Lower case, letter by letter: never longer than the text was."""
        return self._column._call("str_lower")

    def upper(self) -> Column:
        """Upper case, letter by letter: never longer than the text was."""
        return self._column._call("str_upper")

    def length(self) -> Column:
        """The number of Unicode code points."""
        return self._column._call("str_length")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        _refuse_name(f"{self._column!r}.str", name, _public(Text))


class Dates:
    """``column.dt``: parts of an instant as the wall clock of a zone shows them.

    The zone is the one that the source declares for the column; ``time_zone`` names another.
    """

    __slots__ = ("_column",)

    def __init__(self, column: Column) -> None:
        self._column = column

    def _part(self, part: str, time_zone: str | None) -> Column:
        if time_zone is not None:
            from everloop.spec.zones import transitions

            transitions(time_zone)  # refuses an unknown zone
        return self._column._call(f"dt_{part}", time_zone=time_zone)

    def year(self, *, time_zone: str | None = None) -> Column:
        return self._part("year", time_zone)

    def month(self, *, time_zone: str | None = None) -> Column:
        """1 to 12."""
        return self._part("month", time_zone)

    def day(self, *, time_zone: str | None = None) -> Column:
        """Day of the month, 1 to 31."""
        return self._part("day", time_zone)

    def day_of_year(self, *, time_zone: str | None = None) -> Column:
        """1 to 366."""
        return self._part("day_of_year", time_zone)

    def weekday(self, *, time_zone: str | None = None) -> Column:
        """1 is Monday, 7 is Sunday."""
        return self._part("weekday", time_zone)

    def hour(self, *, time_zone: str | None = None) -> Column:
        """0 to 23."""
        return self._part("hour", time_zone)

    def minute(self, *, time_zone: str | None = None) -> Column:
        """0 to 59."""
        return self._part("minute", time_zone)

    def second(self, *, time_zone: str | None = None) -> Column:
        """0 to 59."""
        return self._part("second", time_zone)

    def seconds_since(self, other: Column | datetime) -> Column:
        """Seconds from ``other`` (an instant column or an aware datetime) to this instant, negative if it is later."""
        return self._column._call("dt_seconds_since", other)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        _refuse_name(f"{self._column!r}.dt", name, _public(Dates))


class Columns:
    """The row that a features function is given: ``row.miles`` or ``row["scheduled minutes"]`` is a `Column`."""

    def __getattr__(self, name: str) -> Column:
        if name.startswith("__"):
            raise AttributeError(name)
        return Column(Input(name))

    def __getitem__(self, name: str) -> Column:
        if not isinstance(name, str):
            raise SpecError(f"row[{name!r}] is not a column; names are text")
        return Column(Input(name))

    def __iter__(self) -> NoReturn:
        raise SpecError("iterating over the row cannot be served: its columns are not known yet; name the columns you use")

    def __len__(self) -> NoReturn:
        raise SpecError("len(row) cannot be served: its columns are not known yet; name the columns you use")

    def __contains__(self, name: object) -> NoReturn:
        raise SpecError("'in row' cannot be served: a declared column is always there, and may be missing: .is_missing()")

    def __repr__(self) -> str:
        return "row"


class Branches:
    """``when(test).then(value)``: a column already (missing where no test is true), and more can follow."""

    __slots__ = ("_arguments",)

    def __init__(self, arguments: tuple[Node, ...]) -> None:
        self._arguments = arguments

    def then(self, value: Any) -> "Chosen":
        return Chosen((*self._arguments, _node(value, "then")))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise SpecError(f"el.when(test).{name} is not finished; write el.when(test).then(value).otherwise(value)")


class Chosen(Column):
    """``when(test).then(value)`` so far."""

    __slots__ = ()

    def __init__(self, arguments: tuple[Node, ...]) -> None:
        super().__init__(Call("choose", arguments))

    def _so_far(self) -> tuple[Node, ...]:
        assert isinstance(self._node, Call)
        return self._node.arguments

    def when(self, test: Column) -> Branches:
        """The next test, tried where the ones before are not true."""
        return Branches((*self._so_far(), _node(test, "when")))

    def otherwise(self, value: Any) -> Column:
        """The value where no test is true. None: missing."""
        if value is None:
            return Column(self._node)
        return Column(Call("choose", (*self._so_far(), _node(value, "otherwise"))))


def when(test: Column) -> Branches:
    """``when(test).then(a).when(other).then(b).otherwise(c)``: the value of the first test that is true."""
    if not isinstance(test, Column):
        raise SpecError(f"when({test!r}) is decided already; its test must be a comparison of columns")
    return Branches((test._node,))


def past(*arguments: Any, **named: Any) -> NoReturn:
    """History of a key as a feature; not built yet."""
    raise SpecError(
        "el.past cannot be served yet: features see one row; compute the history in your source, with what was known "
        "before the event, and declare it as a column"
    )


def trace(function: Callable[[Columns], Mapping[str, Column]]) -> tuple[tuple[str, Node], ...]:
    """The tree that a features function writes: it is called once, with stand-ins.

    Raises SpecError when it fails, returns something else than a dict of columns, or uses what cannot be served.
    """
    name = getattr(function, "__name__", repr(function))
    if not callable(function):
        raise SpecError(f"features is {function!r}; give a function of the row that returns a dict of columns")
    try:
        result = function(Columns())
    except SpecError as problem:
        raise SpecError(f"{name}: {problem}") from None
    except Exception as problem:
        raise SpecError(
            f"{name} failed while it was declared: {type(problem).__name__}: {problem}; it is called once, with "
            "stand-ins for the columns, and may only combine them"
        ) from problem
    if not isinstance(result, Mapping):
        raise SpecError(f'{name} returned {type(result).__name__}; return a dict, for example {{"hour": row.time.dt.hour()}}')
    if not result:
        raise SpecError(f"{name} returned no features; return at least one")
    return tuple((_checked_name(name, feature), _checked(name, feature, value)) for feature, value in result.items())


def _checked_name(function: str, feature: object) -> str:
    if not isinstance(feature, str) or not feature or MISSING_TEXT in feature:
        raise SpecError(f"{function} names a feature {feature!r}; a name is text that is not empty")
    return feature


def _checked(function: str, feature: str, value: object) -> Node:
    if isinstance(value, Branches | Text | Dates):
        raise SpecError(f"{function}: feature {feature!r} is not finished; call a method such as .then(…) or .hour()")
    if not isinstance(value, Column):
        raise SpecError(f"{function}: feature {feature!r} is {value!r:.60}, which is the same for every row; give a column")
    node = value._node
    if depth_of(node) > DEEPEST:
        raise SpecError(
            f"{function}: feature {feature!r} nests {depth_of(node)} operations (limit {DEEPEST}); split it into features"
        )
    if not inputs_of(node):
        raise SpecError(f"{function}: feature {feature!r} reads no column, so it is the same for every row; leave it out")
    return node
