from datetime import UTC, datetime
from datetime import timedelta as td

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.spec.detector import Adwin, Detector, PageHinkley
from everloop.spec.metric import Accuracy, Brier, RocAuc
from everloop.watch.concept import beginning, cyclic, degradation, steadied
from everloop.watch.score import Judged

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, PER_DAY = 20, 400


def judged(seed: int, *, night: float = 0.0, after: float = 0.0) -> Judged:
    """One answer in ten is wrong; by night ``night`` more, from the fifteenth day on ``after`` more."""
    random = np.random.default_rng(seed)
    n = DAYS * PER_DAY
    times = np.linspace(microseconds(START), microseconds(START + td(days=DAYS)) - 1, n).astype(np.int64)
    hours = np.arange(n) % PER_DAY * 24 / PER_DAY
    rate = 0.1 + night * (hours < 8) + after * (np.arange(n) >= 15 * PER_DAY)
    truth = (random.random(n) < 0.5).astype(np.int64)
    decided = np.where(random.random(n) < rate, 1 - truth, truth)
    sure = random.uniform(0.6, 0.9, n)
    return Judged(
        truth=truth, prediction=np.stack([np.where(decided == k, sure, 1 - sure) for k in (0, 1)], axis=1), times=times
    )


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley()], ids=lambda each: type(each).__name__)
def test_a_model_that_is_worse_by_night_is_no_alarm_and_one_that_became_worse_is(detector: Detector) -> None:
    for seed in range(6):
        quiet = judged(seed, night=0.25)
        assert degradation(Accuracy(), quiet, detector, by=0.02) is None
        found = degradation(Accuracy(), judged(seed, night=0.25, after=0.15), detector, by=0.02)
        assert found is not None
        assert found.worse
        assert abs((found.since - START).total_seconds() / 86_400 - 15) < 2, "where it began, to a day or so"
        assert found.difference == pytest.approx(0.15, abs=0.05)
        assert type(detector).__name__ in found.because


def test_as_they_come_such_nights_would_be_alarms() -> None:
    from everloop.measure import detectors, metrics

    for seed in range(3):
        quiet = judged(seed, night=0.25)
        watching = detectors.running(Adwin())
        losses = metrics.row_loss(Accuracy(), quiet.truth, quiet.prediction)
        assert sum(watching.update(each) is not None for each in losses.tolist()) >= 5


def test_a_cycle_is_seen_and_a_change_is_not_taken_for_one() -> None:
    seen = changed = 0
    for seed in range(20):
        night, later = judged(seed, night=0.25), judged(seed, after=0.3)
        seen += cyclic(night.times, (night.prediction.argmax(axis=1) != night.truth).astype(float))
        changed += cyclic(later.times, (later.prediction.argmax(axis=1) != later.truth).astype(float))
    assert seen == 20
    assert changed <= 2
    assert not cyclic(np.array([], dtype=np.int64), np.array([]))


def test_whole_days_keep_their_rows_and_the_same_rows_their_order() -> None:
    night = judged(3, night=0.25)
    losses = (night.prediction.argmax(axis=1) != night.truth).astype(float)
    times, moved = steadied(night.times, losses)
    assert len(moved) == (DAYS - 1) * PER_DAY, "the last day is not over"
    days = moved.reshape(DAYS - 1, PER_DAY).sum(axis=1)
    assert (days == losses[: len(moved)].reshape(DAYS - 1, PER_DAY).sum(axis=1)).all()
    assert (moved == steadied(night.times, losses)[1]).all()
    calm = judged(3)
    same = (calm.prediction.argmax(axis=1) != calm.truth).astype(float)
    assert steadied(calm.times, same)[1] is same
    assert times[0] == night.times[0]


def test_a_rise_below_what_counts_is_said_but_is_not_worse() -> None:
    found = degradation(Accuracy(), judged(1, after=0.1), Adwin(), by=0.3)
    assert found is not None
    assert not found.worse
    brier = degradation(RocAuc(), judged(1, after=0.2), Adwin(), by=0.3)
    assert brier is not None
    assert brier.worse, "an area is no mean of losses: any rise of the Brier loss that is shown counts"
    assert degradation(Brier(), judged(1), Adwin(), by=0.01) is None


def test_a_detector_begins_at_the_same_row_for_a_while() -> None:
    over = td(days=7)
    begun = [beginning(START, START + td(days=day), over) for day in range(30)]
    assert begun[:14] == [START] * 14
    assert len(set(begun)) == 4
    assert all(START + td(days=day) - each < 2 * over for day, each in enumerate(begun))
