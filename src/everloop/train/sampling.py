"""Which parameters a trial tries, and whether it is given up: Optuna's samplers and pruners as functions of what was seen.

A trial is drawn from the seed, its own number and the trials before it, each of which either has ended or is known to run.
Which have ended is said by number alone, never by chance: so one worker and four find the same, and a search that was
killed goes on to the same end. Optuna's own storages hand out trials in the order in which workers happen to ask.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from everloop.spec.train import Choice, Integers, LogUniform, Search, Space
from everloop.train.halving import Halving
from everloop.train.trials import Ended

LAG = 4
"""A trial is drawn when all but the last three before it have ended: so many can run at once."""
STARTING = 10
"""The first trials, drawn at random before TPE has anything to go by."""
UNPRUNED = 4
"""As many trials have to have come through before any other is held against them."""
EARLIEST = 12
"""Halving looks first at a twelfth of a trial's steps: earlier scores tell little where the learning rate is still rising."""

Parameters = dict[str, Any]
optuna.logging.set_verbosity(optuna.logging.ERROR)


def lag(declared: Search) -> int:
    return max(LAG, declared.workers or 0)


def count(declared: Search) -> int:
    """How many trials there will be: a grid ends when every combination was tried."""
    return min(declared.trials, declared.grid) if declared.grid is not None else declared.trials


class Sampling:
    """Draws the trials of one search. ``first``: what is tried before anything is drawn, as far as it is in the space."""

    def __init__(
        self, declared: Search, *, greater_is_better: bool, seed: int, first: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._declared, self._seed = declared, seed
        self._direction = "maximize" if greater_is_better else "minimize"
        self._distributions = {name: _distribution(space) for name, space in sorted(declared.space.items())}
        self._grid = list(_grid(declared)) if declared.grid is not None else None
        self._first: list[Parameters] = []
        for each in () if self._grid is not None else first:
            within = {
                name: each[name] for name, space in declared.space.items() if name in each and _holds(space, each[name])
            }
            if len(within) == len(declared.space) and within not in self._first:
                self._first.append(within)
        self._drawn: dict[int, Parameters] = {}

    def draw(self, number: int, ended: Sequence[Ended]) -> Parameters:
        """The parameters of trial ``number``. ``ended``: at least every trial up to ``number`` - lag."""
        if number not in self._drawn:
            self._drawn.update({each.number: each.parameters for each in ended})
        if number not in self._drawn:
            if self._grid is not None:
                self._drawn[number] = self._grid[number]
            elif number < len(self._first):
                self._drawn[number] = self._first[number]
            else:
                study = self._study(number, ended)
                self._drawn[number] = dict(study.ask(self._distributions).params)
        return self._drawn[number]

    def judge(self, number: int, ended: Sequence[Ended]) -> "Judge | None":
        """Who says when trial ``number`` is given up; None without a pruner. Takes what `draw` takes."""
        if self._declared.pruner is None:
            return None
        study = self._study(number, ended)
        study.enqueue_trial(self.draw(number, ended))
        return Judge(study, study.ask(self._distributions))

    def _study(self, number: int, ended: Sequence[Ended]) -> optuna.Study:
        """All that trial ``number`` may know, in a study in memory."""
        seed = int(np.random.SeedSequence([self._seed & 0xFFFFFFFF, number]).generate_state(1)[0])
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if self._declared.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTING)
        known = {each.number: each for each in ended if each.number <= number - lag(self._declared)}
        # The name matters: Hyperband takes a trial's bracket from it and the trial's number.
        study = optuna.create_study(
            study_name="search", sampler=sampler, pruner=self._pruner(known.values()), direction=self._direction
        )
        study.add_trials(
            [
                self._past(known[place]) if place in known else self._running(self.draw(place, ended))
                for place in range(number)
            ]
        )
        return study

    def _past(self, each: Ended) -> optuna.trial.FrozenTrial:
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[each.state]
        return create_trial(
            state=state, value=each.score, params=each.parameters, distributions=self._distributions,
            intermediate_values=dict(each.steps), system_attrs=each.marks,
        )  # fmt: skip

    def _running(self, parameters: Parameters) -> optuna.trial.FrozenTrial:
        return create_trial(state=TrialState.RUNNING, params=parameters, distributions=self._distributions)

    def _pruner(self, known: Iterable[Ended]) -> optuna.pruners.BasePruner:
        if self._declared.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
        if self._declared.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner()
        if self._declared.pruner == "halving":
            steps = next((each.steps[-1][0] for each in known if each.state == "complete" and each.steps), None)
            if steps is None:
                return optuna.pruners.NopPruner()
            return Halving(first=max(1, steps // EARLIEST), last=steps)
        return optuna.pruners.NopPruner()


class Judge:
    """Takes a trial's intermediate scores and says when it is not worth going on."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial

    def hopeless(self, step: int, score: float) -> bool:
        self._trial.report(score, step)
        return bool(self._trial.should_prune())

    @property
    def marks(self) -> dict[str, Any]:
        kept = self._study.get_trials(deepcopy=False)[self._trial.number].system_attrs
        return {name: value for name, value in kept.items() if name != "fixed_params"}


def _grid(declared: Search) -> list[Parameters]:
    names = sorted(declared.space)
    axes = [_points(declared.space[name]) for name in names]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*axes)]


def _points(space: Space) -> Sequence[Any]:
    if isinstance(space, Choice):
        return space.values
    assert isinstance(space, Integers)  # the declaration refuses others
    return range(space.low, space.high + 1)


def _distribution(space: Space) -> optuna.distributions.BaseDistribution:
    if isinstance(space, Choice):
        return optuna.distributions.CategoricalDistribution(space.values)
    if isinstance(space, Integers):
        return optuna.distributions.IntDistribution(space.low, space.high)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))


def _holds(space: Space, value: Any) -> bool:
    if isinstance(space, Choice):
        return value in space.values
    return isinstance(value, int | float) and not isinstance(value, bool) and space.low <= value <= space.high
