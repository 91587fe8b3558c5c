"""What is special to XGBoost: seed, threads and silence. Loaded only where it is used."""

from typing import Any


def settle(estimator: Any, *, seed: int, threads: int) -> None:
    """Same rows, same parameters, same model. What the user set stays."""
    own = estimator.get_params(deep=False)
    wanted = {"random_state": seed, "n_jobs": threads, "verbosity": 0}
    estimator.set_params(**{name: value for name, value in wanted.items() if own.get(name) is None})
