"""From training rows to one fitted model: searches where asked, lets several competitors run, fits the winner on all.

Judges only on the newest part of the training rows, never on test rows. Knows nothing of snapshots or packages.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.errors import TrainError
from everloop.forms import Form
from everloop.measure import encode
from everloop.records import Encoding, FeatureType
from everloop.spec.torch import Torch
from everloop.spec.train import Train
from everloop.train import champion as champions
from everloop.train import threads
from everloop.train.fit import Fitted, Inputs, cells, fit, needs
from everloop.train.function import ALONE, Machine, TrainContext
from everloop.train.held import Scoring
from everloop.train.judging import Goal, Judging, name_of
from everloop.train.labels import row_weights

MOST_WORKERS = 4
"""Trials at once, unless the declaration names another number; further cores become threads of each."""
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
    folder: Path | None = None
    """The declaration's own: what paths of pretrained weights are relative to."""

    def taken(self, places: Array) -> "Rows":
        return Rows(
            features={name: values[places] for name, values in self.features.items()},
            types=self.types,
            target=self.target[places],
            event_time=self.event_time[places],
            columns={name: values[places] for name, values in (self.columns or {}).items()},
            forms=self.forms,
            folder=self.folder,
        )


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


Hands = Callable[[int, Path, int, Callable[[dict[str, Any]], None]], None]
"""hands(place, folder, count, progress): so many processes call `assist` on the folder of the competitor at ``place``;
returns when they have ended."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a training is done with."""

    source: Path | None = None
    """The stored declaration, for training functions."""
    folder: Path | None = None
    """Where a search keeps its trials."""
    cores: int = 1
    remembered: Sequence[Mapping[str, Any]] = ()
    """``{"estimator", "parameters"}`` of earlier turns: what a search begins with, after the declared ones."""
    hands: Hands | None = None
    machine: Machine = ALONE
    champion: Path | None = None
    """What `everloop.train.champion.leave` left of the version that serves."""


def workers_of(each: Train, cores: int) -> int:
    """How many trials of its search run at once."""
    if each.search is None:
        return 1
    return each.search.workers or min(cores, MOST_WORKERS)


def train(
    trains: Train | Sequence[Train],
    rows: Rows,
    goal: Goal,
    *,
    source: Path | None = None,
    folder: Path | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cores: int | None = None,
    remembered: Sequence[Mapping[str, Any]] = (),
    hands: Hands | None = None,
    machine: Machine = ALONE,
    champion: Path | None = None,
) -> Trained:
    """Fit the declared estimator, or the best of several, on all of ``rows``.

    ``cores``: threads to use; None: this process's share. For the rest see `Given`. Raises `TrainError` in the user's
    words.
    """
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    given = Given(
        source=source, folder=folder, cores=cores or threads.share(), remembered=remembered, hands=hands,
        machine=machine, champion=champion,
    )  # fmt: skip
    threads.wait_quietly()
    entries: list[Entry] = []
    started = time.perf_counter()
    if len(competitors) > 1 or competitors[0].search is not None:
        split = _split(rows.event_time)
        entries = [_judged(place, each, rows, goal, split, given, progress) for place, each in enumerate(competitors)]
        winner = _best(entries, goal)
    else:
        winner = 0
    return _fitted(
        competitors[winner], winner, tuple(entries), rows, goal, given, progress,
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
    machine: Machine = ALONE,
    champion: Path | None = None,
) -> Trained:
    """The winner of ``made`` with the parameters its search found, fitted on other rows without judging again."""
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    given = Given(source=source, folder=folder, cores=cores or threads.share(), machine=machine, champion=champion)
    return _fitted(competitors[made.winner], made.winner, made.entries, rows, goal, given, progress, seconds=0.0)


def _fitted(
    best: Train, winner: int, entries: tuple[Entry, ...], rows: Rows, goal: Goal, given: Given,
    progress: Callable[[dict[str, Any]], None] | None, *, seconds: float,
) -> Trained:  # fmt: skip
    parameters = entries[winner].parameters if entries else {}
    started = time.perf_counter()
    encoding = _learn(best, rows, given)
    matrix = encode.inputs(encoding, rows.features)
    encoded = time.perf_counter()
    fitted = _fit(best, encoding, matrix, rows, goal, parameters, given, progress)
    return Trained(
        fitted=fitted, encoding=encoding, estimator=name_of(best), parameters=parameters, seed=best.seed,
        entries=entries, winner=winner,
        seconds={"search": seconds, "encode": encoded - started, "fit": time.perf_counter() - encoded},
    )  # fmt: skip


def _judged(
    place: int, each: Train, rows: Rows, goal: Goal, split: tuple[Array, Array], given: "Given",
    progress: Callable[[dict[str, Any]], None] | None,
) -> Entry:  # fmt: skip
    older, newer = rows.taken(split[0]), rows.taken(split[1])
    started, name = time.perf_counter(), name_of(each)
    try:
        encoding = _learn(each, older, given)
        cores = max(1, given.cores // workers_of(each, given.cores))
        task = Judging(
            train=each,
            goal=goal,
            encoding=encoding,
            matrix=encode.inputs(encoding, older.features),
            target=older.target,
            weights=_weights(each, older, goal),
            held=encode.inputs(encoding, newer.features),
            truth=newer.target,
            columns=newer.columns or {},
            threads=cores if encoding.network else threads.worth(len(older.target) * encoding.width, cores),
            source=given.source,
            folder=rows.folder,
        )
        if each.search is None:
            found = task({}, None)
            return Entry(
                estimator=name, parameters={}, score=None if math.isnan(found) else found,
                seconds=time.perf_counter() - started,
                problem="the score is not defined on the validation rows" if math.isnan(found) else None,
            )  # fmt: skip
        from everloop.train import search as searching
        from everloop.train.sampling import count as count_of

        folder = None if given.folder is None else given.folder / f"search-{place}"
        plan = task.plan(given.remembered)
        count = workers_of(each, given.cores)
        told = None if progress is None else lambda seen: progress({"estimator": name, **seen})

        def help() -> None:
            assert folder is not None
            assert given.hands is not None
            task.leave(folder, given.remembered)
            left = count_of(plan.declared) - len(plan.trials(folder).ended())
            given.hands(place, folder, min(count, left), told or (lambda seen: None))

        result = searching.search(
            plan, task, folder=folder, progress=told,
            help=help if folder is not None and given.hands is not None and count > 1 else None,
        )  # fmt: skip
    except TrainError as error:
        return Entry(
            estimator=name, parameters={}, score=None, seconds=time.perf_counter() - started, problem=str(error)
        )
    return Entry(
        estimator=name, parameters=result.parameters, score=result.score, seconds=time.perf_counter() - started,
        trials=tuple(_row(trial) for trial in result.trials),
    )  # fmt: skip


def _row(trial: Any) -> dict[str, Any]:
    row = {"parameters": trial.parameters, "score": trial.score, "seconds": trial.seconds, "problem": trial.problem}
    return row if trial.state != "pruned" else {**row, "pruned_at": trial.steps[-1][0]}


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


def _warm(each: Train) -> bool:
    return isinstance(each.estimator, Torch) and each.estimator.start == "champion"


def _learn(each: Train, rows: Rows, given: Given) -> Encoding:
    wants = needs(each, source=given.source)
    learned = encode.learn(
        rows.features,
        rows.types,
        native_categories=wants.native_categories,
        accepts_missing=wants.accepts_missing,
        forms=rows.forms,
        network=wants.network,
        folder=rows.folder,
    )
    # Its weights mean its columns: what is new since is unseen to it, as it is to the version that serves.
    begun = champions.read(given.champion) if _warm(each) else None
    return begun.encoding if begun is not None and champions.fits(begun.encoding, learned) else learned


def _fit(
    each: Train, encoding: Encoding, matrix: Inputs, rows: Rows, goal: Goal, parameters: Mapping[str, Any],
    given: "Given", progress: Callable[[dict[str, Any]], None] | None,
) -> Fitted:  # fmt: skip
    network = encoding.network
    context = TrainContext(
        seed=each.seed, threads=given.cores if network else threads.worth(cells(matrix), given.cores),
        folder=given.folder, progress=progress or (lambda _: None),
        checkpoints=None if given.folder is None else given.folder / "checkpoints", weights=rows.folder,
        machine=given.machine, champion=given.champion if _warm(each) else None,
    )  # fmt: skip
    return fit(
        each, encoding, matrix, rows.target, task=goal.task, classes=max(1, len(goal.classes)),
        weights=_weights(each, rows, goal), parameters=parameters, scale=goal.scale, source=given.source,
        context=context, scoring=Scoring(metric=goal.metric, positive=goal.positive),
    )  # fmt: skip


def _weights(each: Train, rows: Rows, goal: Goal) -> Array | None:
    return row_weights(each.weight, rows.target, classes=goal.classes, columns=rows.columns or {})


def assist(
    trains: Train | Sequence[Train],
    place: int,
    folder: Path,
    goal: Goal,
    *,
    source: Path | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Work on the search of the competitor at ``place`` until nothing is left to do; how many trials have ended then."""
    from everloop.train import search as searching

    threads.wait_quietly()
    competitors = (trains,) if isinstance(trains, Train) else tuple(trains)
    task, plan = Judging.read(folder, competitors[place], goal, source=source)
    searching.work(plan, task, folder, progress=progress)
    return len(plan.trials(folder).ended())
