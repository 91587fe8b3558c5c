"""What the rendered parts promise to the one who puts a model behind them."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from onnx import TensorProto, helper

from everloop.errors import DataError, PackageError, SpecError
from everloop.package.operators import Renderer
from everloop.package.pack import pack
from everloop.package.render import GraphParts, model_of, render
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, InputColumn
from everloop.spec.cases import lower_table, upper_table
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.operations import OPERATIONS

NAMES = [f"x{index}" for index in range(20)]


def column(name: str, type: ColumnType, index: int, zone: str | None = None) -> InputColumn:
    return InputColumn(name=name, type=type, index=index, time_zone=zone)


PLAIN = tuple(column(name, "number", index) for index, name in enumerate(NAMES))
MIXED = (
    column("x", "number", 0), column("y", "number", 1), column("i", "integer", 0), column("b", "boolean", 1),
    column("t", "instant", 2, "America/Chicago"), column("s", "text", 0),
)  # fmt: skip


def parts_of(write: Any, inputs: tuple[InputColumn, ...] = MIXED) -> GraphParts:
    return render(FeatureTree(columns=trace(write)), inputs)


def run_block(parts: GraphParts, block: str, feeds: dict[str, Any], machine_learning: int = 3) -> Any:
    graph = helper.make_graph(
        [*parts.nodes, helper.make_node("Identity", [block], ["block"])], "block", parts.inputs,
        [helper.make_tensor_value_info("block", TensorProto.DOUBLE, ["rows", None])], parts.initializers,
    )  # fmt: skip
    versions = {each.domain: each.version for each in parts.opsets} | {"ai.onnx.ml": machine_learning}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()})[0]


def one(write: Any, **row: Any) -> Any:
    """The only feature of one row, None where missing."""
    parts = parts_of(lambda r: {"feature": write(r)})
    session = onnxruntime.InferenceSession(model_of(parts).SerializeToString(), providers=["CPUExecutionProvider"])
    rows = {each.name: [row.get(each.name)] for each in MIXED}
    packed = pack(rows, MIXED)
    answers = session.run(None, {each.name: packed[each.name] for each in session.get_inputs()})
    value = answers[0].ravel()[0]
    missing = bool(answers[1].ravel()[0]) if len(answers) > 1 else value == MISSING_TEXT or value != value
    return None if missing else value


def test_twenty_plain_numbers_are_three_small_nodes_at_most() -> None:
    parts = parts_of(lambda row: {name: row[name] for name in reversed(NAMES)}, PLAIN)
    block = parts.numeric_block(NAMES[::-1])
    assert len(parts.nodes) == 3
    numbers = np.arange(40.0).reshape(2, 20)
    numbers[0, 3], numbers[1, 4] = np.nan, np.inf
    answer = run_block(parts, block, {"numbers": numbers})
    expected = np.where(np.isinf(numbers), np.nan, numbers)[:, ::-1]
    np.testing.assert_array_equal(answer, expected)


def test_a_block_mixes_raw_columns_and_expressions_in_the_order_asked_for() -> None:
    parts = parts_of(
        lambda row: {
            "y": row.y,
            "i": row.i,
            "b": row.b,
            "half": row.x / 2,
            "hour": row.t.dt.hour(),
            "x": row.x,
            "big": row.x > 1,
        }
    )
    block = parts.numeric_block(["half", "i", "b", "y", "x", "hour", "big"])
    at = datetime(2024, 7, 1, 12, tzinfo=UTC)
    rows = pl.DataFrame(
        {"x": [1.0, None], "y": [3.0, 4.0], "i": [5, None], "b": [True, None], "t": [at, None], "s": ["a", None]}
    )
    answer = run_block(parts, block, pack(rows, MIXED))
    nothing = np.nan
    np.testing.assert_array_equal(
        answer, [[0.5, 5, 1, 3, 1, 7, 0], [nothing, nothing, nothing, 4, nothing, nothing, nothing]]
    )


def test_the_nodes_stand_beside_trees_of_any_version() -> None:
    parts = parts_of(
        lambda row: {"m": row.s.map({"a": 1.5}), "n": row.s.is_in(["a"]).to_number(), "k": row.i.is_in([7]).to_number()}
    )
    block = parts.numeric_block(["m", "n", "k"])
    feeds = pack({"x": [0.0], "y": [0.0], "i": [7], "b": [None], "t": [None], "s": ["a"]}, MIXED)
    for version in (3, 4, 5):
        np.testing.assert_array_equal(run_block(parts, block, feeds, version), [[1.5, 1, 1]])


def test_a_feature_that_nobody_reads_leaves_no_nodes() -> None:
    parts = parts_of(lambda row: {"a": row.x.log(), "b": row.y})
    parts.numeric_block(["b"])
    assert "Log" not in {each.op_type for each in parts.nodes}


def test_equal_subtrees_are_calculated_once() -> None:
    parts = parts_of(lambda row: {"h": row.t.dt.hour(), "night": row.t.dt.hour() < 6, "w": row.t.dt.weekday()})
    for each in parts.features.values():
        assert each.value
    assert sum(each.op_type == "Clip" for each in parts.nodes) == 1  # one look into the table of offsets


def test_only_the_length_of_a_text_needs_the_extensions() -> None:
    plain = parts_of(
        lambda row: {
            "a": row.s.str.lower().map({"a": 1}), "b": row.s.str.upper() == "A", "c": row.s.str.matches(r"\d+"),
            "d": row.s.to_number(), "e": row.i.to_text(), "f": row.s.str.contains("x"),
        }
    )  # fmt: skip
    assert all(plain.features[name] for name in plain.features)
    assert not plain.extensions
    long = parts_of(lambda row: {"a": row.s.str.length()})
    assert long.features["a"].type == "integer"
    assert long.extensions


def test_missing_stands_where_the_docstring_says() -> None:
    parts = parts_of(lambda row: {"n": row.x, "t": row.s, "i": row.i, "never": row.i.is_missing(), "b": row.b})
    found = {name: (each.type, each.missing is None) for name, each in parts.features.items()}
    assert found == {
        "n": ("number", True), "t": ("text", True), "i": ("integer", False), "never": ("boolean", True), "b": ("boolean", False),
    }  # fmt: skip


@pytest.mark.parametrize("constant", [1 + 1e-9, 1 - 1e-12, 1e-300, -1e-200, 1.0, 0.0])
def test_a_constant_that_the_optimiser_takes_for_one_or_nought_still_counts(constant: float) -> None:
    x = 3.7e-301 if abs(constant) < 0.5 else 3.0
    assert one(lambda r: -(-r.x * constant), x=x) == x * constant
    assert one(lambda r: -(-r.x - constant), x=x) == x + constant
    assert one(lambda r: (constant / r.x) * r.y, x=x, y=7.0) == constant / x * 7.0
    if constant:
        assert one(lambda r: -(-r.x / constant), x=x) == x / constant


def test_dividing_integers_never_traps() -> None:
    smallest = -(2**63) + 1
    for left, right, quotient, rest in [
        (7, 0, None, None),
        (smallest, -1, -smallest, 0),
        (smallest, 3, smallest // 3, smallest % 3),
    ]:
        assert one(lambda r, by=right: r.i // by, i=left) == quotient
        assert one(lambda r, by=right: r.i % by, i=left) == rest
        assert one(lambda r, by=right: r.i // (r.i * 0 + by), i=left) == quotient


def test_every_letter_changes_case_as_in_training() -> None:
    letters = [chr(code) for code in range(1, 0x1F000) if not 0xD800 <= code < 0xE000]
    texts = (column("s", "text", 0),)
    parts = parts_of(lambda row: {"lower": row.s.str.lower(), "upper": row.s.str.upper()}, texts)
    session = onnxruntime.InferenceSession(model_of(parts).SerializeToString(), providers=["CPUExecutionProvider"])
    lower, upper = session.run(None, pack({"s": letters}, texts))
    assert lower.ravel().tolist() == [lower_table().get(each, each) for each in letters]
    assert upper.ravel().tolist() == [upper_table().get(each, each) for each in letters]


def test_every_operation_has_its_node_writer() -> None:
    written = {name.removeprefix("_") for name in dir(Renderer) if name.startswith("_") and not name.startswith("__")}
    assert set(OPERATIONS) <= written


def test_an_input_that_is_not_listed_is_named() -> None:
    with pytest.raises(PackageError, match="features read z"):
        parts_of(lambda row: {"a": row.z})
    with pytest.raises(SpecError, match="feature 'a'"):
        parts_of(lambda row: {"a": row.s + 1})
    with pytest.raises(PackageError, match="encode"):
        parts_of(lambda row: {"a": row.s}).numeric_block(["a"])


def test_packed_rows_carry_missing_as_the_signature_says() -> None:
    at = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    rows = {
        "x": np.array([1.5, np.inf]), "y": [None, float("nan")], "i": [2**53 + 1, None], "b": [True, None],
        "t": [at, None], "s": ["a", None],
    }  # fmt: skip
    packed = pack(rows, MIXED)
    np.testing.assert_array_equal(packed["numbers"], [[1.5, np.nan], [np.nan, np.nan]])
    micros = 1_709_251_199_999_999
    assert packed["integers"].tolist() == [[2**53 + 1, 1, micros], [MISSING_INTEGER] * 3]
    assert packed["texts"].tolist() == [["a"], [MISSING_TEXT]]
    framed = pack(pl.DataFrame({**rows, "x": [1.5, float("inf")]}, strict=False), MIXED)
    assert all(np.array_equal(framed[kind], packed[kind], equal_nan=kind == "numbers") for kind in packed)


def test_rows_that_do_not_fit_are_refused_by_column() -> None:
    rows: dict[str, Any] = {"x": [1.0], "y": [1.0], "i": [1], "b": [True], "t": [None], "s": ["a"]}
    with pytest.raises(DataError, match="no column 'x'"):
        pack({key: value for key, value in rows.items() if key != "x"}, MIXED)
    with pytest.raises(DataError, match="'i' does not hold integer"):
        pack({**rows, "i": ["one"]}, MIXED)
