"""What every detector of drift must do, however it decides. Knows no detector."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
"""Arrays of equal length by name: float64 with NaN where missing, or objects, str with None where missing."""
Detector = Callable[[Columns, Sequence[Columns]], Collection[str]]
"""From the reference rows and the windows since, oldest first, the columns that have moved as of the last window."""

REFERENCE_ROWS, WINDOW_ROWS = 4_000, 1_000
CARRIERS = np.array(["AA", "UA", "WN", "DL"], dtype=object)


def check_detector(detect: Detector, *, false_alarms: int = 1, trials: int = 30) -> None:
    """Run every check: at most ``false_alarms`` of ``trials`` quiet histories may raise an alarm."""
    random = np.random.default_rng(7)
    reference = rows(random, REFERENCE_ROWS)
    quiet = [detect(reference, [rows(random, WINDOW_ROWS) for _ in range(2)]) for _ in range(trials)]
    assert sum(map(bool, quiet)) <= false_alarms, f"{sum(map(bool, quiet))} alarms in {trials} quiet histories"

    def after(change: Callable[[dict[str, npt.NDArray[Any]]], None]) -> Collection[str]:
        windows = [rows(random, WINDOW_ROWS) for _ in range(4)]
        for window in windows[2:]:
            change(window)
        return detect(reference, windows)

    assert set(after(_shift)) == {"miles"}, "a mean that moves by one standard deviation is seen, and its column named"
    assert set(after(_scale)) == {"miles"}, "a spread that doubles is seen, though the mean stays"
    assert set(after(_lose)) == {"miles"}, "values that go missing are seen"
    assert set(after(_arrive)) == {"carrier"}, "a new value that takes a fifth of the rows is seen"
    assert set(after(_skew)) == {"carrier"}, "a value whose share more than doubles is seen"
    assert not after(_one_outlier), "one impossible row among a thousand is no drift"

    def went_back() -> Collection[str]:
        windows = [rows(random, WINDOW_ROWS) for _ in range(4)]
        _shift(windows[0])
        return detect(reference, windows)

    assert not went_back(), "what has gone back to what it was is no drift"
    for empty in (rows(random, 0), {"miles": np.full(10, np.nan), "carrier": np.full(10, None, dtype=object)}):
        detect(reference, [empty, empty])  # Says what it likes, but does not raise.
    constant = {"miles": np.ones(REFERENCE_ROWS), "carrier": np.full(REFERENCE_ROWS, "AA", dtype=object)}
    same = {name: values[:WINDOW_ROWS] for name, values in constant.items()}
    assert not detect(constant, [same, same]), "a constant that stays constant is no drift"


def rows(random: np.random.Generator, count: int) -> dict[str, npt.NDArray[Any]]:
    """Quiet rows: one column of numbers and one of text, each with a few missing values."""
    miles = random.normal(800.0, 200.0, count)
    miles[random.random(count) < 0.02] = np.nan
    carrier = random.choice(CARRIERS, count, p=[0.4, 0.3, 0.2, 0.1])
    carrier[random.random(count) < 0.02] = None
    return {"miles": miles, "carrier": carrier}


def _shift(window: dict[str, npt.NDArray[Any]]) -> None:
    window["miles"] += 200.0


def _scale(window: dict[str, npt.NDArray[Any]]) -> None:
    window["miles"] = 800.0 + 2.0 * (window["miles"] - 800.0)


def _lose(window: dict[str, npt.NDArray[Any]]) -> None:
    window["miles"][::5] = np.nan


def _arrive(window: dict[str, npt.NDArray[Any]]) -> None:
    window["carrier"][::5] = "ZZ"


def _skew(window: dict[str, npt.NDArray[Any]]) -> None:
    window["carrier"][::3] = "WN"


def _one_outlier(window: dict[str, npt.NDArray[Any]]) -> None:
    window["miles"][0] = 1e12
