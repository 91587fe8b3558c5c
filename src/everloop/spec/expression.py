"""How a user writes features: `Columns`, `Column` and `when` build a tree of nodes. Knows nothing of data or of graphs.

The function is called once, with stand-ins for the columns; what it returns is the tree, rendered to polars for
training and to the served graph. Whatever cannot be served is refused here, with what to use instead.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from everloop.errors import SpecError
from everloop.spec.accessors import Dates, Text
from everloop.spec.constants import constant
from everloop.spec.tree import Call, Input, Node, describe, is_small
from everloop.spec.unserved import Unserved
from everloop.spec.wholes import Wholes


def _node(value: Any, place: object) -> Node:
    return value._node if isinstance(value, Column) else constant(value, place)


def _options(**options: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items()))


class _Place:
    """Where the user wrote a constant; put into words only when there is something to say."""

    def __init__(self, column: "Column", operation: str) -> None:
        self._column, self._operation = column, operation

    def __str__(self) -> str:
        return f"{self._column!r}.{self._operation}"


def _plain(value: Any, place: object) -> Any:
    known = constant(value, place)
    if known.type == "instant":
        raise SpecError(f"{place} is a datetime; map to text, numbers, integers or booleans")
    return known.value


class Column(Wholes, Unserved):
    """One value of a row that is yet to come. Arithmetic, comparison and the methods below give new columns."""

    __slots__ = ("_node",)
    __array_priority__ = 1000.0

    def __init__(self, node: Node) -> None:
        self._node = node

    def __repr__(self) -> str:
        return describe(self._node) if is_small(self._node) else "a very large expression"

    def _call(self, operation: str, *arguments: Any, **options: Any) -> "Column":
        nodes = [
            each._node if isinstance(each, Column) else constant(each, _Place(self, operation)) for each in arguments
        ]
        return Column(Call(operation, (self._node, *nodes), _options(**options)))

    def _reflected(self, operation: str, left: Any) -> "Column":
        return Column(Call(operation, (_node(left, _Place(self, operation)), self._node)))

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

    __hash__ = Unserved.__hash__  # which Python drops beside __eq__

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
        """E to the power of the value."""
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
            raise SpecError(
                f"{self!r}.clip({low}, {high}) has its bounds the wrong way round; write .clip({high}, {low})"
            )
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
        place = _Place(self, "is_in")
        if isinstance(values, str | Column) or not isinstance(values, Iterable):
            raise SpecError(f"{place}({values!r}) needs a list; write .is_in([{values!r}]) or ==")
        bare = [constant(each, place).value for each in values]
        if not bare:
            raise SpecError(f"{place}([]) is never true; give at least one value")
        if None in bare:
            raise SpecError(f"{place} has None in its list; write (…) | {self!r}.is_missing()")
        unique = sorted(set(bare), key=lambda value: (type(value).__name__, value))
        return self._call("is_in", values=tuple(unique))

    def map(self, table: Mapping[str, Any], default: Any = None) -> "Column":
        """Looks text up in ``table``; unknown text gives ``default`` (None: missing), missing stays missing."""
        place = _Place(self, "map")
        if callable(table) or not isinstance(table, Mapping):
            raise SpecError(f"{place} takes a dict, not {type(table).__name__}; python cannot run in the served graph")
        if not table:
            raise SpecError(f"{place}({{}}) has an empty table; give at least one entry")
        plain: dict[str, Any] = {}
        for key, value in table.items():
            if not isinstance(key, str):
                raise SpecError(f"{place} has the key {key!r}; keys are text: write .to_text().map({{'{key}': …}})")
            if value is None:
                raise SpecError(f"{place} maps {key!r} to None; leave it out: an unknown text is missing")
            plain[constant(key, place).value] = _plain(value, place)
        default = _plain(default, place)
        values = [*plain.values(), *([] if default is None else [default])]
        if any(isinstance(each, float) for each in values) and not any(isinstance(each, bool | str) for each in values):
            plain = {key: float(value) for key, value in plain.items()}  # equal tables have one form
            default = None if default is None else float(default)
        return self._call("map", table=tuple(sorted(plain.items())), default=default)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_node":
            self._no(f"setting .{name}", "columns are values; give the result a name of its own")
        object.__setattr__(self, name, value)

    # Last, because the name str would hide the built-in one from what follows

    @property
    def str(self) -> "Text":
        """Operations on text."""
        return Text(self)

    @property
    def dt(self) -> "Dates":
        """Parts of an instant, in the column's time zone."""
        return Dates(self)


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
        raise SpecError(
            "iterating over the row cannot be served: its columns are not known yet; name the columns you use"
        )

    def __len__(self) -> NoReturn:
        raise SpecError("len(row) cannot be served: its columns are not known yet; name the columns you use")

    def __contains__(self, name: object) -> NoReturn:
        raise SpecError(
            "'in row' cannot be served: a declared column is always there, and may be missing: .is_missing()"
        )

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
