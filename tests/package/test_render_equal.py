"""One feature tree, two renderings: random trees on random rows must give equal values and equal missing marks.

EVERLOOP_EXAMPLES=5000 draws that many fresh trees instead of the few hundred that are the same in every run.
"""

import math
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import everloop as el
from everloop.data.features import render as render_polars
from everloop.package.pack import pack
from everloop.package.render import model_of, render
from everloop.records import MISSING_TEXT, ColumnType, InputColumn
from everloop.spec.columns import FeatureTree, describe, trace

EXAMPLES = os.environ.get("EVERLOOP_EXAMPLES")
ROWS = 40
TYPES: tuple[ColumnType, ...] = ("number", "integer", "boolean", "text", "instant")
COLUMNS: dict[str, ColumnType] = {
    "x": "number", "y": "number", "i": "integer", "j": "integer", "b": "boolean", "c": "boolean",
    "s": "text", "u": "text", "t": "instant", "v": "instant",
}  # fmt: skip
ZONES = {"t": "America/Chicago", "v": "America/Chicago"}
OTHER_ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", "UTC", "Pacific/Apia"]
INPUTS = tuple(
    InputColumn(name=name, type=kind, index=index, time_zone=ZONES.get(name))
    for kinds in (("number",), ("integer", "boolean", "instant"), ("text",))
    for index, (name, kind) in enumerate((n, k) for n, k in COLUMNS.items() if k in kinds)
)

NUMBERS = [
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    1e-300,
    -1e300,
    1.7e308,
    2.0**53,
    2.0**63,
    0.285,
    100.125,
    -7.0,
    3.0,
    math.inf,
    math.nan,
]
INTEGERS = [0, 1, -1, 2, 3, -7, 7, 10, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63) + 1, 86_400]
TEXTS = [
    "",
    "a",
    "A",
    "AA",
    "Straße",
    "ΣΟΦΟΣ",
    "Łódź",
    "İI",
    "ᾳ",
    "unseen",
    "12",
    "-1.5e3",
    "007",
    "1e99",
    "a\nb",
    "a.b",
    "日本",
    "+",
    "\U0001f600x",
]
LITERALS = ["a", ".", "ß", "\n", "1", "AA", "日"]
PATTERNS = [
    r"\d+",
    r"[A-Za-z]{1,2}",
    r"a.b",
    r".*\s.*",
    r"\w+",
    r"[^a-z]*",
    r"(a|A)+?",
    r"-?\d+(\.\d+)?(e\d+)?",
    r"\S*",
    r"x|[\d\-+]+",
]
INSTANTS = [
    datetime(2023, 11, 5, 6, 30, tzinfo=UTC),  # 01:30 in Chicago, for the first time
    datetime(2023, 11, 5, 7, 30, tzinfo=UTC),  # and for the second
    datetime(2023, 3, 12, 8, 0, tzinfo=UTC),  # 02:00 there does not exist
    datetime(2023, 3, 12, 7, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(2000, 2, 29, 12, tzinfo=UTC), datetime(2100, 3, 1, tzinfo=UTC),
    datetime(1969, 7, 20, 20, 17, 40, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC), datetime(2036, 12, 31, 23, tzinfo=UTC), datetime(2037, 11, 1, 7, tzinfo=UTC),
    datetime(2038, 7, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC), datetime(1752, 9, 14, tzinfo=UTC),
    datetime(9998, 12, 31, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC), datetime(2011, 12, 30, 12, tzinfo=UTC),
]  # fmt: skip

CONSTANTS: dict[str, list[Any]] = {
    "number": [*(each for each in NUMBERS if math.isfinite(each)), 1.0, 1 + 1e-9, 1 - 1e-13, 1e-40],
    "integer": INTEGERS,
    "boolean": [True, False],
    "text": TEXTS,
    "instant": INSTANTS,
}


class Trees:
    """Draws well-typed expressions. Exact ones only: equal to the last bit in both renderings."""

    def __init__(self, seed: int) -> None:
        self.random, self.row = random.Random(seed), el.Columns()

    def pick(self, options: list[Any]) -> Any:
        return self.random.choice(options)

    def constant(self, kind: str) -> Any:
        fresh: dict[str, Callable[[], Any]] = {
            "number": lambda: self.random.uniform(-100, 100),
            "integer": lambda: self.random.randint(-100, 100),
        }
        return fresh[kind]() if kind in fresh and self.pick([0, 1]) else self.pick(CONSTANTS[kind])

    def leaf(self, kind: str) -> el.Column:
        return self.row[self.pick([name for name, each in COLUMNS.items() if each == kind])]

    def constant_or(self, kind: str, depth: int) -> Any:
        return self.constant(kind) if self.pick([0, 1, 1]) == 0 else self.of(kind, depth)

    def of(self, kind: str, depth: int) -> el.Column:
        if depth <= 0:
            return self.leaf(kind)
        shared = [self.leaf, self.choose, self.fill]
        made = self.pick([*shared, *[getattr(self, f"{kind}_{n}") for n in range(8) if hasattr(self, f"{kind}_{n}")]])
        drawn: el.Column = made(kind) if made == self.leaf else made(kind, depth - 1)
        return drawn

    def choose(self, kind: str, depth: int) -> el.Column:
        branches = el.when(self.of("boolean", depth)).then(self.constant_or(kind, depth))
        if self.pick([0, 1]):
            branches = branches.when(self.of("boolean", depth)).then(self.of(kind, depth))
        if self.pick([0, 1, 1]):
            return branches.otherwise(self.constant_or(kind, depth))
        return branches

    def fill(self, kind: str, depth: int) -> el.Column:
        return self.of(kind, depth).fill_missing(self.constant_or(kind, depth))

    def arithmetic(self, left: Any, right: Any) -> el.Column:
        name = self.pick(["+", "-", "*", "//", "%"])
        made: el.Column = {
            "+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right,
            "//": lambda: left // right, "%": lambda: left % right,
        }[name]()  # fmt: skip
        return made

    def number_0(self, kind: str, depth: int) -> el.Column:
        return self.arithmetic(self.of("number", depth), self.constant_or(self.pick(["number", "integer"]), depth))

    def number_1(self, kind: str, depth: int) -> el.Column:
        upper = self.constant_or(self.pick(["number", "integer", "boolean"]), depth)
        return upper / self.of(self.pick(["number", "integer"]), depth)  # type: ignore[no-any-return]

    def number_2(self, kind: str, depth: int) -> el.Column:
        value = self.of("number", depth)
        return self.pick([lambda: -value, lambda: abs(value), value.floor, value.ceil, value.sqrt])()  # type: ignore[no-any-return]

    def number_3(self, kind: str, depth: int) -> el.Column:
        return (
            self.of(self.pick(["number", "number", "integer"]), depth)
            .round(self.pick([-1, 0, 0, 1, 2, 7, -2]))
            .to_number()
        )

    def number_4(self, kind: str, depth: int) -> el.Column:
        value, low = self.of("number", depth), self.random.randint(-5, 5)
        other = self.pick(["number", "integer"])
        return self.pick(  # type: ignore[no-any-return]
            [
                lambda: value.clip(low, low + 3.5),
                lambda: value.clip(self.of(other, depth)),
                lambda: value.clip(high=low),
            ]
        )()

    def number_5(self, kind: str, depth: int) -> el.Column:
        return self.of(self.pick(["integer", "boolean", "text"]), depth).to_number()

    def number_6(self, kind: str, depth: int) -> el.Column:
        other = self.constant_or("instant", depth)
        value = self.of("instant", depth)
        return self.pick([lambda: value - other, lambda: value.dt.seconds_since(other)])()  # type: ignore[no-any-return]

    def number_7(self, kind: str, depth: int) -> el.Column:
        return self.mapped(depth, "number")

    def mapped(self, depth: int, kind: str) -> el.Column:
        table = {self.pick(TEXTS): self.constant(kind) for _ in range(self.pick([1, 4]))}
        return self.of("text", depth).map(table, default=self.pick([None, self.constant(kind)]))

    def integer_0(self, kind: str, depth: int) -> el.Column:
        return self.arithmetic(self.of("integer", depth), self.constant_or(self.pick(["integer", "boolean"]), depth))

    def integer_1(self, kind: str, depth: int) -> el.Column:
        value = self.of("integer", depth)
        return self.pick(  # type: ignore[no-any-return]
            [lambda: -value, lambda: abs(value), value.round, value.floor, lambda: value.clip(-3, 2**53 + 1)]
        )()

    def integer_2(self, kind: str, depth: int) -> el.Column:
        return self.of(self.pick(["number", "boolean", "text"]), depth).to_integer()

    def integer_3(self, kind: str, depth: int) -> el.Column:
        return self.of("text", depth).str.length()

    def integer_4(self, kind: str, depth: int) -> el.Column:
        dates = self.of("instant", depth).dt
        part = self.pick(["year", "month", "day", "day_of_year", "weekday", "hour", "minute", "second"])
        made: el.Column = getattr(dates, part)(time_zone=self.pick([None, None, *OTHER_ZONES]))
        return made

    integer_5 = integer_4

    def integer_6(self, kind: str, depth: int) -> el.Column:
        return self.mapped(depth, "integer")

    def boolean_0(self, kind: str, depth: int) -> el.Column:
        of = self.pick(["number", "integer", "instant"])
        left, right = (
            self.of(of, depth),
            self.constant_or(of if of == "instant" else self.pick(["number", "integer"]), depth),
        )
        tests = [left == right, left != right, left < right, left <= right, left > right, left >= right]
        made: el.Column = self.pick(tests)
        return made

    def boolean_1(self, kind: str, depth: int) -> el.Column:
        of = self.pick(["text", "boolean"])
        left, right = self.of(of, depth), self.constant_or(of, depth)
        made: el.Column = self.pick([left == right, left != right])
        return made

    def boolean_2(self, kind: str, depth: int) -> el.Column:
        left, right = self.of("boolean", depth), self.constant_or("boolean", depth)
        made: el.Column = self.pick([left & right, left | right, left ^ right])
        return made

    boolean_3 = boolean_2

    def boolean_4(self, kind: str, depth: int) -> el.Column:
        return self.pick(  # type: ignore[no-any-return]
            [lambda: ~self.of("boolean", depth), lambda: self.of(self.pick(["number", "integer"]), depth).to_boolean()]
        )()

    def boolean_5(self, kind: str, depth: int) -> el.Column:
        return self.of(self.pick(list(TYPES)), depth).is_missing()

    def boolean_6(self, kind: str, depth: int) -> el.Column:
        of = self.pick(["text", "integer", "number"])
        return self.of(of, depth).is_in([self.constant(of) for _ in range(self.pick([1, 4]))])

    def boolean_7(self, kind: str, depth: int) -> el.Column:
        text = self.of("text", depth).str
        literal = self.pick(LITERALS)
        made: el.Column = self.pick(
            [
                lambda: text.matches(self.pick(PATTERNS)), lambda: text.contains(literal),
                lambda: text.starts_with(literal), lambda: text.ends_with(literal),
            ]
        )()  # fmt: skip
        return made

    def text_0(self, kind: str, depth: int) -> el.Column:
        text = self.of("text", depth).str
        made: el.Column = self.pick([text.lower, text.upper])()
        return made

    def text_1(self, kind: str, depth: int) -> el.Column:
        return self.mapped(depth, "text")

    def text_2(self, kind: str, depth: int) -> el.Column:
        return self.of(self.pick(["integer", "boolean"]), depth).to_text()

    def inexact(self, depth: int) -> el.Column:
        """A function that two libraries round differently, then only what keeps a relative error."""
        value = self.of(self.pick(["number", "integer"]), depth)
        made = self.pick(
            [
                value.log,
                value.log1p,
                value.exp,
                value.expm1,
                lambda: value**2,
                lambda: value ** self.of("number", 0),
                lambda: 2**value,
            ]
        )()
        after: el.Column = self.pick([lambda: made, lambda: made * self.leaf("number"), lambda: -made])()
        return after


def tree_of(seed: int) -> FeatureTree:
    made = Trees(seed)
    exact = {f"{kind} {n}": made.of(kind, made.pick([1, 2, 3])) for n in range(2) for kind in TYPES}
    inexact = {f"inexact {n}": made.inexact(made.pick([0, 1])) for n in range(2)}
    return FeatureTree(columns=trace(lambda row: exact | inexact))


def frame_of(seed: int) -> pl.DataFrame:
    """Rows: half from the corners, some missing, the rest anywhere; now and then a single row."""
    source = random.Random(seed)
    rows = 1 if source.random() < 0.15 else ROWS
    kinds: dict[str, Any] = {
        "number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "text": pl.String, "instant": pl.Datetime("us", "UTC"),
    }  # fmt: skip
    fresh: dict[str, Callable[[], Any]] = {
        "number": lambda: source.choice(
            [source.uniform(-100, 100), source.gauss(0, 1) * 10.0 ** source.randint(-20, 20)]
        ),
        "integer": lambda: source.choice([source.randint(-20, 20), source.randint(-(2**63) + 1, 2**63 - 1)]),
        "boolean": lambda: source.random() < 0.5,
        "text": lambda: "".join(
            chr(source.choice([source.randint(33, 126), source.randint(0xA0, 0x24FF)])) for _ in range(4)
        ),
        "instant": lambda: (
            datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=source.randint(-3 * 10**15, 4 * 10**15))
        ),
    }
    pools: dict[str, list[Any]] = {
        "number": NUMBERS,
        "integer": INTEGERS,
        "boolean": [True, False],
        "text": TEXTS,
        "instant": INSTANTS,
    }

    def value(kind: str) -> Any:
        chance = source.random()
        return None if chance < 0.15 else source.choice(pools[kind]) if chance < 0.6 else fresh[kind]()

    return pl.DataFrame(
        {name: pl.Series([value(kind) for _ in range(rows)], dtype=kinds[kind]) for name, kind in COLUMNS.items()}
    )


def session_of(model: Any, *, extensions: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if extensions:
        import onnxruntime_extensions

        options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_onnx(tree: FeatureTree, frame: pl.DataFrame) -> dict[str, list[Any]]:
    """Each feature's values with None where missing."""
    parts = render(tree, INPUTS)
    model = model_of(parts)
    packed = pack(frame, INPUTS)
    session = session_of(model, extensions=parts.extensions)
    given_inputs = {each.name: packed[each.name] for each in session.get_inputs()}
    outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, given_inputs), strict=True))
    answers: dict[str, list[Any]] = {}
    for index, (name, feature) in enumerate(parts.features.items()):
        value = outputs[f"value_{index}"]
        assert value.shape == (frame.height, 1), name
        if feature.type == "number":
            assert not np.isinf(value).any(), name
            missing = np.isnan(value)
        elif feature.type == "text":
            missing = np.array([[each[0] == MISSING_TEXT] for each in value])  # numpy drops a NUL at the end of a str
        elif feature.missing is None:
            missing = np.zeros_like(value, dtype=bool)
        else:
            missing = outputs[f"missing_{index}"]
            assert missing.shape == (frame.height, 1), name
        answers[name] = [None if m else v for v, m in zip(value.ravel().tolist(), missing.ravel(), strict=True)]
    return answers


def run_polars(tree: FeatureTree, frame: pl.DataFrame) -> dict[str, list[Any]]:
    rendered = render_polars(tree, frame, COLUMNS, ZONES)
    return {
        each.name: (each.cast(pl.Int64) if each.dtype.is_temporal() else each).to_list()
        for each in rendered.iter_columns()
    }


def agree(one: Any, other: Any, *, exact: bool) -> bool:
    if one is None or other is None or exact:
        return bool(one == other) and type(one) is type(other)
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-300)


@settings(
    max_examples=int(EXAMPLES or 150), derandomize=EXAMPLES is None, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate],  # a smaller seed is no smaller tree
)  # fmt: skip
@given(st.integers(0, 2**32 - 1))
def test_any_feature_is_the_same_in_training_and_in_the_served_graph(seed: int) -> None:
    tree, frame = tree_of(seed), frame_of(seed)
    served, trained = run_onnx(tree, frame), run_polars(tree, frame)
    for name, node in tree.columns:
        assert len(trained[name]) == frame.height, describe(node)
        for row, (left, right) in enumerate(zip(trained[name], served[name], strict=True)):
            same = agree(left, right, exact=not name.startswith("inexact"))
            assert same, (
                f"{name}: {describe(node)} gives {left!r} in polars, {right!r} served, for {frame.row(row, named=True)}"
            )
