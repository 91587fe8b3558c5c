"""The operations a feature may use: their types and what they do on missing. Knows nothing of polars or ONNX.

Three laws hold for every operation unless its entry says otherwise: a missing argument gives a missing result; a
number that would not be finite (x/0, log(0), overflow) is missing; an integer stays an int64 and wraps on overflow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everloop.errors import SpecError
from everloop.forms import FORMS
from everloop.records import ColumnType, FeatureType
from everloop.spec.tree import Constant, Input, Node, describe

Types = Sequence[str]
Rule = Callable[[Types, Mapping[str, Any]], FeatureType]

NUMERIC = frozenset({"number", "integer", "boolean"})

NUMBER_TEXT = r"[+\-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+\-]?[0-9]{1,2})?"
"""Text that ``.to_number()`` reads: within these bounds no reader overflows."""
INTEGER_TEXT = r"[+\-]?[0-9]{1,18}"
"""Text that ``.to_integer()`` reads: always fits into 64 bits."""


class Untypeable(Exception):
    """Why an operation does not take these types; `infer` adds the expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """``written``: how the user writes it. ``does`` and ``missing`` are shown in docs/features.md."""

    written: str
    rule: Rule
    does: str
    missing: str = "missing"
    arguments: tuple[int, int | None] = (1, 1)
    """Fewest and most (None: any number)."""


def _numeric(types: Types, verb: str) -> None:
    for each in types:
        if each == "text":
            raise Untypeable(
                f"{verb} takes numbers, not text; turn text into a number with .to_number() or .map({{…}})"
            )
        if each == "instant":
            raise Untypeable(
                f"{verb} takes numbers, not an instant; use .dt.hour(), .dt.weekday(), … or the difference of two "
                "instants, which is in seconds"
            )
        if each not in NUMERIC:
            raise Untypeable(f"{verb} takes numbers, not {each}")


def _arithmetic(types: Types, options: Mapping[str, Any]) -> ColumnType:
    _numeric(types, "arithmetic")
    return "number" if "number" in types else "integer"


def _subtract(types: Types, options: Mapping[str, Any]) -> ColumnType:
    if tuple(types) == ("instant", "instant"):
        return "number"
    return _arithmetic(types, options)


def _to_number(types: Types, options: Mapping[str, Any]) -> ColumnType:
    _numeric(types, "this")
    return "number"


def _same(types: Types, options: Mapping[str, Any]) -> ColumnType:
    """Integer → integer, number → number."""
    _numeric(types, "this")
    return "number" if types[0] == "number" else "integer"


def _round(types: Types, options: Mapping[str, Any]) -> ColumnType:
    return _same(types, options) if options["digits"] >= 0 else _to_number(types, options)


def _comparable(types: Types) -> None:
    left, right = types
    if {left, right} <= NUMERIC or left == right:
        return
    if "instant" in types:
        raise Untypeable(
            f"cannot compare {left} with {right}; compare an instant with an aware datetime, for example "
            "datetime(2026, 1, 1, tzinfo=UTC)"
        )
    raise Untypeable(f"cannot compare {left} with {right}; cast one of them, for example with .to_number()")


def _equality(types: Types, options: Mapping[str, Any]) -> ColumnType:
    _comparable(types)
    return "boolean"


def _order(types: Types, options: Mapping[str, Any]) -> ColumnType:
    _comparable(types)
    if "text" in types:
        raise Untypeable("text has no order here; use ==, .is_in([…]) or .map({…}) to numbers")
    return "boolean"


def _logic(types: Types, options: Mapping[str, Any]) -> ColumnType:
    for each in types:
        if each != "boolean":
            raise Untypeable(f"& | ^ ~ take booleans, not {each}; compare first, for example (row.x > 0)")
    return "boolean"


def unify(types: Types) -> ColumnType:
    """The one type that all branches have; integers widen to numbers."""
    found = {each for each in types if each != "missing"}
    if not found:
        raise Untypeable("every branch is None; give at least one value")
    if found == {"integer", "number"}:
        return "number"
    if len(found) > 1:
        raise Untypeable(f"the branches have different types ({', '.join(sorted(found))}); cast them to one")
    (one,) = found
    return one  # type: ignore[return-value]


def _choose(types: Types, options: Mapping[str, Any]) -> ColumnType:
    for each in types[: len(types) - len(types) % 2 : 2]:
        if each != "boolean":
            raise Untypeable(f"when(…) takes a boolean, not {each}; compare first, for example when(row.x > 0)")
    return unify([*types[1::2], *([types[-1]] if len(types) % 2 else [])])


def _fill(types: Types, options: Mapping[str, Any]) -> ColumnType:
    return unify(types)


def _is_missing(types: Types, options: Mapping[str, Any]) -> ColumnType:
    return "boolean"


def _cast(*sources: str, to: ColumnType, instead: str) -> Rule:
    def rule(types: Types, options: Mapping[str, Any]) -> ColumnType:
        if types[0] not in sources:
            raise Untypeable(f"{types[0]} cannot become {to}; {instead}")
        return to

    return rule


def _is_in(types: Types, options: Mapping[str, Any]) -> ColumnType:
    of = {type(value).__name__ for value in options["values"]}
    wanted = {"text": {"str"}, "integer": {"int"}, "number": {"int", "float"}}.get(types[0])
    if wanted is None:
        raise Untypeable(f".is_in() takes text, integers or numbers, not {types[0]}; compare with == and |")
    if not of <= wanted:
        raise Untypeable(f".is_in() on {types[0]} got values of type {', '.join(sorted(of))}; give {types[0]} values")
    return "boolean"


def _map(types: Types, options: Mapping[str, Any]) -> ColumnType:
    if types[0] != "text":
        raise Untypeable(f".map() looks up text, not {types[0]}; write .to_text().map({{…}}) for integers, or when()")
    values = [value for _, value in options["table"]]
    if options["default"] is not None:
        values.append(options["default"])
    names = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return unify([names[type(value)] for value in values])


def _text(result: ColumnType) -> Rule:
    def rule(types: Types, options: Mapping[str, Any]) -> ColumnType:
        if types[0] != "text":
            raise Untypeable(f".str takes text, not {types[0]}; integers and booleans become text with .to_text()")
        return result

    return rule


def _instant(types: Types, options: Mapping[str, Any]) -> ColumnType:
    for each in types:
        if each != "instant":
            raise Untypeable(f".dt takes instants, not {each}; declare the column as an instant in the source")
    return "integer"


def _seconds(types: Types, options: Mapping[str, Any]) -> ColumnType:
    _instant(types, options)
    return "number"


def _whole(result: FeatureType, taken: str, written: str) -> Rule:
    def rule(types: Types, options: Mapping[str, Any]) -> FeatureType:
        if types[0] != taken:
            raise Untypeable(f"{written} takes {taken}, not {types[0]}")
        return result

    return rule


def _binary(written: str, rule: Rule, does: str, missing: str = "missing") -> Operation:
    return Operation(written=written, rule=rule, does=does, missing=missing, arguments=(2, 2))


_NOT_FINITE = "missing; also where the result is not finite"

OPERATIONS: dict[str, Operation] = {
    "add": _binary("a + b", _arithmetic, "sum; integers stay integers, booleans count as 0 and 1", _NOT_FINITE),
    "subtract": _binary("a - b", _subtract, "difference; of two instants: seconds as a number", _NOT_FINITE),
    "multiply": _binary("a * b", _arithmetic, "product", _NOT_FINITE),
    "divide": _binary("a / b", _to_number, "quotient, always a number", "missing; also where b is 0"),
    "floor_divide": _binary("a // b", _arithmetic, "quotient rounded down, as in Python", "missing; also where b is 0"),
    "modulo": _binary("a % b", _arithmetic, "a - (a // b) * b: the sign of b, as in Python", "missing; also where b is 0"),
    "power": _binary("a ** b", _to_number, "power, always a number", _NOT_FINITE),
    "negate": Operation(written="-a", rule=_same, does="the opposite"),
    "absolute": Operation(written="a.abs()", rule=_same, does="without its sign; also abs(a)"),
    "log": Operation(
        written="a.log()", rule=_to_number, does="natural logarithm", missing="missing; also where a is 0 or less"
    ),
    "log1p": Operation(
        written="a.log1p()", rule=_to_number, does="log(1 + a), exact near 0", missing="missing; also where a is -1 or less"
    ),
    "exp": Operation(written="a.exp()", rule=_to_number, does="e to the power a", missing=_NOT_FINITE),
    "expm1": Operation(written="a.expm1()", rule=_to_number, does="exp(a) - 1, exact near 0", missing=_NOT_FINITE),
    "sqrt": Operation(
        written="a.sqrt()", rule=_to_number, does="square root", missing="missing; also where a is below 0"
    ),
    "at_least": _binary("a.clip(low)", _arithmetic, "the larger of a and low"),
    "at_most": _binary("a.clip(high=…)", _arithmetic, "the smaller of a and high"),
    "round": Operation(
        written="a.round(digits=0)", rule=_round, does="to the nearest, a half to the even neighbour; negative digits: to tens, hundreds, … (a number)"
    ),
    "floor": Operation(written="a.floor()", rule=_same, does="rounded down; stays a number"),
    "ceil": Operation(written="a.ceil()", rule=_same, does="rounded up; stays a number"),
    "equal": _binary("a == b", _equality, "are they equal? an integer against a number is compared as a number"),
    "not_equal": _binary("a != b", _equality, "do they differ?"),
    "less": _binary("a < b", _order, "numbers or instants"),
    "less_equal": _binary("a <= b", _order, "numbers or instants"),
    "greater": _binary("a > b", _order, "numbers or instants"),
    "greater_equal": _binary("a >= b", _order, "numbers or instants"),
    "and": _binary("a & b", _logic, "both", "false if the other is false, else missing"),
    "or": _binary("a | b", _logic, "either", "true if the other is true, else missing"),
    "xor": _binary("a ^ b", _logic, "exactly one"),
    "not": Operation(written="~a", rule=_logic, does="the opposite of a boolean"),
    "choose": Operation(
        written="when(test).then(a).when(test).then(b).otherwise(c)",
        rule=_choose,
        does="the value of the first test that is true; without otherwise: missing",
        missing="a missing test counts as false; the chosen value may be missing; None is missing",
        arguments=(2, None),
    ),
    "is_missing": Operation(written="a.is_missing()", rule=_is_missing, does="is it missing?", missing="true"),
    "fill_missing": _binary("a.fill_missing(b)", _fill, "a, or b where a is missing", "b"),
    "to_number": Operation(
        written="a.to_number()",
        rule=_cast("number", "integer", "boolean", "text", to="number", instead="subtract another instant: seconds"),
        does="integers beyond 2**53 are rounded; text must read like -12.5 or 1e3, at most 40 digits a side",
        missing="missing; also text that does not read as a number",
    ),
    "to_integer": Operation(
        written="a.to_integer()",
        rule=_cast("number", "integer", "boolean", "text", to="integer", instead="use .dt.year(), .dt.hour(), …"),
        does="a number loses its fraction (towards 0); text must read like -12, at most 18 digits",
        missing="missing; also beyond 64 bits, or text that does not read as an integer",
    ),
    "to_boolean": Operation(
        written="a.to_boolean()",
        rule=_cast("number", "integer", "boolean", to="boolean", instead='write .is_in(["true", "yes"]) or a comparison'),
        does="true where it is not 0",
    ),
    "to_text": Operation(
        written="a.to_text()",
        rule=_cast(
            "integer", "boolean", "text", to="text",
            instead="its digits depend on the program that prints it; round it and write .to_integer().to_text()",
        ),
        does="an integer's digits, or true and false: makes a category of it",
    ),
    "is_in": Operation(written="a.is_in([…])", rule=_is_in, does="is it one of these texts, integers or numbers?"),
    "map": Operation(
        written="a.map({…}, default=None)",
        rule=_map,
        does="looks text up in a table; a text that is not in it gives default",
        missing="missing, never default; also an unknown text when there is no default",
    ),
    "str_matches": Operation(
        written="a.str.matches(pattern)",
        rule=_text("boolean"),
        does="does the whole text match the regular expression? (\\d \\w \\s are ASCII; no look-around)",
    ),
    "str_contains": Operation(written="a.str.contains(text)", rule=_text("boolean"), does="is this text inside, as it is?"),
    "str_starts_with": Operation(written="a.str.starts_with(text)", rule=_text("boolean"), does="does it begin with this text?"),
    "str_ends_with": Operation(written="a.str.ends_with(text)", rule=_text("boolean"), does="does it end with this text?"),
    "str_lower": Operation(
        written="a.str.lower()", rule=_text("text"), does="lower case, letter by letter (a final sigma like any other)"
    ),
    "str_upper": Operation(written="a.str.upper()", rule=_text("text"), does="upper case, letter by letter (the sharp s stays as it is)"),
    "str_length": Operation(written="a.str.length()", rule=_text("integer"), does="the number of Unicode code points"),
    "dt_year": Operation(written="a.dt.year()", rule=_instant, does="the year in the column's time zone"),
    "dt_month": Operation(written="a.dt.month()", rule=_instant, does="1 to 12"),
    "dt_day": Operation(written="a.dt.day()", rule=_instant, does="day of the month, 1 to 31"),
    "dt_day_of_year": Operation(written="a.dt.day_of_year()", rule=_instant, does="1 to 366"),
    "dt_weekday": Operation(written="a.dt.weekday()", rule=_instant, does="1 is Monday, 7 is Sunday"),
    "dt_hour": Operation(written="a.dt.hour()", rule=_instant, does="0 to 23, by the clock on the wall there"),
    "dt_minute": Operation(written="a.dt.minute()", rule=_instant, does="0 to 59"),
    "dt_second": Operation(written="a.dt.second()", rule=_instant, does="0 to 59"),
    "dt_seconds_since": _binary("a.dt.seconds_since(b)", _seconds, "seconds from b to a as a number; b may be a datetime"),
    "terms": Operation(
        written="a.text()",
        rule=_whole("terms", "text", ".text()"),
        does="free text as TF-IDF weights of its words or letters, one column a term",
        missing="no term at all: every column 0",
    ),
    "tokens": Operation(
        written="a.tokens(256)",
        rule=_whole("tokens", "text", ".tokens()"),
        does="free text as 256 token ids, for networks",
        missing="no token at all: only padding",
    ),
    "image": Operation(
        written="a.image(64, 64)",
        rule=_whole("image", "bytes", ".image()"),
        does="a PNG or JPEG file's bytes as a tensor [3, 64, 64]",
        missing="cannot be: such a row is set aside, such a request refused",
    ),
}  # fmt: skip


def infer(node: Node, schema: Mapping[str, ColumnType]) -> FeatureType:
    """The type of a tree over raw columns of these types. Raises SpecError with the expression and the remedy."""
    found = _infer(node, schema)
    if found == "missing":
        raise SpecError("None alone is not a feature; None may only stand as a branch of when()")
    return found  # type: ignore[return-value]


def _infer(node: Node, schema: Mapping[str, ColumnType]) -> str:
    if isinstance(node, Input):
        if node.name not in schema:
            from difflib import get_close_matches  # only when something is wrong

            close = get_close_matches(node.name, schema, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(schema)) or 'none'}"
            raise SpecError(f"there is no column {node.name!r}; {hint}")
        return schema[node.name]
    if isinstance(node, Constant):
        return node.type
    operation = OPERATIONS.get(node.operation)
    if operation is None:
        raise SpecError(f"there is no operation {node.operation!r}; the declaration may be from a newer everloop")
    least, most = operation.arguments
    if len(node.arguments) < least or (most is not None and len(node.arguments) > most):
        raise SpecError(f"{operation.written} got {len(node.arguments)} arguments")
    types = [_infer(each, schema) for each in node.arguments]
    try:
        for each in types:
            if each in FORMS:
                raise Untypeable(f"nothing is calculated with {each}; .text() and the like end a feature")
            if each == "bytes" and node.operation != "image":
                raise Untypeable("bytes are no value to calculate with; for images write .image(height, width)")
        if "missing" in types and node.operation != "choose":
            raise Untypeable("None cannot be calculated with; write .is_missing() or .fill_missing(value)")
        return operation.rule(types, dict(node.options))
    except Untypeable as problem:
        raise SpecError(f"{describe(node)}: {problem}") from None
