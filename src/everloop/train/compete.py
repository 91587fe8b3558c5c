"""From training rows to one fitted model: searches where asked, lets several competitors run, fits the winner on all.

Judges only on the newest part of the training rows, never on test rows. Knows nothing of snapshots or packages.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from everloop.errors import TrainError
from everloop.forms import Form
from everloop.measure import encode
from everloop.measure.metrics import score
from everloop.records import Encoding, FeatureType, Task
from everloop.spec.metric import Metric
from everloop.spec.train import Estimator, Train
from everloop.train import threads
from everloop.train.fit import Fitted, fit, needs
from everloop.train.function import TrainContext
from everloop.train.labels import Value, row_weights

VALIDATION = 0.2
"""The newest share of the training rows, by time, on which search and competitors are judged."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Training rows. Every array has one entry a row."""

    features: Mapping[str, Array]
    """As `everloop.measure.encode.learn` takes them."""
    types: Mapping[str, FeatureType]
    target: Array
    """int64 class indices, or float64 in the label's units (`everloop.train.labels.to_target`)."""
    event_time: npt.NDArray[np.int64]
    """Microseconds since 1970 UTC."""
    columns: Mapping[str, Array] | None = None
    """Raw columns, for weights by column and for a score of the user's own."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """What is declared of features that are more than one value."""

    def taken(self, places: Array) -> "Rows":
        return Rows(
            features={name: values[places] for name, values in self.features.items()},
            types=self.types,
            target=self.target[places],
            event_time=self.event_time[places],
            columns={name: values[places] for name, values in (self.columns or {}).items()},
            forms=self.forms,
        )


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is learned and how it is judged."""

    task: Task
    metric: Metric
    classes: tuple[Value, ...] = ()
    positive: int = 1
    scale: Literal["log1p"] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How one competitor did on the validation part. ``trials`` is the table of its search, JSON."""

    estimator: str
    parameters: dict[str, Any]
    score: float | None
    seconds: float
    trials: tuple[dict[str, Any], ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    fitted: Fitted
    encoding: Encoding
    estimator: str
    parameters: dict[str, Any]
    """What the search chose; empty without one."""
    seed: int
    entries: tuple[Entry, ...]
    """Empty when there was nothing to judge: one estimator, no search."""
    winner: int
    """The place of the one that won among those declared."""
    seconds: dict[str, float]
    """search, encode, fit."""


def train(
    trains: Train | Sequence[Train],
    rows: Rows,
    goal: Goal,
    *,
    source: Path | None = None,
    folder: Path | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cores: int | None = None,
) -> Trained:
    """Fit the declared estimator, or the best of several, on all of ``rows``.

    ``source``: the stored declaration, for training functions. ``folder``: where a search keeps its trials. ``cores``:
    threads to use; None: this process's share. Raises `TrainError` in the user's words.
    """
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    chosen = cores or threads.share()
    threads.wait_quietly()
    entries: list[Entry] = []
    started = time.perf_counter()
    if len(competitors) > 1 or competitors[0].search is not None:
        split = _split(rows.event_time)
        for place, each in enumerate(competitors):
            where = None if folder is None else folder / f"search-{place}"
            entries.append(_judged(each, rows, split, goal, source, where, progress, chosen))
        winner = _best(entries, goal)
    else:
        winner = 0
    return _fitted(
        competitors[winner], winner, tuple(entries), rows, goal, source, folder, progress, chosen,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def refit(
    trains: Train | Sequence[Train],
    made: Trained,
    rows: Rows,
    goal: Goal,
    *,
    source: Path | None = None,
    folder: Path | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cores: int | None = None,
) -> Trained:
    """The winner of ``made`` with the parameters its search found, fitted on other rows without judging again."""
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    return _fitted(
        competitors[made.winner], made.winner, made.entries, rows, goal, source, folder, progress,
        cores or threads.share(), seconds=0.0,
    )  # fmt: skip


def _fitted(
    best: Train, winner: int, entries: tuple[Entry, ...], rows: Rows, goal: Goal, source: Path | None,
    folder: Path | None, progress: Callable[[dict[str, Any]], None] | None, cores: int, *, seconds: float,
) -> Trained:  # fmt: skip
    parameters = entries[winner].parameters if entries else {}
    started = time.perf_counter()
    encoding = _learn(best, rows, source)
    matrix = encode.apply(encoding, rows.features)
    encoded = time.perf_counter()
    fitted = _fit(best, encoding, matrix, rows, goal, parameters, source, folder, progress, cores)
    return Trained(
        fitted=fitted, encoding=encoding, estimator=_name(best), parameters=parameters, seed=best.seed,
        entries=entries, winner=winner,
        seconds={"search": seconds, "encode": encoded - started, "fit": time.perf_counter() - encoded},
    )  # fmt: skip


def _judged(
    each: Train, rows: Rows, split: tuple[Array, Array], goal: Goal, source: Path | None, folder: Path | None,
    progress: Callable[[dict[str, Any]], None] | None, cores: int,
) -> Entry:  # fmt: skip
    older, newer = rows.taken(split[0]), rows.taken(split[1])
    started, name = time.perf_counter(), _name(each)
    try:
        encoding = _learn(each, older, source)
        matrix, held = encode.apply(encoding, older.features), encode.apply(encoding, newer.features)

        def objective(parameters: dict[str, Any]) -> float:
            fitted = _fit(each, encoding, matrix, older, goal, parameters, source, folder, None, cores)
            return score(goal.metric, newer.target, fitted.predict(held), rows=newer.columns, positive=goal.positive)

        if each.search is None:
            found = objective({})
            return Entry(
                estimator=name, parameters={}, score=None if math.isnan(found) else found,
                seconds=time.perf_counter() - started,
                problem="the score is not defined on the validation rows" if math.isnan(found) else None,
            )  # fmt: skip
        from everloop.train.search import search

        declared = each.estimator.parameters if isinstance(each.estimator, Estimator) else None
        result = search(
            each.search, objective, greater_is_better=goal.metric.greater_is_better, seed=each.seed, first=declared,
            folder=folder, progress=None if progress is None else lambda seen: progress({"estimator": name, **seen}),
        )  # fmt: skip
    except TrainError as error:
        return Entry(
            estimator=name, parameters={}, score=None, seconds=time.perf_counter() - started, problem=str(error)
        )
    table = tuple(
        {"parameters": t.parameters, "score": t.score, "seconds": t.seconds, "problem": t.problem}
        for t in result.trials
    )
    return Entry(
        estimator=name, parameters=result.parameters, score=result.score, seconds=time.perf_counter() - started,
        trials=table,
    )  # fmt: skip


def _best(entries: Sequence[Entry], goal: Goal) -> int:
    scored = [place for place, entry in enumerate(entries) if entry.score is not None]
    if not scored:
        raise TrainError("; ".join(f"{entry.estimator}: {entry.problem}" for entry in entries))
    sign = 1.0 if goal.metric.greater_is_better else -1.0
    return max(scored, key=lambda place: sign * (entries[place].score or 0.0))


def _split(event_time: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Places of the older and the newer rows; rows of one instant stay together."""
    count = len(event_time)
    order = np.argsort(event_time, kind="stable")
    at = int(count * (1.0 - VALIDATION))
    if at < 1 or at >= count:
        raise TrainError(f"{count} training rows are too few to search or compare on; widen the window.")
    border = event_time[order[at]]
    older, newer = np.flatnonzero(event_time < border), np.flatnonzero(event_time >= border)
    if len(older) == 0:  # most rows share one instant: then their order decides
        return np.sort(order[:at]), np.sort(order[at:])
    return older, newer


def _learn(each: Train, rows: Rows, source: Path | None) -> Encoding:
    wants = needs(each, source=source)
    return encode.learn(
        rows.features,
        rows.types,
        native_categories=wants.native_categories,
        accepts_missing=wants.accepts_missing,
        forms=rows.forms,
    )


def _fit(
    each: Train, encoding: Encoding, matrix: encode.Matrix, rows: Rows, goal: Goal, parameters: Mapping[str, Any],
    source: Path | None, folder: Path | None, progress: Callable[[dict[str, Any]], None] | None, cores: int,
) -> Fitted:  # fmt: skip
    context = TrainContext(
        seed=each.seed, threads=threads.worth(matrix.size, cores), folder=folder, progress=progress or (lambda _: None)
    )
    return fit(
        each, encoding, matrix, rows.target, task=goal.task, classes=max(1, len(goal.classes)),
        weights=row_weights(each.weight, rows.target, classes=goal.classes, columns=rows.columns or {}),
        parameters=parameters, scale=goal.scale, source=source, context=context,
    )  # fmt: skip


def _name(each: Train) -> str:
    form = each.estimator
    if isinstance(form, Estimator) and form.path.endswith(".Pipeline"):
        return "Pipeline(" + ", ".join(step.name for _, step in form.parameters["steps"] if step != "passthrough") + ")"
    return form.name
