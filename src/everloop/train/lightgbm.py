"""What is special to LightGBM: its deterministic settings and its native categories. Loaded only where it is used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from everloop.train.function import HeldOut


def settle(estimator: Any, *, seed: int, threads: int) -> None:
    """Same rows, same parameters, same model; quiet; no more threads than the job's share. What the user set stays."""
    own = estimator.get_params(deep=False)
    chosen: dict[str, Any] = {}
    if own.get("random_state") is None and "seed" not in own:
        chosen["random_state"] = seed
    if own.get("n_jobs") is None and "num_threads" not in own:
        chosen["n_jobs"] = threads
    if "verbose" not in own and "verbosity" not in own:
        chosen["verbosity"] = -1
    chosen.setdefault("deterministic", own.get("deterministic", True))
    if not own.get("force_col_wise"):  # otherwise LightGBM times both ways and the quicker one wins: by chance
        chosen["force_row_wise"] = own.get("force_row_wise", True)
    estimator.set_params(**chosen)


def fit_options(places: Sequence[int]) -> dict[str, Any]:
    """``places`` of the matrix columns that hold category codes."""
    return {"categorical_feature": list(places)} if places else {}


def watched(
    estimator: Any, held_out: HeldOut, report: Callable[[int, float], None], told: Callable[[int], bool]
) -> dict[str, Any]:
    """Options of a fit that tells ``report`` its score by boosting round. The trees are the same.

    The held-out rows go in as a validation set, because their sums are then kept up to date tree by tree.
    """
    estimator.set_params(metric="None")

    def look(now: Any) -> None:
        # As a metric it would be asked for at every round, a third of a short fit's time.
        rounds = now.iteration + 1
        if told(rounds):
            now.model.eval_valid(lambda said, rows: _told(report, rounds, held_out.score(said)))

    return {"eval_X": held_out.X, "eval_y": np.zeros(held_out.X.shape[0]), "callbacks": [look]}


def _told(report: Callable[[int, float], None], rounds: int, score: float) -> tuple[str, float, bool]:
    report(rounds, score)
    return "score", 0.0, True
