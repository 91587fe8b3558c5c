"""Sketches that are merged say what all rows together say: close to exact for quantiles, exactly for counts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import profile, sketch
from everloop.measure.coded import Coded
from everloop.measure.comparison import compare
from everloop.measure.distance import psi
from everloop.measure.profile import Profile
from everloop.measure.sketch import CategorySketch, Sketch
from everloop.records import MISSING_INTEGER, MISSING_TEXT

NAMES = np.array([f"v{index}" for index in range(3_000)], dtype=object)


def columns(random: np.random.Generator, n: int, shift: float = 0.0) -> dict[str, NDArray[np.generic]]:
    number = random.lognormal(shift, 1, n)
    number[: n // 50] = np.nan
    return {
        "number": number,
        "integer": np.where(random.random(n) < 0.01, MISSING_INTEGER, random.poisson(4 + shift, n)).astype(np.int64),
        "text": NAMES[np.minimum(random.zipf(1.4, n), 2_999)],
        "flag": random.random(n) < 0.3,
    }


def merged(made: dict[str, NDArray[np.generic]], like: Profile | None = None, shards: int = 8) -> Sketch:
    """Built in shards, each through bytes and back, as replicas would hand them over."""
    whole = Sketch()
    for places in np.array_split(np.arange(len(made["number"])), shards):
        part = Sketch()
        part.update({name: values[places] for name, values in made.items()}, like=like)
        whole.merge(sketch.from_bytes(sketch.to_bytes(part)))
    return whole


def exact_ks(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = np.sort(one), np.sort(other)
    every = np.concatenate([one, other])
    shares = [np.searchsorted(each, every, side="right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1, 0.3])
def test_merged_shards_are_within_the_promised_error_of_exact(shift: float) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        one, other = random.lognormal(0, 1, 30_000), random.lognormal(shift, 1, 30_000)
        found = compare(
            merged_numbers(one).profile(), merged_numbers(other).profile(like=merged_numbers(one).profile())
        )[0]
        edges = np.quantile(one, np.arange(1, 10) / 10, method="inverted_cdf")
        exact = [np.bincount(np.searchsorted(edges, each), minlength=10) for each in (one, other)]
        assert found.ks == pytest.approx(exact_ks(one, other), abs=0.005)
        assert found.psi == pytest.approx(psi(*exact), abs=0.01)


def test_texts_by_their_different_values_are_described_as_texts_are() -> None:
    random = np.random.default_rng(5)
    texts = random.choice(np.array(["heron", "plover", None, MISSING_TEXT, "swift"], dtype=object), 3_000)
    different = ["swift", "heron", "nobody", MISSING_TEXT, "plover"]
    codes = np.array([-1 if each is None else different.index(each) for each in texts], dtype=np.int32)
    coded = Coded(values=tuple(different), codes=codes)
    reference = profile.build({"bird": texts[:1_000]})
    for like in (None, reference):
        assert profile.build({"bird": coded}, like=like) == profile.build({"bird": texts}, like=like)
    column = reference.columns["bird"]
    assert profile.places(coded, column).tolist() == profile.places(texts, column).tolist()
    assert profile.counted(coded)[0] == profile.counted(texts)[0]
    one, other = Sketch(), Sketch()
    one.update({"bird": coded}, like=reference)
    other.update({"bird": texts}, like=reference)
    assert one.profile(like=reference) == other.profile(like=reference)
    assert [each for each in coded.objects() if each not in (None, MISSING_TEXT)] == [
        each for each in texts if each not in (None, MISSING_TEXT)
    ]


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_distance_of_two_profiles_is_that_of_all_rows(shift: float) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        for one, other in (
            (random.normal(0, 1, 20_000), random.normal(shift, 1, 20_000)),
            (random.poisson(4, 20_000).astype(float), random.poisson(4 * (1 + shift), 20_000).astype(float)),
        ):
            reference = profile.build({"x": one})
            found = compare(reference, profile.build({"x": other}, like=reference))[0].ks
            assert found == pytest.approx(exact_ks(one, other), abs=0.0015 if one[0] != int(one[0]) else 0.0026)


def merged_numbers(values: NDArray[np.float64]) -> Sketch:
    whole = Sketch()
    for part in np.array_split(values, 8):
        each = Sketch()
        each.update({"number": part})
        whole.merge(each)
    return whole


def test_counts_in_a_references_bins_are_exact_however_they_are_merged() -> None:
    random = np.random.default_rng(1)
    reference = profile.build(columns(random, 20_000))
    now = columns(random, 9_000, 0.2)
    ours = merged(now, like=reference).profile(like=reference)
    exact = profile.build(now, like=reference)
    assert ours.rows == exact.rows
    for name, each in exact.columns.items():
        mine = ours.columns[name]
        assert (mine.rows, mine.missing, mine.counts, mine.values, mine.value_counts, mine.other) == (
            each.rows,
            each.missing,
            each.counts,
            each.values,
            each.value_counts,
            each.other,
        )
        if each.mean is not None:
            assert mine.mean == pytest.approx(each.mean)
            assert mine.deviation == pytest.approx(each.deviation)
            assert mine.quantiles[0] == pytest.approx(each.quantiles[0])
            assert mine.quantiles[-1] == pytest.approx(each.quantiles[-1])
    assert ours.columns["text"].distinct == pytest.approx(exact.columns["text"].distinct, rel=0.05)


def test_a_sketch_without_a_reference_keeps_the_values_that_matter() -> None:
    random = np.random.default_rng(2)
    now = columns(random, 20_000)
    alone, exact = merged(now).profile(), profile.build(now)
    assert alone.columns["text"].values[:5] == exact.columns["text"].values[:5]
    assert alone.columns["flag"].values == exact.columns["flag"].values
    found = {each.column: each for each in compare(exact, alone)}
    assert all(each.psi < 0.01 for each in found.values())


def test_new_values_are_named() -> None:
    random = np.random.default_rng(3)
    reference = profile.build({"text": NAMES[random.integers(0, 5, 2_000)]})
    whole = Sketch()
    for _ in range(3):
        now = NAMES[random.integers(0, 5, 500)]
        now[:40] = "never seen"
        whole.update({"text": now}, like=reference)
    column = whole.columns["text"]
    assert isinstance(column, CategorySketch)
    assert column.newcomers(reference.columns["text"].values) == (("never seen", 120),)


def test_nothing_and_a_constant_are_no_trouble() -> None:
    empty = Sketch()
    empty.update({"number": np.zeros(0), "text": np.array([], dtype=object)})
    assert merged({"number": np.full(10, np.nan)}, shards=2).profile().columns["number"].missing == 10
    constant = Sketch()
    constant.update({"number": np.ones(50)})
    made = profile.build({"number": np.ones(50)})
    assert constant.profile().columns["number"].edges == made.columns["number"].edges
    assert constant.profile().columns["number"].counts == made.columns["number"].counts
    empty.merge(constant)
    assert empty.profile().rows == 50
    assert sketch.from_bytes(sketch.to_bytes(Sketch())).profile().rows == 0


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Sketch().update({"x": np.ones(3), "y": np.ones(4)})


@pytest.mark.parametrize("rows", [100, 5_000])
def test_values_on_an_edge_lie_below_it_however_many_there_are(rows: int) -> None:
    random = np.random.default_rng(8)
    reference = profile.build({"x": random.poisson(4, 1_000).astype(np.float64)})
    values = random.poisson(5, rows).astype(np.float64)
    whole = Sketch()
    whole.update({"x": values}, like=reference)
    assert (
        whole.profile(like=reference).columns["x"].counts
        == profile.build({"x": values}, like=reference).columns["x"].counts
    )


def test_another_references_bins_are_counted_from_the_sketch() -> None:
    random = np.random.default_rng(9)
    first, second = (profile.build(columns(random, 4_000, shift)) for shift in (0.0, 0.3))
    made = columns(random, 20_000, 0.1)
    held = merged(made, first)
    other = held.recounted(second)
    exact = profile.build(made, like=second).columns
    found = other.profile(like=second).columns
    for name, column in exact.items():
        assert (found[name].rows, found[name].missing) == (column.rows, column.missing)
        if column.kind == "category":
            assert found[name].value_counts == column.value_counts
        else:
            apart = np.cumsum(np.array(found[name].counts) - np.array(column.counts))
            assert np.abs(apart).max() <= 0.005 * len(made["number"])
    both = merged(made, second)
    both.merge(other)
    assert both.profile(like=second).columns["flag"].value_counts == tuple(
        2 * each for each in exact["flag"].value_counts
    )
    strange = profile.build({"number": NAMES[:100], "text": NAMES[:100]})
    assert list(held.recounted(strange).columns) == ["text"], "what is something else there is left out"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b'{"rows":1}',
        b'{"rows":1,"columns":{"x":{"kind":"number","sketches":["AAAA"],"missing":0,"present":1,"moments":"","counts":null}}}',
        b'{"rows":1,"columns":{"x":{"kind":"number","sketches":[],"missing":0,"present":1,"moments":"'
        + b"A" * 42 + b'=","counts":null}}}',
        b'{"rows":1,"columns":{"x":{"kind":"category","sketches":["AAAA","AAAA"],"missing":0,"present":1,"moments":"","counts":null}}}',
    ],
)  # fmt: skip
def test_what_is_no_sketch_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="bytes are no sketch"):
        sketch.from_bytes(data)
