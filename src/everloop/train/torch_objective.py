"""What a network is to bring down: the loss of a part of a step. Knows nothing of steps or optimisers."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from everloop.errors import TrainError
from everloop.records import Task
from everloop.train.torch_forward import said

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Outputs, target, weights → the mean over the rows."""

REGRESSION = {"mse": functional.mse_loss, "mae": functional.l1_loss, "huber": functional.smooth_l1_loss}


def objective(name: Any, *, task: Task, classes: int, smoothing: float) -> Loss:
    """``name``: as declared; None: what suits the task. A function: the user's own. Raises TrainError if it does not fit."""
    if callable(name):
        return _own(name)
    if task == "regression":
        if name == "cross_entropy":
            raise TrainError("Torch.loss is 'cross_entropy', and the label is a number; write 'mse', 'mae' or 'huber'.")
        return _of_numbers(REGRESSION[name or "mse"])
    if name not in (None, "cross_entropy"):
        raise TrainError(f"Torch.loss is {name!r}, and the label has classes; write 'cross_entropy', or a function.")
    return _of_classes(classes, smoothing)


def _of_classes(classes: int, smoothing: float) -> Loss:
    def loss(outputs: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if classes == 2 and (outputs.dim() == 1 or outputs.shape[1] == 1):
            wanted = target.to(outputs.dtype) * (1.0 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(outputs.reshape(-1), wanted, weight=weights)
        if outputs.dim() != 2 or outputs.shape[1] != classes:
            raise TrainError(
                f"the network answers {tuple(outputs.shape[1:])} a row, and there are {classes} classes; let it answer "
                f"{classes} logits (it is told as outputs=)."
            )
        if weights is None:
            return functional.cross_entropy(outputs, target, label_smoothing=smoothing)
        return (functional.cross_entropy(outputs, target, label_smoothing=smoothing, reduction="none") * weights).mean()

    return loss


def _of_numbers(function: Callable[..., torch.Tensor]) -> Loss:
    def loss(outputs: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if outputs.numel() != target.numel():
            raise TrainError(
                f"the network answers {tuple(outputs.shape[1:])} a row, and the label is one number; let it answer one."
            )
        if weights is None:
            return function(outputs.reshape(-1), target)
        return (function(outputs.reshape(-1), target, reduction="none") * weights).mean()

    return loss


def _own(function: Callable[..., Any]) -> Loss:
    def loss(outputs: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        try:
            found = function(outputs, target)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise TrainError(f"Torch.loss fails: {said(error)}.") from error
        if not isinstance(found, torch.Tensor) or found.numel() not in (1, len(target)):
            raise TrainError("Torch.loss must give a tensor: one number a row, or their mean.")
        if weights is not None:
            if found.numel() == 1 and len(target) > 1:
                raise TrainError("Torch.loss gives a mean, and rows are weighted; let it give one number a row.")
            found = found.reshape(-1) * weights
        return found.mean()

    return loss
