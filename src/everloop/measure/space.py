"""Free text and arrays as points in a space, so that drift can be seen in them. Knows no limits, no models and no clock.

A text is the words in it, each hashed to one of `BUCKETS` directions and weighted by how rare it was in the reference;
an array of numbers is itself where it is short (an embedding), else a few statistics of it: brightness, contrast and
edges by channel and by place. The reference keeps the centroids of its points (k-means). What follows are ordinary
columns: the *cluster* of each row shows a change of the mix, its *distance* from the nearest centroid something that
was never there. Words are no meaning: for that bring embeddings as a column.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everloop.measure.coded import Coded, Values
from everloop.records import MISSING_TEXT, ColumnType

Floats = NDArray[np.float64]
Points = NDArray[np.float32]

BUCKETS = 4_096
WIDTH = 256
"""Dimensions that words are projected to."""
MOST_WORDS = 256
"""Of one text; what follows is not looked at."""
LONGEST_EMBEDDING = 1_024
"""An array [n] of at most so many numbers is a point as it is."""
GRID = 4
CLUSTERS = 50
LEAST_PER_CLUSTER = 40
LEARNED = 5_000
"""Reference rows that centroids are learned from."""
ROUNDS = 20
SEED = 7
FREE_DISTINCT, FREE_WORDS = 0.5, 3.0
"""A text column is free text where most of its values differ and they have so many words on average."""
LENGTH, CLUSTER, DISTANCE = "length", "cluster", "distance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Of one column. Arrays are little-endian."""

    kind: Literal["text", "array"]
    width: int
    centroids: bytes
    """float16 [clusters, width]: points are of about unit size."""
    weights: bytes = b""
    """Texts: uint8 [`BUCKETS`], how much a word of a bucket counts, in 255ths of the most."""
    centre: bytes = b""
    """Arrays: mean and deviation of each dimension, float32 [2, width]."""


def is_free_text(values: Values) -> bool:
    """Whether texts are sentences rather than names of things."""
    if isinstance(values, Coded):
        found = dict(zip(values.values, values.counts()[1:].tolist(), strict=True))
    else:
        found = Counter(each for each in values.tolist() if isinstance(each, str))
    present = sum(found.values()) - found.pop(MISSING_TEXT, 0)
    if present < 2 * LEAST_PER_CLUSTER or len(found) < FREE_DISTINCT * present:
        return False
    words = sum((each.count(" ") + 1) * count for each, count in found.items())
    return bool(words >= FREE_WORDS * present)


def of_texts(values: NDArray[Any]) -> Space | None:
    """Learn the space of a reference's texts [rows], an object array; None where too few are present."""
    texts = [each for each in values.tolist() if isinstance(each, str) and each != MISSING_TEXT]
    if len(texts) < 2 * LEAST_PER_CLUSTER:
        return None
    texts = [texts[place] for place in _chosen(len(texts))]
    buckets = [_buckets(each) for each in texts]
    seen = np.bincount(np.fromiter(chain.from_iterable(buckets), np.int64), minlength=BUCKETS)
    # Inverse document frequency, ln((n + 1)/(df + 1)): what stands in every text says nothing.
    rare = np.log((len(texts) + 1) / (seen + 1))
    weights = np.round(255 * np.maximum(rare, 0) / math.log(len(texts) + 1)).astype(np.uint8)
    points = _projected(buckets, _weighted(weights))
    return Space(kind="text", width=WIDTH, centroids=_centroids(points).tobytes(), weights=weights.tobytes())


def of_arrays(summaries: NDArray[Any]) -> Space | None:
    """Learn the space of a reference's arrays, given as `summary` gives them, [rows, width]."""
    points = np.asarray(summaries, dtype=np.float32)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2 * LEAST_PER_CLUSTER:
        return None
    points = points[_chosen(len(points))]
    spread = points.std(axis=0)
    centre = np.stack([points.mean(axis=0), np.where(spread > 0, spread, 1)]).astype("<f4")
    made = Space(kind="array", width=points.shape[1], centroids=b"", centre=centre.tobytes())
    mean, scale = _scales(made)
    return replace(made, centroids=_centroids((points - mean) / scale).tobytes())


def derived(name: str, space: Space, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Columns of these rows under names such as ``subject (distance)``; missing where the row is.

    ``values``: texts [rows] as objects, or summaries [rows, width].
    """
    if space.kind == "array" and np.asarray(values).reshape(len(values), -1).shape[1] != space.width:
        return {}
    here, nearest, distance = located(space, values)
    cluster = np.full(len(here), None, dtype=object)
    cluster[here] = [str(each + 1) for each in nearest.tolist()]
    far = np.full(len(here), np.nan)
    far[here] = distance
    made: dict[str, NDArray[Any]] = {of(name, CLUSTER): cluster, of(name, DISTANCE): far}
    if space.kind == "text":
        length = np.full(len(here), np.nan)
        length[here] = [len(each) for each, present in zip(values.tolist(), here.tolist(), strict=True) if present]
        made[of(name, LENGTH)] = length
    return made


def located(space: Space, values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.int64], Floats]:
    """Which rows are present [rows]; of those the number of the nearest centroid and how far it is (Euclid).

    ``values``: texts [rows] as objects, or summaries [rows, width of the space].
    """
    map_ = _map(space)
    if space.kind == "text":
        texts = values.tolist()
        here = np.array([isinstance(each, str) and each != MISSING_TEXT for each in texts], dtype=np.bool_)
        known = [_buckets(each) for each, present in zip(texts, here.tolist(), strict=True) if present]
        points = _projected(known, map_.directions)
    else:
        whole = np.asarray(values, dtype=np.float32).reshape(len(values), -1)
        here = np.asarray(np.isfinite(whole).all(axis=1), dtype=np.bool_)
        points = (whole if here.all() else whole[here]) - map_.mean
        points /= map_.scale
    return here, *_nearest(points, map_.centroids, map_.squares)


def of(name: str, what: str) -> str:
    return f"{name} ({what})"


def learned(
    columns: Mapping[str, Values], types: Mapping[str, ColumnType], arrays: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Space], dict[str, NDArray[Any]]]:
    """Spaces of what is free text among the columns [rows], and of arrays [rows, …], oldest row first.

    Spaces are learned from the older half; what follows from them is given of the newer half alone (missing in the
    other): rows are nearer to centroids that were made of them than rows like them will ever be.
    """
    spaces: dict[str, Space] = {}
    later: dict[str, NDArray[Any]] = {}
    points = {
        name: _objects(values) for name, values in columns.items() if types.get(name) == "text" and is_free_text(values)
    }
    for name, values in {**points, **{name: summary(values) for name, values in arrays.items()}}.items():
        half = len(values) // 2
        space = of_texts(values[:half]) if name in points else of_arrays(values[:half])
        if space is None:
            continue
        spaces[name] = space
        for column, found in derived(name, space, values[half:]).items():
            absent = np.full(half, None, dtype=object) if found.dtype == object else np.full(half, np.nan)
            later[column] = np.concatenate([absent, found])
    return spaces, later


def replaced(columns: Mapping[str, Values], spaces: Mapping[str, Space]) -> dict[str, Values]:
    """The columns, those that have a space by what follows from it."""
    made: dict[str, Values] = {}
    for name, values in columns.items():
        space = spaces.get(name)
        if space is None:
            made[name] = values
        elif space.kind == "array" or isinstance(values, Coded) or values.dtype == object:
            made |= derived(name, space, _objects(values))
    return made


def _objects(values: Values) -> NDArray[Any]:
    return values.objects() if isinstance(values, Coded) else values


def summary(array: NDArray[Any]) -> Points:
    """What is kept of each array [rows, …]: float32 [rows, width].

    Up to `LONGEST_EMBEDDING` numbers in one axis: themselves; whole numbers in one axis (tokens): which of them there are, as
    words of a text. Two axes or more (an image, channels first or last): mean
    and deviation of each channel, edges across and down, and the brightness of a grid of 4 × 4.
    """
    rows = len(array)
    if array.ndim == 2 and array.dtype.kind in "iu":
        ids = [[each % BUCKETS for each in dict.fromkeys(row)] for row in array.tolist()]
        return _projected(ids, _directions())
    if array.ndim <= 2 and array.size <= rows * LONGEST_EMBEDDING:
        return array.reshape(rows, -1).astype(np.float32)
    if array.ndim == 2:
        array = array.reshape(rows, 1, 1, -1)
    elif array.ndim == 3:
        array = array[:, None]
    elif array.ndim > 4:
        array = array.reshape(rows, 1, -1, array.shape[-1])
    if array.shape[-1] <= 4 < array.shape[1]:
        array = np.moveaxis(array, -1, 1)
    image = array.astype(np.float32)
    if image.shape[1] > 4:
        image = image.reshape(rows, 1, -1, image.shape[-1])
    light = image.mean(axis=1)
    parts = [image.mean(axis=(2, 3)), image.std(axis=(2, 3))]
    parts += [np.abs(np.diff(light, axis=axis)).mean(axis=(1, 2))[:, None] for axis in (1, 2) if light.shape[axis] > 1]
    # Sums over a grid of pixels by differences of cumulated sums: one pass, whatever the size.
    down, across = (_cuts(light.shape[axis]) for axis in (1, 2))
    cells = np.add.reduceat(np.add.reduceat(light, down, axis=1), across, axis=2)
    area = np.outer(np.diff([*down, light.shape[1]]), np.diff([*across, light.shape[2]]))
    return np.concatenate([*parts, (cells / area).reshape(rows, -1)], axis=1).astype(np.float32)


def _cuts(size: int) -> list[int]:
    return sorted({place * size // GRID for place in range(GRID)})


def _chosen(rows: int) -> NDArray[np.int64]:
    """Which rows of a reference are learned from: spread over all of them, the same every time."""
    return np.unique(np.linspace(0, rows - 1, min(rows, LEARNED)).astype(np.int64))


def _buckets(text: str) -> list[int]:
    """Where its words lie, each once: how often it is said is style."""
    words = dict.fromkeys(text.lower().split(None, MOST_WORDS)[:MOST_WORDS])
    return [zlib.crc32(each.encode("utf-8", "surrogatepass")) % BUCKETS for each in words]


@cache
def _directions() -> Points:
    """[`BUCKETS`, `WIDTH`] of +1 and −1 (Achlioptas 2003), from digests: the same in every version of every library."""
    digests = b"".join(
        hashlib.blake2b(place.to_bytes(4, "little"), digest_size=WIDTH // 8).digest() for place in range(BUCKETS)
    )
    bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(BUCKETS, WIDTH)
    return (bits.astype(np.float32) * 2 - 1) / np.float32(math.sqrt(WIDTH))


@dataclass(frozen=True, slots=True)
class _Map:
    """A space, ready to be asked of a single row: what is the same for every row is computed once."""

    centroids: Points
    """[clusters, width]"""
    squares: Points
    """[clusters]"""
    directions: Points
    """Texts: [`BUCKETS`, `WIDTH`], weighted."""
    mean: Points
    scale: Points
    """Arrays: [width], what a point is divided by."""


@lru_cache(maxsize=32)
def _map(space: Space) -> _Map:
    centroids = np.frombuffer(space.centroids, "<f2").reshape(-1, space.width).astype(np.float32)
    nothing = np.zeros(0, np.float32)
    if space.kind == "text":
        directions, mean, scale = _weighted(np.frombuffer(space.weights, np.uint8)), nothing, nothing
    else:
        directions, (mean, scale) = nothing, _scales(space)
    return _Map(centroids, (centroids**2).sum(axis=1), directions, mean, scale)


def _weighted(weights: NDArray[np.uint8]) -> Points:
    return _directions() * weights[:, None].astype(np.float32)


def _projected(buckets: Sequence[Sequence[int]], directions: Points) -> Points:
    """Points of length one [texts, `WIDTH`]; a text of nothing that counts lies at 0."""
    # A text at a time: all words at once would be read from memory, not from the cache (480 µs for 96 words instead of 12).
    made = np.zeros((len(buckets), WIDTH), dtype=np.float32)
    for place, each in enumerate(buckets):
        if each:
            made[place] = directions[each].sum(axis=0)
    lengths = np.linalg.norm(made, axis=1, keepdims=True)
    return np.asarray(made / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _scales(space: Space) -> tuple[Points, Points]:
    """Mean and divisor of each dimension [width].

    The divisor is the deviation times the root of the width: a distance means the same for short and long arrays.
    """
    mean, spread = np.frombuffer(space.centre, "<f4").reshape(2, -1)
    return mean, np.asarray(spread * np.float32(math.sqrt(space.width)), dtype=np.float32)


def _nearest(points: Points, centroids: Points, squares: Points) -> tuple[NDArray[np.int64], Floats]:
    """The nearest centroid of each point and how far it is (Euclid). ``squares``: of each centroid's length."""
    if not len(points):
        return np.zeros(0, np.int64), np.zeros(0)
    far = squares - 2 * points @ centroids.T
    place = far.argmin(axis=1)
    least = far[np.arange(len(points)), place] + np.einsum("ij,ij->i", points, points)
    return place, np.sqrt(np.maximum(least, 0)).astype(np.float64)


def _with_squares(centroids: Points) -> tuple[Points, Points]:
    return centroids, (centroids**2).sum(axis=1)


def _centroids(points: Points) -> NDArray[np.float16]:
    """k-means (Lloyd; seeds by Arthur and Vassilvitskii 2007), largest cluster first."""
    random = np.random.default_rng(SEED)
    count = min(CLUSTERS, max(2, len(points) // LEAST_PER_CLUSTER))
    chosen = [points[random.integers(len(points))]]
    for _ in range(count - 1):
        far = _nearest(points, *_with_squares(np.stack(chosen)))[1] ** 2
        total = far.sum()
        if total <= 0:
            break
        chosen.append(points[min(int(np.searchsorted(np.cumsum(far), random.random() * total)), len(points) - 1)])
    centroids = np.stack(chosen)
    for _ in range(ROUNDS):
        place = _nearest(points, *_with_squares(centroids))[0]
        members = np.bincount(place, minlength=len(centroids))
        sums = np.stack([np.bincount(place, weights=each, minlength=len(centroids)) for each in points.T], axis=1)
        moved = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centroids).astype(np.float32)
        if np.allclose(moved, centroids, atol=1e-5):
            break
        centroids = moved
    order = np.argsort(
        -np.bincount(_nearest(points, *_with_squares(centroids))[0], minlength=len(centroids)), kind="stable"
    )
    return np.asarray(np.clip(centroids[order], -65_000, 65_000), dtype="<f2")
