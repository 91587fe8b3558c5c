"""An image in the served graph: decoded pixels → what a network sees. Must do what `everloop.measure.images` does."""

import numpy as np
from onnx import TensorProto

from everloop.forms import Image
from everloop.measure.images import scaling
from everloop.package.graph import Graph


def normalised(graph: Graph, form: Image, pixels: str) -> str:
    """uint8 [rows, height, width, channels] → float32 [rows, channels, height, width]."""
    scale, shift = (graph.constant(each.reshape(1, -1, 1, 1), np.float32) for each in scaling(form))
    moved = graph.node("Transpose", [pixels], perm=[0, 3, 1, 2])
    moved = graph.node("Cast", [moved], to=TensorProto.FLOAT)
    return graph.node("Add", [graph.node("Mul", [moved, scale]), shift])
