"""The traps: their arithmetic on a history that can be calculated by hand, and the page beside the kept figures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bench import rows, traps


class Newest:
    """Says of everything what the last label of its training was."""

    def fit(self, x: Any, y: Any) -> Newest:
        self.said = float(y[-1])
        return self

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.said)


def history(windows: int = 6, rows: int = 10) -> Any:
    """The label is the number of its window."""
    y = np.repeat(np.arange(windows), rows).astype(np.float64)
    x = y[:, None]
    return traps.Set(x, y, np.arange(windows + 1) * rows, Newest, probability=False, numbers=x)


def test_a_window_is_predicted_by_a_model_that_never_saw_it() -> None:
    found = traps.run(history(), 2, 1, traps.every(1, 2))
    assert found.retrains == 3  # after the last window nobody is served
    assert found.predicted.reshape(4, 10)[:, 0].tolist() == [1, 2, 3, 4]
    assert found.by_window == [1, 1, 1, 1]


def test_never_and_every_other_window() -> None:
    assert traps.run(history(), 2, 1, traps.never).predicted.max() == 1
    every = traps.run(history(), 2, None, traps.every(2, 2))
    assert every.retrains == 1
    assert every.predicted.reshape(4, 10)[:, 0].tolist() == [1, 1, 3, 3]


def test_a_shift_rings_and_the_same_rows_do_not() -> None:
    random = np.random.default_rng(0)
    data = history()
    data.numbers = random.normal(size=(60, 3))
    assert not traps.drifted("ks", 0.99)(data, 3, (0, 2))
    data.numbers[30:40] += 9
    assert traps.drifted("ks", 0.99)(data, 3, (0, 2))
    assert traps.drifted("psi", 0.2)(data, 3, (0, 2))
    assert traps.psi_of(data.numbers[:, 0], data.numbers[:, 0]) == 0


def test_the_page_shows_the_figures_that_were_kept() -> None:
    kept = json.loads(traps.RESULTS.read_text("utf-8"))["rows"]
    page = traps.PAGE.read_text("utf-8")
    assert traps.into(page, traps.written([rows.Row.from_json(each) for each in kept])) == page
    with pytest.raises(ValueError, match="has no"):
        traps.into("nothing", "| |")


def test_what_the_page_says_in_words_follows_from_the_figures() -> None:
    figures = {each["what"]: each["ours"] for each in json.loads(traps.RESULTS.read_text("utf-8"))["rows"]}

    def of(words: str) -> float:
        (found,) = (value for what, value in figures.items() if words in what)
        return float(found)

    assert (
        of("previous label, row by row") > of("weekly model, previous label") > of("weekly model, whole weeks") + 0.05
    )
    assert of("newest known label") == pytest.approx(0.5, abs=0.01)
    assert of("five folds") > of("weekly model, whole weeks")
    assert of("months with PSI > .2 of temperature, six") == of("months with KS > .1 of temperature") == 21
    assert 4 <= of("months with PSI > .2 of temperature, a year") <= 7
    assert of("every 4 windows, all so far") > of("every 4 windows, the last 4") + 0.025
    assert of("every 4 windows, all so far") > of("every window, the last 4")
    assert of("saying on time") > max(of("hflights: accuracy, never"), of("hflights: accuracy, every week"))
    assert of("hflights: AUC, every week") == pytest.approx(of("hflights: AUC, never") + 0.03, abs=0.005)
    assert of("hflights: retrains, PSI") == of("hflights: retrains, KS") == 0
    assert of("windows of 24 rows") == 1
