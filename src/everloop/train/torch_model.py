"""A trained network that answers as other models do: probabilities, or numbers in the label's units. Trains nothing."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from everloop.errors import TrainError
from everloop.measure.encode import COLUMNS
from everloop.measure.tensors import Tensors
from everloop.train.torch_forward import forward, said

Answers = npt.NDArray[np.float64]
ROWS = 1024
"""So many rows at once when it answers."""


class TorchModel:
    """``module``: in evaluation mode, float32, on the CPU. ``centre`` and ``spread``: of the labels of a regression."""

    def __init__(
        self, module: Any, *, like: Tensors, centre: float = 0.0, spread: float = 1.0, history: tuple[dict[str, Any], ...] = (), told: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.module = module.float().cpu().eval()
        self.shapes = like.shapes
        """Of one row of each tensor that the network takes."""
        self.dtypes = {name: str(np.dtype(column.dtype)) for name, column in like.items()}
        """``float32``, or ``int64`` for tokens."""
        self.width = self.raw(like.taken(np.arange(min(2, like.rows)))).shape[1]
        """How many numbers it answers a row: of two classes it may be 1."""
        self.centre, self.spread = centre, spread
        self.history = history
        """A record an epoch: epoch, loss, seconds, learning_rate, score where one was taken."""
        self.told = told
        """What a person should know of how it was trained."""

    def predict_proba(self, inputs: Tensors | npt.NDArray[Any]) -> Answers:
        """float64 [rows, classes]."""
        return probabilities(self.raw(inputs))

    def predict(self, inputs: Tensors | npt.NDArray[Any]) -> Answers:
        """float64 [rows], on the scale that was fitted."""
        return self.raw(inputs).reshape(-1) * self.spread + self.centre

    def raw(self, inputs: Tensors | npt.NDArray[Any]) -> Answers:
        """What the network itself says: float64 [rows, outputs]."""
        return answers(self.module, tensors_of(inputs))


def tensors_of(inputs: Tensors | npt.NDArray[Any]) -> Tensors:
    return inputs if isinstance(inputs, Tensors) else Tensors({COLUMNS: inputs.astype(np.float32)})


def answers(module: Any, inputs: Tensors, *, device: Any = "cpu", rows: int = ROWS) -> Answers:
    """The module's answers to all rows, float64 [rows, outputs], some rows at a time."""
    parts = []
    trained = module.training
    module.eval()
    try:
        with torch.inference_mode():
            for first in range(0, inputs.rows, rows):
                places = np.arange(first, min(first + rows, inputs.rows))
                batch = {name: torch.from_numpy(each).to(device) for name, each in inputs.batch(places).items()}
                try:
                    said_by = forward(module, batch)
                except Exception as error:
                    raise TrainError(f"the network fails when it is asked: {said(error)}.") from error
                parts.append(said_by.float().cpu().numpy().astype(np.float64).reshape(len(places), -1))
    finally:
        module.train(trained)
    return np.concatenate(parts) if parts else np.zeros((0, 1))


def probabilities(logits: Answers) -> Answers:
    """Softmax; of a single logit, the sigmoid: class 0, class 1."""
    if logits.shape[1] == 1:
        with np.errstate(over="ignore"):
            one = 1.0 / (1.0 + np.exp(-logits))
        return np.concatenate([1.0 - one, one], axis=1)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: Answers = raised / raised.sum(axis=1, keepdims=True)
    return made
