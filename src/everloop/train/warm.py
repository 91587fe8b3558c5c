"""Goes on from a fitted model with new rows, where its estimator can. Knows nothing of when that is worth while.

LightGBM grows further trees on its earlier ones, XGBoost likewise, a tenth of the declared number each time: a model
that goes on every week for a year is then six times as large, not fifty. scikit-learn's estimators with ``partial_fit``
learn on. The tables of categories stay those of the first fit: codes must go on meaning the same.
"""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from everloop.errors import SpecError, TrainError
from everloop.measure import encode
from everloop.records import FeatureType
from everloop.spec.torch import Torch
from everloop.spec.train import Estimator, Train
from everloop.train import threads
from everloop.train.compete import Rows, Trained
from everloop.train.fit import Matrix, estimator_of
from everloop.train.function import TrainContext
from everloop.train.judging import Goal, name_of
from everloop.train.labels import row_weights

BOOSTED: Mapping[str, tuple[str, str]] = {
    "lightgbm": ("init_model", "booster_"),
    "xgboost": ("xgb_model", "get_booster"),
}
"""Library → what its fit calls the earlier model, and where a fitted estimator has it."""
PART = 10
"""One in so many of the declared trees is grown anew each time."""
KEPT = "trained.pickle"
"""In a candidate's folder: what a later fit may go on from."""


def check(trains: Sequence[Train], who: str) -> None:
    """Raise SpecError unless every declared model can go on; ``who`` asks for it: ``Loop made has``."""
    for each in trains:
        hindrance = can(each)
        if hindrance is not None:
            raise SpecError(f"{who} warm=True: {hindrance}.")


def can(train: Train) -> str | None:
    """Why an estimator cannot go on from an earlier fit; None when it can."""
    form = train.estimator
    if isinstance(form, Torch):
        return 'a network begins with the champion\'s weights by el.Torch(…, start="champion"); write that, and leave warm=True out'
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


def leave(folder: Path, made: Trained) -> None:
    """Keep a model in its candidate's folder, for a later fit to go on from. Raises `TrainError` if it does not pickle."""
    try:
        (folder / KEPT).write_bytes(pickle.dumps(made, protocol=pickle.HIGHEST_PROTOCOL))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TrainError(f"warm=True: {made.estimator} cannot be kept for the next fit: {error}.") from error


def read(folder: Path | None, trains: Train | Sequence[Train], types: Mapping[str, FeatureType]) -> Trained | None:
    """What `leave` kept; None where there is nothing that today's declaration could go on from.

    That is so after a change of the features or of the models, where the candidate was thrown away, and where another
    version of a library cannot read it: then the fit begins from nothing, and goes on again from there.
    """
    if folder is None or not (folder / KEPT).exists():
        return None
    try:
        with (folder / KEPT).open("rb") as file:
            found = pickle.load(file)
    except Exception:  # libraries raise whatever they like for a state that is not theirs
        return None
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    same = isinstance(found, Trained) and found.winner < len(competitors)
    if not same or found.estimator != name_of(competitors[found.winner]):
        return None
    return found if {each.name: each.type for each in found.encoding.features} == dict(types) else None


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
