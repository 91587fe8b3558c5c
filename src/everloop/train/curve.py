"""Fits an estimator that is looked at while it is fitted: scores by boosting round, by tree, by pass over the rows.

The model is the one that an unwatched fit gives. What has nothing to tell on its way is fitted as it stands.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.train import sklearn
from everloop.train.function import HeldOut

DIGITS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
"""Steps at which trials are held against each other, in each order of magnitude: the same for every trial."""
PASSES = ("SGDClassifier", "SGDRegressor", "MLPClassifier", "MLPRegressor", "Perceptron")
"""Estimators whose ``fit`` is so many passes of ``partial_fit``."""
SCREENED = 4
"""At most one in so many of an estimator's passes is spent on finding out that it is hopeless."""

Report = Callable[[int, float], None]


def told(step: int) -> bool:
    """Whether a score is worth computing at this step.

    >>> [step for step in range(1, 130) if told(step)]
    [5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120]
    """
    scale = 1
    while step >= 100 * scale:
        scale *= 10
    return step in (5, 6, 8) or (step % scale == 0 and step // scale in DIGITS)


def fit(
    estimator: Any,
    matrix: npt.NDArray[np.float64],
    target: npt.NDArray[Any],
    weights: npt.NDArray[np.float64] | None,
    *,
    held_out: HeldOut,
    report: Report,
    threads: int,
    options: Mapping[str, Any],
) -> Any:
    """As `everloop.train.sklearn.fit`, and tells ``report``, which may end it by an exception."""
    extra = dict(options)
    library = type(estimator).__module__.partition(".")[0]
    if library == "lightgbm":
        from everloop.train import lightgbm

        extra |= lightgbm.watched(estimator, held_out, report, told)
    elif library == "xgboost":
        from everloop.train import xgboost

        xgboost.watch(estimator, held_out, report, told)
    elif _grows(estimator):
        return _grown(estimator, matrix, target, weights, held_out, report, threads, extra)
    elif type(sklearn.last(estimator)).__name__ in PASSES:
        _screen(estimator, matrix, target, weights, held_out, report, threads)
    fitted = sklearn.fit(estimator, matrix, target, weights, threads=threads, options=extra)
    if library == "xgboost":
        fitted.set_params(callbacks=None)
    return fitted


def _answer(estimator: Any, matrix: npt.NDArray[np.float64]) -> Any:
    return estimator.predict_proba(matrix) if hasattr(estimator, "predict_proba") else estimator.predict(matrix)


def _grows(estimator: Any) -> bool:
    """Forests grow tree by tree to the same forest (scikit-learn winds the random numbers on)."""
    name = type(estimator).__name__
    return name.startswith(("RandomForest", "ExtraTrees")) and not estimator.get_params()["warm_start"]


def _grown(
    estimator: Any, matrix: npt.NDArray[np.float64], target: npt.NDArray[Any],
    weights: npt.NDArray[np.float64] | None, held_out: HeldOut, report: Report, threads: int, extra: dict[str, Any],
) -> Any:  # fmt: skip
    whole = estimator.get_params()["n_estimators"]
    estimator.set_params(warm_start=True)
    for trees in (*_doubling(10, whole - 1), whole):
        estimator.set_params(n_estimators=trees)
        sklearn.fit(estimator, matrix, target, weights, threads=threads, options=extra)
        if trees < whole:
            report(trees, held_out.score(_answer(estimator, held_out.X)))
    return estimator.set_params(warm_start=False)


def _screen(
    estimator: Any, matrix: npt.NDArray[np.float64], target: npt.NDArray[Any],
    weights: npt.NDArray[np.float64] | None, held_out: HeldOut, report: Report, threads: int,
) -> None:  # fmt: skip
    """A few passes of a copy. Those that get through are fitted as declared: their own rule of when to stop is theirs."""
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    copy = clone(estimator)
    learner = sklearn.last(copy)
    options: dict[str, Any] = {}
    if hasattr(learner, "predict_proba") or type(learner).__name__.endswith(("Classifier", "Perceptron")):
        options["classes"] = np.unique(target)
    if weights is not None and not type(learner).__name__.startswith("MLP"):
        options["sample_weight"] = weights
    with threadpool_limits(limits=threads):
        rows, held = matrix, held_out.X
        if learner is not copy:
            rows, held = copy[:-1].fit_transform(matrix, target), copy[:-1].transform(held_out.X)
        passed = 0
        for passes in _doubling(1, learner.get_params()["max_iter"] // SCREENED):
            for _ in range(passes - passed):
                learner.partial_fit(rows, target, **options)
            passed = passes
            report(passes, held_out.score(_answer(learner, held)))


def _doubling(first: int, most: int) -> Iterator[int]:
    while first <= most:
        yield first
        first *= 2
