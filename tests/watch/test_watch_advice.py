from collections.abc import Callable
from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.records import Signature
from everloop.spec.metric import LogLoss, SquaredError
from everloop.store.lake import Lake
from everloop.watch.advice import Advice, advise
from everloop.watch.fold import fold
from everloop.watch.labels import Truth

START = datetime(2024, 1, 1, tzinfo=UTC)
TRUTH = Truth(column="late", delay=td(days=3), task="binary", classes=(0, 1))
Told = Callable[..., Advice]


@pytest.fixture
def told(log: Any, lake: Lake, signatures: dict[str, Signature]) -> Told:
    """Ten days of 300 rows; ``covers``: the chance of a label where 0, or 1, is predicted; ``bold``: overconfident."""

    def made(covers: tuple[float, float], *, bold: float = 1.0, easier: bool = False) -> Advice:
        random = np.random.default_rng(2)
        for day in range(10):
            spread = 3.0 if easier and day >= 7 else 1.0
            chance = 1 / (1 + np.exp(-random.normal(0, spread, 300)))
            said = np.clip((chance - 0.5) * bold + 0.5, 0.01, 0.99)
            label = (random.random(300) < chance).astype(int)
            times = [microseconds(START + td(days=day)) + index * 1_000_000 for index in range(300)]
            ids = [f"{day}-{index}" for index in range(300)]
            log.predictions(ids, at=times, chance=said, numbers=np.zeros(300))
            due = [
                (id, int(value), at + 3 * 86_400_000_000)
                for id, value, at, p in zip(ids, label, times, said, strict=True)
                if day < 7 and random.random() < covers[int(p > 0.5)]
            ]
            log.outcomes(due)
        fold(log.folder, lake, signatures)
        return advise(lake, TRUTH, LogLoss(), version=1, since=START, now=START + td(days=10))

    return made


def test_coverage_and_what_the_labelled_rows_leave_out_are_said_aloud(told: Told) -> None:
    found = told((0.15, 0.5))
    assert found.coverage == pytest.approx(0.32, abs=0.03)
    assert found.words[0].startswith("labels cover 3")
    assert list(found.selected) == ["1"]
    assert found.selected["1"] == pytest.approx(0.5 / 0.325, abs=0.15)
    assert "predicted 1 is over-represented 1.5×" in found.words[1]


def test_labels_of_a_fair_sample_are_no_selection(told: Told) -> None:
    found = told((0.8, 0.8))
    assert found.selected == {}
    assert [words for words in found.words if "represented" in words or "cover" in words] == []


def test_rows_that_are_not_due_yet_have_an_estimate_beside_the_score_of_those_that_were(told: Told) -> None:
    found = told((0.9, 0.9), easier=True)
    assert found.estimated is not None
    assert found.estimated.rows >= 600
    assert found.estimated.value < 0.5, "three days of easier rows"
    assert "estimated without labels: log_loss 0.3" in found.words[-1]
    assert "where labels came; an estimate decides nothing" in found.words[-1]


def test_probabilities_that_do_not_hold_give_no_estimate(told: Told) -> None:
    found = told((0.9, 0.9), bold=1.8)
    assert found.estimated is None
    assert "no estimate without labels: probabilities are off by" in found.words[-1]


def test_reported_labels_that_are_none_are_counted_and_said_aloud(
    log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    log.predictions(["a", "b", "c", "d"], at=[microseconds(START) + 1] * 4)
    log.outcomes(
        [
            *((name, value, microseconds(START) + 1) for name, value in zip("aabcc", (7, 1, 7, 1, "yes"), strict=True)),
            ("d", 7, microseconds(START) + 1),
            ("d", None, microseconds(START) + 2),
        ]
    )
    fold(log.folder, lake, signatures)
    found = advise(lake, TRUTH, LogLoss(), version=1, since=START, now=START + td(days=10))
    assert found.unfit == 2
    assert found.words[0].startswith("2 reported values of 'late' are neither 0 nor 1 and counted for nothing")
    assert found.coverage == 0.5
    number = Truth(column="late", delay=td(days=3), task="regression")
    said = advise(lake, number, SquaredError(), version=1, since=START, now=START + td(days=10)).words
    assert said[0].startswith("1 reported value of 'late' is no number and counted for nothing")


def test_before_any_row_there_is_nothing_to_say(lake: Lake) -> None:
    found = advise(lake, TRUTH, LogLoss(), version=1, since=START, now=START + td(days=10))
    assert (found.coverage, found.words) == (None, ())
