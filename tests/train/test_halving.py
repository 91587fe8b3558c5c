"""Two fifths go on at each of a few steps: who does, when it is judged, and against whom."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from everloop.spec.train import Search, Uniform
from everloop.train.halving import Halving
from everloop.train.search import Plan, Report, search

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study(*curves: list[float], direction: str = "minimize") -> optuna.Study:
    """Trials that told these scores, a step each; those of twelve steps came through."""
    made = optuna.create_study(direction=direction, pruner=Halving(first=2, last=12))
    for scores in curves:
        done = len(scores) == 12
        made.add_trial(
            create_trial(
                state=TrialState.COMPLETE if done else TrialState.PRUNED,
                value=scores[-1] if done else None,
                intermediate_values=dict(enumerate(scores, 1)),
            )
        )
    return made


def ends(known: optuna.Study, scores: list[float]) -> int | None:
    """The step at which a trial with these scores is given up."""
    trial = known.ask()
    for step, score in enumerate(scores, 1):
        trial.report(score, step)
        if trial.should_prune():
            return step
    return None


FLAT = [[float(level)] * 12 for level in (1, 2, 3, 4)]


@pytest.mark.parametrize(("score", "step"), [(0.5, None), (1.0, None), (2.0, None), (2.5, 2), (9.0, 2)])
def test_who_is_not_among_the_best_ends_at_the_first_look(score: float, step: int | None) -> None:
    assert ends(study(*FLAT), [score] * 12) == step


@pytest.mark.parametrize("when", range(1, 13))
def test_looks_are_at_two_four_and_eight_steps_and_never_at_the_last(when: int) -> None:
    scores = [0.5] * (when - 1) + [9.0] * (13 - when)
    looks = [step for step in (2, 4, 8) if step >= when]
    assert ends(study(*FLAT), scores) == (looks[0] if looks else None)


def test_greater_may_be_better() -> None:
    assert ends(study(*FLAT, direction="maximize"), [1.0] * 12) == 2
    assert ends(study(*FLAT, direction="maximize"), [4.0] * 12) is None


def test_who_was_given_up_counts_as_far_as_it_came() -> None:
    known = study(*FLAT, [0.1, 0.1], [0.2, 0.2], [0.3, 0.3])
    assert ends(known, [1.0] * 12) == 2, "the fourth of eight"
    assert ends(known, [0.25] * 12) is None, "the third"


def test_a_step_that_was_left_out_is_judged_at_the_next_one_told() -> None:
    trial = study(*FLAT).ask()
    trial.report(0.5, 1)
    assert not trial.should_prune()
    trial.report(9.0, 3)
    assert trial.should_prune()


def test_alone_nobody_is_given_up() -> None:
    assert ends(study(), [9.0] * 12) is None


def test_a_search_learns_the_length_of_a_trial_from_the_first_that_came_through() -> None:
    def falling(parameters: dict[str, float], report: Report) -> float:
        for step in range(1, 25):
            report(step, parameters["x"] + 1 / step)
        return parameters["x"]

    declared = Search({"x": Uniform(0.0, 1.0)}, trials=60, sampler="random", pruner="halving")
    found = search(Plan(declared=declared, greater_is_better=False, seed=2), falling)
    lengths = {len(each.steps) for each in found.trials if each.state == "pruned"}
    assert lengths <= {2, 4, 8, 16}
    assert 2 in lengths
    assert sum(len(each.steps) for each in found.trials) < 0.55 * 24 * 60
    assert found.score == min(each.parameters["x"] for each in found.trials), "the best was not given up"
