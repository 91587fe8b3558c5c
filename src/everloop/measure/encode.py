"""Turns feature columns into the estimator's matrix, by tables learned once. Knows nothing of estimators or graphs.

``package`` renders the same `Encoding` to ONNX; both must round, clip and code alike, bit for bit.
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.errors import DataError, TrainError
from everloop.forms import Form, Image, Terms, TermTable, Tokens
from everloop.measure import terms, tokens
from everloop.measure.pictures import Pictures
from everloop.measure.tensors import Tensors
from everloop.records import (
    MISSING_INTEGER,
    MISSING_TEXT,
    Category,
    Encoding,
    FeatureEncoding,
    FeatureType,
    Scaling,
)

Matrix = npt.NDArray[np.float64]
Sparse = Any
"""scipy's csr_matrix of float64, which has no types."""

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond the float32 range are held at its edge, so that no estimator sees an infinity."""

COLUMNS = "columns"
"""The name of the matrix among a network's tensors."""
NATIVE_LIMIT = 20_000
"""Most values in a table of native codes; what is rarer counts as unseen."""
ONE_HOT_LIMIT = 200
"""Most one-hot columns of known values for one feature."""
RARE_ROWS = 5
RARE_SHARE = 0.0005
"""A value in fewer training rows than both ask for shares the unseen place, which so learns a weight of its own."""


def learn(
    features: Mapping[str, npt.NDArray[np.generic]],
    types: Mapping[str, FeatureType],
    *,
    native_categories: bool,
    accepts_missing: bool,
    forms: Mapping[str, Form] | None = None,
    network: bool = False,
    folder: Path | None = None,
) -> Encoding:
    """Learn how each feature becomes matrix columns, from training rows only.

    ``features``: one array [rows] per feature. number: float64, NaN missing. integer, boolean: int64 with
    `MISSING_INTEGER`, or float64 with NaN, or bool. text: str objects with None or `MISSING_TEXT` missing.
    ``native_categories``: one column of codes per text feature (trees that split on sets), else one-hot.
    ``accepts_missing``: False learns the training median as a fill for missing numbers. ``forms``: of each feature
    that is more than one value what was declared (`everloop.spec.wholes.forms_of`); its array holds texts.
    ``network``: numbers are scaled, and missing ones get a column that says so. ``folder``: what paths in ``forms`` are
    relative to.

    >>> table = learn({"x": np.array([1.0, np.nan, 3.0]), "c": np.array(["b", "b", "a"], dtype=object)},
    ...               {"x": "number", "c": "text"}, native_categories=True, accepts_missing=False)
    >>> table.features[0].fill, table.features[1].category.values
    (2.0, ('b', 'a'))
    """
    learned: list[FeatureEncoding] = []
    free_text = any(isinstance(each, Terms) for each in (forms or {}).values())
    for name, values in features.items():
        kind = types[name]
        if kind == "instant":
            raise TrainError(
                f"feature {name!r} is an instant, which no estimator takes; give its parts, for example "
                f"row.{name}.dt.hour()."
            )
        form = (forms or {}).get(name)
        if isinstance(form, Terms):
            if network:
                raise TrainError(f"the feature {name!r} is terms of a text, which no network takes; write its tokens.")
            learned.append(FeatureEncoding(name=name, type=kind, terms=_learn_terms(name, form, values)))
        elif isinstance(form, Tokens):
            if not network:
                raise TrainError(
                    f"the feature {name!r} is tokens, which only a network takes; write .text() for {name!r}, or train "
                    "with el.Torch."
                )
            table = tokens.learn(form, _texts(values), folder)
            learned.append(FeatureEncoding(name=name, type=kind, tokens=table))
        elif isinstance(form, Image):
            learned.append(FeatureEncoding(name=name, type=kind, image=form))
        elif kind == "text":
            category = _learn_category(values, one_hot=not native_categories)
            learned.append(FeatureEncoding(name=name, type=kind, category=category))
        elif network:
            numbers = rounded(_numbers(values))
            scaling, absent = _scaling(numbers), bool(np.isnan(numbers).any())
            learned.append(
                FeatureEncoding(name=name, type=kind, fill=scaling.centre, scaling=scaling, indicator=absent)
            )
        else:
            # Estimators that take NaN take none in a sparse matrix.
            fill = None if accepts_missing and not free_text else _median(_numbers(values))
            learned.append(FeatureEncoding(name=name, type=kind, fill=fill))
    if not learned:
        raise TrainError("there are no features; name at least one column in features= or leave features out.")
    return Encoding(features=tuple(learned), network=network)


def inputs(encoding: Encoding, features: Mapping[str, npt.NDArray[np.generic]]) -> Matrix | Sparse | Tensors:
    """What the estimator sees of these rows: its matrix, or a network's tensors."""
    if not encoding.network:
        return apply(encoding, features)
    found: dict[str, Any] = {}
    special = {each.name: each.tokens.special for each in encoding.features if each.tokens is not None}
    if encoding.flat.features:
        found[COLUMNS] = apply(encoding.flat, features).astype(np.float32)
    for each in encoding.features:
        if each.image is not None:
            found[each.name] = Pictures(each.image, features[each.name])
        elif each.tokens is not None:
            found[each.name] = tokens.ids(each.tokens, _texts(features[each.name]))
    return Tensors(found, special)


def apply(encoding: Encoding, features: Mapping[str, npt.NDArray[np.generic]]) -> Matrix | Sparse:
    """The matrix float64 [rows, ``encoding.width``], C order, every value exactly representable in float32.

    With free text among the features (`Encoding.sparse`) it is a csr_matrix of scipy: what is not kept is 0.
    """
    missing = [each.name for each in encoding.features if each.name not in features]
    if missing:
        raise DataError(f"feature {missing[0]!r} is not among {sorted(features)}; compute every feature first.")
    if encoding.sparse:
        return _sparse(encoding, features)
    rows = len(features[encoding.features[0].name])
    matrix = np.empty((rows, encoding.width), dtype=np.float64)
    place = 0
    indicator = encoding.width - sum(each.indicator for each in encoding.features)
    for each in encoding.features:
        values = features[each.name]
        if each.image is not None:
            whole = Pictures(each.image, values)[np.arange(rows)]
            matrix[:, place : place + each.width] = whole.reshape(rows, -1)
            place += each.width
            continue
        if each.category is None:
            column = rounded(_numbers(values))
            absent = np.isnan(column)
            if each.fill is not None:
                column[absent] = each.fill
            if each.scaling is not None:
                column = scaled(each.scaling, column)
            if each.indicator:
                matrix[:, indicator] = absent
                indicator += 1
            matrix[:, place] = column
            place += 1
            continue
        codes = category_codes(each.category, values)
        if each.category.one_hot:
            width = len(each.category.values) + 2
            block = matrix[:, place : place + width]
            block[:] = 0.0
            block[np.arange(rows), codes] = 1.0
            place += width
        else:
            matrix[:, place] = codes
            place += 1
    return matrix


def _sparse(encoding: Encoding, features: Mapping[str, npt.NDArray[np.generic]]) -> Sparse:
    from scipy import sparse  # only here: who serves knows no such matrix

    rows = len(features[encoding.features[0].name])
    blocks: list[Any] = []
    for together, group in groupby(encoding.features, key=lambda each: each.terms is None):
        each = tuple(group)
        if together:
            part = Encoding(features=each)
            blocks.append(sparse.csr_matrix(apply(part, features)))
            continue
        for feature in each:
            assert feature.terms is not None
            starts, columns, values = terms.rows(feature.terms, _texts(features[feature.name]))
            blocks.append(sparse.csr_matrix((values, columns, starts), shape=(rows, feature.width)))
    return sparse.hstack(blocks, format="csr")


def category_codes(category: Category, values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Codes int64 [rows]: known values 0…K-1, missing K, unseen and rare K+1."""
    known = len(category.values)
    table: dict[object, int] = {value: code for code, value in enumerate(category.values)}
    table[None] = table[MISSING_TEXT] = known
    return np.fromiter(map(table.get, _texts(values), repeat(known + 1)), dtype=np.int64, count=len(values))


def rounded(numbers: Matrix) -> Matrix:
    """To the nearest float32, held in float64; NaN stays, what is too large stops at `LARGEST`."""
    return np.clip(numbers, -LARGEST, LARGEST).astype(np.float32).astype(np.float64)


def scaled(scaling: Scaling, numbers: Matrix) -> Matrix:
    """In float64, then to the nearest float32: the graph does the same operations in the same order."""
    return rounded(np.clip((numbers - scaling.centre) * scaling.factor, -Scaling.WIDEST, Scaling.WIDEST))


def native_columns(encoding: Encoding) -> tuple[int, ...]:
    """Places of the matrix columns that hold native category codes."""
    places: list[int] = []
    place = 0
    for each in encoding.features:
        if each.category is not None and not each.category.one_hot:
            places.append(place)
        place += each.width
    return tuple(places)


def _learn_terms(name: str, form: Terms, values: npt.NDArray[np.generic]) -> TermTable:
    table = terms.learn(form, _texts(values))
    if not table.values:
        raise TrainError(
            f"feature {name!r} has no term that stands in {form.min_df} of the {len(values)} training texts; lower "
            "min_df, or leave it out."
        )
    return table


def _learn_category(values: npt.NDArray[np.generic], *, one_hot: bool) -> Category:
    counts = Counter(_texts(values))
    for absent in (None, MISSING_TEXT):
        counts.pop(absent, None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    at_least = min(RARE_ROWS, max(1, math.ceil(RARE_SHARE * len(values)))) if one_hot else 1
    limit = ONE_HOT_LIMIT if one_hot else NATIVE_LIMIT
    kept = tuple(str(value) for value, count in ordered[:limit] if count >= at_least)
    rare = tuple(str(value) for value, _ in ordered[len(kept) :])
    return Category(values=kept, one_hot=one_hot, rare=rare[:NATIVE_LIMIT])


def _texts(values: npt.NDArray[np.generic]) -> list[str | None]:
    texts: list[str | None] = values.tolist()
    return texts


def _numbers(values: npt.NDArray[np.generic]) -> Matrix:
    if values.dtype.kind == "O":
        return np.array([np.nan if value is None else value for value in values.tolist()], dtype=np.float64)
    numbers = values.astype(np.float64)
    if values.dtype.kind == "i":
        numbers[values == MISSING_INTEGER] = np.nan
    return numbers


def _scaling(numbers: Matrix) -> Scaling:
    present = numbers[~np.isnan(numbers)]
    if not len(present):
        return Scaling(centre=0.0, factor=1.0)
    # By the largest first: squares of numbers at the edge of float32 stay finite.
    largest = max(1.0, float(np.abs(present).max()))
    centre, spread = float(np.mean(present / largest)) * largest, float(np.std(present / largest)) * largest
    return Scaling(centre=centre, factor=1.0 / spread if spread > 1e-12 * largest else 1.0)


def _median(numbers: Matrix) -> float:
    present = numbers[~np.isnan(numbers)]
    return float(rounded(np.array([np.median(present)]))[0]) if len(present) else 0.0
