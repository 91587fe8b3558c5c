"""A graph that takes a good part of a second a run: for tests of what happens meanwhile."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def slow_graph(size: int = 1200, turns: int = 12) -> bytes:
    """Answers the one number it is given. It multiplies large matrices that depend on it, so that nothing is folded."""
    random = np.random.default_rng(0).normal(0, 1 / size, (size, size)).astype(np.float32)
    axes = numpy_helper.from_array(np.array([0, 1], np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axes"], ["scale"], keepdims=0),
        helper.make_node("Mul", ["weights", "scale"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{n}", "weights"], [f"m{n + 1}"]) for n in range(turns)),
        helper.make_node("ReduceSum", [f"m{turns}", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "none"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["nothing_exact"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["numbers", "nothing_exact"], ["prediction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 1])],
        [
            numpy_helper.from_array(random, "weights"),
            numpy_helper.from_array(np.array(0, np.float32), "none"),
            axes,
        ],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
