"""Fits a declared network on named tensors. Loaded only where a declaration asks for one: torch is a second of import."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from everloop.errors import TrainError
from everloop.measure.metrics import score as measure_score
from everloop.measure.tensors import Tensors
from everloop.records import Task, digest_of, encode
from everloop.spec.torch import Torch
from everloop.train.function import TrainContext
from everloop.train.held import Held, Scoring
from everloop.train.torch_build import build
from everloop.train.torch_checkpoint import Checkpoints
from everloop.train.torch_loop import Training
from everloop.train.torch_model import TorchModel, answers, probabilities
from everloop.train.torch_objective import objective
from everloop.train.torch_place import Place

SMALL = 5e7
"""Multiplications of a step (6 × parameters × rows) below which a second thread costs more than it brings."""


def fit(
    declared: Torch,
    inputs: Tensors,
    target: npt.NDArray[Any],
    *,
    task: Task,
    classes: int,
    weights: npt.NDArray[np.float64] | None,
    context: TrainContext,
    scoring: Scoring | None = None,
    source: Path | None = None,
    scale: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda values: values,
) -> TorchModel:
    """``target``: class indices into all ``classes``, or numbers on the scale that is fitted; ``scale`` leads back to
    the label's units, in which scores are taken. ``scoring``: None judges by the loss.

    Raises `TrainError`.
    """
    held: Held | None = None
    if declared.validation_share:
        inputs, target, weights, held = _held_back(declared.validation_share, inputs, target, weights, scale)
    outputs = 1 if task == "regression" else classes
    centre, spread = 0.0, 1.0
    if task == "regression":
        centre, spread = float(np.mean(target)), float(np.std(target)) or 1.0
        target = ((target - centre) / spread).astype(np.float32)
    module = build(declared, inputs, outputs, seed=context.seed, source=source, folder=context.weights)
    place = Place(declared, module, threads=_threads(module, inputs, declared, context.threads), seed=context.seed)
    loss = objective(declared.loss if not hasattr(declared.loss, "name") else _own_loss(declared.loss, source),
                     task=task, classes=classes, smoothing=declared.label_smoothing)  # fmt: skip

    def model(of: Any) -> TorchModel:
        return TorchModel(
            of, like=inputs, centre=centre, spread=spread, history=tuple(training.history), told=tuple(training.told),
        )  # fmt: skip

    def judge(wrapped: Any) -> float:
        assert held is not None
        raw = answers(wrapped, held.inputs, device=place.device, rows=max(64, declared.batch_size))
        if task == "regression":
            said = scale(raw.reshape(-1) * spread + centre)
        else:
            said = probabilities(raw)
        if scoring is None:
            return _own_score(said, held.target, task)
        return measure_score(scoring.metric, held.target, said, rows=held.columns, positive=scoring.positive)

    def ended(epochs: int, wrapped: Any) -> None:
        if context.held_out is None:
            return
        raw = answers(wrapped, context.held_out.X, device=place.device, rows=max(64, declared.batch_size))
        said = raw.reshape(-1) * spread + centre if task == "regression" else probabilities(raw)
        context.report(epochs, context.held_out.score(said))

    training = Training(
        declared=declared, module=module, inputs=inputs, target=target, weights=_around_one(weights), loss=loss,
        place=place, seed=context.seed, checkpoints=Checkpoints(context.checkpoints, _identity(declared, inputs, target,
        context.seed), declared.checkpoint_every), judge=judge if held is not None else None,
        greater_is_better=scoring.metric.greater_is_better if scoring is not None else False, progress=context.progress,
        ended=ended,
    )  # fmt: skip
    with place.at_work(deterministic=declared.deterministic):
        training.run()
    training.checkpoints.forget()
    return model(_merged(training.module))


def _merged(module: Any) -> Any:
    """LoRA's matrices in the weights that they stand beside."""
    return module.merge_and_unload() if hasattr(module, "merge_and_unload") else module


def _own_loss(function: Any, source: Path | None) -> Any:
    from everloop.train.function import load

    if function.call is not None:
        return function.call
    if source is None:
        raise TrainError(f"the loss {function.name!r} needs the declaration's source file.")
    return load(source, function.module_file_digest, function.name)


def _own_score(said: npt.NDArray[np.float64], truth: npt.NDArray[Any], task: Task) -> float:
    """Smaller is better: log loss, or the mean squared error."""
    if task == "regression":
        return float(np.mean(np.square(said - truth)))
    return float(-np.mean(np.log(np.maximum(said[np.arange(len(truth)), truth], 1e-12))))


def _held_back(
    share: float, inputs: Tensors, target: npt.NDArray[Any], weights: npt.NDArray[np.float64] | None,
    scale: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> tuple[Tensors, npt.NDArray[Any], npt.NDArray[np.float64] | None, Held]:  # fmt: skip
    """The newest rows, which stand last, are judged on."""
    count = max(1, round(inputs.rows * share))
    if count >= inputs.rows:
        raise TrainError(f"{inputs.rows} training rows are too few to hold {share:.0%} of them back; widen the window.")
    older, newer = np.arange(inputs.rows - count), np.arange(inputs.rows - count, inputs.rows)
    held = Held(inputs=inputs.taken(newer), target=scale(target[newer]))
    return inputs.taken(older), target[older], None if weights is None else weights[older], held


def _around_one(weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64] | None:
    return None if weights is None else weights / weights.mean()


def _threads(module: Any, inputs: Tensors, declared: Torch, cores: int) -> int:
    if any(len(shape) > 1 for shape in inputs.shapes.values()):
        return cores
    count = sum(each.numel() for each in module.parameters())
    return cores if 6.0 * count * declared.batch_size >= SMALL else 1


def _identity(declared: Torch, inputs: Tensors, target: npt.NDArray[Any], seed: int) -> str:
    """Of the fit: the same declaration on the same rows. What it is asked to do and what it is asked to do it with."""
    from everloop.spec import codec

    facts = {
        "torch": str(torch.__version__), "declared": codec.plainly(declared), "seed": seed, "rows": inputs.rows,
        "shapes": {name: list(shape) for name, shape in inputs.shapes.items()},
        "target": digest_of(np.ascontiguousarray(target).tobytes()),
    }  # fmt: skip
    return digest_of(encode(facts))
