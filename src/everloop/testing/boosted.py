"""A real gradient-boosted model over made rows, exported as the loop does it: for tests and benches that need one.

Twenty numbers, a label that trees can learn in part, LightGBM; the graph comes from the package room.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from everloop.measure import encode
from everloop.package.build import build, columns_of
from everloop.records import InputColumn, Signature
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree, Input
from everloop.testing.serving import ServedHome
from everloop.train.fit import fit, needs

COLUMNS = 20
NAMES = tuple(f"column_{n}" for n in range(COLUMNS))
FITTED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Boosted:
    """``home`` serves it as version 1; ``text`` is LightGBM's own form of the model."""

    home: ServedHome
    digest: str
    text: str

    @property
    def folder(self) -> Path:
        return self.home.home.packages / self.digest


def made_rows(count: int, *, seed: int, missing: float = 0.0) -> pl.DataFrame:
    """Normal numbers, a share of them missing."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, COLUMNS))
    if missing:
        values[random.random(values.shape) < missing] = np.nan
    return pl.DataFrame({name: values[:, n].copy() for n, name in enumerate(NAMES)})


def boosted(root: Path, *, trees: int = 200, leaves: int = 31, fitted_rows: int = FITTED_ROWS) -> Boosted:
    """Fit, export and seal it in a home at ``root``."""
    from lightgbm import LGBMClassifier  # the extra "boost"

    rows = made_rows(fitted_rows, seed=1, missing=0.01)
    values = np.nan_to_num(rows.to_numpy())
    random = np.random.default_rng(0)
    score = values @ random.normal(size=COLUMNS) + values[:, 0] * values[:, 1] + 3 * np.sin(3 * values[:, 2])
    label = (score + random.normal(size=fitted_rows) > 0).astype(np.int64)
    train = Train(LGBMClassifier(n_estimators=trees, num_leaves=leaves, verbose=-1))
    types: dict[str, Any] = dict.fromkeys(NAMES, "number")
    wants = needs(train)
    encoding = encode.learn(
        columns_of(rows), types, native_categories=wants.native_categories, accepts_missing=wants.accepts_missing
    )
    fitted = fit(train, encoding, encode.apply(encoding, columns_of(rows)), label, task="binary", classes=2)
    signature = Signature(
        inputs=tuple(InputColumn(name=name, type="number", index=n) for n, name in enumerate(NAMES)),
        task="binary",
        classes=(False, True),
        positive=1,
    )
    tree = FeatureTree(columns=tuple((name, Input(name)) for name in NAMES))
    proof = made_rows(500, seed=2, missing=0.01)
    built = build(fitted, encoding, tree, signature, rows=proof, features=lambda raw: raw.select(NAMES))
    home = ServedHome(root, loop="boosted")
    digest = home.seal(1, signature, graph=built.onnx)
    home.release(1)
    return Boosted(home, digest, fitted.model.booster_.model_to_string())
