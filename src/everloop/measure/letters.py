"""Texts as arrays of code points: where their words are, and a number for each word or run of words. Pure arithmetic.

The served graph finds the same words by `SEPARATOR`, a regular expression of RE2; both come from one table of ranges, so
that no two editions of Unicode can disagree. A text ends at its first NUL, as it does in the graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from everloop.forms import Analyzer
from everloop.records import MISSING_TEXT
from everloop.spec.cases import lower_table

WORD = (
    (0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6),
    (0xD8, 0xF6), (0xF8, 0x1FFF), (0x2C00, 0x2DFF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029),
    (0x3031, 0x30FA), (0x30FC, 0xD7FF), (0xF900, 0xFDFF), (0xFE70, 0xFEFE), (0xFF10, 0xFF19), (0xFF21, 0xFF3A),
    (0xFF41, 0xFF5A), (0xFF66, 0xFFDC), (0x10000, 0x10FFFF),
)  # fmt: skip
"""Code points that a word is made of: letters, digits, the underscore, and everything that is no letter of punctuation
in the blocks of living scripts. Marks above and below letters are in."""
SEPARATOR = "([^" + "".join(rf"\x{{{low:X}}}-\x{{{high:X}}}" for low, high in WORD) + "]+)"
CHUNK = 2_000_000
"""Code points that are looked at together."""

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_FOLD = 0xD6E8FEB86659FD93


@dataclass(frozen=True, slots=True)
class Found:
    """Tokens of some texts, in order. ``rows``: the text of each. ``first``, ``last``: its code points in ``codes``."""

    codes: NDArray[np.uint32]
    rows: Numbers
    first: Numbers
    last: Numbers
    hashes: Hashes
    """64 bits for each: equal tokens have equal ones in every process, different ones almost never."""


def chunks(texts: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Places ``from, to`` of texts that have about `CHUNK` code points together."""
    begin = size = 0
    for place, text in enumerate(texts):
        size += len(text or "") + 1
        if size >= CHUNK:
            yield begin, place + 1
            begin, size = place + 1, 0
    if begin < len(texts):
        yield begin, len(texts)


def find(texts: Sequence[str | None], analyzer: Analyzer, *, lowercase: bool) -> Found:
    """The words or letters of ``texts``, whose rows are counted from 0. Missing is a text without any."""
    whole = "\x00".join(map(_whole, texts)) + "\x00"
    codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), np.uint32)
    if lowercase:
        codes = _lower()[codes]
    ends = np.flatnonzero(codes == 0)
    if analyzer == "char":
        first = np.flatnonzero(codes != 0)
        last = first + 1
    else:
        inside = np.concatenate([[False], _word()[codes]])
        edges = np.flatnonzero(inside[1:] != inside[:-1])  # the text ends with a NUL, so edges come in pairs
        first, last = edges[0::2], edges[1::2]
    rows = np.searchsorted(ends, first, side="left")
    return Found(codes, rows, first, last, _hashed(codes, first, last))


def grams(found: Found, size: int) -> tuple[Numbers, Hashes]:
    """Runs of ``size`` tokens in one text: the place of the first token of each, and a number for each."""
    count = len(found.rows) - size + 1
    if count <= 0:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    folded = found.hashes[:count]
    for step in range(1, size):
        with np.errstate(over="ignore"):
            folded = (folded ^ (folded >> np.uint64(29))) * np.uint64(_FOLD) + found.hashes[step : step + count]
    together = np.flatnonzero(found.rows[:count] == found.rows[size - 1 :])
    return together, folded[together]


def _whole(text: str | None) -> str:
    if text is None or text == MISSING_TEXT:
        return ""
    return text if "\x00" not in text else text.partition("\x00")[0]


@cache
def _word() -> NDArray[np.bool_]:
    table = np.zeros(0x110000, bool)
    for low, high in WORD:
        table[low : high + 1] = True
    return table


@cache
def _lower() -> NDArray[np.uint32]:
    table = np.arange(0x110000, dtype=np.uint32)
    for upper, lower in lower_table().items():
        table[ord(upper)] = ord(lower)
    return table


def _hashed(codes: NDArray[np.uint32], first: Numbers, last: Numbers) -> Hashes:
    """Polynomial hashes of substrings by differences of running sums, modulo 2^64, over mixed code points."""
    with np.errstate(over="ignore"):
        powers = _powers(_BASE, len(codes))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(codes.astype(np.uint64)) * powers)])
        found: Hashes = (sums[last] - sums[first]) * _powers(_INVERSE, len(codes))[first]
        return found


def _powers(base: int, count: int) -> Hashes:
    """``base`` to the powers 0 … count - 1, modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    found: Hashes = np.cumprod(factors)
    return found


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed
