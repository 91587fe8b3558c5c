"""Runs one model on every core: rows in, answers out, in order. Knows nothing of files.

Lanes are threads: the graph, the reading and the writing all run outside the interpreter lock, and so do the columns'
conversions. Processes were measured, too: the same CPU a row, but each has its own 0.6 s of imports and its own copy
of everything (bench/offline.py).
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everloop.records import InputColumn
from everloop.serve.cost import CostLine
from everloop.serve.model import Model
from everloop.serve.offline_columns import Bad, packed, typed
from everloop.serve.offline_sources import Frame
from everloop.serve.rows import Packed

SIZES = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096, 16_384)
LONGEST_RUN, SHORTEST_RUN = 0.2, 0.0002
"""Seconds: of the sizes between them the best is found by measuring."""
TRIALS = 3
SLICE_SECONDS = 0.05
"""What one lane takes at once: long enough that handing it over is nothing, short enough that all end together."""
SMALLEST_SLICE, LARGEST_SLICE = 64, 16_384


class Sizes:
    """How many rows a run of the graph takes: tried on the rows themselves, so that nothing is run twice."""

    def __init__(self, cost: CostLine, sizes: Sequence[int] | None = None) -> None:
        near = [n for n in SIZES if SHORTEST_RUN <= cost.predict(n) <= LONGEST_RUN]
        self._sizes = list(sizes or near or [64])
        self._seconds = dict.fromkeys(self._sizes, 0.0)
        self._rows = dict.fromkeys(self._sizes, 0)
        self._tried = 0
        self._lock = threading.Lock()
        self.best = self._sizes[len(self._sizes) // 2]

    def next(self) -> int:
        """The size of the next run."""
        if self._tried >= TRIALS * len(self._sizes):
            return self.best
        with self._lock:
            self._tried += 1
            return self._sizes[self._tried % len(self._sizes)]

    def took(self, size: int, seconds: float) -> None:
        """``seconds`` of the thread's own CPU time: what other processes do does not count."""
        if size in self._rows and self._rows[size] < TRIALS * size:
            with self._lock:
                self._seconds[size] += seconds
                self._rows[size] += size
                known = [each for each in self._sizes if self._rows[each]]
                self.best = min(known, key=lambda each: self._seconds[each] / self._rows[each])


@dataclass(frozen=True, slots=True)
class Sliced:
    """Answers of consecutive rows. ``typed``: the columns that were read from texts, if they were asked for."""

    prediction: NDArray[np.float64]
    decision: NDArray[np.int64] | None
    bad: list[Bad]
    typed: dict[str, pl.Series]


class Lanes:
    """``cores`` threads. ``sizes``: fix what would be measured."""

    def __init__(self, model: Model, cores: int, *, sizes: Sequence[int] | None = None) -> None:
        self.model = model
        self.cores = cores
        self.sizes = Sizes(model.cost, sizes)
        self._pool = ThreadPoolExecutor(cores, "lane")

    def begin(self, frame: Frame, columns: Sequence[InputColumn], written: frozenset[str]) -> list[Future[Sliced]]:
        """Start to score a frame; one future for each slice, in order. ``columns``: of the signature and others."""
        each = max(self.model.cost.predict(1024) / 1024, 1e-9)
        size = int(min(LARGEST_SLICE, max(SMALLEST_SLICE, SLICE_SECONDS / each)))
        rows = len(frame.rows)
        return [
            self._pool.submit(self._score, frame, start, min(start + size, rows), columns, written)
            for start in range(0, rows, size)
        ]

    def close(self) -> None:
        """What has not begun is not begun any more."""
        self._pool.shutdown(cancel_futures=True)

    def _score(
        self, frame: Frame, start: int, end: int, columns: Sequence[InputColumn], written: frozenset[str]
    ) -> Sliced:
        model = self.model
        signature = model.signature
        found = typed(frame.rows[start:end], columns, signature.tensors, written=written, where=str(frame.part.path))
        rows = end - start
        prediction = np.empty((rows, model.width))
        decision = None if signature.task == "regression" else np.zeros(rows, np.int64)
        bad = {each.row: each for each in found.bad}
        inputs = packed(found.columns, signature, rows)
        begin = 0
        while begin < rows:
            size = self.sizes.next()
            stop = min(begin + size, rows)
            before = time.thread_time()
            some = {name: array[begin:stop] for name, array in inputs.items()}
            problems = self._run(some, begin, stop, prediction, decision)
            if stop - begin == size:
                self.sizes.took(size, time.thread_time() - before)
            for each in problems:
                bad.setdefault(each.row, each)
            begin = stop
        kept = {n: s for n, s in found.columns.items() if isinstance(s, pl.Series)} if written else {}
        return Sliced(prediction, decision, [bad[row] for row in sorted(bad)], kept)

    def _run(
        self, inputs: Packed, start: int, end: int, prediction: NDArray[np.float64], decision: NDArray[np.int64] | None
    ) -> list[Bad]:
        """Fill the answers of the rows from ``start`` to ``end``; when a run fails, each row alone is asked."""
        try:
            self._fill(inputs, start, end, prediction, decision)
        except Exception as error:
            if end - start == 1:
                prediction[start] = np.nan
                return [Bad(row=start, column=None, value=None, expected=f"the model failed on it: {_line(error)}")]
            problems: list[Bad] = []
            for row in range(start, end):
                alone = {name: array[row - start : row - start + 1] for name, array in inputs.items()}
                problems += self._run(alone, row, row + 1, prediction, decision)
            return problems
        return []

    def _fill(
        self, inputs: Packed, start: int, end: int, prediction: NDArray[np.float64], decision: NDArray[np.int64] | None
    ) -> None:
        found, decided = self.model.run(inputs)
        if not np.isfinite(found).all():
            raise ArithmeticError("the prediction is not a finite number")
        prediction[start:end] = found
        if decision is not None and decided is not None:
            decision[start:end] = decided


def _line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
