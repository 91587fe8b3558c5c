"""The three graphs that every server serves, and the rows it is asked for. Knows nothing of servers.

``tabular``: 200 LightGBM trees of 31 leaves over 20 numbers, exported by our own package room. ``cnn``: the layout of
ResNet-18 (He et al. 2016) for 3 × 64 × 64 and ten classes, 45 MB. ``transformer``: the layout of MiniLM-L6 (Wang et al.
2020; 6 layers, width 384, 12 heads, 1,536 inside, 30,522 tokens) for 64 tokens and two classes, 90 MB. The weights of
the last two are random: what is measured is the work, not the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from everloop.records import InputColumn, Signature, TensorColumn

COLUMNS = 20
TREES, LEAVES = 200, 31
ROWS = 512
"""So many different rows take turns: one row again and again teaches the branch predictor the way through the trees."""
IMAGE = (3, 64, 64)
IMAGES = 64
CHANNELS = (64, 128, 256, 512)
IMAGE_CLASSES = 10
TOKENS, VOCABULARY, POSITIONS = 64, 30_522, 512
TEXTS = 128
LAYERS, WIDTH, HEADS, INSIDE = 6, 384, 12, 1_536
OPSET, IR = 20, 10


@dataclass(frozen=True, kw_only=True)
class Model:
    """``rows`` [count, …]: the different rows that take turns, as the graph takes them; ``input``: its one input."""

    name: str
    graph: bytes
    input: str
    signature: Signature
    rows: NDArray[Any]
    batches: tuple[int, ...]
    """The batch sizes at which the graph alone is measured."""

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.onnx"
        path.write_bytes(self.graph)
        np.save(folder / f"{self.name}.npy", self.rows)
        return path


def models(names: Sequence[str]) -> dict[str, Model]:
    made = {"tabular": tabular, "cnn": cnn, "transformer": transformer}
    return {name: made[name]() for name in names}


@cache
def tabular() -> Model:
    """A real fit: trees as deep and as uneven as trees are. What a row costs alone depends on that (3–8 µs): the limit is shown."""
    from lightgbm import LGBMClassifier

    from everloop.measure import encode
    from everloop.package.export import export
    from everloop.spec.train import Train
    from everloop.spec.tree import FeatureTree, Input
    from everloop.train.fit import fit

    random = np.random.default_rng(0)
    names = [f"column_{n}" for n in range(COLUMNS)]
    matrix = random.normal(size=(10_000, COLUMNS)).round(6)
    steps = np.sin(matrix[:, 0] * 2) + matrix[:, 1] * matrix[:, 2] + np.abs(matrix[:, 3:]).sum(axis=1) * 0.3
    target = (steps + random.normal(size=len(steps)) > np.median(steps)).astype(np.int64)
    columns = {name: matrix[:, place] for place, name in enumerate(names)}
    encoding = encode.learn(columns, dict.fromkeys(names, "number"), native_categories=True, accepts_missing=True)
    estimator = LGBMClassifier(n_estimators=TREES, num_leaves=LEAVES, random_state=0, n_jobs=1, verbosity=-1)
    fitted = fit(Train(estimator), encoding, encode.apply(encoding, columns), target, task="binary", classes=2)
    inputs = tuple(InputColumn(name=name, type="number", index=place) for place, name in enumerate(names))
    signature = Signature(inputs=inputs, task="binary", classes=(False, True), positive=1)
    tree = FeatureTree(columns=tuple((name, Input(name)) for name in names))
    exported = export(tree, signature, encoding, fitted)
    assert not exported.extensions
    return Model(
        name="tabular", graph=exported.graph, input="numbers", signature=signature,
        rows=random.normal(size=(ROWS, COLUMNS)).round(6), batches=(1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096),
    )  # fmt: skip


class Drawing:
    """A graph while it grows: nodes, and weights drawn at random."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._count = 0

    def node(self, operation: str, taken: Sequence[str], made: str | None = None, **attributes: Any) -> str:
        self._count += 1
        name = made or f"{operation.lower()}_{self._count}"
        self.nodes.append(helper.make_node(operation, list(taken), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        self._count += 1
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind), f"constant_{self._count}"))
        return f"constant_{self._count}"

    def normal(self, *shape: int, scale: float) -> str:
        return self.constant(self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def dense(self, taken: str, width: int, made: int) -> str:
        product = self.node("MatMul", [taken, self.normal(width, made, scale=width**-0.5)])
        return self.node("Add", [product, self.constant(np.zeros(made))])

    def answered(self, name: str, logits: str, given: Any, classes: int) -> bytes:
        """Probabilities as ``prediction`` and the class as ``decision``: what a package's graph gives."""
        wide = self.node("Cast", [self.node("Softmax", [logits], axis=1)], "prediction", to=TensorProto.DOUBLE)
        self.node("ArgMax", [wide], "decision", axis=1, keepdims=0)
        graph = helper.make_graph(
            self.nodes, name, [given],
            [
                helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["rows", classes]),
                helper.make_tensor_value_info("decision", TensorProto.INT64, ["rows"]),
            ],
            self.weights,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        return bytes(made.SerializeToString())


@cache
def cnn() -> Model:
    """Two blocks of two 3 × 3 convolutions at each of four widths; the norms folded in, as an export does."""
    drawing = Drawing(1)

    def convolution(taken: str, before: int, after: int, size: int, stride: int) -> str:
        weights = drawing.normal(after, before, size, size, scale=(2 / (before * size * size)) ** 0.5)
        return drawing.node(
            "Conv", [taken, weights, drawing.constant(np.zeros(after))],
            kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4,
        )  # fmt: skip

    last = drawing.node("Relu", [convolution("image", IMAGE[0], CHANNELS[0], 7, 2)])
    last = drawing.node("MaxPool", [last], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = CHANNELS[0]
    for channels in CHANNELS:
        for block in range(2):
            stride = 2 if block == 0 and channels != CHANNELS[0] else 1
            inner = drawing.node("Relu", [convolution(last, before, channels, 3, stride)])
            inner = convolution(inner, channels, channels, 3, 1)
            around = last if before == channels else convolution(last, before, channels, 1, stride)
            # Half of the sum: random weights without a norm would grow with every block.
            half = drawing.node("Mul", [drawing.node("Add", [inner, around]), drawing.constant(0.5)])
            last = drawing.node("Relu", [half])
            before = channels
    pooled = drawing.node("Flatten", [drawing.node("GlobalAveragePool", [last])], axis=1)
    logits = drawing.dense(pooled, before, IMAGE_CLASSES)
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", *IMAGE])
    signature = Signature(
        inputs=(), task="multiclass", classes=tuple(range(IMAGE_CLASSES)),
        tensors=(TensorColumn(name="image", datatype="FP32", shape=IMAGE),),
    )  # fmt: skip
    return Model(
        name="cnn", graph=drawing.answered("cnn", logits, given, IMAGE_CLASSES), input="image", signature=signature,
        rows=drawing.random.standard_normal((IMAGES, *IMAGE), np.float32), batches=(1, 4, 8, 16, 32),
    )  # fmt: skip


@cache
def transformer() -> Model:
    """Post-norm layers as in BERT; the mask is 1 where the token is not 0; the mean of the tokens is classified."""
    drawing = Drawing(2)
    ones, zeros = np.ones(WIDTH), np.zeros(WIDTH)

    def norm(taken: str) -> str:
        return drawing.node("LayerNormalization", [taken, drawing.constant(ones), drawing.constant(zeros)], axis=-1)

    def heads(taken: str, order: Sequence[int]) -> str:
        shape = drawing.constant([0, TOKENS, HEADS, WIDTH // HEADS], np.int64)
        return drawing.node("Transpose", [drawing.node("Reshape", [taken, shape])], perm=list(order))

    kept = drawing.node("Cast", [drawing.node("Greater", ["tokens", drawing.constant(0, np.int64)])], to=1)
    lacking = drawing.node("Mul", [drawing.node("Sub", [drawing.constant(1), kept]), drawing.constant(-1e4)])
    mask = drawing.node("Unsqueeze", [lacking, drawing.constant([1, 2], np.int64)])
    words = drawing.node("Gather", [drawing.normal(VOCABULARY, WIDTH, scale=1), "tokens"])
    places = drawing.normal(POSITIONS, WIDTH, scale=0.1)
    first = drawing.node("Slice", [places, drawing.constant([0], np.int64), drawing.constant([TOKENS], np.int64)])
    last = norm(drawing.node("Add", [words, first]))
    for _ in range(LAYERS):
        query, value = (heads(drawing.dense(last, WIDTH, WIDTH), (0, 2, 1, 3)) for _ in range(2))
        key = heads(drawing.dense(last, WIDTH, WIDTH), (0, 2, 3, 1))
        scores = drawing.node("Div", [drawing.node("MatMul", [query, key]), drawing.constant((WIDTH // HEADS) ** 0.5)])
        shares = drawing.node("Softmax", [drawing.node("Add", [scores, mask])], axis=-1)
        mixed = drawing.node("Transpose", [drawing.node("MatMul", [shares, value])], perm=[0, 2, 1, 3])
        joined = drawing.node("Reshape", [mixed, drawing.constant([0, TOKENS, WIDTH], np.int64)])
        last = norm(drawing.node("Add", [last, drawing.dense(joined, WIDTH, WIDTH)]))
        inside = drawing.node("Gelu", [drawing.dense(last, WIDTH, INSIDE)])
        last = norm(drawing.node("Add", [last, drawing.dense(inside, INSIDE, WIDTH)]))
    weighed = drawing.node("Mul", [last, drawing.node("Unsqueeze", [kept, drawing.constant([2], np.int64)])])
    total = drawing.node("ReduceSum", [weighed, drawing.constant([1], np.int64)], keepdims=0)
    count = drawing.node("ReduceSum", [kept, drawing.constant([1], np.int64)], keepdims=1)
    logits = drawing.dense(drawing.node("Div", [total, count]), WIDTH, 2)
    given = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows", TOKENS])
    signature = Signature(
        inputs=(), task="binary", classes=(False, True), positive=1,
        tensors=(TensorColumn(name="tokens", datatype="INT64", shape=(TOKENS,)),),
    )  # fmt: skip
    return Model(
        name="transformer", graph=drawing.answered("transformer", logits, given, 2), input="tokens",
        signature=signature, rows=drawing.random.integers(1, VOCABULARY, (TEXTS, TOKENS)), batches=(1, 2, 4, 8, 16, 32),
    )  # fmt: skip
