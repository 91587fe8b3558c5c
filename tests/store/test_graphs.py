"""A graph is read before it is loaded: whatever it hides, wherever, is found; whatever it is, it is read or refused."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from everloop.errors import PackageError
from everloop.store.graphs import Inspection, inspect
from everloop.testing.serving import graph_of, signature_of

SHIPPED = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").glob("**/*.onnx"))
DECLARED = ("ai.onnx.preview.training", "ai.onnx.preview")
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def tensor(name: str = "w", values: int = 4) -> Any:
    return numpy_helper.from_array(np.ones(values, np.float32), name)


def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operation, inputs, [output], **attributes)


def model(nodes: list[Any], initializers: list[Any] | None = None, **more: Any) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", FLOAT, [None])], [helper.make_tensor_value_info("y", FLOAT, None)],
        initializers or [], sparse_initializer=more.pop("sparse", None),
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **more)


def body(*nodes: Any, initializers: list[Any] | None = None) -> Any:
    return helper.make_graph(
        list(nodes), "b", [], [helper.make_tensor_value_info("o", FLOAT, None)], initializers or []
    )


def outside(name: str = "w") -> Any:
    """A tensor that lies in a file."""
    made = tensor(name)
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="weights.bin")
    return made


# What `onnx` sees, walked by its own objects


def tensors_of(message: Any) -> Iterator[Any]:
    """Every TensorProto anywhere below."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            repeated = not hasattr(value, "ListFields")
            for each in value if repeated else [value]:
                yield from tensors_of(each)


def nodes_of(graph: Any) -> Iterator[Any]:
    for each in graph.node:
        yield each
        for attribute in each.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from nodes_of(inner)


def sparse_of(message: Any) -> Iterator[Any]:
    if isinstance(message, onnx.SparseTensorProto):
        yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from sparse_of(each)


def refused(made: ModelProto | bytes, **options: Any) -> str:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    with pytest.raises(PackageError) as caught:
        inspect(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_graph_that_onnx_ships_is_read_as_onnx_reads_it(path: Path) -> None:
    data = path.read_bytes()
    seen = onnx.load_from_string(data)
    found = inspect(data, declared=DECLARED)
    dense = sum(math.prod(each.dims) for each in sparse_of(seen))
    assert found.elements == dense + sum(math.prod(each.dims) for each in tensors_of(seen))
    if not seen.functions:
        every = list(nodes_of(seen.graph))
        assert found.nodes == len(every)
        assert found.domains == {each.domain for each in every}


def test_our_own_graphs_are_read_and_may_be_folded() -> None:
    signature = signature_of({"x": "number", "n": "integer", "t": "text"})
    data = graph_of(signature, fails=True)
    every = list(nodes_of(onnx.load_from_string(data).graph))
    assert inspect(data) == Inspection(nodes=len(every), elements=8, domains=frozenset({"", "ai.onnx.ml"}), folds=True)


def inside(deep: Any) -> dict[str, ModelProto]:
    """Everywhere a tensor may lie."""
    constant = node("Constant", [], "o", value=deep)
    cond = numpy_helper.from_array(np.array(True), "cond")
    sparse = onnx.SparseTensorProto(
        values=tensor("s", 1), indices=numpy_helper.from_array(np.array([0]), "i"), dims=[4]
    )
    sparse_values = onnx.SparseTensorProto(values=deep, indices=sparse.indices, dims=[4])
    sparse_indices = onnx.SparseTensorProto(values=sparse.values, indices=deep, dims=[4])
    attribute = onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS, tensors=[tensor(), deep])
    listed = node("Identity", ["x"], "y")
    listed.attribute.append(attribute)
    graphs = node("Identity", ["x"], "y")
    graphs.attribute.append(
        onnx.AttributeProto(name="all", type=onnx.AttributeProto.GRAPHS, graphs=[body(constant), body(constant)])
    )
    held = node("Identity", ["x"], "y")
    held.attribute.append(
        onnx.AttributeProto(name="s", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse_values)
    )
    nested = node("If", ["cond"], "o", then_branch=body(constant), else_branch=body(constant))
    function = helper.make_function("own", "f", [], ["o"], [constant], [helper.make_opsetid("", 18)])
    training = model([node("Identity", ["x"], "y")])
    training.training_info.add().algorithm.CopyFrom(body(constant))
    return {
        "an initializer": model([node("Add", ["x", "w"], "y")], [deep]),
        "a constant": model([node("Constant", [], "c", value=deep), node("Add", ["x", "c"], "y")]),
        "a branch": model([node("If", ["cond"], "y", then_branch=body(constant), else_branch=body(constant))], [cond]),
        "a branch in a branch": model([node("If", ["cond"], "y", then_branch=body(nested), else_branch=body(nested))], [cond]),
        "a branch's initializer": model(
            [node("If", ["cond"], "y", then_branch=body(initializers=[deep]), else_branch=body(constant))], [cond]
        ),
        "a loop": model([node("Loop", ["", "cond", "x"], "y", body=body(constant))], [cond]),
        "a scan": model([node("Scan", ["x"], "y", body=body(constant), num_scan_inputs=1)]),
        "a function": model([node("f", [], "y", domain="own")], functions=[function]),
        "a list of tensors": model([listed]),
        "a list of graphs": model([graphs]),
        "sparse values": model([node("Add", ["x", "w"], "y")], sparse=[sparse_values]),
        "sparse indices": model([node("Add", ["x", "w"], "y")], sparse=[sparse_indices]),
        "a sparse attribute": model([held]),
        "training": training,
    }  # fmt: skip


@pytest.mark.parametrize("where", [*inside(tensor())])
def test_data_outside_the_file_is_found_wherever_it_is_named(where: str) -> None:
    assert "outside the graph" in refused(inside(outside())[where]) or where == "training"
    hidden = tensor()
    hidden.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")  # a place in the memory of the process
    assert "outside the graph" in refused(inside(hidden)[where]) or where == "training"
    if where != "training":
        inspect(inside(tensor())[where].SerializeToString())


def test_an_operator_of_a_domain_that_nobody_declared_is_refused() -> None:
    made = model([node("StringUpper", ["x"], "y", domain="ai.onnx.contrib")])
    assert "the domain 'ai.onnx.contrib', which its manifest does not declare" in refused(made)
    inspect(made.SerializeToString(), declared=["ai.onnx.contrib"])
    hidden = model(
        [node("If", ["x"], "y", then_branch=body(node("Evil", [], "o", domain="com.evil")), else_branch=body())]
    )
    assert "com.evil" in refused(hidden)
    function = helper.make_function("own", "f", [], ["o"], [node("g", [], "o", domain="other")], [])
    assert "'other'" in refused(model([node("f", [], "y", domain="own")], functions=[function]))
    assert "EPContext" in refused(
        model([node("EPContext", ["x"], "y", domain="com.microsoft")]), declared=["com.microsoft"]
    )
    own = helper.make_function("", "Add", ["a", "b"], ["o"], [node("Sub", ["a", "b"], "o")], [])
    assert "redefines 'Add'" in refused(model([node("Add", ["x", "x"], "y")], functions=[own]))


def changed(change: Callable[[Any], object]) -> ModelProto:
    made = tensor()
    change(made)
    return model([node("Add", ["x", "w"], "y")], [made])


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.dims.append(2**40),
        lambda made: made.ClearField("raw_data"),
        lambda made: made.dims.insert(0, -1),
        lambda made: made.dims.extend([1] * 100),
        lambda made: made.MergeFrom(TensorProto(data_type=99)),
        lambda made: made.MergeFrom(TensorProto(data_type=TensorProto.DOUBLE)),
        lambda made: (made.ClearField("raw_data"), made.float_data.extend([1.0] * 4), made.dims.append(100)),
        lambda made: (made.MergeFrom(TensorProto(data_type=TensorProto.STRING)), made.ClearField("raw_data"), made.string_data.append(b"a")),
    ],
)  # fmt: skip
def test_a_tensor_larger_than_what_it_brings_is_refused(change: Callable[[Any], object]) -> None:
    assert "The tensor 'w'" in refused(changed(change))


def test_a_sparse_tensor_that_would_fill_the_machine_is_refused() -> None:
    sparse = onnx.SparseTensorProto(
        values=tensor("s", 1), indices=numpy_helper.from_array(np.array([0]), "i"), dims=[10**6, 10**6]
    )
    assert "1000000000000 elements when it is made dense" in refused(
        model([node("Add", ["x", "s"], "y")], sparse=[sparse])
    )


def test_functions_that_call_functions_are_counted_as_they_are_written_out() -> None:
    functions = [
        helper.make_function("own", "f0", ["a"], ["o"], [node("Neg", ["a"], "o")], [helper.make_opsetid("", 18)])
    ]
    for level in range(1, 12):
        calls = [node(f"f{level - 1}", ["a"], f"o{n}", domain="own") for n in range(9)]
        calls.append(node(f"f{level - 1}", ["a"], "o", domain="own"))
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["o"], calls, []))
    small = model([node("f3", ["x"], "y", domain="own")], functions=functions[:4])
    assert inspect(small.SerializeToString()).nodes == 1000
    assert "once its functions are written out" in refused(
        model([node("f11", ["x"], "y", domain="own")], functions=functions)
    )
    ring = helper.make_function("own", "f", ["a"], ["o"], [node("f", ["a"], "o", domain="own")], [])
    assert "in a ring" in refused(model([node("f", ["x"], "y", domain="own")], functions=[ring]))


def test_graphs_within_graphs_end_somewhere() -> None:
    deep = body(node("Neg", ["x"], "o"))
    for _ in range(30):
        deep = body(node("If", ["cond"], "o", then_branch=deep, else_branch=body(node("Neg", ["x"], "o"))))
    assert "more than 16 deep" in refused(model([node("If", ["cond"], "y", then_branch=deep, else_branch=body())]))


def growing() -> dict[str, ModelProto]:
    """Small graphs of constants alone that are large when they are computed."""
    size = numpy_helper.from_array(np.array([1 << 40], np.int64), "size")
    one, cond = tensor("one", 1), numpy_helper.from_array(np.array(True), "cond")
    chain = [node("Concat", ["one" if not n else f"c{n - 1}"] * 2, f"c{n}", axis=0) for n in range(40)]
    wide = numpy_helper.from_array(np.ones((1, 4000), np.float32), "wide")
    high = numpy_helper.from_array(np.ones((4000, 1), np.float32), "high")
    return {
        "doubled": model([*chain, node("Add", ["x", "c39"], "y")], [one]),
        "doubled, last first": model([node("Add", ["x", "c39"], "y"), *reversed(chain)], [one]),
        "in a branch": model(
            [node("If", ["cond"], "y", then_branch=body(*chain, node("Identity", ["c39"], "o")), else_branch=body())],
            [one, cond],
        ),
        "filled": model([node("ConstantOfShape", ["size"], "c"), node("Add", ["x", "c"], "y")], [size]),
        "expanded": model([node("Expand", ["one", "size"], "c"), node("Add", ["x", "c"], "y")], [one, size]),
        "every with every": model([node("Add", ["wide", "high"], "c"), node("Add", ["x", "c"], "y")], [wide, high]),
        "multiplied": model([node("MatMul", ["high", "wide"], "c"), node("Add", ["x", "c"], "y")], [wide, high]),
        "by its own shape": model(
            [node("Shape", ["x"], "s"), node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y")]
        ),
        "drawn": model([node("RandomNormal", [], "c", shape=[1 << 40]), node("Add", ["x", "c"], "y")]),
        "read": model([node("Constant", [], "s", value_ints=[1 << 40]), node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y")]),
    }  # fmt: skip


@pytest.mark.parametrize("how", [*growing()])
def test_constants_that_may_grow_are_not_folded(how: str) -> None:
    assert not inspect(growing()[how].SerializeToString()).folds


def test_what_exporters_leave_to_be_folded_is_folded() -> None:
    weights = numpy_helper.from_array(np.ones((300, 200), np.float32), "w")
    scale = numpy_helper.from_array(np.ones((300, 1), np.float32), "scale")
    nodes = [
        node("Mul", ["w", "scale"], "scaled"), node("Transpose", ["scaled"], "turned", perm=[1, 0]),
        node("Cast", ["turned"], "cast", to=FLOAT), node("Concat", ["cast", "cast"], "both", axis=0),
        node("MatMul", ["x", "both"], "y"),
    ]  # fmt: skip
    assert inspect(model(nodes, [weights, scale]).SerializeToString()).folds


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00", b"\x08", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\x3b\x3c", b"\xff" * 20, b"ORTM" * 10, b"\x3a\x00\x3a\x00",
        b"\x38\x01", b"\x3a\x02\x0a\x05", b"\x3a\x04\x0a\x02\x2a\x09", b"PK\x03\x04", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x3a\x04\x2a\x02\x0a\xff",
    ],
)  # fmt: skip
def test_what_is_not_onnx_is_refused(data: bytes) -> None:
    assert "The graph is not ONNX" in refused(data)


def test_a_changed_graph_is_refused_or_read_and_never_hides_a_file() -> None:
    """Whatever `onnx` still parses and finds outside, we find."""
    dice = random.Random(5)
    whole = [made.SerializeToString() for made in inside(outside()).values()]
    whole += [made.SerializeToString() for made in inside(tensor()).values()]
    parsed = 0
    for _ in range(40_000):
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 3)):
            place = dice.randrange(len(data))
            way = dice.randrange(4)
            if way == 0:
                data[place] = dice.randrange(256)
            elif way == 1:
                del data[place : place + dice.randrange(1, 5)]
            elif way == 2:
                data[place:place] = dice.randbytes(dice.randrange(1, 4))
            else:
                piece = bytes(data[place : place + dice.randrange(1, 30)])
                data[place:place] = piece
            if not data:
                break
        try:
            inspect(bytes(data))
        except PackageError:
            continue
        try:
            seen = onnx.load_from_string(bytes(data))
        except Exception:
            continue
        parsed += 1
        for each in tensors_of(seen):
            assert each.data_location != TensorProto.EXTERNAL, bytes(data)
            assert not each.external_data, bytes(data)
    assert parsed > 1_000
