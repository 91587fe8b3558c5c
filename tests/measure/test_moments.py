"""Moments of parts are those of the whole, and stay numbers whatever the values are."""

import math

import numpy as np
import pytest

from everloop.measure import moments
from everloop.measure.sketch import NumberSketch, Sketch, from_bytes, to_bytes


def test_parts_together_are_the_whole() -> None:
    values = np.random.default_rng(0).normal(5.0, 3.0, 1_000)
    found = moments.NONE
    for part in np.split(values, [1, 17, 600]):
        found = moments.together(found, moments.of(part))
    assert found[0] == 1_000
    assert found[1] == pytest.approx(values.mean(), rel=1e-12)
    assert found[2] / 1_000 == pytest.approx(values.var(), rel=1e-12)


@pytest.mark.parametrize("huge", [[1e200], [1e308, 1e308, 1e308], [1e308, -1e308], [-1.7e308] * 5])
def test_absurd_values_stay_numbers_and_are_read_again(huge: list[float]) -> None:
    number = NumberSketch()
    for part in (np.ones(3), np.array(huge), np.zeros(2)):
        number.update(part, 0, None)
        more = NumberSketch()
        more.update(np.array(huge), 0, None)
        number.merge(more)
    read = from_bytes(to_bytes(Sketch(rows=number.present, columns={"x": number}))).profile().columns["x"]
    assert read.mean is not None
    assert read.deviation is not None
    assert math.isfinite(read.mean)
    assert math.isfinite(read.deviation)
    assert read.present == number.present
