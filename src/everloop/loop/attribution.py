"""What made one prediction what it is: each column's contribution, from the sealed version that gave it and its logged row.

Boosted models tell their own contributions (exact), networks theirs by their gradients, both from the file that was kept
beside the candidate and whose digest the package's signature covers; everything else is asked through its served graph with
columns exchanged for those of other rows. Nothing is unpickled; only for gradients the stored declaration is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.errors import DataError, NotFound, PackageTampered, TrainError
from everloop.loop import by_gradients
from everloop.loop.asked import Asked
from everloop.loop.contribution import Contribution, Method, Scale, largest_first, shown, sigmoid
from everloop.loop.installation import Installation
from everloop.loop.of_version import Made, Network, made_of
from everloop.measure.truth import class_name
from everloop.package.pack import decoded
from everloop.records import Signature, digest_of
from everloop.serve.tensors import digests
from everloop.store.ledger import versions
from everloop.watch import fold

Numbers = npt.NDArray[np.float64]
AGREES = 1e-4
"""How near the probability that contributions add up to must be to the one that was served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """``base``, all contributions and ``gap`` sum to ``total``, on ``scale``."""

    loop: str
    version: int
    id: str
    method: Method
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
    gap: float = 0.0
    """What gradients miss, which are summed up at some points of a way and not at all of them."""
    note: str | None = None
    """Why the graph was asked where the model itself could have told more."""


def attribute(
    installation: Installation, id: str, *, subject: str | None = None, by_graph: bool = False
) -> Attribution:
    """Explain the logged prediction ``id``. ``subject``: the class to explain, as text; None: the positive or decided one.
    ``by_graph``: by asking the served graph, whatever the model could tell itself.

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
    place = place_of(signature, subject, row)
    served = _served(signature, row, place)
    frame = pl.DataFrame(raw)
    seed = int(digest_of(id.encode())[:8], 16)
    found = Explaining(made, place, by_graph=by_graph).row(frame, served=served, seed=seed)
    return Attribution(
        loop=installation.name, version=version.number, id=id, served=served,
        subject=class_name(signature.classes[place]) if signature.classes else None, **found,
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


def place_of(signature: Signature, subject: str | None, row: pl.DataFrame) -> int:
    """Which column of the answer is explained."""
    if not signature.classes:
        if subject is not None:
            raise DataError(f"--class is {subject!r}, but this loop predicts a number; leave it out.")
        return 0
    if subject is not None:
        known = [class_name(each) for each in signature.classes]
        for names in (known, [str(each) for each in signature.classes]):  # true, and True as Python writes it
            if subject in names:
                return names.index(subject)
        raise DataError(f"--class is {subject!r}; the classes are {', '.join(known)}.")
    if signature.task == "binary" and signature.positive is not None:
        return signature.positive
    decided = row["decision"][0]
    return int(decided) if decided is not None else 0


def _served(signature: Signature, row: pl.DataFrame, place: int) -> float | None:
    name = f"p_{place}" if signature.classes else "value"
    value = row[name][0] if name in row.columns else None
    return None if value is None else float(value)


class Explaining:
    """Explains rows of one version for class ``place``, each in the first way that gives what was served."""

    def __init__(self, made: Made, place: int, *, by_graph: bool = False) -> None:
        self._made, self._place, self._by_graph = made, place, by_graph
        self._note: str | None = None

    def row(self, frame: pl.DataFrame, *, served: float | None, seed: int, inside: bool = True) -> dict[str, Any]:
        """Fields of the `Attribution` of one raw row. ``inside``: the graph tells words and parts of images apart, too."""
        for way in () if self._by_graph else (self._own, self._by_gradients):
            found = way(frame)
            if found is None:
                continue
            if served is None or math.isclose(found["answer"], served, rel_tol=AGREES, abs_tol=AGREES):
                return found
            self._note = (
                f"contributions by {found['method']} add up to {found['answer']:.6g}, and {served:.6g} was served"
            )
        note = None if self._note is None else f"the served graph is asked: {self._note}"
        return {**_asked(self._made, frame, self._place, seed, inside), "note": note}

    def _own(self, frame: pl.DataFrame) -> dict[str, Any] | None:
        try:
            return _own(self._made, frame, self._place)
        except (NotFound, PackageTampered) as error:
            self._note = f"the model's own contributions need what was sealed: {error}"
            return None

    def _by_gradients(self, frame: pl.DataFrame) -> dict[str, Any] | None:
        if self._network is None:
            return None
        try:
            return by_gradients.told(self._network, frame, self._place)
        except TrainError as error:
            self._note = str(error)
            return None

    @cached_property
    def _network(self) -> Network | None:
        try:
            return self._made.network()
        except ImportError as error:
            self._note = f"gradients need PyTorch and captum ({error}): pip install 'everloop[explain]'"
        except (NotFound, PackageTampered, TrainError) as error:
            self._note = f"gradients need the network itself: {error}"
        return None


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
        scale, answer = "log odds", sigmoid(total)
    else:
        shares, base = said[place]
        total = outputs[place]
        weights = np.exp(np.array(outputs) - max(outputs))
        scale, answer = "margin before softmax", float(weights[place] / weights.sum())
    names = features.columns
    contributions = [
        Contribution(name=name, value=shown(features[name][0]), contribution=float(share))
        for name, share in zip(names, shares, strict=True)
    ]
    return {
        "method": "the model's own", "scale": scale, "base": float(base), "total": total, "answer": answer,
        "contributions": largest_first(contributions),
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
                name=column, value=shown(value), contribution=float(share), error=float(error), words=words,
                parts=parts,
            )
        )  # fmt: skip
    classes = bool(made.signature.classes)
    return {
        "method": "its graph", "scale": "log odds" if classes else "value", "base": shares.base,
        "total": shares.total, "answer": sigmoid(shares.total) if classes else shares.total,
        "contributions": largest_first(contributions),
    }  # fmt: skip
