"""A version opened for questions: its graph, its declaration as it was, its test rows, its model's own contributions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.data.features import render
from everloop.data.snapshot import samples
from everloop.forms import Terms, Tokens
from everloop.loop.asked import BACKGROUND
from everloop.loop.installation import FOUND, Installation, read_found
from everloop.measure.encode import apply
from everloop.package.build import columns_of
from everloop.package.predict import Predictor
from everloop.records import Encoding, Signature, Version, decode, digest_of
from everloop.spec import codec
from everloop.spec.resolve import Resolved, resolve
from everloop.spec.tree import inputs_of
from everloop.spec.wholes import forms_of
from everloop.store import packages
from everloop.store.ledger import snapshots

ENCODING = "encoding.json"
Table = list[tuple[npt.NDArray[np.float64], float]]


@dataclass(frozen=True)
class Made:
    installation: Installation
    version: Version
    opened: packages.Opened

    @property
    def signature(self) -> Signature:
        return self.opened.manifest.signature

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor.of(self.opened.model, self.signature, extensions=self.opened.manifest.extensions)

    @cached_property
    def resolved(self) -> Resolved:
        """The loop as it was declared when this version was made. No user's module is imported."""
        folder = self.installation.home.code / self.opened.manifest.lineage["code"]
        loop = codec.from_bytes((folder / "loop.json").read_bytes())
        schema, facts = read_found(folder / FOUND)
        return resolve(loop, schema, facts)

    @cached_property
    def _rows(self) -> pl.DataFrame:
        """Raw test rows: those that the fit left, or the same ones from the lake."""
        place = self.opened.manifest.lineage.get("explain", {}).get("candidate", "")
        left = self.installation.home.candidates / place / "test.parquet"
        if place and left.exists():
            return pl.read_parquet(left)
        with self.installation.ledger.read() as connection:
            snapshot = snapshots.get(connection, self.version.snapshot)
        return samples(self.resolved, self.installation.lake, snapshot).test

    def test_rows(self, most: int) -> pl.DataFrame:
        """At most so many raw rows, evenly from the oldest to the newest."""
        names = [*(each.name for each in self.signature.inputs), *(each.name for each in self.signature.tensors)]
        rows = self._rows.select(names)
        places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))
        return rows[places]

    def background(self) -> pl.DataFrame:
        return self.test_rows(BACKGROUND)

    def free_texts(self) -> set[str]:
        """Raw columns that a model reads word by word."""
        forms = forms_of(self.resolved.features)
        worded = {name for name, form in forms.items() if isinstance(form, Terms | Tokens)}
        columns = dict(self.resolved.features.columns)
        return {name for feature in worded for name in inputs_of(columns[feature])}

    def own_contributions(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, Table] | None:
        """Features of the one raw row, and for each output of the model what each feature adds, and the base.

        None where the model keeps no contributions, or its file is gone or not the one that was sealed.
        """
        kept = self.opened.manifest.lineage.get("explain")
        if not kept or "file" not in kept:
            return None
        folder = self.installation.home.candidates / kept["candidate"]
        try:
            content, table = (folder / kept["file"]).read_bytes(), (folder / ENCODING).read_bytes()
        except OSError:
            return None
        if (digest_of(content), digest_of(table)) != (kept["sha256"], kept["encoding"]):
            return None
        from everloop.train.contributions import contributions

        encoding = decode(table, Encoding)
        instants = [name for name, kind in self.resolved.schema.items() if kind == "instant"]
        zones = dict.fromkeys(instants, self.resolved.loop.source.time_zone)
        features = render(self.resolved.features, frame, self.resolved.schema, zones)
        matrix: Any = apply(encoding, columns_of(features))
        if hasattr(matrix, "toarray"):
            matrix = matrix.toarray()
        said = contributions(kept["file"], content, matrix)[0]
        starts = np.cumsum([0, *(each.width for each in encoding.features)])[:-1]
        shares = [(np.add.reduceat(each[:-1], starts), float(each[-1])) for each in said]
        return features.select(each.name for each in encoding.features), shares


def made_of(installation: Installation, version: Version) -> Made:
    """Raises NotFound or PackageTampered."""
    trusted = packages.trusted_keys(installation.home.keys)
    return Made(installation, version, packages.open_package(installation.home.packages / version.package, trusted))
