import time

import numpy as np
import pytest

from everloop.errors import TrainError
from everloop.measure import encode
from everloop.records import MISSING_INTEGER, MISSING_TEXT, decode
from everloop.records import Encoding as EncodingRecord
from everloop.records import encode as to_json


def texts(*values: str | None) -> np.ndarray:
    return np.array(values, dtype=object)


def test_categories_come_most_frequent_first_and_ties_in_the_alphabet() -> None:
    column = texts("b", "c", "a", "c", None, MISSING_TEXT)
    learned = encode.learn({"c": column}, {"c": "text"}, native_categories=True, accepts_missing=True)
    category = learned.features[0].category
    assert category is not None
    assert category.values == ("c", "a", "b")
    assert encode.apply(learned, {"c": texts("c", "a", "b", None, MISSING_TEXT, "new")})[:, 0].tolist() == [
        0.0, 1.0, 2.0, 3.0, 3.0, 4.0,
    ]  # fmt: skip


def test_one_hot_has_a_place_for_missing_and_one_for_unseen_and_rare() -> None:
    column = texts(*["a"] * 6000, *["b"] * 5000, "once", None)
    learned = encode.learn({"c": column}, {"c": "text"}, native_categories=False, accepts_missing=False)
    category = learned.features[0].category
    assert category is not None
    assert category.values == ("a", "b")
    assert category.rare == ("once",)
    matrix = encode.apply(learned, {"c": texts("a", "b", None, "once", "never")})
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert learned.columns == ("c=a", "c=b", "c missing", "c unseen")


def test_numbers_are_rounded_to_float32_and_missing_stays_or_is_filled_with_the_training_median() -> None:
    train = {
        "x": np.array([0.1, 0.3, np.nan, 0.2]),
        "n": np.array([1, MISSING_INTEGER, 3, 5]),
        "b": np.array([True, False, True, True]),
    }
    kinds = {"x": "number", "n": "integer", "b": "boolean"}
    keeps = encode.learn(train, kinds, native_categories=False, accepts_missing=True)  # type: ignore[arg-type]
    fills = encode.learn(train, kinds, native_categories=False, accepts_missing=False)  # type: ignore[arg-type]
    matrix = encode.apply(keeps, train)
    assert matrix.dtype == np.float64
    assert np.array_equal(matrix, matrix.astype(np.float32).astype(np.float64), equal_nan=True)
    assert np.isnan(matrix).sum() == 2
    assert encode.apply(fills, train)[2, 0] == np.float32(0.2)
    assert encode.apply(fills, train)[1, 1] == 3.0


def test_numbers_beyond_float32_stop_at_its_edge() -> None:
    learned = encode.learn({"x": np.array([1.0])}, {"x": "number"}, native_categories=True, accepts_missing=True)
    matrix = encode.apply(learned, {"x": np.array([1e300, -np.inf, 2.0**53 + 1])})
    assert matrix[:, 0].tolist() == [encode.LARGEST, -encode.LARGEST, 2.0**53]


def test_a_number_column_that_is_missing_everywhere_is_filled_with_zero() -> None:
    learned = encode.learn({"x": np.array([np.nan])}, {"x": "number"}, native_categories=False, accepts_missing=False)
    assert encode.apply(learned, {"x": np.array([np.nan, 7.0])})[:, 0].tolist() == [0.0, 7.0]


def test_an_instant_is_refused_with_its_parts_as_the_remedy() -> None:
    with pytest.raises(TrainError, match=r"dt\.hour"):
        encode.learn({"at": np.array([1])}, {"at": "instant"}, native_categories=True, accepts_missing=True)


def test_an_encoding_survives_json() -> None:
    learned = encode.learn({"c": texts("a", None)}, {"c": "text"}, native_categories=True, accepts_missing=True)
    assert decode(to_json(learned), EncodingRecord) == learned


def test_two_hundred_thousand_rows_are_encoded_within_a_second() -> None:
    random = np.random.default_rng(0)
    names = np.array([f"airport {i}" for i in range(300)], dtype=object)
    rows = {"c": names[random.integers(0, 300, 200_000)], "x": random.normal(size=200_000)}
    started = time.process_time()
    learned = encode.learn(rows, {"c": "text", "x": "number"}, native_categories=True, accepts_missing=True)
    encode.apply(learned, rows)
    assert time.process_time() - started < 1.0
