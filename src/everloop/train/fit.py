"""Fits one estimator or function on an encoded matrix. Knows nothing of search, files, or what becomes of the model."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from everloop.errors import TrainError
from everloop.measure.encode import native_columns
from everloop.measure.tensors import Tensors
from everloop.records import Encoding, Task
from everloop.spec.torch import Torch
from everloop.train import function, sparse, threads
from everloop.train.held import Scoring

Matrix = npt.NDArray[np.float64]
Inputs = Matrix | Tensors
Kind = Literal["lightgbm", "xgboost", "sklearn", "torch"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How an estimator wants its matrix."""

    native_categories: bool
    """Category codes in one column; else one-hot."""
    accepts_missing: bool
    network: bool = False
    """Its numbers are scaled, and it sees named tensors."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted model and how to read its answers."""

    model: Any
    kind: Kind
    task: Task
    classes: int
    """How many classes there are; 1 for regression."""
    present: tuple[int, ...]
    """Class indices that the training rows held: column i of the model's answer is class ``present[i]``."""
    scale: Literal["log1p"] | None = None

    def predict(self, matrix: Inputs) -> Matrix:
        """float64 [rows, classes] probabilities, or [rows] in the label's own units for regression."""
        answer = _answer(self.model, matrix, probabilities=self.task != "regression")
        return shaped(answer, task=self.task, classes=self.classes, present=self.present, scale=self.scale)


def shaped(answer: Any, *, task: Task, classes: int, present: tuple[int, ...], scale: str | None) -> Matrix:
    """What a model says, as `Fitted.predict` says it."""
    said = np.asarray(answer, dtype=np.float64)
    if task == "regression":
        said = said.reshape(-1)
        return np.expm1(said) if scale == "log1p" else said
    if said.ndim == 1:
        said = np.stack([1.0 - said, said], axis=1)
    if present == tuple(range(classes)):
        return said
    whole = np.zeros((len(said), classes))
    whole[:, list(present)] = said
    return whole


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A fit that is looked at while it goes on: a trial of a search with a pruner."""

    matrix: Inputs
    """The encoded rows on which it is judged."""
    judge: Callable[[Matrix], float]
    """What the declared score says of ``Fitted.predict``'s answer for them."""
    report: Callable[[int, float], None]
    """Takes step and score; raises `function.Pruned`."""


def needs(train: Any, *, source: Path | None = None) -> Needs:
    """What the declared estimator or function wants, without fitting it."""
    threads.wait_quietly()
    form = train.estimator
    if isinstance(form, Torch):
        return Needs(native_categories=False, accepts_missing=False, network=True)
    if _is_function(form):
        loaded = _load(form, source)
        return Needs(
            native_categories=bool(getattr(loaded, "native_categories", False)),
            accepts_missing=bool(getattr(loaded, "accepts_missing", False)),
            network=bool(getattr(loaded, "tensors", False)),
        )
    library = form.path.partition(".")[0]
    if library in ("lightgbm", "xgboost"):
        return Needs(native_categories=library == "lightgbm", accepts_missing=True)
    from everloop.train import sklearn

    return Needs(native_categories=False, accepts_missing=sklearn.accepts_missing(sklearn.build(form)))


def fit(
    train: Any,
    encoding: Encoding,
    matrix: Inputs,
    target: npt.NDArray[Any],
    *,
    task: Task,
    classes: int = 1,
    weights: Matrix | None = None,
    parameters: Mapping[str, Any] | None = None,
    scale: Literal["log1p"] | None = None,
    source: Path | None = None,
    context: function.TrainContext | None = None,
    watched: Watched | None = None,
    scoring: Scoring | None = None,
) -> Fitted:
    """Fit ``train.estimator`` with ``parameters`` over its own; the same arguments give the same model.

    ``matrix`` float64 [rows, width] (or sparse), or a network's tensors, from `everloop.measure.encode.inputs`; ``target`` int64
    class indices or float64 values in the label's units [rows]. ``source``: the stored declaration, for a function.
    ``scoring``: how a network's epochs are judged. Raises `TrainError`.
    """
    threads.wait_quietly()
    chosen = context or function.TrainContext(seed=train.seed, threads=threads.worth(cells(matrix), threads.share()))
    if len(target) == 0:
        raise TrainError("there are no training rows; widen the window or wait for labels.")
    present, values = _values(target, task, classes, scale)
    form = train.estimator
    if isinstance(form, Torch):
        present = (0,) if task == "regression" else tuple(range(classes))  # a network answers all of them
    if watched is not None:

        def judged(answer: Any) -> float:
            return watched.judge(shaped(answer, task=task, classes=classes, present=present, scale=scale))

        held = function.HeldOut(X=watched.matrix, score=judged)
        chosen = dataclasses.replace(chosen, held_out=held, report=watched.report)
    if isinstance(form, Torch):
        model = _network(form.trying(parameters or {}), matrix, target, values, weights, task, classes, scale, source,
                         chosen, scoring)  # fmt: skip
        return Fitted(
            model=model, kind="torch", task=task, classes=1 if task == "regression" else classes, present=present,
            scale=scale,
        )  # fmt: skip
    places = native_columns(encoding)
    if _is_function(form):
        rows = function.rows_of(matrix, y=values, weights=weights, columns=encoding.columns, categorical=places)
        model = function.call(_load(form, source), rows, parameters or {}, chosen)
        _check_model(model, task)
    elif isinstance(matrix, Tensors):
        raise TrainError(f"{form.path} takes a matrix; encode the rows for it.")
    else:
        model = _estimator(form, parameters or {}, matrix, values, weights, places, task, chosen)
    return Fitted(
        model=model, kind=_kind(model), task=task, classes=1 if task == "regression" else classes,
        present=present, scale=scale,
    )  # fmt: skip


def cells(matrix: Inputs) -> int:
    """How many values the rows hold."""
    if isinstance(matrix, Tensors):
        return sum(math.prod(each.shape) for each in matrix.values())
    return matrix.size


def _network(
    form: Torch, inputs: Inputs, target: npt.NDArray[Any], values: npt.NDArray[Any], weights: Matrix | None, task: Task,
    classes: int, scale: Literal["log1p"] | None, source: Path | None, context: function.TrainContext, scoring: Scoring | None,
) -> Any:  # fmt: skip
    try:
        from everloop.train import torch
    except ImportError as error:
        raise TrainError(
            f"el.Torch needs PyTorch, and it is not installed ({error}): pip install 'everloop[torch]'."
        ) from error
    if not isinstance(inputs, Tensors):
        raise TrainError("a network takes named tensors; encode the rows with network=True.")
    return torch.fit(
        form, inputs, values if task == "regression" else target, task=task, classes=classes, weights=weights,
        context=context, scoring=scoring, source=source, scale=scale,
    )  # fmt: skip


def estimator_of(form: Any, parameters: Mapping[str, Any]) -> Any:
    """The declared estimator with these parameters over its own, not fitted. Raises `TrainError`."""
    from everloop.train import sklearn

    estimator = sklearn.build(form)
    try:
        return estimator.set_params(**parameters)
    except ValueError as error:
        raise TrainError(f"{form.path} has no such parameter: {str(error).splitlines()[0]}") from error


def _estimator(
    form: Any, parameters: Mapping[str, Any], matrix: Matrix, values: npt.NDArray[Any], weights: Matrix | None,
    places: tuple[int, ...], task: Task, context: function.TrainContext,
) -> Any:  # fmt: skip
    from everloop.train import curve, sklearn

    estimator = estimator_of(form, parameters)
    sklearn.check_task(estimator, task)
    options: dict[str, Any] = {}
    for each in sklearn.parts(estimator):
        library = type(each).__module__.partition(".")[0]
        if library == "lightgbm":
            from everloop.train import lightgbm

            lightgbm.settle(each, seed=context.seed, threads=context.threads)
            if each is estimator:
                options = lightgbm.fit_options(places)
        elif library == "xgboost":
            from everloop.train import xgboost

            xgboost.settle(each, seed=context.seed, threads=context.threads)
    sklearn.settle(estimator, seed=context.seed, threads=context.threads)
    matrix = sparse.taken(estimator, matrix)
    try:
        if context.held_out is not None:
            held_out = dataclasses.replace(context.held_out, X=sparse.taken(estimator, context.held_out.X))
            return curve.fit(
                estimator, matrix, values, weights, held_out=held_out, report=context.report,
                threads=context.threads, options=options,
            )  # fmt: skip
        return sklearn.fit(estimator, matrix, values, weights, threads=context.threads, options=options)
    except (TrainError, function.Pruned):
        raise
    except Exception as error:  # estimators raise ValueError, their own kinds, and what C++ throws
        raise TrainError(
            f"{form.path} could not be fitted on {matrix.shape[0]} rows: {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}"
        ) from error


def _values(
    target: npt.NDArray[Any], task: Task, classes: int, scale: str | None
) -> tuple[tuple[int, ...], npt.NDArray[Any]]:
    if task == "regression":
        if scale == "log1p" and target.min() <= -1.0:
            raise TrainError(f'scale="log1p" needs labels above -1 and one is {target.min():g}; leave scale out.')
        return (0,), np.log1p(target) if scale == "log1p" else target.astype(np.float64)
    present, values = np.unique(target, return_inverse=True)
    if len(present) < 2:
        raise TrainError(
            f"all {len(target)} training rows have the same label (class {int(present[0])} of {classes}); widen the "
            "window so that both classes are in it."
        )
    return tuple(int(each) for each in present), values.astype(np.int64)


def _answer(model: Any, matrix: Inputs, *, probabilities: bool = False) -> Any:
    name, library = type(model).__name__, type(model).__module__.partition(".")[0]
    matrix = sparse.taken(model, matrix)
    if name == "Booster" and library == "xgboost":
        return model.inplace_predict(matrix)
    if probabilities and name != "Booster":
        return model.predict_proba(matrix)
    return model.predict(matrix)


def _check_model(model: Any, task: Task) -> None:
    if type(model).__name__ != "Booster" and task != "regression" and not hasattr(model, "predict_proba"):
        raise TrainError(
            f"the function returned {type(model).__name__}, which gives no probabilities; return a classifier that "
            "does."
        )


def _kind(model: Any) -> Kind:
    library = type(model).__module__.partition(".")[0]
    if hasattr(model, "module"):
        return "torch"
    return "lightgbm" if library == "lightgbm" else "xgboost" if library == "xgboost" else "sklearn"


def _is_function(form: Any) -> bool:
    return not hasattr(form, "path")


def _load(form: Any, source: Path | None) -> Any:
    if getattr(form, "call", None) is not None:
        return form.call
    if source is None:
        raise TrainError(f"the training function {form.name!r} needs the declaration's source file.")
    return function.load(source, form.module_file_digest, form.name)
