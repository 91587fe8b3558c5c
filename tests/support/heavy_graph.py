"""A graph that answers as the made ones do and weighs as much as is asked for: for tests of memory."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def heavy_graph(megabytes: int, *, bias: float = 0.0) -> bytes:
    """Regression of one number ``x``: x + bias. The weights take part in every run, and come to nothing."""
    width = int((megabytes * 250_000) ** 0.5)
    random = np.random.default_rng(0)
    constants = {
        "first": random.normal(size=(1, width)).astype(np.float32),
        "weights": random.normal(size=(width, width)).astype(np.float32),
        "none": np.array(0, np.float32),
        "bias": np.array(bias, np.float64),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "first"], ["narrow"]),
        helper.make_node("MatMul", ["narrow", "weights"], ["wide"]),
        helper.make_node("ReduceSum", ["wide", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "none"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["nothing_exact"], to=TensorProto.DOUBLE),
        helper.make_node("Sum", ["numbers", "nothing_exact", "bias"], ["prediction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
