"""Searches parameters: hands out trials, gives hopeless ones up, keeps what was found. Knows nothing of estimators.

The trials lie in a folder (`everloop.train.trials`): several processes may call `work` on it at once, and a search that was
killed goes on where it stopped. What is tried depends on the seed and on the trials' numbers alone
(`everloop.train.sampling`), so neither the number of processes nor a kill changes what is found.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from everloop.errors import TrainError
from everloop.spec.train import Search
from everloop.train.function import Pruned
from everloop.train.sampling import Judge, Parameters, Sampling, count, lag
from everloop.train.trials import MOST_ATTEMPTS, Claim, Ended, Trials

Progress = Callable[[dict[str, Any]], None]
Report = Callable[[int, float], None]
"""report(step, score): raises `Pruned` where the trial is not worth going on."""
Objective = Callable[[Parameters, Report], float]

WAIT_SECONDS = 0.02
"""Between two looks for a free trial."""
WORTH_SECONDS = 8.0
"""Less work than that in all is done before other processes have started."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    parameters: Parameters
    score: float
    trials: tuple[Ended, ...]
    """By number."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One search: what every process that works on it must agree on."""

    declared: Search
    greater_is_better: bool
    seed: int
    first: Sequence[Mapping[str, Any]] = ()
    """Parameters to begin with: the declared ones and the best of earlier searches, so that none can make them worse."""

    def trials(self, folder: Path) -> Trials:
        return Trials(folder, count=count(self.declared), lag=lag(self.declared))

    def best(self, trials: Sequence[Ended]) -> Ended | None:
        """The one with the best score; of equals the first."""
        sign = 1.0 if self.greater_is_better else -1.0
        scored = [each for each in trials if each.score is not None]
        return max(scored, key=lambda each: (sign * (each.score or 0.0), -each.number), default=None)


def search(
    plan: Plan,
    objective: Objective,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    help: Callable[[], None] | None = None,
) -> Searched:
    """The best parameters that ``objective`` saw, and every trial in its order.

    ``help``: called once where what is left is worth other processes; returns when they have done all they can.
    Raises `TrainError` when every trial failed.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="everloop-search-") as name:
            return search(plan, objective, folder=Path(name), progress=progress, help=help)
    began = time.monotonic()

    def enough() -> bool:
        if help is None:
            return False
        ended = plan.trials(folder).ended()
        mean = (time.monotonic() - began) / max(1, len(ended) - before)
        return len(ended) > before and mean * (count(plan.declared) - len(ended)) > WORTH_SECONDS

    before = len(plan.trials(folder).ended())
    work(plan, objective, folder, progress=progress, enough=enough)
    if help is not None and not plan.trials(folder).done:
        help()
    return found(plan, folder)


def work(
    plan: Plan,
    objective: Objective,
    folder: Path,
    *,
    progress: Progress | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Do trials until none is left, time is up, or ``enough`` says so after one of them."""
    trials = plan.trials(folder)
    sampling = Sampling(plan.declared, greater_is_better=plan.greater_is_better, seed=plan.seed, first=plan.first)
    timeout = plan.declared.timeout
    until = None if timeout is None else time.monotonic() + timeout / timedelta(seconds=1)
    while not trials.done:
        if until is not None and time.monotonic() >= until and plan.best(trials.ended()) is not None:
            return
        with trials.claim() as claim:
            if claim is not None:
                ended = _tried(plan, claim, trials, sampling, objective)
                claim.end(ended)
        if claim is None:
            time.sleep(WAIT_SECONDS)
            continue
        if progress is not None:
            _tell(plan, trials, ended, progress)
        if enough():
            return


def found(plan: Plan, folder: Path) -> Searched:
    """What the trials in the folder have found. Raises `TrainError` when none gave a score."""
    trials = plan.trials(folder).ended()
    best = plan.best(trials)
    if best is None:
        last = trials[-1] if trials else None
        raise TrainError(
            f"none of {len(trials)} trials of the search gave a score"
            + (f"; the last one, {last.parameters}: {last.problem}" if last else "")
        )
    return Searched(parameters=dict(best.parameters), score=best.score or 0.0, trials=trials)


def _tried(plan: Plan, claim: Claim, trials: Trials, sampling: Sampling, objective: Objective) -> Ended:
    number = claim.number
    past = trials.ended(below=number - lag(plan.declared) + 1)
    parameters = sampling.draw(number, past)
    if claim.attempt > MOST_ATTEMPTS:
        killed = f"its process was killed {MOST_ATTEMPTS} times, most likely because memory ran out; it is left out"
        return Ended(number=number, parameters=parameters, state="failed", problem=killed)
    judge: Judge | None = sampling.judge(number, past)
    steps: dict[int, float] = {}

    def report(step: int, score: float) -> None:
        value = float(score)
        if step in steps or not math.isfinite(value):
            return
        steps[int(step)] = value
        if judge is not None and judge.hopeless(int(step), value):
            raise Pruned

    started = time.perf_counter()
    score = math.nan
    problem: str | None = None
    state: Literal["complete", "pruned", "failed"] = "complete"
    try:
        score = float(objective(dict(parameters), report))
    except Pruned:
        state = "pruned"
    except TrainError as error:
        state, problem = "failed", str(error)
    if state == "complete" and not math.isfinite(score):
        state, problem = "failed", "the score is not defined on the validation rows"
    return Ended(
        number=number, parameters=parameters, state=state,
        score=score if state == "complete" else None, seconds=time.perf_counter() - started,
        steps=tuple(steps.items()), marks=judge.marks if judge is not None else {}, problem=problem,
    )  # fmt: skip


def _tell(plan: Plan, trials: Trials, ended: Ended, progress: Progress) -> None:
    best = plan.best(trials.ended())
    told: dict[str, Any] = {"trial": ended.number + 1, "of": count(plan.declared), "score": ended.score}
    told |= {"best": None if best is None else best.score, "parameters": ended.parameters}
    if ended.state == "pruned":
        told["pruned_at"] = ended.steps[-1][0]
    progress(told)
