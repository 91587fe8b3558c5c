"""Counts and histograms, and their text form for Prometheus. Knows nothing of what is counted.

Counting is a few additions on plain integers; names and labels are put together only when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


SORTED_LATER = 4096
"""So many values are sorted into their buckets at once: a fifth of the price of one at a time."""


class Histogram:
    """``counts[i]`` fell at or below ``bounds[i]``, the last one above all; ``total`` is the sum of the values."""

    __slots__ = ("_counts", "_later", "_total", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._later: list[float] = []

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self._total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """The same for many values, which are looked at when there are enough of them, or when somebody reads."""
        self._later += values
        if len(self._later) >= SORTED_LATER:
            self._sort()

    @property
    def counts(self) -> list[int]:
        self._sort()
        return self._counts

    @property
    def total(self) -> float:
        self._sort()
        return self._total

    def _sort(self) -> None:
        if not self._later:
            return
        values = np.array(self._later)
        self._later.clear()
        places = np.searchsorted(np.array(self.bounds), values, side="left")
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self._total += float(values.sum())


Labels = Mapping[str, object]


class Exposition:
    """Puts samples together as text, each name with its help and type once."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Samples of a counter or gauge."""
        lines = self._family(name, kind, help_text)
        lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]

    def add_histogram(self, name: str, help_text: str, samples: Iterable[tuple[Labels, Histogram]]) -> None:
        lines = self._family(name, "histogram", help_text)
        for labels, histogram in samples:
            running = 0
            for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                running += count
                edge = "+Inf" if bound == float("inf") else _number(bound)
                lines.append(f"{name}_bucket{_labels({**labels, 'le': edge})} {running}")
            lines.append(f"{name}_sum{_labels(labels)} {_number(histogram.total)}")
            lines.append(f"{name}_count{_labels(labels)} {running}")

    def _family(self, name: str, kind: str, help_text: str) -> list[str]:
        return self._families.setdefault(name, [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"])

    def text(self) -> bytes:
        return "".join(f"{line}\n" for lines in self._families.values() for line in lines).encode()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
