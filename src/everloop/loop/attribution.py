"""What made one prediction what it is: each column's contribution, from the sealed version that gave it and its logged row.

Boosted models tell their own contributions (exact, from the file that was kept beside the candidate and whose digest the
package's signature covers); everything else is asked through its served graph with columns exchanged for those of other
rows. Nothing is unpickled and no user's module is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.errors import DataError, NotFound
from everloop.loop.asked import Asked
from everloop.loop.installation import Installation
from everloop.loop.of_version import Made, made_of
from everloop.package.pack import decoded
from everloop.records import Signature, digest_of
from everloop.serve.tensors import digests
from everloop.store.ledger import versions
from everloop.watch import fold

Numbers = npt.NDArray[np.float64]
Scale = Literal["log odds", "margin before softmax", "value", "log1p of the value"]
AGREES = 1e-4
"""How near the probability that contributions add up to must be to the one that was served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    name: str
    value: Any
    """What the row held; None where it was missing."""
    contribution: float
    error: float = 0.0
    """Its standard error, where it was sampled."""
    words: tuple[tuple[str, float], ...] = ()
    """Of a free text: what each of its words brought, in the text's order."""
    parts: tuple[tuple[float, ...], ...] = ()
    """Of an image: what each part of a grid over it brought, rows from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """``base`` and all contributions sum to ``total``, on ``scale``."""

    loop: str
    version: int
    id: str
    method: Literal["the model's own", "its graph"]
    scale: Scale
    subject: str | None
    """The class whose answer is explained; None for numbers."""
    base: float
    total: float
    served: float | None
    """What was answered: the class's probability, or the value."""
    answer: float
    """What ``total`` means: the class's probability, or the value."""
    contributions: tuple[Contribution, ...]
    """The largest first."""


def attribute(installation: Installation, id: str, *, subject: str | None = None) -> Attribution:
    """Explain the logged prediction ``id``. ``subject``: the class to explain, as text; None: the positive or decided one.

    Raises NotFound where the log has no such prediction or no raw columns of it.
    """
    rows = installation.lake.read("predictions", where=pl.col("id") == id)
    if rows.is_empty():
        raise NotFound(
            f"The prediction log of {installation.name} has no {id!r}; ids are case-sensitive, keys joined by '|'."
        )
    answered = rows.filter(pl.col("arm") != "shadow")
    row = (answered if len(answered) else rows).head(1)
    with installation.ledger.read() as connection:
        version = versions.get(connection, installation.name, int(row["version"][0]))
    made = made_of(installation, version)
    signature = made.signature
    raw = fold.inputs(row, signature.inputs)
    raw |= _images(installation, signature, row)
    names = [*(each.name for each in signature.inputs), *(each.name for each in signature.tensors)]
    absent = [name for name in names if name not in raw]
    if absent:
        raise NotFound(
            f"The log does not hold the raw columns of {id!r} ({', '.join(absent[:5])}), so it cannot be explained; "
            "log=True in el.Serve keeps columns; images are found where their row came in under the prediction's id."
        )
    place = _place(signature, subject, row)
    served = _served(signature, row, place)
    frame = pl.DataFrame(raw)
    found = explained(made, frame, place, served=served, seed=int(digest_of(id.encode())[:8], 16))
    return Attribution(
        loop=installation.name, version=version.number, id=id, served=served,
        subject=str(signature.classes[place]) if signature.classes else None, **found,
    )  # fmt: skip


def _images(installation: Installation, signature: Signature, row: pl.DataFrame) -> dict[str, pl.Series]:
    """The files of the row with the prediction's id, where they are the very images that were answered."""
    named = [each for each in signature.tensors if each.image is not None]
    if not named or "raw" not in installation.lake.tables():
        return {}
    rows = installation.lake.read("raw", where=pl.col("_key") == row["id"][0]).tail(1)
    found: dict[str, pl.Series] = {}
    for each in named:
        if each.name not in rows.columns or rows.is_empty() or f"{fold.INPUT}{each.name}" not in row.columns:
            continue
        assert each.image is not None
        try:
            pixels = decoded(each.name, rows[each.name], each.image)
        except DataError:
            continue
        if digests(pixels).hex() == row[f"{fold.INPUT}{each.name}"][0]:
            found[each.name] = rows[each.name]
    return found


def pixels_of(installation: Installation, told: Attribution, name: str) -> npt.NDArray[np.uint8]:
    """The image that was answered, uint8 [height, width, channels]. Raises NotFound."""
    with installation.ledger.read() as connection:
        made = made_of(installation, versions.get(connection, installation.name, told.version))
    (column,) = (each for each in made.signature.tensors if each.name == name)
    rows = installation.lake.read("raw", where=pl.col("_key") == told.id).tail(1)
    if rows.is_empty() or column.image is None:
        raise NotFound(f"The image {name!r} of {told.id!r} is gone.")
    pixels: npt.NDArray[np.uint8] = decoded(name, rows[name], column.image)[0]
    return pixels


def _place(signature: Signature, subject: str | None, row: pl.DataFrame) -> int:
    """Which column of the answer is explained."""
    if not signature.classes:
        if subject is not None:
            raise DataError(f"--class is {subject!r}, but this loop predicts a number; leave it out.")
        return 0
    known = [str(each) for each in signature.classes]
    if subject is not None:
        if subject not in known:
            raise DataError(f"--class is {subject!r}; the classes are {', '.join(known)}.")
        return known.index(subject)
    if signature.task == "binary" and signature.positive is not None:
        return signature.positive
    decided = row["decision"][0]
    return int(decided) if decided is not None else 0


def _served(signature: Signature, row: pl.DataFrame, place: int) -> float | None:
    name = f"p_{place}" if signature.classes else "value"
    value = row[name][0] if name in row.columns else None
    return None if value is None else float(value)


def explained(
    made: Made, frame: pl.DataFrame, place: int, *, served: float | None, seed: int, inside: bool = True
) -> dict[str, Any]:
    """Fields of the `Attribution` of one row. ``inside``: texts by their words and images by their parts, too."""
    own = _own(made, frame, place)
    if own is not None and (served is None or math.isclose(own["answer"], served, rel_tol=AGREES, abs_tol=AGREES)):
        return own
    return _asked(made, frame, place, seed, inside)


def _own(made: Made, frame: pl.DataFrame, place: int) -> dict[str, Any] | None:
    """By the model's own contributions; None where it kept none."""
    table = made.own_contributions(frame)
    if table is None:
        return None
    features, said = table
    shares, base = said[0]
    shares, base = _of_class(made.signature, shares, base, place)
    total = float(base + shares.sum())
    outputs = [float(base_ + shares_.sum()) for shares_, base_ in said]
    scale: Scale
    if made.signature.task == "regression":
        logarithmic = made.resolved.loop.label.scale == "log1p"
        scale, answer = ("log1p of the value", math.expm1(total)) if logarithmic else ("value", total)
    elif made.signature.task == "binary":
        scale, answer = "log odds", _sigmoid(total)
    else:
        shares, base = said[place]
        total = outputs[place]
        weights = np.exp(np.array(outputs) - max(outputs))
        scale, answer = "margin before softmax", float(weights[place] / weights.sum())
    names = features.columns
    contributions = [
        Contribution(name=name, value=_shown(features[name][0]), contribution=float(share))
        for name, share in zip(names, shares, strict=True)
    ]
    return {
        "method": "the model's own", "scale": scale, "base": float(base), "total": total, "answer": answer,
        "contributions": _sorted(contributions),
    }  # fmt: skip


def _of_class(signature: Signature, shares: Numbers, base: float, place: int) -> tuple[Numbers, float]:
    """Of two classes the model tells the odds of the second."""
    return (-shares, -base) if signature.task == "binary" and place == 0 else (shares, base)


def _asked(made: Made, frame: pl.DataFrame, place: int, seed: int, inside: bool) -> dict[str, Any]:
    asked = Asked(made.predictor, made.background(), place)
    shares = asked.columns(frame, seed)
    texts = made.free_texts()
    contributions = []
    for column, share, error in zip(asked.names, shares.shares, shares.errors, strict=True):
        value = frame[column][0]
        words = asked.words(frame, column, seed) if column in texts and value and inside else ()
        parts = asked.parts(frame, column, seed) if isinstance(value, bytes) and inside else ()
        contributions.append(
            Contribution(
                name=column, value=_shown(value), contribution=float(share), error=float(error), words=words,
                parts=parts,
            )
        )  # fmt: skip
    classes = bool(made.signature.classes)
    return {
        "method": "its graph", "scale": "log odds" if classes else "value", "base": shares.base,
        "total": shares.total, "answer": _sigmoid(shares.total) if classes else shares.total,
        "contributions": _sorted(contributions),
    }  # fmt: skip


def _sorted(contributions: Sequence[Contribution]) -> tuple[Contribution, ...]:
    return tuple(sorted(contributions, key=lambda each: (-abs(each.contribution), each.name)))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))


def _shown(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# Many rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How one column moves answers: ``mean`` of the absolute contributions, and the contributions' quantiles."""

    name: str
    mean: float
    quantiles: tuple[float, float, float, float, float]
    """5, 25, 50, 75 and 95 percent."""


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


MANY, FEW = 300, 24
"""Rows of a summary: by the model's own contributions, by its graph."""


def importance(installation: Installation, number: int, *, subject: str | None = None) -> Importance:
    """Contributions over test rows of version ``number``, evenly from the oldest to the newest. Raises NotFound."""
    with installation.ledger.read() as connection:
        version = versions.get(connection, installation.name, number)
    made = made_of(installation, version)
    signature = made.signature
    if any(each.image is None for each in signature.tensors):
        raise NotFound(f"Version {number} answers arrays, which have no columns to tell apart.")
    place = _place(signature, subject, pl.DataFrame({"decision": [0]}))
    rows = made.test_rows(MANY)
    first = explained(made, rows.head(1), place, served=None, seed=0, inside=False)
    if first["method"] == "its graph":
        rows = made.test_rows(FEW)
    found: dict[str, list[float]] = {}
    for at in range(len(rows)):
        each = explained(made, rows[at : at + 1], place, served=None, seed=at, inside=False)
        for one in each["contributions"]:
            found.setdefault(one.name, []).append(one.contribution)
    weights = [
        Weight(
            name=name,
            mean=float(np.abs(values).mean()),
            quantiles=tuple(float(each) for each in np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))),  # type: ignore[arg-type]
        )
        for name, values in found.items()
    ]
    return Importance(
        loop=installation.name, version=number, rows=len(rows), method=first["method"], scale=first["scale"],
        subject=str(signature.classes[place]) if signature.classes else None,
        weights=tuple(sorted(weights, key=lambda each: (-each.mean, each.name))),
    )  # fmt: skip
