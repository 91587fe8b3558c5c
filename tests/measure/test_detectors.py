"""What the detectors find, and how seldom they cry: short seeded streams, and ADWIN beside river's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from river.drift import ADWIN

from everloop.measure.detectors import AdwinWindow, running, scaled, worsened
from everloop.spec.detector import Adwin, Ddm, Detector, Kswin, PageHinkley

BEFORE = 3_000


def errors(seed: int, after: float, *, before: float = 0.1, rows: int = 2_000) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    rates = np.r_[np.full(BEFORE, before), np.full(rows, after)]
    return np.asarray(random.random(BEFORE + rows) < rates, dtype=np.float64)


def delay(detector: Detector, stream: NDArray[np.float64]) -> float:
    """Rows after the change until it is told; negative for a false alarm before, infinite for never."""
    watching = running(detector)
    for place, value in enumerate(stream.tolist()):
        if watching.update(value) is not None:
            return place + 1 - BEFORE
    return float("inf")


@pytest.mark.parametrize("delta", [0.002, 0.02, 0.2])
def test_adwin_tells_what_river_s_tells_and_when(delta: float) -> None:
    for seed in range(12):
        stream = errors(seed, 0.2)
        peer, ours = ADWIN(delta=delta), AdwinWindow(delta)
        told = None
        for value in stream.tolist():
            before = peer.estimation
            peer.update(value)
            told = ours.update(value)
            assert ours.width == peer.width
            assert ours.mean == pytest.approx(peer.estimation)
            if peer.drift_detected:  # after which it begins anew, and ours keeps what is new
                break
        assert peer.drift_detected
        assert (told is not None) == (peer.estimation > before)


@pytest.mark.parametrize(
    ("detector", "doubled", "half_more"),
    [(Adwin(), 500, 1_000), (PageHinkley(), 500, 1_000)],
    ids=lambda each: type(each).__name__,
)
def test_a_rise_is_found_in_time(detector: Detector, doubled: int, half_more: int) -> None:
    assert np.median([delay(detector, errors(seed, 0.2)) for seed in range(25)]) <= doubled
    assert np.median([delay(detector, errors(seed, 0.15, rows=3_000)) for seed in range(25)]) <= half_more


@pytest.mark.parametrize(
    ("detector", "most"), [(Adwin(), 0.1), (PageHinkley(), 0.2), (Kswin(), 0.1)], ids=lambda each: type(each).__name__
)
def test_nothing_new_raises_no_alarm(detector: Detector, most: float) -> None:
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(30):
        watching = running(detector)
        alarms += sum(
            watching.update(value) is not None for value in (random.random(10_000) < 0.1).astype(float).tolist()
        )
    assert alarms / 30 <= most, "in 10,000 labels"


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley(), Kswin()], ids=lambda each: type(each).__name__)
def test_a_fall_of_the_error_is_no_alarm(detector: Detector) -> None:
    for seed in range(8):
        assert delay(detector, errors(seed, 0.05, before=0.3)) == float("inf")


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley(), Kswin(), Ddm()], ids=lambda each: type(each).__name__)
def test_a_large_rise_is_found_by_each_and_placed_about_where_it_is(detector: Detector) -> None:
    for seed in range(5):
        found = worsened(detector, errors(seed, 0.5, before=0.2))
        assert found is not None
        assert 0 < found.known - BEFORE < 1_000
        assert found.after > found.before
        assert abs(found.at - BEFORE) < 60
        assert found.before == pytest.approx(0.2, abs=0.03)
        assert found.after == pytest.approx(0.5, abs=0.03)


def test_what_has_gone_back_stands_no_longer() -> None:
    stream = np.r_[errors(1, 0.6, rows=500), errors(2, 0.02, before=0.02, rows=4_000)]
    assert worsened(Adwin(), stream[: BEFORE + 500]) is not None
    assert worsened(Adwin(), stream) is None


def test_losses_of_any_size_are_brought_into_the_unit_interval_by_the_first_rows() -> None:
    random = np.random.default_rng(3)
    losses = random.exponential(40.0, 5_000)
    losses[3_000:] *= 1.6
    once = scaled(losses)
    assert (once.min() >= 0, once.max()) == (True, 1.0)
    assert np.array_equal(scaled(losses[:1_000]), once[:1_000]), "later rows move nothing"
    found = worsened(Adwin(), losses)
    assert found is not None
    assert found.after == pytest.approx(64, rel=0.15), "told in the losses' own units"
    assert worsened(Adwin(), np.zeros(2_000)) is None
    assert worsened(Adwin(), []) is None
