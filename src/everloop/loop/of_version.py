"""A version opened for questions: its graph, its declaration as it was, its test rows, its model's own contributions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.data.features import render
from everloop.data.snapshot import samples
from everloop.errors import NotFound, PackageTampered, TrainError
from everloop.forms import Terms, Tokens
from everloop.loop.asked import BACKGROUND
from everloop.loop.installation import FOUND, Installation, read_found
from everloop.measure.encode import apply, inputs
from everloop.measure.tensors import Tensors
from everloop.package.build import columns_of
from everloop.package.predict import Predictor
from everloop.records import Encoding, Signature, Version, decode, digest_of
from everloop.spec import codec
from everloop.spec.resolve import Resolved, resolve
from everloop.spec.torch import Torch
from everloop.spec.tree import inputs_of
from everloop.spec.wholes import forms_of
from everloop.store import packages
from everloop.store.ledger import snapshots
from everloop.train import champion

if TYPE_CHECKING:
    from everloop.train.gradients import Brought

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
        loop = codec.from_bytes((self._code / "loop.json").read_bytes())
        schema, facts = read_found(self._code / FOUND)
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

        None where the model keeps no contributions. Raises NotFound where its file is gone, PackageTampered where it is not
        the one that was sealed.
        """
        kept = self._kept
        if kept.get("file", champion.WEIGHTS) == champion.WEIGHTS:
            return None
        content, encoding = self._sealed(ENCODING)
        from everloop.train.contributions import contributions

        features = self._features(frame)
        matrix: Any = apply(encoding, columns_of(features))
        if hasattr(matrix, "toarray"):
            matrix = matrix.toarray()
        said = contributions(kept["file"], content, matrix)[0]
        starts = np.cumsum([0, *(each.width for each in encoding.features)])[:-1]
        shares = [(np.add.reduceat(each[:-1], starts), float(each[-1])) for each in said]
        return features.select(each.name for each in encoding.features), shares

    def network(self) -> Network | None:
        """The trained network itself, built again as it was declared.

        None where there is none: another model. Raises NotFound where its weights are gone, PackageTampered where they are
        not the sealed ones, ImportError where PyTorch or captum is not installed, TrainError where it cannot be built: as
        one that a function of the user's has built.
        """
        kept = self._kept
        if "file" not in kept and (self._candidate / champion.WEIGHTS).exists():
            raise TrainError("a function of yours has built it, and only what el.Torch declares can be built again")
        if kept.get("file") != champion.WEIGHTS:
            return None
        weights, encoding = self._sealed(champion.TABLE)
        from everloop.train import gradients

        form = self.resolved.loop.trains[kept["place"]].estimator
        assert isinstance(form, Torch)
        others = inputs(encoding, columns_of(self._features(self.background())))
        assert isinstance(others, Tensors)
        lineage = self.opened.manifest.lineage
        module = gradients.again(
            form.trying(lineage["parameters"]), weights, others, outputs=max(1, len(self.signature.classes)),
            source=self._code / "declaration.py", folder=self.installation.folder,
        )  # fmt: skip
        return Network(self, module, encoding, others)

    @property
    def scaled_by(self) -> tuple[float, float]:
        """Centre and spread of a network's labels: its answer times the spread and the centre is on the scale that was fitted."""
        return self._kept.get("centre", 0.0), self._kept.get("spread", 1.0)

    @property
    def _kept(self) -> dict[str, Any]:
        kept: dict[str, Any] = self.opened.manifest.lineage.get("explain", {})
        return kept

    @property
    def _code(self) -> Path:
        return self.installation.home.code / str(self.opened.manifest.lineage["code"])

    @property
    def _candidate(self) -> Path:
        return self.installation.home.candidates / str(self._kept.get("candidate", ""))

    def _sealed(self, table: str) -> tuple[bytes, Encoding]:
        """The model's file and its encoding, both the ones that the package's signature covers."""
        found = []
        for name, sealed in ((self._kept["file"], "sha256"), (table, "encoding")):
            where = f"{name} of candidate {self._candidate.name[:16]}… (version {self.version.number})"
            try:
                content = (self._candidate / name).read_bytes()
            except FileNotFoundError:
                raise NotFound(f"{where} is gone; put it back from a backup of the home") from None
            except OSError as error:
                raise NotFound(f"{where} cannot be read ({error.strerror}); look at its rights and its disk") from error
            if digest_of(content) != self._kept[sealed]:
                raise PackageTampered(
                    f"{where} is not the one that was sealed; put that one back from a backup of the home"
                )
            found.append(content)
        return found[0], decode(found[1], Encoding)

    def _features(self, frame: pl.DataFrame) -> pl.DataFrame:
        instants = [name for name, kind in self.resolved.schema.items() if kind == "instant"]
        zones = dict.fromkeys(instants, self.resolved.loop.source.time_zone)
        return render(self.resolved.features, frame, self.resolved.schema, zones)


@dataclass(frozen=True)
class Network:
    """A trained network that can be asked for its gradients."""

    made: Made
    module: Any
    encoding: Encoding
    others: Tensors

    def brought(self, frame: pl.DataFrame, place: int | None) -> tuple[pl.DataFrame, Brought]:
        """Features of the one raw row, and what its tensors brought. Raises TrainError where gradients tell nothing."""
        from everloop.train import gradients

        features = self.made._features(frame)
        row = inputs(self.encoding, columns_of(features))
        assert isinstance(row, Tensors)
        return features, gradients.brought(self.module, row, self.others, place=place)


def made_of(installation: Installation, version: Version) -> Made:
    """Raises NotFound or PackageTampered."""
    trusted = packages.trusted_keys(installation.home.keys)
    return Made(installation, version, packages.open_package(installation.home.packages / version.package, trusted))
