"""A graph that takes as long as it is told to: o + a·rows of real work. For tests and benches of what comes before it.

It answers what `everloop.testing.serving.graph_of` answers, after multiplying matrices in a loop whose trip count is
``fixed + each · rows``. Knows nothing of servers.
"""

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from everloop.records import Signature
from everloop.testing.serving import graph_of

SIDE = 64
NOTHING = 1e-30


def burning_graph(signature: Signature, *, fixed: int, each: int, bias: float = 0.0) -> bytes:
    """A graph for ``signature`` (numbers first) that turns ``fixed + each · rows`` times. A turn is about 4 µs."""
    model = onnx.load_from_string(graph_of(signature, bias=bias))
    graph = model.graph
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIDE, SIDE)))

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def value(name: str, kind: int, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    constant("burn_rotation", rotation.astype(np.float32))
    constant("burn_side", np.array([SIDE, SIDE], np.int64))
    constant("burn_fixed", np.array(fixed, np.int64))
    constant("burn_each", np.array(each, np.int64))
    constant("burn_first", np.array(0, np.int64))
    constant("burn_nothing", np.array(NOTHING, np.float64))
    constant("burn_on", np.array(True))
    constant("burn_limit_low", np.array(-1, np.float32))
    constant("burn_limit_high", np.array(1, np.float32))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["burn_more"], ["burn_more_out"]),
            helper.make_node("MatMul", ["burn_state", "burn_rotation"], ["burn_state_out"]),
        ],
        "burn",
        [
            value("burn_turn", TensorProto.INT64, []),
            value("burn_more", TensorProto.BOOL, []),
            value("burn_state", TensorProto.FLOAT, [SIDE, SIDE]),
        ],
        [value("burn_more_out", TensorProto.BOOL, []), value("burn_state_out", TensorProto.FLOAT, [SIDE, SIDE])],
    )
    first = graph.input[0].name
    last = next(node for node in graph.node if node.output[0] in ("total", "total_or_error"))
    last.output[0] = "unburnt"
    place = list(graph.node).index(last)
    nodes = [
        helper.make_node("Shape", [first], ["burn_shape"]),
        helper.make_node("Gather", ["burn_shape", "burn_first"], ["burn_rows"]),
        helper.make_node("Mul", ["burn_rows", "burn_each"], ["burn_for_rows"]),
        helper.make_node("Add", ["burn_for_rows", "burn_fixed"], ["burn_turns"]),
        # What it begins with comes from the input, so that nothing of it can be worked out beforehand.
        helper.make_node("ReduceMean", ["unburnt"], ["burn_mean"], keepdims=0),
        helper.make_node("Cast", ["burn_mean"], ["burn_wide"], to=TensorProto.FLOAT),
        helper.make_node("Clip", ["burn_wide", "burn_limit_low", "burn_limit_high"], ["burn_seed"]),
        helper.make_node("Expand", ["burn_seed", "burn_side"], ["burn_begin"]),
        helper.make_node("Loop", ["burn_turns", "burn_on", "burn_begin"], ["burn_end"], body=body),
        helper.make_node("ReduceMean", ["burn_end"], ["burn_left"], keepdims=0),
        helper.make_node("Cast", ["burn_left"], ["burn_double"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["burn_double", "burn_nothing"], ["burn_trace"]),
        helper.make_node("Add", ["unburnt", "burn_trace"], ["total"]),
    ]
    for offset, node in enumerate(nodes):
        graph.node.insert(place + 1 + offset, node)
    return bytes(model.SerializeToString())


def turn_seconds(signature: Signature, turns: int = 2_000, rounds: int = 5) -> float:
    """What a turn takes here and now, in one thread: the least of some rounds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = burning_graph(signature, fixed=turns, each=0)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given = {"numbers": np.zeros((1, len(signature.of("number"))))}
    session.run(None, given)
    found = []
    for _ in range(rounds):
        began = time.thread_time()
        session.run(None, given)
        found.append((time.thread_time() - began) / turns)
    return min(found)
