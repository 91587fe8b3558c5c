"""Label values as the estimator's target, and row weights. Knows nothing of features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.errors import TrainError
from everloop.records import Task

Value = str | int | float | bool


def to_target(values: Sequence[Any], *, task: Task, classes: Sequence[Value] = ()) -> npt.NDArray[Any]:
    """int64 class indices into ``classes``, or float64 for regression. Every label must be known.

    >>> to_target(["no", "yes", "no"], task="binary", classes=("no", "yes")).tolist()
    [0, 1, 0]
    """
    listed = values.to_list() if hasattr(values, "to_list") else np.asarray(values, dtype=object).tolist()
    if task == "regression":
        target = np.array([np.nan if each is None else each for each in listed], dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(target))
        if len(wrong):
            raise TrainError(f"the label of row {wrong[0]} is {listed[wrong[0]]!r}; drop such rows before training.")
        return target
    table = {each: index for index, each in enumerate(classes)}
    try:
        return np.fromiter((table[each] for each in listed), dtype=np.int64, count=len(listed))
    except KeyError as error:
        raise TrainError(
            f"the label {error.args[0]!r} is not among the classes {list(classes)}; add it to Label(classes=…)."
        ) from None


def row_weights(
    weight: Any, target: npt.NDArray[Any], *, classes: Sequence[Value], columns: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float64] | None:
    """float64 [rows] or None. ``weight``: None, "balanced", {class: weight}, or the name of a column of weights."""
    if weight is None:
        return None
    if weight == "balanced":
        counts = np.bincount(target, minlength=len(classes)).astype(np.float64)
        share = len(target) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
        balanced: npt.NDArray[np.float64] = share[target]
        return balanced
    if isinstance(weight, Mapping):
        unknown = [each for each in weight if each not in classes]
        if unknown:
            raise TrainError(f"weight names the class {unknown[0]!r}, which is not among {list(classes)}.")
        table = np.array([float(weight.get(each, 1.0)) for each in classes])
        mapped: npt.NDArray[np.float64] = table[target]
        return mapped
    if isinstance(weight, str):
        if weight not in columns:
            raise TrainError(f"weight={weight!r} is no column of the rows; the columns are {sorted(columns)}.")
        weights = np.asarray(columns[weight], dtype=np.float64)
        if not np.all(np.isfinite(weights) & (weights >= 0.0)) or not weights.sum() > 0.0:
            raise TrainError(f"the column {weight!r} holds missing or negative weights; fill them or take another.")
        return weights
    raise TrainError(f'weight is {weight!r}; write "balanced", {{class: weight}} or the name of a column.')
