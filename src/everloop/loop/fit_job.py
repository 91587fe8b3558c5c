"""The job that makes a candidate: rows → features → search → fit → one graph → parity → profile.

Runs in a process of its own (``everloop.jobs``), never in the controller. Leaves ``candidate/`` in its folder:
graph.onnx, profile.json, test.parquet, details.json, candidate.json. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from everloop.data import features as feature_data
from everloop.data.snapshot import Samples, samples
from everloop.errors import TrainError
from everloop.measure import encode as encoding
from everloop.measure import profile as profiles
from everloop.measure.metrics import score as measure_score
from everloop.package import build as building
from everloop.package.predict import Predictor
from everloop.records import Candidate, Encoding, Signature, Snapshot, decode, encode
from everloop.spec import codec
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.train import compete
from everloop.train.labels import to_target

Report = Callable[[dict[str, Any]], None]


class Stopwatch:
    """Where the time went, by name, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of the job. Raises DataError, TrainError, ConversionRefused or ParityError for the user."""
    watch = Stopwatch()
    home = Home(Path(arguments["home"]))
    loop = codec.from_bytes((home.code / arguments["code"] / "loop.json").read_bytes())
    facts = msgspec.convert(arguments["facts"], LabelFacts) if arguments["facts"] else None
    resolved = resolve(loop, arguments["schema"], facts)
    snapshot = msgspec.convert(arguments["snapshot"], Snapshot)
    with watch.timing("read"):
        rows = samples(resolved, Lake(home.lake(loop.name)), snapshot)
    return make(
        resolved,
        rows,
        snapshot,
        digest=arguments["digest"],
        code=arguments["code"],
        declaration=Path(arguments["declaration"]),
        folder=Path(context.folder) / "candidate",
        final=home.candidates / arguments["digest"],
        report=context.progress,
        watch=watch,
    )
