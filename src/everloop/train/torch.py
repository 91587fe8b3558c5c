"""Fits a declared network on named tensors. Loaded only where a declaration asks for one: torch is a second of import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from everloop.errors import TrainError
from everloop.measure.metrics import score as measure_score
from everloop.measure.tensors import Tensors
from everloop.records import Task, digest_of, encode
from everloop.spec import codec
from everloop.spec.function import Function
from everloop.spec.metric import Custom
from everloop.spec.torch import Torch
from everloop.train import champion, torch_ranks
from everloop.train.function import TrainContext, load
from everloop.train.held import Held, Scoring
from everloop.train.torch_build import build
from everloop.train.torch_checkpoint import Checkpoints
from everloop.train.torch_loop import Training
from everloop.train.torch_model import TorchModel, answers, probabilities
from everloop.train.torch_objective import objective
from everloop.train.torch_place import Place
from everloop.train.torch_remembered import Remembered

SMALL = 5e7
"""Multiplications of a step (6 × parameters × rows) below which a second thread costs more than it brings."""

Array = npt.NDArray[Any]
Scale = Literal["log1p"] | None


def fit(
    declared: Torch, inputs: Tensors, target: Array, *, task: Task, classes: int, weights: Array | None,
    context: TrainContext, scoring: Scoring | None = None, source: Path | None = None, scale: Scale = None,
) -> TorchModel:  # fmt: skip
    """``target``: class indices into all ``classes``, or numbers on the scale that is fitted. ``scoring``: None judges
    epochs by the loss. ``source``: the stored declaration. With ``context.machine.processes`` other processes do it.

    Raises `TrainError`.
    """
    centre, spread = 0.0, 1.0
    if task == "regression":
        centre, spread = float(np.mean(target)), float(np.std(target)) or 1.0
        target = ((target - centre) / spread).astype(np.float32)
    plain: dict[str, Any] = {"task": task, "classes": classes, "scale": scale, "centre": centre, "spread": spread}
    if torch_ranks.elsewhere(context):
        identity = _identity(declared, inputs, target, context)
        state, said = torch_ranks.run(
            declared, inputs, {"target": target, "row_weights": weights}, identity=identity, context=context,
            scoring=scoring, source=source, **plain,
        )  # fmt: skip
        module = _built(declared, inputs, task, classes, context, source)
        module.load_state_dict(state)
        history, told = said["history"], said["told"]
    else:
        done = train(
            declared, inputs, target, weights=weights, context=context, scoring=scoring, source=source, **plain
        )
        module, history, told = done.module, done.history, done.told
    return TorchModel(
        _merged(module), like=inputs, centre=centre, spread=spread, history=tuple(history), told=tuple(told)
    )


@dataclass(frozen=True, kw_only=True)
class Done:
    module: Any
    place: Place
    history: list[dict[str, Any]]
    told: list[str]


def train(
    declared: Torch, inputs: Tensors, target: Array, *, task: Task, classes: int, weights: Array | None, scale: Scale,
    centre: float, spread: float, context: TrainContext, scoring: Scoring | None, source: Path | None,
) -> Done:  # fmt: skip
    """The fit itself, in this process, which may be one of several. ``target``: scaled by ``centre`` and ``spread``."""
    identity = _identity(declared, inputs, target, context)

    def in_units(raw: Array) -> Array:
        """The network's answers as scores take them."""
        if task != "regression":
            return probabilities(raw)
        said = raw.reshape(-1) * spread + centre
        return np.expm1(said) if scale == "log1p" else said

    held: Held | None = None
    if declared.validation_share:
        inputs, target, weights, held = _held_back(declared.validation_share, inputs, target, weights)
    module = _built(declared, inputs, task, classes, context, source)
    place = Place(
        declared, module, threads=_threads(module, inputs, declared, context.threads), sharded=context.machine.sharded
    )
    at_once = max(64, declared.batch_size)
    truth = None if held is None else (in_units(held.target) if task == "regression" else held.target)

    def judge(wrapped: Any) -> float:
        assert held is not None
        assert truth is not None
        said = in_units(answers(wrapped, held.inputs, device=place.device, rows=at_once))
        if scoring is None or isinstance(scoring.metric, Custom):  # a function may read rows, which are not here
            return _own_score(said, truth, task)
        return measure_score(scoring.metric, truth, said, rows=None, positive=scoring.positive)

    def ended(epochs: int, wrapped: Any) -> None:
        if context.held_out is None:
            return
        raw = answers(wrapped, context.held_out.X, device=place.device, rows=at_once)
        said = raw.reshape(-1) * spread + centre if task == "regression" else probabilities(raw)
        context.report(epochs, context.held_out.score(said))

    training = Training(
        declared=declared, module=module, inputs=inputs, target=target,
        weights=None if weights is None else weights / weights.mean(),
        loss=objective(
            _loss(declared, source), task=task, classes=classes, smoothing=declared.label_smoothing
        ),
        place=place, seed=context.seed, checkpoints=Checkpoints(context.checkpoints, identity, declared.checkpoint_every),
        judge=judge if held is not None else None,
        greater_is_better=scoring is not None and not isinstance(scoring.metric, Custom) and scoring.metric.greater_is_better,
        progress=context.progress, ended=ended,
        remembered=Remembered(context.machine.remembered, _kind(declared, inputs, place)),
    )  # fmt: skip
    with place.at_work(deterministic=declared.deterministic):
        training.run()
    if place.rank == 0:
        training.checkpoints.forget()
    return Done(module=training.module, place=place, history=training.history, told=training.told)


def _built(
    declared: Torch, inputs: Tensors, task: Task, classes: int, context: TrainContext, source: Path | None
) -> Any:
    outputs = 1 if task == "regression" else classes
    begun = champion.read(context.champion)
    return build(
        declared, inputs, outputs, seed=context.seed, source=source, folder=context.weights,
        begin=None if begun is None else begun.state(),
    )  # fmt: skip


def _merged(module: Any) -> Any:
    """LoRA's matrices in the weights that they stand beside."""
    return module.merge_and_unload() if hasattr(module, "merge_and_unload") else module


def _loss(declared: Torch, source: Path | None) -> Any:
    function = declared.loss
    if not isinstance(function, Function):
        return function
    if function.call is not None:
        return function.call
    if source is None:
        raise TrainError(f"the loss {function.name!r} needs the declaration's source file.")
    return load(source, function.module_file_digest, function.name)


def _own_score(said: Array, truth: Any, task: Task) -> float:
    """Smaller is better: log loss, or the mean squared error."""
    if task == "regression":
        return float(np.mean(np.square(said - truth)))
    return float(-np.mean(np.log(np.maximum(said[np.arange(len(truth)), truth], 1e-12))))


def _held_back(
    share: float, inputs: Tensors, target: Array, weights: Array | None
) -> tuple[Tensors, Array, Array | None, Held]:
    """The newest rows, which stand last, are judged on."""
    count = max(1, round(inputs.rows * share))
    if count >= inputs.rows:
        raise TrainError(f"{inputs.rows} training rows are too few to hold {share:.0%} of them back; widen the window.")
    older, newer = np.arange(inputs.rows - count), np.arange(inputs.rows - count, inputs.rows)
    held = Held(inputs=inputs.taken(newer), target=target[newer])
    return inputs.taken(older), target[older], None if weights is None else weights[older], held


def _threads(module: Any, inputs: Tensors, declared: Torch, cores: int) -> int:
    if any(len(shape) > 1 for shape in inputs.shapes.values()):
        return cores
    count = sum(each.numel() for each in module.parameters())
    return cores if 6.0 * count * declared.batch_size >= SMALL else 1


def _identity(declared: Torch, inputs: Tensors, target: Array, context: TrainContext) -> str:
    """Of the fit: the same declaration on the same rows, by any number of processes."""
    facts = {
        "torch": str(torch.__version__), "declared": codec.to_json(declared), "seed": context.seed,
        "champion": None if context.champion is None else context.champion.name,
        "rows": inputs.rows, "shapes": {name: list(shape) for name, shape in inputs.shapes.items()},
        "target": digest_of(np.ascontiguousarray(target).tobytes()),
    }  # fmt: skip
    return digest_of(encode(facts))


def _kind(declared: Torch, inputs: Tensors, place: Place) -> str:
    """Of the fit as far as memory and time go: the same network on the same kind of machine, whatever the rows."""
    facts = {
        "declared": codec.to_json(declared), "device": str(place.device), "processes": place.world,
        "shapes": {name: list(shape) for name, shape in inputs.shapes.items()}, "precision": place.precision,
    }  # fmt: skip
    return digest_of(encode(facts))
