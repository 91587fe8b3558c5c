"""What is special to XGBoost: seed, threads and silence. Loaded only where it is used."""

from collections.abc import Callable
from typing import Any

from xgboost import DMatrix
from xgboost.callback import TrainingCallback

from everloop.train.function import HeldOut


def settle(estimator: Any, *, seed: int, threads: int) -> None:
    """Same rows, same parameters, same model. What the user set stays."""
    own = estimator.get_params(deep=False)
    wanted = {"random_state": seed, "n_jobs": threads, "verbosity": 0}
    estimator.set_params(**{name: value for name, value in wanted.items() if own.get(name) is None})


def watch(estimator: Any, held_out: HeldOut, report: Callable[[int, float], None], told: Callable[[int], bool]) -> None:
    """Make the fit tell ``report`` its score by boosting round. The trees are the same."""
    rows = DMatrix(held_out.X)  # kept: sums over its rows are brought up to date tree by tree

    class Watch(TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if told(epoch + 1):
                report(epoch + 1, held_out.score(model.predict(rows)))
            return False

    estimator.set_params(callbacks=[Watch()])
