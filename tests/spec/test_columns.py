"""What a user may write as a feature, what it becomes, and what is refused with a remedy."""

import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everloop as el
from everloop.errors import SpecError
from everloop.records import ColumnType
from everloop.spec.columns import Column, Columns, FeatureTree, Node, describe, infer, inputs_of, trace
from everloop.spec.operations import OPERATIONS
from everloop.spec.patterns import portable, quote
from everloop.spec.tree import Call, from_json, to_json, walk
from everloop.spec.zones import transitions

SCHEMA: dict[str, ColumnType] = {
    "x": "number", "i": "integer", "b": "boolean", "s": "text", "t": "instant", "v": "instant",
}  # fmt: skip
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "features.md"
Write = Callable[[Columns], Any]


def decided(row: Columns) -> Any:
    return True


def node(write: Write) -> Node:
    ((_, made),) = trace(lambda row: {"feature": write(row)})
    return made


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda r: r.i + 1, "integer"),
        (lambda r: r.i + 1.0, "number"),
        (lambda r: r.i + r.b, "integer"),
        (lambda r: r.i / 2, "number"),
        (lambda r: r.i // 2, "integer"),
        (lambda r: 2**r.i, "number"),
        (lambda r: -r.b, "integer"),
        (lambda r: abs(r.x), "number"),
        (lambda r: round(r.x, 2), "number"),
        (lambda r: math.floor(r.x), "number"),
        (lambda r: r.t - r.v, "number"),
        (lambda r: r.t - datetime(2024, 1, 1, tzinfo=UTC), "number"),
        (lambda r: r.t > datetime(2024, 1, 1, tzinfo=UTC), "boolean"),
        (lambda r: (r.x > 1) & ~r.b, "boolean"),
        (lambda r: r.s == "a", "boolean"),
        (lambda r: r.s.map({"a": 1, "b": 2.5}), "number"),
        (lambda r: r.s.map({"a": "b"}), "text"),
        (lambda r: r.s.map({"a": True}), "boolean"),
        (lambda r: el.when(r.b).then(1), "integer"),
        (lambda r: el.when(r.b).then(1).otherwise(2.5), "number"),
        (lambda r: el.when(r.b).then(None).otherwise(r.t), "instant"),
        (lambda r: r.x.fill_missing(0), "number"),
        (lambda r: r.i.fill_missing(0.5), "number"),
        (lambda r: r.t.fill_missing(r.v), "instant"),
        (lambda r: r.s.str.length(), "integer"),
        (lambda r: r.t.dt.weekday(time_zone="Asia/Tokyo"), "integer"),
        (lambda r: r.i.to_text().map({"7": "seven"}), "text"),
        (lambda r: np.float64(2.0) * r.x, "number"),
        (lambda r: r.x * np.int64(2), "number"),
    ],
)
def test_an_expression_has_a_type(write: Write, kind: str) -> None:
    assert infer(node(write), SCHEMA) == kind


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda r: r.x if r.x > 1 else 0, "el.when"),
        (lambda r: r.b and r.b, "&, | and ~"),
        (lambda r: 1 < r.x < 2, "&, | and ~"),
        (lambda r: max(r.x, r.i), "el.when"),
        (lambda r: sum(r.x), "sees one row"),
        (lambda r: r.x[0], "sees one row"),
        (lambda r: "a" in r.s, ".str.contains"),
        (lambda r: np.log(r.x), "use .log()"),
        (lambda r: np.sin(r.x), "numpy.sin"),
        (lambda r: np.where(r.b, 1, 2), "el.when"),
        (lambda r: np.asarray(r.x), "numpy and pandas cannot run"),
        (lambda r: math.log(r.x), ".log()"),
        (lambda r: int(r.x), ".to_integer()"),
        (lambda r: f"{r.x}", ".to_text()"),
        (lambda r: {r.x: 1}, "dict key"),
        (lambda r: r.x.apply(math.sin), "python cannot run"),
        (lambda r: r.x.map_elements(math.sin), "python cannot run"),
        (lambda r: r.s.map(str.upper), "python cannot run"),
        (lambda r: r.x.rolling_mean(3), "history over other rows"),
        (lambda r: r.x.shift(1), "history over other rows"),
        (lambda r: r.x.mean(), "sees one row"),
        (lambda r: el.past(by="s", within=timedelta(days=1)).x.mean(), "before the event"),
        (lambda r: r.x.fillna(0), "use .fill_missing(value)"),
        (lambda r: r.x.isnull(), "use .is_missing()"),
        (lambda r: r.x.astype(int), ".to_integer()"),
        (lambda r: r.s.text().str.lower(), "nothing is calculated with terms"),
        (lambda r: r.t.hour(), "use .dt.hour()"),
        (lambda r: r.t.dt.hours(), "did you mean .hour?"),
        (lambda r: r.s.lower(), "use .str.lower()"),
        (lambda r: r.s.str.lowercase(), ".lower"),
        (lambda r: r.x.sqroot(), "did you mean .sqrt?"),
        (lambda r: r.x == None, ".is_missing()"),  # noqa: E711
        (lambda r: r.x + None, None),
        (lambda r: r.x * [1], "list"),
        (lambda r: r.t > datetime(2024, 1, 1), "tzinfo=UTC"),
        (lambda r: r.t - timedelta(hours=1), "write 3600"),
        (lambda r: r.x > math.inf, "finite"),
        (lambda r: r.i + 2**63, "64 bits"),
        (lambda r: r.s == "a\x00", "NUL"),
        (lambda r: r.x.clip(), "no bound"),
        (lambda r: r.x.clip(3, 1), "wrong way round"),
        (lambda r: r.x.round(1.5), "from -15 to 15"),
        (lambda r: r.s.is_in("abc"), "needs a list"),
        (lambda r: r.s.is_in([]), "never true"),
        (lambda r: r.s.is_in(["a", None]), ".is_missing()"),
        (lambda r: r.s.map({}), "empty table"),
        (lambda r: r.s.map({1: 2}), ".to_text().map"),
        (lambda r: r.s.map({"a": None}), "leave it out"),
        (lambda r: r.s.str.contains(""), "not empty"),
        (lambda r: r.s.str.matches("("), "not a regular expression"),
        (lambda r: r.s.str.matches(r"(?=a)b"), "cannot be served"),
        (lambda r: r.s.str.matches(r"\bword\b"), "\\b"),
        (lambda r: r.t.dt.hour(time_zone="Mars/Olympus"), "IANA"),
        (lambda r: el.when(r.b), "not finished"),
        (lambda r: el.when(decided(r)).then(1), "comparison of columns"),
        (lambda r: el.when(r.b).otherwise(1), "not finished"),
        (lambda r: r.t.dt, "not finished"),
        (lambda r: 3, "same for every row"),
        (lambda r: list(r), "name the columns"),
        (lambda r: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_remedy(write: Write, said: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        infer(node(write), SCHEMA)
    assert said is None or said in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda r: r.s + 1, ".to_number()"),
        (lambda r: r.t + 1, ".dt.hour()"),
        (lambda r: r.s < "a", "no order"),
        (lambda r: r.t == "2024-01-01", "aware datetime"),
        (lambda r: r.s == 1, "cast one of them"),
        (lambda r: r.x & r.b, "compare first"),
        (lambda r: el.when(r.x).then(1), "compare first"),
        (lambda r: el.when(r.b).then(1).otherwise("a"), "different types"),
        (lambda r: el.when(r.b).then(None).otherwise(None), "at least one value"),
        (lambda r: r.x.str.lower(), ".to_text()"),
        (lambda r: r.i.dt.hour(), "declare the column as an instant"),
        (lambda r: r.x.to_text(), ".to_integer().to_text()"),
        (lambda r: r.s.to_boolean(), ".is_in("),
        (lambda r: r.t.to_number(), "seconds"),
        (lambda r: r.i.map({"1": 2}), ".to_text().map"),
        (lambda r: r.i.is_in([1.5]), "integer values"),
        (lambda r: r.b.is_in([True]), "compare with =="),
        (lambda r: r.z + 1, "there is no column 'z'"),
    ],
)
def test_a_type_that_does_not_fit_names_the_expression_and_the_remedy(write: Write, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        FeatureTree(columns=(("mine", node(write)),)).types(SCHEMA)
    assert said in str(caught.value)
    assert "feature 'mine'" in str(caught.value)


def test_the_tree_survives_json_and_its_digest_is_its_meaning() -> None:
    def features(row: Columns) -> dict[str, Column]:
        return {
            "hour": row.t.dt.hour(time_zone="Europe/Paris"),
            "table": row.s.map({"b": 2, "a": 1.5}, default=0),
            "choice": el.when(row.i.is_in([2**53 + 1, 2])).then(None).when(row.b).then(1.0).otherwise(row.x),
            "match": row.s.str.matches(r"\d+(a|b)"),
        }

    tree = FeatureTree(columns=trace(features))
    again = FeatureTree.from_json(tree.to_json())
    assert again == tree == pickle.loads(pickle.dumps(tree))
    assert again.digest == tree.digest
    assert tree.inputs == ("b", "i", "s", "t", "x")
    assert tree.names == ("hour", "table", "choice", "match")
    other = FeatureTree(columns=trace(lambda row: {**features(row), "hour": row.t.dt.hour()}))
    assert other.digest != tree.digest


def test_tables_and_lists_that_mean_the_same_have_one_form() -> None:
    assert node(lambda r: r.s.map({"a": 1, "b": 2.0})) == node(lambda r: r.s.map({"b": 2, "a": 1.0}))
    assert node(lambda r: r.s.is_in(["b", "a", "b"])) == node(lambda r: r.s.is_in(("a", "b")))
    assert node(lambda r: r.s.str.matches(r"\d")) == node(lambda r: r.s.str.matches("[0-9]"))


def test_one_and_one_point_nought_are_an_integer_and_a_number() -> None:
    assert to_json(node(lambda r: r.i + 1))["arguments"][1] == {"constant": 1, "type": "integer"}
    assert to_json(node(lambda r: r.i + 1.0))["arguments"][1] == {"constant": 1.0, "type": "number"}


def test_json_that_is_no_tree_is_refused() -> None:
    for form in ({}, {"call": "add"}, {"call": "add", "arguments": 3}):
        with pytest.raises(SpecError, match="not a feature tree"):
            from_json(form)
    with pytest.raises(SpecError, match="newer everloop"):
        infer(from_json({"call": "teleport", "arguments": [{"input": "x"}]}), SCHEMA)
    with pytest.raises(SpecError, match="got 1 arguments"):
        infer(from_json({"call": "add", "arguments": [{"input": "x"}]}), SCHEMA)


def test_a_tree_of_any_depth_is_refused_in_words_not_by_the_interpreter() -> None:
    def features(row: Columns) -> dict[str, Column]:
        total = row.x
        for _ in range(500):
            total = total + row.i
        return {"total": total}

    def doubled(row: Columns) -> dict[str, Column]:
        value = row.x
        for _ in range(100):
            value = value * value + 1
        return {"doubled": value}

    for function in (features, doubled):
        with pytest.raises(SpecError, match="split it into features"):
            trace(function)


def test_a_features_function_returns_named_columns() -> None:
    for function, said in [
        (lambda row: row.x, "return a dict"),
        (lambda row: {}, "at least one"),
        (lambda row: {"": row.x}, "not empty"),
        (lambda row: {1: row.x}, "name is text"),
        (lambda row, other: {"x": row.x}, "TypeError"),
    ]:
        with pytest.raises(SpecError, match=said):
            trace(function)  # type: ignore[arg-type]


def test_an_expression_is_described_as_it_was_written() -> None:
    written = describe(node(lambda r: el.when((r.t.dt.hour() < 6) & ~r.b).then(r.x / r["y z"].clip(1)).otherwise(0)))
    assert written == "when((row.t.dt.hour() < 6) & (~row.b)).then(row.x / row['y z'].clip(low=1)).otherwise(0)"


def test_every_operation_is_reached_by_the_words_it_is_documented_with() -> None:
    r, u = Columns(), Columns()
    a, b = r.a, u.b
    words: dict[str, Any] = {
        "a": a,
        "b": b,
        "c": r.c,
        "test": r.test,
        "pattern": "x",
        "text": "x",
        "low": 1,
        "when": el.when,
    }
    for name, operation in OPERATIONS.items():
        code = operation.written.replace("{…}", "{'k': 1}").replace("[…]", "[1]").replace("high=…", "high=1")
        made = eval(code, {}, words)
        reached = {each.operation for each in walk(made._node) if isinstance(each, Call)}
        assert name in reached or name == "dt_seconds_since", operation.written
        assert inputs_of(made._node) >= {"a"}


def test_every_operation_is_in_the_document_with_what_it_does_on_missing() -> None:
    text = DOCUMENT.read_text()
    for operation in OPERATIONS.values():
        row = " | ".join(
            part.replace("|", "\\|") for part in (f"`{operation.written}`", operation.does, operation.missing)
        )
        assert f"| {row} |" in text, f"docs/features.md lacks: | {row} |"


def test_a_pattern_is_rewritten_so_that_both_engines_read_it_alike() -> None:
    assert portable(r"(\w+)-\d{2,3}?[^\d\-]") == r"(?:[0-9A-Za-z_]+)-[0-9]{2,3}?[^0-9\-]"
    assert portable("a{,2}") == "a{0,2}"
    assert portable("a{") == r"a\{"
    assert quote("a.b*") == r"a\.b\*"


def test_a_zone_is_a_table_of_its_changes() -> None:
    chicago = transitions("America/Chicago")
    assert list(chicago.instants) == sorted(chicago.instants)
    assert len(chicago.offsets) == len(chicago.instants) + 1
    at = int(datetime(2023, 11, 5, 7, tzinfo=UTC).timestamp()) * 1_000_000
    place = chicago.instants.index(at)
    assert [each // 3_600_000_000 for each in chicago.offsets[place : place + 2]] == [-5, -6]
