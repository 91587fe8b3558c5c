"""TF-IDF: which terms of a text are columns, and what stands in them. Pure arithmetic; knows nothing of estimators.

The weights are those of scikit-learn's TfidfVectorizer: (1 + log count or count) × (log((1 + rows) / (1 + rows with the
term)) + 1), each row divided by its length. `everloop.package.terms` writes the same into the served graph, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.forms import Terms, TermTable
from everloop.measure import letters
from everloop.measure.letters import Found, Hashes, Numbers

COUNTED = 4096
"""More of one term in one text count as so many, on the scale of 1 + log."""


@cache
def weights_of_counts(sublinear: bool) -> NDArray[np.float64]:
    """By count, from 0 to `COUNTED`: a table, because two libraries' logarithms differ in the last bit."""
    counts = np.arange(COUNTED + 1, dtype=np.float64)
    counts[1:] = 1.0 + np.log(counts[1:]) if sublinear else counts[1:]
    return counts


@dataclass(slots=True)
class _Seen:
    """Distinct terms so far: their numbers, in how many texts each is, and one place where it stands."""

    hashes: Hashes
    rows: Numbers
    place: Numbers
    """Of an example: the text, then its first and last code point there."""
    size: Numbers


def learn(form: Terms, texts: Sequence[str | None]) -> TermTable:
    """The terms in most texts, and their inverse document frequency. ``texts``: None or `MISSING_TEXT` missing."""
    parts = [_distinct(form, texts, begin, end) for begin, end in letters.chunks(texts)]
    seen = _merged([part for part in parts if len(part.hashes)])
    chosen = np.flatnonzero(seen.rows >= min(form.min_df, max(1, len(texts))))
    order = np.lexsort((seen.hashes[chosen], -seen.rows[chosen]))
    chosen = chosen[order][: form.max_features]
    values = [_term(form, texts, seen.place[each]) for each in chosen.tolist()]
    idf = np.log((1 + len(texts)) / (1 + seen.rows[chosen])) + 1.0
    return TermTable(form=form, values=tuple(values), idf=tuple(idf.tolist()))


def rows(table: TermTable, texts: Sequence[str | None]) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """The matrix as CSR: where each row begins [texts + 1], columns and values (float32 values in float64) of its terms."""
    known, columns = _numbered(table)
    lengths: list[Numbers] = []
    places: list[Numbers] = []
    values: list[NDArray[np.float64]] = []
    for begin, end in letters.chunks(texts):
        found = letters.find(texts[begin:end], table.form.analyzer, lowercase=table.form.lowercase)
        row, column = _columns(table.form, found, known, columns)
        code, count = np.unique(row * len(table.values) + column, return_counts=True)
        row, column = np.divmod(code, max(1, len(table.values)))
        values.append(weighted(table, row, column, count, end - begin))
        places.append(column)
        lengths.append(np.bincount(row, minlength=end - begin))
    starts = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
    return starts, _joined(places, np.int64), _joined(values, np.float64)


def weighted(table: TermTable, row: Numbers, column: Numbers, count: Numbers, rows: int) -> NDArray[np.float64]:
    """What stands in the matrix for ``count`` terms of ``column`` in ``row``; sorted by row, then column."""
    weight = weights_of_counts(table.form.sublinear_tf)[np.minimum(count, COUNTED)] * np.array(table.idf)[column]
    length = np.sqrt(np.bincount(row, weights=weight * weight, minlength=rows))
    values: NDArray[np.float64] = (weight / length[row]).astype(np.float32).astype(np.float64)
    return values


def _columns(form: Terms, found: Found, known: Hashes, columns: Numbers) -> tuple[Numbers, Numbers]:
    """Row and column of every place where a known term stands."""
    row: list[Numbers] = []
    column: list[Numbers] = []
    for size in range(form.ngram_range[0], form.ngram_range[1] + 1):
        first, hashes = letters.grams(found, size)
        if len(known) and len(hashes):
            at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            hit = known[at] == hashes
            row.append(found.rows[first[hit]])
            column.append(columns[at[hit]])
    return _joined(row, np.int64), _joined(column, np.int64)


@lru_cache(maxsize=4)
def _numbered(table: TermTable) -> tuple[Hashes, Numbers]:
    """The numbers of the table's terms, rising, and the column of each."""
    form = table.form
    numbers = np.zeros(len(table.values), np.uint64)
    sizes = np.array([len(value.split(" ")) if form.analyzer == "word" else len(value) for value in table.values])
    for size in np.unique(sizes).tolist():
        which = np.flatnonzero(sizes == size)
        found = letters.find([table.values[each] for each in which.tolist()], form.analyzer, lowercase=False)
        _, numbers[which] = letters.grams(found, size)
    order = np.argsort(numbers)
    return numbers[order], order


def _distinct(form: Terms, texts: Sequence[str | None], begin: int, end: int) -> _Seen:
    found = letters.find(texts[begin:end], form.analyzer, lowercase=form.lowercase)
    starts = np.concatenate([[0], np.flatnonzero(found.codes == 0) + 1])
    parts: list[_Seen] = []
    for size in range(form.ngram_range[0], form.ngram_range[1] + 1):
        first, hashes = letters.grams(found, size)
        if not len(hashes):
            continue
        distinct, example, which = np.unique(hashes, return_index=True, return_inverse=True)
        pairs = np.unique(which.astype(np.int64) * (end - begin) + found.rows[first])
        rows = np.bincount(pairs // (end - begin), minlength=len(distinct))
        at = first[example]
        row = found.rows[at]
        place = np.stack([row + begin, found.first[at] - starts[row], found.last[at + size - 1] - starts[row]], axis=1)
        parts.append(_Seen(distinct, rows, place, np.full(len(distinct), size)))
    return _merged(parts)


def _merged(parts: list[_Seen]) -> _Seen:
    if not parts:
        nothing = np.zeros(0, np.int64)
        return _Seen(np.zeros(0, np.uint64), nothing, nothing.reshape(0, 3), nothing)
    if len(parts) == 1:
        return parts[0]
    hashes = np.concatenate([each.hashes for each in parts])
    distinct, example, which = np.unique(hashes, return_index=True, return_inverse=True)
    counts = np.bincount(which, weights=np.concatenate([each.rows for each in parts])).astype(np.int64)
    place = np.concatenate([each.place for each in parts])[example]
    return _Seen(distinct, counts, place, np.concatenate([each.size for each in parts])[example])


def _term(form: Terms, texts: Sequence[str | None], place: Numbers) -> str:
    """A term as text: its letters, or its words joined by a space."""
    row, first, last = place.tolist()
    found = letters.find([(texts[row] or "")[first:last]], form.analyzer, lowercase=form.lowercase)
    text = found.codes[:-1].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    if form.analyzer == "char":
        return text
    return " ".join(text[a:b] for a, b in zip(found.first.tolist(), found.last.tolist(), strict=True))


def _joined(parts: Sequence[Any], kind: Any) -> Any:
    """Arrays end to end, also where there are none."""
    return np.concatenate([np.zeros(0, kind), *parts])
