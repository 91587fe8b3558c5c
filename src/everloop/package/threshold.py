"""Chooses where a probability becomes a yes, on given rows. Knows nothing of graphs.

The number it gives goes into the graph, where the positive class is decided at or above it.
"""

import numpy as np
import numpy.typing as npt

from everloop.errors import PackageError
from everloop.measure.metrics import score
from everloop.spec.decision import Threshold
from everloop.spec.metric import F1, Accuracy

CANDIDATES = 200
"""How many thresholds are tried where every one costs a whole score."""


def choose(
    decision: Threshold,
    truth: npt.NDArray[np.int64],
    prediction: npt.NDArray[np.float64],
    *,
    positive: int,
) -> float:
    """A threshold in [0, 1] for the positive class. ``truth`` class indices [rows], ``prediction`` [rows, 2].

    precision: the lowest threshold that reaches it. false_positive_rate: the lowest that stays within it. minimise: the
    best by the metric (the largest for metrics where greater is better). Raises `PackageError` where none will do.
    """
    if prediction.shape[1] != 2:
        raise PackageError(f"a threshold needs two classes and there are {prediction.shape[1]}; leave decision= out.")
    if decision.value is not None:
        return float(decision.value)
    if len(truth) == 0:
        raise PackageError("a threshold is chosen on test rows and there are none; widen window(test=…).")
    yes, chance = truth == positive, prediction[:, positive]
    cuts, hits, alarms = _counts(yes, chance)
    if decision.precision is not None:
        reached = np.flatnonzero(hits >= decision.precision * np.maximum(hits + alarms, 1))
        reached = reached[(hits + alarms)[reached] > 0]
        if not len(reached):
            best = float(np.max(hits / np.maximum(hits + alarms, 1)))
            raise PackageError(
                f"no threshold reaches a precision of {decision.precision:g} on the {len(truth)} test rows; the best "
                f"is {best:.3f}. Ask for less or train a better model."
            )
        return float(cuts[reached[-1]])
    if decision.false_positive_rate is not None:
        negatives = max(1, int((~yes).sum()))
        return float(cuts[np.flatnonzero(alarms <= decision.false_positive_rate * negatives)[-1]])
    metric = decision.minimise
    if isinstance(metric, Accuracy):
        return float(cuts[np.argmax(hits - alarms)])
    if isinstance(metric, F1):
        return float(cuts[np.argmax(2.0 * hits / (hits + alarms + yes.sum()))])
    assert metric is not None
    tried = cuts[np.unique(np.linspace(0, len(cuts) - 1, CANDIDATES, dtype=np.int64))]
    sign = 1.0 if metric.greater_is_better else -1.0
    scores = [sign * score(metric, truth, _decided(chance >= cut, positive), positive=positive) for cut in tried]
    return float(tried[int(np.argmax(scores))])


def _counts(
    yes: npt.NDArray[np.bool_], chance: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Thresholds from strict to lax, half way between neighbouring probabilities; hits and false alarms at each.

    Half way, so that a difference in the last digit between trainer and graph flips no row.
    """
    order = np.argsort(-chance, kind="stable")
    ranked = chance[order]
    last = np.flatnonzero(np.append(np.diff(ranked) < 0, True))
    hits = np.append(0.0, np.cumsum(yes[order])[last])
    alarms = np.append(0.0, np.cumsum(~yes[order])[last])
    lower = np.append(ranked[last[:-1] + 1], 0.0)
    cuts = np.append(min(1.0, (1.0 + ranked[0]) / 2), (ranked[last] + lower) / 2)
    if ranked[0] >= 1.0:  # the strictest cut would take in the rows of certainty: leave it out
        cuts, hits, alarms = cuts[1:], hits[1:], alarms[1:]
    return cuts, hits, alarms


def _decided(positive_rows: npt.NDArray[np.bool_], positive: int) -> npt.NDArray[np.float64]:
    """Decisions as probabilities of 0 and 1, so that any metric can judge them."""
    certain = np.zeros((len(positive_rows), 2))
    certain[:, positive] = positive_rows
    certain[:, 1 - positive] = ~positive_rows
    return certain
