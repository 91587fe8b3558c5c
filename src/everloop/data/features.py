"""Renders the feature tree to polars. Knows nothing of ONNX or of estimators.

The same tree is rendered to the served graph by `everloop.package.render`; a property test holds the two equal. Inside,
a number is never NaN or infinite (null instead) and an instant is int64 microseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from everloop.errors import DataError
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType
from everloop.spec.cases import lower_table, upper_table
from everloop.spec.operations import INTEGER_TEXT, NUMBER_TEXT, OPERATIONS
from everloop.spec.tree import Call, Constant, FeatureTree, Input, Node
from everloop.spec.zones import Transitions, transitions, zone_of

DTYPES: dict[str, Any] = {
    "number": pl.Float64(), "integer": pl.Int64(), "boolean": pl.Boolean(), "text": pl.String(), "instant": pl.Int64(),
    "bytes": pl.Binary(),
}  # fmt: skip
"""How a column type stands inside an expression."""
INSTANT = pl.Datetime("us", "UTC")

Typed = tuple[pl.Expr, str]


def render(
    tree: FeatureTree,
    frame: pl.DataFrame,
    schema: Mapping[str, ColumnType],
    zones: Mapping[str, str | None] | None = None,
) -> pl.DataFrame:
    """One column a feature, null where missing: Float64, Int64, Boolean, String or Datetime("us", "UTC").

    ``frame`` holds the raw columns, in the tree's ``schema``; ``zones`` is the declared zone by instant column (UTC
    where there is none). Raises SpecError when a type does not fit, DataError when a column is absent.
    """
    types = tree.types(schema)
    absent = [name for name in tree.inputs if name not in frame.columns]
    if absent:
        raise DataError(f"features read {', '.join(absent)}, which the rows do not have; they have {frame.columns}")
    columns: list[pl.Series] = []
    for name, node in tree.columns:
        value = _Work(frame, schema, zones or {}).column_of(node)
        columns.append((value.cast(INSTANT) if types[name] == "instant" else value).alias(name))
    return pl.DataFrame(columns)


class _Work:
    """Calculates one feature, a column a node. One large expression would repeat each part wherever it is used twice."""

    def __init__(self, frame: pl.DataFrame, schema: Mapping[str, ColumnType], zones: Mapping[str, str | None]) -> None:
        self._raw, self._schema, self._zones = frame, schema, zones
        self._done = pl.DataFrame(height=frame.height)
        self._known: dict[Node, Typed] = {}

    def column_of(self, node: Node) -> pl.Series:
        expression, _ = self.of(node)
        return self._done.select(expression).to_series()

    def of(self, node: Node) -> Typed:
        """Where the node's values are: a column that is calculated already, or a constant."""
        if isinstance(node, Constant):
            return (pl.lit(None), node.type) if node.type == "missing" else _constant(node.value, node.type)
        if node not in self._known:
            expression, type = self._written(node)
            name = str(len(self._known))
            if isinstance(node, Input):
                expression = pl.lit(self._raw.select(expression).to_series())
            self._done = self._done.with_columns(expression.alias(name))
            self._known[node] = (pl.col(name), type)
        return self._known[node]

    def _written(self, node: Input | Call) -> Typed:
        if isinstance(node, Input):
            kind = self._schema[node.name]
            return _input(pl.col(node.name), kind), kind
        typed = [self.of(each) for each in node.arguments]
        result = OPERATIONS[node.operation].rule([type for _, type in typed], dict(node.options))
        if node.operation in _PARTS:
            local = _local(typed[0][0], transitions(zone_of(node, self._zones)))
            return _PARTS[node.operation](local).cast(pl.Int64), result
        expression = _WRITTEN[node.operation](node, typed, result)
        if result == "number" and node.operation not in _ALWAYS_FINITE:
            name = "unchecked"  # named first, so that it is calculated once
            self._done = self._done.with_columns(expression.alias(name))
            expression = _finite(pl.col(name))
        return expression, result


_ALWAYS_FINITE = {"negate", "absolute", "floor", "ceil", "at_least", "at_most", "choose", "fill_missing", "map"}


def _constant(value: Any, type: str) -> Typed:
    return pl.lit(value, dtype=DTYPES[type]), type


def _input(column: pl.Expr, type: ColumnType) -> pl.Expr:
    match type:
        case "number":
            return _finite(column.cast(pl.Float64))
        case "integer":
            whole = column.cast(pl.Int64)
            return pl.when(whole != MISSING_INTEGER).then(whole)
        case "boolean":
            return column.cast(pl.Boolean)
        case "text":
            text = column.cast(pl.String)
            return pl.when(text != MISSING_TEXT).then(text)
        case "instant":
            return column.cast(INSTANT).cast(pl.Int64)
        case "bytes":
            return column


def _finite(expression: pl.Expr) -> pl.Expr:
    return pl.when(expression.is_finite()).then(expression)


def _local(instant: pl.Expr, table: Transitions) -> pl.Expr:
    """Naive datetimes as the wall clock shows them. The table is ours: polars carries a database of another year."""
    if table.instants:
        changes, offsets = np.array(table.instants, dtype=np.int64), np.array(table.offsets, dtype=np.int64)

        def shift(series: pl.Series) -> pl.Series:
            known = series.fill_null(0).to_numpy()
            return series + pl.Series(offsets[np.searchsorted(changes, known, side="right")])

        instant = instant.map_batches(shift, return_dtype=pl.Int64)
    else:
        instant = instant + table.offsets[0]
    return instant.cast(pl.Datetime("us"))


_PARTS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "dt_year": lambda local: local.dt.year(),
    "dt_month": lambda local: local.dt.month(),
    "dt_day": lambda local: local.dt.day(),
    "dt_day_of_year": lambda local: local.dt.ordinal_day(),
    "dt_weekday": lambda local: local.dt.weekday(),
    "dt_hour": lambda local: local.dt.hour(),
    "dt_minute": lambda local: local.dt.minute(),
    "dt_second": lambda local: local.dt.second(),
}


def _widen(typed: Typed, type: str) -> pl.Expr:
    expression, own = typed
    return expression if own == type else expression.cast(DTYPES[type])


def _arithmetic(operate: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> "Writer":
    return lambda call, typed, result: operate(*(_widen(each, result) for each in typed))


def _function(operate: Callable[[pl.Expr], pl.Expr]) -> "Writer":
    return lambda call, typed, result: operate(_widen(typed[0], result))


def _comparison(operate: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> "Writer":
    def write(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
        types = {type for _, type in typed}
        wanted = next((each for each in ("number", "integer") if each in types), typed[0][1])
        return operate(*(_widen(each, wanted) for each in typed))

    return write


def _logic(operate: Callable[..., pl.Expr]) -> "Writer":
    return lambda call, typed, result: operate(*(expression for expression, _ in typed))


Writer = Callable[[Call, Sequence[Typed], str], pl.Expr]


def _quotient(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """IEEE division. polars multiplies by the reciprocal of a constant, which is off by one in the last bit."""

    def divide(series: Sequence[pl.Series]) -> pl.Series:
        upper, lower = (each.to_numpy() for each in series)
        with np.errstate(all="ignore"):
            return pl.Series(np.divide(upper, lower))

    return pl.map_batches([left, right], divide, return_dtype=pl.Float64)


def _seconds(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    return _quotient((left - right).cast(pl.Float64), pl.lit(1e6))


def _subtract(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    if typed[0][1] == "instant":
        return _seconds(typed[0][0], typed[1][0])
    return _widen(typed[0], result) - _widen(typed[1], result)


def _floor_divide(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    left, right = (_widen(each, result) for each in typed)
    if result == "number":
        return _quotient(left, right).floor()
    return pl.when(right == -1).then(-left).otherwise(left // _divisor(right))


def _modulo(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    left, right = (_widen(each, result) for each in typed)
    if result == "number":
        return left - _quotient(left, right).floor() * right
    return pl.when(right == -1).then(left - left).otherwise(left % _divisor(right))


def _divisor(right: pl.Expr) -> pl.Expr:
    """Null for 0; 1 for -1, by which the smallest integer cannot be divided."""
    return pl.when(right == -1).then(1).when(right != 0).then(right)


def _round(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    digits: int = call.option("digits")
    value = _widen(typed[0], result)
    if result == "integer":
        return value
    if digits == 0:
        return _nearest(value)
    scale = float(10 ** abs(digits))
    if digits < 0:
        return _nearest(_quotient(value, pl.lit(scale))) * scale
    scaled = value * scale
    return pl.when(scaled.abs() < 2.0**52).then(_quotient(_nearest(scaled), pl.lit(scale))).otherwise(value)


def _nearest(value: pl.Expr) -> pl.Expr:
    return value.round(0, mode="half_to_even")


def _expm1(series: pl.Series) -> pl.Series:
    with np.errstate(over="ignore"):
        return pl.Series(np.expm1(series.to_numpy()))


def _whole(operate: Callable[[pl.Expr], pl.Expr]) -> Writer:
    return lambda call, typed, result: _widen(typed[0], "integer") if result == "integer" else operate(typed[0][0])


def _at_least(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    return pl.when(right > left).then(right).when(right.is_not_null()).then(left)


def _at_most(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    return pl.when(right < left).then(right).when(right.is_not_null()).then(left)


def _choose(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    chosen = _widen(typed[-1], result) if len(typed) % 2 else pl.lit(None, dtype=DTYPES[result])
    for index in reversed(range(len(typed) // 2)):
        chosen = pl.when(typed[2 * index][0]).then(_widen(typed[2 * index + 1], result)).otherwise(chosen)
    return chosen


def _to_number(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    value, type = typed[0]
    if type != "text":
        return _widen(typed[0], "number")
    return pl.when(value.str.contains(f"^(?:{NUMBER_TEXT})$")).then(value).cast(pl.Float64, strict=False)


def _to_integer(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    value, type = typed[0]
    if type == "text":
        return pl.when(value.str.contains(f"^(?:{INTEGER_TEXT})$")).then(value).cast(pl.Int64, strict=False)
    if type == "number":
        return pl.when(value.abs() < 2.0**63).then(value).cast(pl.Int64, strict=False)
    return _widen(typed[0], "integer")


def _to_boolean(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    return typed[0][0] if typed[0][1] == "boolean" else typed[0][0] != 0


def _to_text(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    value, type = typed[0]
    if type == "boolean":
        return pl.when(value).then(pl.lit("true")).when(value.is_not_null()).then(pl.lit("false"))
    return value.cast(pl.String)


def _is_in(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    value, type = typed[0]
    values = [float(each) for each in call.option("values")] if type == "number" else list(call.option("values"))
    return value.is_in(pl.Series(values, dtype=DTYPES[type]).implode())


def _map(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    value, table, default = typed[0][0], call.option("table"), call.option("default")
    keys = pl.Series([key for key, _ in table], dtype=pl.String())
    values = pl.Series([float(each) if result == "number" else each for _, each in table], dtype=DTYPES[result])
    unknown = pl.lit(float(default) if result == "number" and default is not None else default, dtype=DTYPES[result])
    found = value.replace_strict(keys, values, default=unknown, return_dtype=DTYPES[result])
    return pl.when(value.is_not_null()).then(found)


def _cased(table: Callable[[], dict[str, str]]) -> Writer:
    def write(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
        letters = str.maketrans(table())

        def translate(series: pl.Series) -> pl.Series:
            known = series.unique().drop_nulls()
            changed = pl.Series([each.translate(letters) for each in known], dtype=pl.String())
            return series.replace_strict(known, changed, default=None, return_dtype=pl.String())

        return typed[0][0].map_batches(translate, return_dtype=pl.String())

    return write


def _length(call: Call, typed: Sequence[Typed], result: str) -> pl.Expr:
    """The served graph's text ends at a NUL, so it ends there here as well."""
    return typed[0][0].str.replace("(?s)\x00.*", "").str.len_chars().cast(pl.Int64)


_WRITTEN: dict[str, Writer] = {
    "add": _arithmetic(lambda a, b: a + b),
    "subtract": _subtract,
    "multiply": _arithmetic(lambda a, b: a * b),
    "divide": _arithmetic(_quotient),
    "floor_divide": _floor_divide,
    "modulo": _modulo,
    "power": _arithmetic(lambda a, b: a.pow(b)),
    "negate": _function(lambda a: -a),
    "absolute": _function(lambda a: a.abs()),
    "log": _function(lambda a: a.log()),
    "log1p": _function(lambda a: a.log1p()),
    "exp": _function(lambda a: a.exp()),
    "expm1": _function(lambda a: a.map_batches(_expm1, return_dtype=pl.Float64)),
    "sqrt": _function(lambda a: a.sqrt()),
    "at_least": _arithmetic(_at_least),
    "at_most": _arithmetic(_at_most),
    "round": _round,
    "floor": _whole(lambda a: a.floor()),
    "ceil": _whole(lambda a: a.ceil()),
    "equal": _comparison(lambda a, b: a == b),
    "not_equal": _comparison(lambda a, b: a != b),
    "less": _comparison(lambda a, b: a < b),
    "less_equal": _comparison(lambda a, b: a <= b),
    "greater": _comparison(lambda a, b: a > b),
    "greater_equal": _comparison(lambda a, b: a >= b),
    "and": _logic(lambda a, b: a & b),
    "or": _logic(lambda a, b: a | b),
    "xor": _logic(lambda a, b: a ^ b),
    "not": _logic(lambda a: ~a),
    "choose": _choose,
    "is_missing": lambda call, typed, result: typed[0][0].is_null(),
    "fill_missing": lambda call, typed, result: pl.coalesce(*(_widen(each, result) for each in typed)),
    "to_number": _to_number,
    "to_integer": _to_integer,
    "to_boolean": _to_boolean,
    "to_text": _to_text,
    "is_in": _is_in,
    "map": _map,
    "str_matches": lambda call, typed, result: typed[0][0].str.contains(f"^(?:{call.option('pattern')})$"),
    "str_contains": lambda call, typed, result: typed[0][0].str.contains(call.option("text"), literal=True),
    "str_starts_with": lambda call, typed, result: typed[0][0].str.starts_with(call.option("text")),
    "str_ends_with": lambda call, typed, result: typed[0][0].str.ends_with(call.option("text")),
    "str_lower": _cased(lower_table),
    "str_upper": _cased(upper_table),
    "str_length": _length,
    "dt_seconds_since": lambda call, typed, result: _seconds(typed[0][0], typed[1][0]),
    # What is learned from whole texts is done by `everloop.measure.encode`: a feature is the text itself.
    "terms": lambda call, typed, result: typed[0][0],
    "tokens": lambda call, typed, result: typed[0][0],
    "image": lambda call, typed, result: typed[0][0],
}
