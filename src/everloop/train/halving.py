"""Gives up whoever is not among the best two fifths at one of a few steps, each twice as far as the one before.

Asynchronous successive halving (Li and others, 2020) as a pruner of Optuna. Optuna's own holds a trial only against those
that were judged themselves, by then; here the first ones count, too, which come through before anybody knows how many
steps a trial has. Knows nothing of what is fitted.
"""

import optuna
from optuna.trial import FrozenTrial, TrialState

KEPT = (2, 5)
"""So many of so many go on. Of those that come one after another more go on than of those that come together: the first ones
are held against few, and later ones, drawn with what was learned, are better than most that came before."""


class Halving(optuna.pruners.BasePruner):  # type: ignore[misc]
    """Looks at step ``first``, twice that, four times that, and so on; never at ``last``, where nothing is left to save."""

    def __init__(self, *, first: int, last: int) -> None:
        self._first, self._last = first, last

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._first <= step < self._last:
            return False
        rung = self._first
        while 2 * rung <= step:
            rung *= 2
        if any(rung <= each < step for each in trial.intermediate_values):
            return False  # judged there already
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        own = sign * trial.intermediate_values[step]
        others = [
            sign * each.intermediate_values[min(reached)]
            for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if (reached := [at for at in each.intermediate_values if at >= rung])
        ]
        better = sum(1 for each in others if each < own)
        kept, of = KEPT
        return better >= max(1, -(-len(others) * kept // of))
