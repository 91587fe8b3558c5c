"""What moved is said in bins and values, with their shares then and now; the distances agree with what they are."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, wasserstein_distance

from everloop.measure import profile
from everloop.measure.carried import carried
from everloop.measure.comparison import compare
from everloop.measure.distance import chi_square, jensen_shannon
from everloop.measure.sketch import CategorySketch, Sketch


def test_distances_agree_with_their_definitions() -> None:
    random = np.random.default_rng(1)
    one, other = random.integers(1, 50, 8), random.integers(1, 50, 8)
    assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, base=2) ** 2)
    found, freedom = chi_square(one, other)
    expected = chi2_contingency([one, other])
    assert found == pytest.approx(expected.statistic)
    assert freedom == expected.dof
    a, b = random.normal(0, 2, 20_000), random.normal(1, 2, 20_000)
    (compared,) = compare(profile.build({"x": a}), profile.build({"x": b}))
    assert compared.wasserstein == pytest.approx(wasserstein_distance(a, b) / a.std(), rel=0.03)
    assert compared.outliers < 0.03


def test_the_bins_that_changed_most_come_first_and_bins_have_names() -> None:
    random = np.random.default_rng(2)
    before = profile.build({"x": random.uniform(0, 10, 10_000)})
    moved = np.concatenate([random.uniform(0, 10, 3_000), random.uniform(9, 10, 1_000)])
    first = carried(before.columns["x"], profile.build({"x": moved}, like=before).columns["x"])[0]
    assert first.rows.startswith("over ")
    assert first.then == pytest.approx(0.1, abs=0.01)
    assert first.now == pytest.approx(0.325, abs=0.02)


def test_new_values_are_named_with_nothing_then() -> None:
    reference = profile.build({"t": np.array(["a", "b"] * 200, dtype=object)})
    now = Sketch()
    now.update({"t": np.array(["a", "b", "zebra", "a"] * 50, dtype=object)}, like=reference)
    column = now.columns["t"]
    assert isinstance(column, CategorySketch)
    rows = carried(reference.columns["t"], now.profile(like=reference).columns["t"], column.newcomers(("a", "b")))
    assert str(rows[0]) == "'zebra' (new) 0.0% → 25.0%"


def test_nothing_is_carried_by_no_rows() -> None:
    empty = profile.build({"x": np.zeros(0)})
    some = profile.build({"x": np.arange(50.0)})
    assert carried(empty.columns["x"], some.columns["x"]) == ()
    assert carried(some.columns["x"], profile.build({"x": np.zeros(0)}, like=some).columns["x"]) == ()
