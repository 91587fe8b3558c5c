"""Runs the user's own training function from the stored source of its declaration. Knows nothing of what it fits."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.errors import TrainError
from everloop.measure.encode import COLUMNS
from everloop.measure.tensors import Tensors
from everloop.store.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What a training function sees."""

    X: npt.NDArray[Any]
    """float64 [rows, width]: the encoded features. For a function that says ``tensors = True`` float32, scaled."""
    y: npt.NDArray[Any]
    """[rows]: int64 class indices, or float64 values on the declared scale."""
    weights: npt.NDArray[np.float64] | None
    columns: tuple[str, ...]
    """Names of the columns of ``X``."""
    categorical: tuple[int, ...] = ()
    """Columns of ``X`` with category codes; only for a function that says ``native_categories = True``."""
    tensors: Tensors | None = None
    """All that a network sees, ``X`` among them as ``columns``; only for a function that says ``tensors = True``."""


def rows_of(inputs: "npt.NDArray[Any] | Tensors", **others: Any) -> TrainingRows:
    """What a function sees of a matrix, or of a network's tensors."""
    if not isinstance(inputs, Tensors):
        return TrainingRows(X=inputs, **others)
    matrix = np.asarray(inputs[COLUMNS]) if COLUMNS in inputs else np.zeros((inputs.rows, 0), dtype=np.float32)
    return TrainingRows(X=matrix, tensors=inputs, **others)


OWN = "own.checkpoint"


def _silent(_: dict[str, Any]) -> None:
    return None


class Pruned(Exception):
    """Raised by ``context.report`` where a trial is not worth going on. Let it through."""


def _unheard(step: int, score: float) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The newest part of the training rows, on which a trial of a search is judged. Not for the fit."""

    X: Any
    """[rows, width], as in `TrainingRows`; `Tensors` for a function that says ``tensors = True``."""
    score: Callable[[Any], float]
    """What the declared score says of an answer: [rows, classes] or [rows] probabilities, or [rows] values on the scale
    of ``TrainingRows.y``."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is for a network."""

    processes: int = 1
    """So many fit it together."""
    ray: str | None = None
    """The address of the Ray cluster where they do it; None: on this machine."""
    sharded: bool = False
    """Each of them holds a part of the network (FSDP2) instead of all of it."""
    remembered: Path | None = None
    """A folder for what measurements of earlier fits found."""


ALONE = Machine()
"""One process."""


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """What a training function may use besides its rows."""

    seed: int = 0
    threads: int = 1
    """Cores that this fit may use."""
    folder: Path | None = None
    progress: Callable[[dict[str, Any]], None] = field(default=_silent)
    held_out: HeldOut | None = None
    """While a trial of a search with a pruner is judged; None at the final fit."""
    report: Callable[[int, float], None] = field(default=_unheard)
    """report(step, score) in a trial: the score so far. Ends the trial where it is not worth going on."""
    checkpoints: Path | None = None
    """A folder that a fit finds again after a kill; None: nothing is kept."""
    weights: Path | None = None
    """What the paths of pretrained weights are relative to."""
    machine: Machine = ALONE
    champion: Path | None = None
    """What `everloop.train.champion.leave` left of the version that serves, for a fit that begins with it."""

    def checkpoint(self, content: bytes) -> None:
        """Keep what another process can go on from, should this one be killed: whole, or not at all."""
        if self.checkpoints is not None:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.checkpoints / OWN, content)

    def resumed(self) -> bytes | None:
        """What the last `checkpoint` of this very fit kept, or None: the fit begins."""
        path = None if self.checkpoints is None else self.checkpoints / OWN
        return path.read_bytes() if path is not None and path.exists() else None


def load(source: Path, digest: str, name: str) -> Callable[[TrainingRows, Mapping[str, Any], TrainContext], Any]:
    """The function ``name`` of the file ``source`` whose content has ``digest``; raises `TrainError`."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise TrainError(f"the declaration's source {source} cannot be read ({error.strerror}).") from error
    found = hashlib.sha256(content).hexdigest()
    if digest and found != digest:
        raise TrainError(
            f"{source.name} has changed since it was declared ({found[:12]} instead of {digest[:12]}); declare again."
        )
    module_name = f"everloop_declaration_{found[:16]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, source)
        if spec is None or spec.loader is None:
            raise TrainError(f"{source} is no Python file; the training function must stand in one.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise TrainError(f"{source.name} cannot be imported: {_last_line(error)}") from error
    function = getattr(sys.modules[module_name], name, None)
    if not callable(function):
        raise TrainError(f"{source.name} has no function {name!r}; define it at the top of the file.")
    loaded: Callable[[TrainingRows, Mapping[str, Any], TrainContext], Any] = function
    return loaded


def call(function: Callable[..., Any], rows: TrainingRows, parameters: Mapping[str, Any], context: TrainContext) -> Any:
    """The fitted model, or `TrainError` with the user's own last lines."""
    try:
        model = function(rows, dict(parameters), context)
        if context.checkpoints is not None:
            (context.checkpoints / OWN).unlink(missing_ok=True)  # It has ended, and a refit is another fit.
    except Pruned:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise TrainError(
            f"{function.__name__} failed at line {where.lineno} of {Path(where.filename).name}: {_last_line(error)}"
        ) from error
    if rows.tensors is not None:
        return _network(model, rows.tensors, function.__name__)
    if not hasattr(model, "predict"):
        raise TrainError(
            f"{function.__name__} returned {type(model).__name__}; return a fitted scikit-learn, LightGBM or XGBoost "
            "model."
        )
    return model


def _network(model: Any, inputs: Tensors, name: str) -> Any:
    """The module that a function returned, as a model that answers."""
    if not hasattr(model, "state_dict"):
        raise TrainError(
            f"{name} says tensors = True and returned {type(model).__name__}; return a trained torch.nn.Module."
        )
    from everloop.train.torch_model import TorchModel

    return TorchModel(model, like=inputs)


def _last_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
