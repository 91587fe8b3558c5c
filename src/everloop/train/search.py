"""Searches parameters with Optuna. Knows nothing of estimators: it is given a function to make better.

With a folder the trials are kept in SQLite, so that a search that was killed goes on where it stopped, and the trial
that was running is tried again.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna

from everloop.errors import TrainError
from everloop.spec.train import Choice, Integers, LogUniform, Search, Space

Parameters = dict[str, Any]
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One try. ``score`` is None where the fit failed; ``problem`` says why."""

    number: int
    parameters: Parameters
    score: float | None
    seconds: float
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Searched:
    parameters: Parameters
    score: float
    trials: tuple[Trial, ...]


def search(
    declared: Search,
    objective: Callable[[Parameters], float],
    *,
    greater_is_better: bool,
    seed: int,
    first: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Searched:
    """The best parameters that ``objective`` saw, and every trial in its order.

    ``first``: parameters to begin with, usually the declared ones, so that a search cannot make them worse. The same
    seed gives the same trials (unless the search was killed in between). Raises `TrainError` when every trial failed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'search.sqlite'}")
    try:
        study = optuna.create_study(
            study_name="search",
            storage=storage,
            sampler=optuna.samplers.TPESampler(seed=seed),
            direction="maximize" if greater_is_better else "minimize",
            load_if_exists=True,
        )
        _resume(study, declared, first)
        _run(study, declared, objective, progress)
        return _searched(study)
    finally:
        if storage is not None:
            storage.engine.dispose()


def _resume(study: optuna.Study, declared: Search, first: Mapping[str, Any] | None) -> None:
    known = study.get_trials(deepcopy=False)
    if not known and first:
        within = {name: first[name] for name, space in declared.space.items() if _holds(space, first.get(name))}
        if len(within) == len(declared.space):
            study.enqueue_trial(within)
    for trial in known:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _run(
    study: optuna.Study,
    declared: Search,
    objective: Callable[[Parameters], float],
    progress: Progress | None,
) -> None:
    ended = study.get_trials(deepcopy=False)
    done = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in ended)
    until = None if declared.timeout is None else time.monotonic() + declared.timeout / timedelta(seconds=1)
    best: float | None = study.best_value if done else None
    for number in range(done, declared.trials):
        if until is not None and time.monotonic() >= until and best is not None:
            break
        trial = study.ask()
        parameters = {name: _suggested(trial, name, space) for name, space in declared.space.items()}
        problem = None
        try:
            value = objective(parameters)
        except TrainError as error:
            value, problem = math.nan, str(error)
        if math.isnan(value):
            trial.set_user_attr("problem", problem or "the score is not defined on the validation rows")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
            best = study.best_value
        if progress is not None:
            shown = None if math.isnan(value) else value
            progress(
                {"trial": number + 1, "of": declared.trials, "score": shown, "best": best, "parameters": parameters}
            )


def _searched(study: optuna.Study) -> Searched:
    trials = []
    for each in study.get_trials(deepcopy=False):
        if not each.state.is_finished():
            continue
        seconds = each.duration / timedelta(seconds=1) if each.duration else 0.0
        complete = each.state == optuna.trial.TrialState.COMPLETE
        trials.append(
            Trial(
                number=each.number,
                parameters=dict(each.params),
                score=each.value if complete else None,
                seconds=seconds,
                problem=None if complete else each.user_attrs.get("problem", "it was interrupted"),
            )
        )
    if all(trial.score is None for trial in trials):
        last = trials[-1] if trials else None
        raise TrainError(
            f"none of {len(trials)} trials of the search gave a score"
            + (f"; the last one, {last.parameters}: {last.problem}" if last else "")
        )
    return Searched(parameters=dict(study.best_params), score=float(study.best_value), trials=tuple(trials))


def _suggested(trial: optuna.Trial, name: str, space: Space) -> Any:
    if isinstance(space, Choice):
        return trial.suggest_categorical(name, space.values)
    if isinstance(space, Integers):
        return trial.suggest_int(name, space.low, space.high)
    return trial.suggest_float(name, space.low, space.high, log=isinstance(space, LogUniform))


def _holds(space: Space, value: Any) -> bool:
    if isinstance(space, Choice):
        return value in space.values
    return isinstance(value, int | float) and not isinstance(value, bool) and space.low <= value <= space.high
