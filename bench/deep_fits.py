"""Made rows and fits that the scripts about networks share. Measures nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train.function import TrainContext
from everloop.train.torch import fit

SOURCE = Path(__file__).with_name("deep_nets.py")


def columns(rows: int, width: int = 32) -> tuple[Tensors, Any]:
    made = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return Tensors({"columns": made}), (made[:, 0] * made[:, 1] > 0).astype(np.int64)


def images(rows: int, size: int = 32) -> tuple[Tensors, Any]:
    random = np.random.default_rng(0)
    target = random.integers(0, 10, rows)
    made = random.normal(size=(rows, 3, size, size)).astype(np.float32) + target[:, None, None, None] / 5
    return Tensors({"image": made.astype(np.float32)}), target


def context(**more: Any) -> TrainContext:
    return TrainContext(seed=0, threads=1, **more)


def fitted(declared: Torch, inputs: Tensors, target: Any, given: TrainContext) -> Any:
    classes = int(target.max()) + 1
    task: Any = "binary" if classes == 2 else "multiclass"
    return fit(declared, inputs, target, task=task, classes=classes, weights=None, context=given, source=SOURCE)
