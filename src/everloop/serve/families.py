"""Metric families: what was counted, by labels; put together from several processes, and as Prometheus reads them.

Knows nothing of what is counted. The text form is version 0.0.4 of Prometheus: each name once with its help and its
type, counters that end in ``_total``, histograms as cumulative buckets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
INFINITE = float("inf")
GRID = 2.0**24
"""Sums are whole multiples of 2⁻²⁴, 60 ns: adding them up is exact, so that no order of processes gives less than another
did. (A sum that falls by its last digit would be taken for a counter that began again.)"""
Labels = Mapping[str, object]
Kind = Literal["counter", "gauge", "histogram"]
Join = Literal["sum", "max", "min"]


class Sample(msgspec.Struct, array_like=True):
    """``value`` is the sum of the values for a histogram, whose ``counts`` are one a bucket, not cumulative."""

    labels: dict[str, str]
    value: float
    counts: list[int] | None = None


class Family(msgspec.Struct, array_like=True):
    """``join``: what becomes of the values of several processes. Counters and histograms are always summed."""

    kind: Kind
    words: str
    join: Join
    bounds: list[float]
    samples: list[Sample]


class Families:
    def __init__(self, families: dict[str, Family] | None = None) -> None:
        self._families = families if families is not None else {}

    def count(self, name: str, words: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """What only rises."""
        self._add(name, "counter", words, "sum", ((labels, _exact(value)) for labels, value in samples))

    def gauge(self, name: str, words: str, samples: Iterable[tuple[Labels, float]], join: Join = "sum") -> None:
        """What rises and falls."""
        self._add(name, "gauge", words, join, samples)

    def histogram(
        self, name: str, words: str, bounds: Sequence[float], samples: Iterable[tuple[Labels, Sequence[int], float]]
    ) -> None:
        """``samples``: labels, the count of each bucket (one more than there are bounds) and the sum of the values."""
        family = self._families.setdefault(name, Family("histogram", words, "sum", list(bounds), []))
        family.samples += [Sample(_texts(labels), _exact(total), list(counts)) for labels, counts, total in samples]

    def _add(self, name: str, kind: Kind, words: str, join: Join, samples: Iterable[tuple[Labels, float]]) -> None:
        family = self._families.setdefault(name, Family(kind, words, join, [], []))
        family.samples += [Sample(_texts(labels), float(value)) for labels, value in samples]

    # Several processes

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self._families)

    @classmethod
    def decode(cls, data: bytes) -> "Families":
        """What `encode` wrote. Raises msgspec.MsgspecError."""
        return cls(msgspec.msgpack.decode(data, type=dict[str, Family]))

    @property
    def rising(self) -> "Families":
        """Counters and histograms alone: what is left of a process that has ended."""
        return Families({name: family for name, family in self._families.items() if family.kind != "gauge"})

    def totals(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Of one family the values, of a histogram how many were counted, summed by the values of some labels."""
        found: dict[tuple[str, ...], float] = {}
        family = self._families.get(name)
        for sample in family.samples if family is not None else ():
            of = tuple(sample.labels.get(each, "") for each in labels)
            value = sample.value if sample.counts is None else float(sum(sample.counts))
            found[of] = found.get(of, 0.0) + value
        return found

    def merge(self, other: "Families") -> None:
        """Take in what another process counted."""
        for name, theirs in other._families.items():
            ours = self._families.get(name)
            if ours is None:
                self._families[name] = Family(
                    theirs.kind, theirs.words, theirs.join, theirs.bounds, [_copied(each) for each in theirs.samples]
                )
            elif ours.kind == theirs.kind and ours.bounds == theirs.bounds:
                _merge(ours, theirs)

    # Text

    def text(self) -> bytes:
        lines: list[str] = []
        for name, family in self._families.items():
            lines.append(f"# HELP {name} {_escaped_help(family.words)}")
            lines.append(f"# TYPE {name} {family.kind}")
            for sample in family.samples:
                if sample.counts is None:
                    lines.append(f"{name}{_labels(sample.labels)} {_number(sample.value)}")
                else:
                    lines += _buckets(name, family.bounds, sample.labels, sample.counts, sample.value)
        return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _merge(ours: Family, theirs: Family) -> None:
    present = {tuple(sorted(each.labels.items())): each for each in ours.samples}
    for sample in theirs.samples:
        same = present.get(tuple(sorted(sample.labels.items())))
        if same is None:
            ours.samples.append(_copied(sample))
            continue
        if same.counts is not None and sample.counts is not None:
            same.counts = [a + b for a, b in zip(same.counts, sample.counts, strict=True)]
        if ours.kind != "gauge" or ours.join == "sum":
            same.value += sample.value
        else:
            same.value = (max if ours.join == "max" else min)(same.value, sample.value)


def _exact(value: float) -> float:
    return round(value * GRID) / GRID


def _copied(sample: Sample) -> Sample:
    return Sample(dict(sample.labels), sample.value, None if sample.counts is None else list(sample.counts))


def _buckets(
    name: str, bounds: Sequence[float], labels: dict[str, str], counts: Sequence[int], total: float
) -> list[str]:
    lines = []
    running = 0
    for bound, count in zip((*bounds, INFINITE), counts, strict=True):
        running += count
        lines.append(f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {running}")
    return [*lines, f"{name}_sum{_labels(labels)} {_number(total)}", f"{name}_count{_labels(labels)} {running}"]


def _texts(labels: Labels) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if value in (INFINITE, -INFINITE):
        return "+Inf" if value > 0 else "-Inf"
    if value != value:
        return "NaN"
    return str(int(value)) if value == int(value) else repr(float(value))
