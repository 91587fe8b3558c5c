"""Builds and fits scikit-learn-like estimators from their canonical form. Knows nothing of rows or features.

LightGBM's and XGBoost's estimators keep the same manners; what is special to them is in their own files.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier, is_regressor

from everloop.errors import TrainError
from everloop.records import Task

FORESTS = ("RandomForest", "ExtraTrees", "Bagging")
"""Only these gain from more threads of their own; elsewhere n_jobs stays as the user wrote it."""


def build(form: Any) -> Any:
    """An estimator from ``Estimator(path, parameters)``, nested ones and pipeline steps included.

    A form is known by its two fields; everything else is taken as it stands. Raises `TrainError` if the class is gone.
    """
    if isinstance(form, list | tuple):
        return type(form)(build(each) for each in form)
    if isinstance(form, Mapping):
        return {name: build(each) for name, each in form.items()}
    if not (hasattr(form, "path") and hasattr(form, "parameters")):
        return form
    kind = _class(form.path)
    parameters = {name: build(each) for name, each in form.parameters.items()}
    for name, known in inspect.signature(kind).parameters.items():
        if isinstance(known.default, tuple) and isinstance(parameters.get(name), list):
            parameters[name] = tuple(parameters[name])  # JSON knows no tuples, and some estimators insist on them
    if form.path.endswith(".Pipeline"):
        parameters["steps"] = [(name, step) for name, step in parameters["steps"]]
    try:
        return kind(**parameters)
    except TypeError as error:
        raise TrainError(
            f"{form.path} does not take its declared parameters ({error}); the installed version differs from the one "
            "it was declared with."
        ) from error


def accepts_missing(estimator: Any) -> bool:
    """Whether NaN may enter: for a pipeline, whether each step passes it on until one fills it in."""
    if hasattr(estimator, "steps"):
        for _, step in estimator.steps:
            if step is None or step == "passthrough":
                continue
            if not _allows_nan(step):
                return False
            if type(step).__name__ in ("SimpleImputer", "KNNImputer", "IterativeImputer"):
                return True
        return True
    inner = getattr(estimator, "estimator", None)
    if inner is not None and hasattr(inner, "get_params"):
        return accepts_missing(inner)
    if getattr(estimator, "estimators", None):
        return all(accepts_missing(each) for _, each in estimator.estimators if each not in ("drop", None))
    return _allows_nan(estimator)


def settle(estimator: Any, *, seed: int, threads: int) -> Any:
    """Give every part that has none the seed, and forests the threads. Changes and returns the estimator."""
    for each in parts(estimator):
        own = each.get_params(deep=False)
        if "random_state" in own and own["random_state"] is None:
            each.set_params(random_state=seed)
        if "n_jobs" in own and own["n_jobs"] is None and type(each).__name__.startswith(FORESTS):
            each.set_params(n_jobs=threads)
    return estimator


def parts(estimator: Any) -> Iterator[Any]:
    """The estimator and every estimator in it."""
    yield estimator
    for value in estimator.get_params(deep=False).values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            for each in inner if isinstance(inner, tuple) else [inner]:
                if hasattr(each, "get_params") and not inspect.isclass(each):
                    yield from parts(each)


def last(estimator: Any) -> Any:
    """The last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def fit(
    estimator: Any,
    matrix: npt.NDArray[np.float64],
    target: npt.NDArray[Any],
    weights: npt.NDArray[np.float64] | None,
    *,
    threads: int,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Fit in place, with BLAS and OpenMP held to ``threads``; ``options`` go to the estimator's own fit."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    extra = dict(options or {})
    if weights is not None:
        extra[_weight_name(estimator)] = weights
    with threadpool_limits(limits=threads):
        return estimator.fit(matrix, target, **extra)


def check_task(estimator: Any, task: Task) -> None:
    """Raise `TrainError` where the estimator cannot do the task."""
    name = type(estimator).__name__
    if task == "regression":
        if not is_regressor(estimator):
            raise TrainError(f"{name} is no regressor and the label is a number; use a regressor, or Label(task=…).")
        return
    if not is_classifier(estimator):
        raise TrainError(f"{name} is no classifier and the task is {task}; use a classifier, or Label(task=…).")
    if not hasattr(estimator, "predict_proba"):
        raise TrainError(
            f"{name} gives no probabilities, which the score, the decision and the shadow need; wrap it: "
            f"CalibratedClassifierCV({name}())."
        )


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrainError(
            f"{path} cannot be imported ({error}); install the library that holds it, or declare another estimator."
        ) from error


def _allows_nan(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return bool(get_tags(estimator).input_tags.allow_nan)
    except (AttributeError, TypeError):
        return False


def _weight_name(estimator: Any) -> str:
    name, last = "sample_weight", estimator
    if hasattr(estimator, "steps"):
        step, last = estimator.steps[-1]
        name = f"{step}__sample_weight"
    if "sample_weight" not in inspect.signature(last.fit).parameters:
        raise TrainError(f"{type(last).__name__} takes no row weights; leave weight= out or use another estimator.")
    return name
