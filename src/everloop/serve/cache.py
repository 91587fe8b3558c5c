"""Predictions that were made before, by what the graph was given. Knows nothing of HTTP, arms or releases.

The key of a row is a digest of the values of the columns that the graph takes, keyed with the digest of the package:
no version ever sees what another one predicted. A prediction is a few dozen bytes; what it costs to keep one besides
is counted too, so that the bound in bytes is about memory and not about content. The least recently used goes first.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from operator import itemgetter
from struct import Struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.records import MISSING_INTEGER, Signature
from everloop.serve.rows import Column, Packed, Row

KEY_BYTES = 32
HEAD = Struct("<dq")
"""In front of a prediction: until when it counts (monotonic seconds), and the decision."""
ENTRY_BYTES = 330
"""What the interpreter takes for an entry besides its prediction: two objects, a slot and a link (measured)."""
SWEPT = 32
"""So many predictions of a version that went are dropped with each one that is kept: none of them delays a request."""

Run = Callable[[Packed], tuple[NDArray[np.float64], NDArray[np.int64] | None]]
Table = OrderedDict[bytes, bytes]


class Cache:
    """Bounded in ``limit`` bytes and ``seconds`` of age. May be used by several threads.

    ``hits`` and ``misses`` count rows; ``evicted`` why a prediction went: the room was needed (``full``), it was too old
    (``expired``), its version is no longer live (``released``).
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.seconds = seconds
        self.hits = 0
        self.misses = 0
        self.bytes = 0
        self.evicted = {"full": 0, "expired": 0, "released": 0}
        self._clock = clock
        self._tables: dict[str, Table] = {}
        self._leaving: list[Table] = []
        self._guard = threading.Lock()

    @property
    def entries(self) -> int:
        return sum(map(len, [*self._tables.values(), *self._leaving]))

    def find(
        self, package: str, keys: Sequence[bytes], *, again: int = 0, all_or_none: bool = False
    ) -> list[bytes | None]:
        """What is kept for each key, None where nothing is. Counts hits, ``again`` among them, and misses.

        With ``all_or_none`` the answer is empty, and nothing is counted, unless every key is there.
        """
        found: list[bytes | None] = []
        with self._guard:
            table = self._tables.get(package)
            now = self._clock()
            for key in keys:
                kept = None if table is None else table.get(key)
                if kept is not None and table is not None:
                    if HEAD.unpack_from(kept)[0] > now:
                        table.move_to_end(key)
                    else:
                        del table[key]
                        self._went(kept, "expired")
                        kept = None
                if kept is None and all_or_none:
                    return []
                found.append(kept)
            hits = len(found) - found.count(None)
            self.hits += hits + again
            self.misses += len(found) - hits
        return found

    def keep(self, package: str, predictions: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep (key, what `packed` made) of each."""
        with self._guard:
            table = self._tables.get(package)
            if table is None:
                table = self._tables[package] = OrderedDict()
            for key, kept in predictions:
                before = table.pop(key, None)
                if before is not None:
                    self.bytes -= len(before) + ENTRY_BYTES
                table[key] = kept
                self.bytes += len(kept) + ENTRY_BYTES
                self._sweep(SWEPT)
                while self.bytes > self.limit:
                    if self._sweep(SWEPT):
                        continue
                    largest = max(self._tables.values(), key=len)
                    if not largest:
                        break
                    self._went(largest.popitem(last=False)[1], "full")

    def retain(self, packages: set[str]) -> None:
        """Forget what other packages predicted: nobody will ask for it. Their memory goes little by little."""
        with self._guard:
            for package in set(self._tables) - packages:
                self._leaving.append(self._tables.pop(package))

    def packed(self, prediction: NDArray[np.float64], decision: NDArray[np.int64] | None) -> list[bytes]:
        """Each row of a prediction [rows, width] as it is kept."""
        until = self._clock() + self.seconds
        rows = np.ascontiguousarray(prediction)
        decisions = [MISSING_INTEGER] * len(rows) if decision is None else decision.tolist()
        return [HEAD.pack(until, chosen) + row.tobytes() for row, chosen in zip(rows, decisions, strict=True)]

    def _sweep(self, most: int) -> bool:
        """Drop so many predictions of versions that went; False when there are none."""
        if not self._leaving:
            return False
        table = self._leaving[-1]
        for _ in range(min(most, len(table))):
            self._went(table.popitem(last=False)[1], "released")
        if not table:
            self._leaving.pop()
        return True

    def _went(self, kept: bytes, why: str) -> None:
        self.bytes -= len(kept) + ENTRY_BYTES
        self.evicted[why] += 1


def unpacked(kept: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Prediction [rows, width] and decision [rows] of what was kept; `MISSING_INTEGER` where nothing was decided."""
    rows = np.frombuffer(b"".join(kept), np.float64).reshape(len(kept), -1)
    return rows[:, 2:], rows[:, 1].copy().view(np.int64)


class Recall:
    """The cache as one version uses it: which columns count, and what was kept for them."""

    __slots__ = ("_cache", "_classified", "_encode", "_package", "_pick", "_seed")

    def __init__(self, cache: Cache, package: str, columns: Sequence[Column], signature: Signature) -> None:
        taken = {each.name for each in signature.inputs} | {each.name for each in signature.tensors}
        # By name: beside other versions, or alone, the columns stand in another order, and the key must be the same.
        named = sorted((column.name, place) for place, column in enumerate(columns) if column.name in taken)
        places = [place for _, place in named]
        self._cache = cache
        self._package = package
        self._classified = signature.task != "regression"
        self._pick: Callable[[Row], Any] = itemgetter(*places) if places else len
        self._encode = msgspec.msgpack.Encoder().encode
        self._seed = blake2b(digest_size=KEY_BYTES, key=bytes.fromhex(package))

    def keys(self, rows: Iterable[Row]) -> list[bytes]:
        """A digest a row, of what the graph sees of it and of the package."""
        found = []
        for row in rows:
            digest = self._seed.copy()
            digest.update(self._encode(self._pick(row)))
            found.append(digest.digest())
        return found

    def find(self, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.int64] | None] | None:
        """What was predicted for these rows; None unless it is known for every one of them."""
        found = self._cache.find(self._package, self.keys(rows), all_or_none=True)
        if not found:
            return None
        prediction, decision = unpacked(found)  # type: ignore[arg-type]
        return prediction, decision if self._classified else None

    def through(
        self, rows: Sequence[Row], packed: Packed, run: Run
    ) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Prediction and decision of each row. Each different row is run once, if at all."""
        keys = self.keys(rows)
        known: dict[bytes, bytes | None] = dict.fromkeys(keys)
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        again = len(keys) - len(known)  # the same row more than once in this batch
        for key, kept in zip(known, self._cache.find(self._package, list(known), again=again), strict=True):
            known[key] = kept
        missing = [key for key, kept in known.items() if kept is None]
        if missing:
            if len(missing) == len(keys):
                taken = packed
            else:
                places = [first[key] for key in missing]
                taken = {kind: array[places] for kind, array in packed.items()}
            prediction, decision = run(taken)
            made = dict(zip(missing, self._cache.packed(prediction, decision), strict=True))
            sound = np.asarray(np.isfinite(prediction).all(axis=1))
            self._cache.keep(self._package, [pair for pair, fit in zip(made.items(), sound, strict=True) if fit])
            if taken is packed:
                return prediction, decision
            known.update(made)
        prediction, decision = unpacked([known[key] for key in keys])  # type: ignore[misc]
        return prediction, decision if self._classified else None
