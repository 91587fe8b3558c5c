"""What moves a version's answers: contributions over rows that it was tested on, summed up. Explains no row itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from everloop.errors import NotFound
from everloop.loop.attribution import Explaining, place_of
from everloop.loop.contribution import Contribution
from everloop.loop.installation import Installation
from everloop.loop.of_version import made_of
from everloop.measure.truth import class_name
from everloop.store.ledger import versions

MANY, FEW = 300, 24
"""Rows of a summary: by the model's own contributions; by gradients or by its graph, which take longer."""
MOST_WORDS = 20
"""Words of a text that are named."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How one column moves answers: ``mean`` of the absolute contributions, and the contributions' quantiles."""

    name: str
    mean: float
    quantiles: tuple[float, float, float, float, float]
    """5, 25, 50, 75 and 95 percent."""
    words: tuple[tuple[str, float, int], ...] = ()
    """By gradients, of a text: tokens, what each brings where it stands (the mean), and how often it does; those that
    move most first."""
    parts: tuple[tuple[float, ...], ...] = ()
    """By gradients, of an image: the mean size of each pixel's contributions, rows from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What moves a version's answers on rows that it was tested on."""

    loop: str
    version: int
    rows: int
    method: str
    scale: str
    subject: str | None
    weights: tuple[Weight, ...]
    """The largest mean first."""
    note: str | None = None
    """Why the graph was asked where the model itself could have told more."""


def importance(
    installation: Installation, number: int, *, subject: str | None = None, by_graph: bool = False
) -> Importance:
    """Contributions over test rows of version ``number``, evenly from the oldest to the newest. Raises NotFound."""
    with installation.ledger.read() as connection:
        version = versions.get(connection, installation.name, number)
    made = made_of(installation, version)
    signature = made.signature
    if any(each.image is None for each in signature.tensors):
        raise NotFound(f"Version {number} answers arrays, which have no columns to tell apart.")
    place = place_of(signature, subject, pl.DataFrame({"decision": [0]}))
    explaining = Explaining(made, place, by_graph=by_graph)
    rows = made.test_rows(MANY)
    first = explaining.row(rows.head(1), served=None, seed=0, inside=False)
    if first["method"] != "the model's own":
        rows = made.test_rows(FEW)
    found: dict[str, list[Contribution]] = {}
    for at in range(len(rows)):
        each = explaining.row(rows[at : at + 1], served=None, seed=at, inside=False)
        for one in each["contributions"]:
            found.setdefault(one.name, []).append(one)
    weights = [_weight(name, each) for name, each in found.items()]
    return Importance(
        loop=installation.name, version=number, rows=len(rows), method=first["method"], scale=first["scale"],
        subject=class_name(signature.classes[place]) if signature.classes else None, note=first.get("note"),
        weights=tuple(sorted(weights, key=lambda each: (-each.mean, each.name))),
    )  # fmt: skip


def _weight(name: str, found: Sequence[Contribution]) -> Weight:
    values = [each.contribution for each in found]
    pictures = [each.parts for each in found if each.parts]
    pixels = np.mean(np.abs(pictures), axis=0) if pictures else np.zeros((0, 0))
    return Weight(
        name=name,
        mean=float(np.abs(values).mean()),
        quantiles=tuple(float(each) for each in np.quantile(values, QUANTILES)),  # type: ignore[arg-type]
        words=_words(found),
        parts=tuple(tuple(float(share) for share in each) for each in pixels),
    )


def _words(found: Sequence[Contribution]) -> tuple[tuple[str, float, int], ...]:
    sums: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    often: Counter[str] = Counter()
    for each in found:
        for word, share in each.words:
            sums[word] += share  # type: ignore[assignment]
            sizes[word] += abs(share)  # type: ignore[assignment]
            often[word] += 1
    strongest = sorted(sizes, key=lambda word: (-sizes[word], word))[:MOST_WORDS]
    return tuple((word, sums[word] / often[word], often[word]) for word in strongest)
