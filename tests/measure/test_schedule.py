"""The best schedule afterwards, held against every schedule there is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everloop.measure.schedule import Schedule, best_by_retrains, best_schedule, served

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Floats, Integers, Integers]:
    """Losses of up to seven fits over up to seven windows; several may be made at once, some come too late."""
    windows = draw(st.integers(1, 7))
    made = draw(st.lists(st.integers(0, windows), min_size=0, max_size=6))
    delay = draw(st.integers(0, 2))
    made = [0, *sorted(made)]
    ready = [0, *(each + delay for each in made[1:])]
    loss = draw(
        st.lists(
            st.lists(st.integers(0, 9), min_size=windows, max_size=windows), min_size=len(made), max_size=len(made)
        )
    )
    return np.array(loss, float), np.array(made), np.array(ready)


def by_trying_everything(loss: Floats, made: Integers, ready: Integers, price: Floats, most: int, apart: int) -> float:
    fits, windows = loss.shape
    best = np.inf
    beginnings = [fit for fit in range(fits) if ready[fit] <= 0]
    for first in beginnings:
        others = [fit for fit in range(fits) if 0 < ready[fit] < windows]
        for count in range(min(most, len(others)) + 1):
            for chosen in combinations(others, count):
                chain = sorted(chosen, key=lambda fit: (ready[fit], made[fit]))
                steps = list(zip([first, *chain], chain, strict=False))
                if any(
                    made[after] < made[before] + apart or made[after] < ready[before] or ready[after] <= ready[before]
                    for before, after in steps
                ):
                    continue
                serving = np.full(windows, first)
                for fit in chain:
                    serving[ready[fit] :] = fit
                best = min(best, float(loss[serving, np.arange(windows)].sum() + price[list(chain)].sum()))
    return best


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 3)), st.integers(0, 3), st.booleans())
def test_it_is_as_good_as_the_best_of_all_schedules(
    history: tuple[Floats, Integers, Integers], price: int, most: int | None, apart: int, own_prices: bool
) -> None:
    loss, made, ready = history
    each_price = np.arange(len(loss), dtype=float) * price if own_prices else np.full(len(loss), float(price))
    found = best_schedule(loss, made, ready, price=each_price if own_prices else price, most=most, apart=apart)
    assert found.total == by_trying_everything(
        loss, made, ready, each_price, len(loss) if most is None else most, apart
    )
    _is_possible(found, loss, made, ready, each_price, most, apart)
    for at_most, limited in enumerate(best_by_retrains(loss, made, ready, most=3, price=each_price, apart=apart)):
        assert limited.total == by_trying_everything(loss, made, ready, each_price, at_most, apart)
        _is_possible(limited, loss, made, ready, each_price, at_most, apart)


def _is_possible(
    found: Schedule, loss: Floats, made: Integers, ready: Integers, price: Floats, most: int | None, apart: int
) -> None:
    assert most is None or found.retrains <= most
    assert ready[found.fits[0]] <= 0
    for before, after in zip(found.fits, found.fits[1:], strict=False):
        assert made[after] >= max(made[before] + apart, ready[before])
    for window, fit in enumerate(found.serving):
        assert ready[fit] <= window
    assert found.loss == served(found.serving, loss)
    assert found.total == found.loss + price[list(found.fits[1:])].sum()


def test_a_dear_retrain_is_left_out_and_a_cheap_one_made() -> None:
    loss = [[0, 5, 5, 5], [0, 0, 1, 1], [9, 9, 0, 0]]
    made = [0, 1, 2]
    assert best_schedule(loss, made, made).retrains == 2
    assert best_schedule(loss, made, made, price=3).fits == (0, 1)
    assert best_schedule(loss, made, made, price=20).fits == (0,)


def test_a_model_that_takes_long_serves_late_and_blocks_the_next() -> None:
    loss = np.array([[1.0, 9, 9, 9], [0, 2, 2, 2], [0, 0, 3, 3], [0, 0, 0, 0]])
    at_once = best_schedule(loss, [0, 1, 2, 3], [0, 1, 2, 3])
    assert at_once.serving.tolist() == [0, 1, 1, 3]
    slowly = best_schedule(loss, [0, 1, 2, 3], [0, 3, 4, 5])
    assert slowly.serving.tolist() == [0, 0, 0, 1]
    assert slowly.loss == 1 + 9 + 9 + 2


def test_a_loss_that_nobody_knows_is_never_relied_on() -> None:
    unknown = np.nan
    loss = np.array([[0, 5, 5], [0, 1, unknown], [0, 0, 4]])
    assert best_schedule(loss, [0, 1, 2], [0, 1, 2]).fits == (0, 1, 2)
    late = best_by_retrains(np.array([[0, 5, unknown], [0, 1, 2]]), [0, 1], [0, 1], most=3)
    assert [each.retrains for each in late] == [1]
    with pytest.raises(ValueError, match="Some window has no fit whose loss is known"):
        best_schedule([[0, unknown]], [0], [0])
    with pytest.raises(ValueError, match="first window"):
        best_schedule([[0, 1]], [1], [1])
    with pytest.raises(ValueError, match="none ready before it is made"):
        best_schedule([[0, 1]], [1], [0])


def test_five_hundred_fits_over_two_hundred_windows_are_a_moment() -> None:
    """O(fits²): no assertion on time, but in O(fits³) this test would take minutes."""
    random = np.random.default_rng(0)
    made = np.repeat(np.arange(200), 3)
    loss = random.random((600, 200))
    free = best_schedule(loss, made, made)
    few = best_schedule(loss, made, made, most=20)
    assert few.retrains == 20
    assert free.loss < few.loss
    assert free.loss == pytest.approx(served(free.serving, loss))
