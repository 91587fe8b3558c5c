"""Texts as token ids for networks, by a vocabulary that is learned or given. Pure arithmetic; knows nothing of networks.

`everloop.package.tokens` writes the same into the served graph: integers, so equal or wrong. With somebody else's
tokenizer the ids are made before the graph, by `everloop.measure.subwords`.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everloop.forms import FIRST, PADDING, UNKNOWN, Terms, Tokens, TokenTable
from everloop.measure import letters, subwords, terms
from everloop.measure.letters import Hashes, Numbers

RARE = 2
"""A token that stands in fewer training texts is unknown: so the network learns what to make of one."""


def learn(form: Tokens, texts: Sequence[str | None], folder: Path | None = None) -> TokenTable:
    """The tokens that stand in most texts, or what the declared tokenizer is. ``texts``: None or `MISSING_TEXT` missing.

    ``folder``: what the tokenizer's path is relative to. Raises TrainError where there is none.
    """
    if form.tokenizer is not None:
        return subwords.table(form, folder or Path())
    single = Terms(
        analyzer=form.analyzer, ngram_range=(1, 1), max_features=form.vocabulary, min_df=RARE, lowercase=form.lowercase,
        sublinear_tf=False,
    )  # fmt: skip
    values = terms.learn(single, texts).values
    return TokenTable(form=form, values=values, size=FIRST + len(values))


def ids(table: TokenTable, texts: Sequence[str | None]) -> NDArray[np.int64]:
    """int64 [texts, length]: padded at the end with 0, 1 for what the vocabulary does not hold; cut at the end."""
    form = table.form
    if table.tokenizer:
        return subwords.ids(table.tokenizer, form.length, texts)
    made = np.full((len(texts), form.length), PADDING, np.int64)
    known, places = _numbered(table)
    for begin, end in letters.chunks(texts):
        found = letters.find(texts[begin:end], form.analyzer, lowercase=form.lowercase)
        starts = np.searchsorted(found.rows, np.arange(end - begin))
        position = np.arange(len(found.rows)) - starts[found.rows]
        near = position < form.length
        made[begin + found.rows[near], position[near]] = _id(known, places, found.hashes[near])
    return made


def spelled(table: TokenTable, text: str | None) -> tuple[str, ...]:
    """The tokens of one text as people read them, in the order of `ids`; those that only fill up are left out.

    >>> spelled(learn(Tokens(length=4, vocabulary=9, analyzer="word", lowercase=True), ["a b", "a b"]), "A, never b")
    ('a', 'never', 'b')
    """
    if table.tokenizer:
        return subwords.spelled(table.tokenizer, table.form.length, text)
    found = letters.find([text], table.form.analyzer, lowercase=table.form.lowercase)
    pieces = [found.codes[first:last] for first, last in zip(found.first, found.last, strict=True)]
    return tuple(each.tobytes().decode("utf-32-le", "replace") for each in pieces[: table.form.length])


def unknown_share(found: NDArray[np.int64]) -> float:
    """Of all tokens of some texts how many the vocabulary does not hold."""
    tokens = int(np.count_nonzero(found))
    return int(np.count_nonzero(found == UNKNOWN)) / tokens if tokens else 0.0


def _id(known: Hashes, places: Numbers, hashes: Hashes) -> Numbers:
    if not len(known):
        return np.full(len(hashes), UNKNOWN)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[at] == hashes, places[at] + FIRST, UNKNOWN)


@lru_cache(maxsize=4)
def _numbered(table: TokenTable) -> tuple[Hashes, Numbers]:
    """The numbers of the table's tokens, rising, and the place of each."""
    numbers = letters.find(list(table.values), table.form.analyzer, lowercase=False).hashes
    order = np.argsort(numbers)
    return numbers[order], order
