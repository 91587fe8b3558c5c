"""Goes on from a fitted model with new rows, where its estimator can. Knows nothing of when that is worth while.

LightGBM grows further trees on its earlier ones, XGBoost likewise, a tenth of the declared number each time: a model
that goes on every week for a year is then six times as large, not fifty. scikit-learn's estimators with ``partial_fit``
learn on. The tables of categories stay those of the first fit: codes must go on meaning the same.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from everloop.errors import TrainError
from everloop.measure import encode
from everloop.spec.train import Estimator, Train
from everloop.train import threads
from everloop.train.compete import Rows, Trained
from everloop.train.fit import Matrix, estimator_of
from everloop.train.function import TrainContext
from everloop.train.judging import Goal
from everloop.train.labels import row_weights

BOOSTED: Mapping[str, tuple[str, str]] = {
    "lightgbm": ("init_model", "booster_"),
    "xgboost": ("xgb_model", "get_booster"),
}
"""Library → what its fit calls the earlier model, and where a fitted estimator has it."""
PART = 10
"""One in so many of the declared trees is grown anew each time."""


def can(train: Train) -> str | None:
    """Why an estimator cannot go on from an earlier fit; None when it can."""
    form = train.estimator
    if not isinstance(form, Estimator):
        return f"the function {form.name} makes its model from nothing; go on inside it, or leave warm=True out"
    library = form.path.partition(".")[0]
    if library in BOOSTED or hasattr(estimator_of(form, {}), "partial_fit"):
        return None
    return (
        f"{form.name} has no partial_fit and is not boosted; declare LightGBM, XGBoost or an estimator such as "
        "SGDClassifier, or leave warm=True out"
    )


def go_on(
    trains: Train | Sequence[Train],
    before: Trained,
    rows: Rows,
    goal: Goal,
    *,
    source: Path | None = None,
    cores: int | None = None,
) -> Trained:
    """``before`` with what these rows teach; its own model is left as it was. Raises `TrainError`."""
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    declared = competitors[before.winner]
    hindrance = can(declared)
    if hindrance is not None:
        raise TrainError(f"warm=True: {hindrance}.")
    assert isinstance(declared.estimator, Estimator)
    started = time.perf_counter()
    matrix = encode.apply(before.encoding, rows.features)
    encoded = time.perf_counter()
    weights = row_weights(declared.weight, rows.target, classes=goal.classes, columns=rows.columns or {})
    target = _target(rows.target, before, goal)
    context = TrainContext(seed=declared.seed, threads=threads.worth(matrix.size, cores or threads.share()))
    library = declared.estimator.path.partition(".")[0]
    if library in BOOSTED:
        model = _boosted(declared, before, matrix, target, weights, library, context)
    else:
        model = copy.deepcopy(before.fitted.model)
        options = {} if weights is None else {"sample_weight": weights}
        model.partial_fit(matrix, target, **options)
    return replace(
        before,
        fitted=replace(before.fitted, model=model),
        seconds={"search": 0.0, "encode": encoded - started, "fit": time.perf_counter() - encoded},
    )


def _boosted(
    declared: Train,
    before: Trained,
    matrix: Matrix,
    target: Any,
    weights: Matrix | None,
    library: str,
    context: TrainContext,
) -> Any:
    assert isinstance(declared.estimator, Estimator)
    option, place = BOOSTED[library]
    estimator = estimator_of(declared.estimator, before.parameters)
    if library == "lightgbm":
        from everloop.train import lightgbm

        lightgbm.settle(estimator, seed=context.seed, threads=context.threads)
        options = lightgbm.fit_options(encode.native_columns(before.encoding))
    else:
        from everloop.train import xgboost

        xgboost.settle(estimator, seed=context.seed, threads=context.threads)
        options = {}
    if before.fitted.task != "regression" and len(np.unique(target)) < len(before.fitted.present):
        raise TrainError(
            f"The {len(target)} rows hold fewer classes than the model that is to go on; widen the window, or leave "
            "warm=True out."
        )
    estimator.set_params(n_estimators=max(1, (estimator.get_params()["n_estimators"] or 100) // PART))
    earlier = getattr(before.fitted.model, place)
    options[option] = earlier() if callable(earlier) else earlier
    if weights is not None:
        options["sample_weight"] = weights
    try:
        return estimator.fit(matrix, target, **options)
    except Exception as error:  # estimators raise ValueError, their own kinds, and what C++ throws
        raise TrainError(
            f"{declared.estimator.path} could not go on from its earlier model: {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}"
        ) from error


def _target(target: Any, before: Trained, goal: Goal) -> Any:
    """As the first fit numbered the classes. Raises `TrainError` for a class that it had never seen."""
    if goal.task == "regression":
        return np.log1p(target) if goal.scale == "log1p" else target.astype(np.float64)
    place = np.full(max(len(goal.classes), int(target.max(initial=0)) + 1), -1, dtype=np.int64)
    place[list(before.fitted.present)] = np.arange(len(before.fitted.present))
    found = place[target]
    if (found < 0).any():
        unseen = goal.classes[int(target[found < 0][0])]
        raise TrainError(
            f"The class {unseen!r} is new to the model that is to go on; fit from nothing, without warm=True."
        )
    return found
