"""The job that makes a candidate: rows → features → search → fit → one graph → parity → profile.

Runs in a process of its own (``everloop.jobs``), never in the controller. Leaves ``candidate/`` in its folder:
graph.onnx, profile.json, test.parquet, details.json, candidate.json. Decides nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from everloop.data.features import render
from everloop.data.snapshot import LABEL, Samples, samples
from everloop.errors import TrainError
from everloop.loop.functions import binder
from everloop.measure import encode as encoding
from everloop.measure import profile as profiles
from everloop.measure.metrics import score as measure_score
from everloop.package.build import build, columns_of
from everloop.package.predict import Predictor
from everloop.package.threshold import choose
from everloop.records import Candidate, ColumnType, Encoding, InputColumn, Signature, Snapshot, decode, encode
from everloop.spec import codec
from everloop.spec.function import Function
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.spec.train import Train
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.train.fit import Fitted, fit, needs
from everloop.train.function import TrainContext
from everloop.train.labels import row_weights, to_target
from everloop.train.threads import share
from everloop.watch.drift import PREDICTION, array_of

PARITY_ROWS = 5_000
"""The newest rows on which graph and trainer are held against each other."""
PACKED: dict[ColumnType, str] = {"number": "numbers", "text": "texts"}

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



@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every part of the job needs."""

    resolved: Resolved
    declaration: Path
    report: Report

    @property
    def zones(self) -> dict[str, str | None]:
        instants = [name for name, kind in self.resolved.schema.items() if kind == "instant"]
        return dict.fromkeys(instants, self.resolved.loop.source.time_zone)

    def features(self, rows: pl.DataFrame) -> pl.DataFrame:
        return render(self.resolved.features, rows, self.resolved.schema, self.zones)

    def target(self, rows: pl.DataFrame) -> Any:
        return to_target(rows[LABEL].to_list(), task=self.resolved.task, classes=self.resolved.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A fitted model with the encoding that it was fitted through."""

    train: Train
    encoding: Encoding
    fitted: Fitted
    parameters: Mapping[str, Any]

    def predict(self, work: Work, rows: pl.DataFrame) -> Any:
        """[rows, classes] or [rows]."""
        return self.fitted.predict(encoding.apply(self.encoding, columns_of(work.features(rows))))


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of the job. Raises DataError, TrainError, ConversionRefused or ParityError for the user."""
    watch = Stopwatch()
    home = Home(Path(arguments["home"]))
    declaration = Path(arguments["declaration"])
    loop = codec.from_bytes((home.code / arguments["code"] / "loop.json").read_bytes(), bind=binder(declaration))
    facts = msgspec.convert(arguments["facts"], LabelFacts) if arguments["facts"] else None
    resolved = resolve(loop, arguments["schema"], facts)
    snapshot = msgspec.convert(arguments["snapshot"], Snapshot)
    work = Work(resolved=resolved, declaration=declaration, report=context.progress)
    with watch.timing("read"):
        rows = samples(resolved, Lake(home.lake(loop.name)), snapshot)
    folder = context.folder / "candidate"
    folder.mkdir()
    candidate = make(work, rows, snapshot, folder=folder, watch=watch)
    candidate = dataclasses.replace(
        candidate,
        digest=arguments["digest"],
        code=arguments["code"],
        folder=str(home.candidates / arguments["digest"]),
    )
    (folder / "candidate.json").write_bytes(encode(candidate))
    return {"digest": candidate.digest, "score": candidate.score, "seconds": candidate.seconds}


def make(work: Work, rows: Samples, snapshot: Snapshot, *, folder: Path, watch: Stopwatch) -> Candidate:
    """Fit, export and prove one candidate; leaves its files in ``folder``."""
    resolved = work.resolved
    signature = signature_of(resolved)
    test_truth = work.target(rows.test)
    made = compete(work, rows.train, watch)
    prediction = made.predict(work, rows.test)
    threshold = None
    if resolved.loop.decision is not None and resolved.positive is not None:
        threshold = choose(resolved.loop.decision, test_truth, prediction, positive=resolved.positive)
    figure = float(
        measure_score(resolved.score, test_truth, prediction, rows=rows.test, positive=resolved.positive or 0)
    )
    shipped, seen = made, rows.train
    if resolved.loop.window.refit:
        # What was tested stays what the gate judges; what ships has seen the newest rows too.
        work.report({"refit": len(rows.train) + len(rows.test)})
        seen = pl.concat([rows.train, rows.test])
        with watch.timing("fit"):
            shipped = fitted_on(work, made.train, seen, made.parameters)
    work.report({"export": shipped.fitted.kind})
    with watch.timing("export and parity"):
        proof = pl.concat([rows.train, rows.test]).tail(PARITY_ROWS)
        built = build(
            shipped.fitted,
            shipped.encoding,
            resolved.features,
            signature,
            rows=proof,
            features=work.features,
            threshold=threshold,
        )
    with watch.timing("profile"):
        profile = profile_of(resolved, signature, seen, built.onnx, built.extensions)
    leave(folder, rows.test, test_truth, prediction, built.onnx, profile)
    details = {
        "parity": built.parity,
        "extensions": built.extensions,
        "opset": {"": built.opset},
        "requirements": built.requirements,
        "threshold": threshold,
    }
    (folder / "details.json").write_bytes(encode(details))
    estimator = made.train.estimator
    return Candidate(
        digest="",
        loop=resolved.loop.name,
        snapshot=snapshot.digest,
        code="",
        estimator=estimator.name,
        parameters=dict(made.parameters),
        seed=made.train.seed,
        folder=str(folder),
        signature=signature,
        score=figure,
        seconds=watch.seconds,
    )


def compete(work: Work, rows: pl.DataFrame, watch: Stopwatch) -> Made:
    """The declared model; of several, the one with the best score on the newest part of the training rows."""
    loop = work.resolved.loop
    trains: Sequence[Train] = loop.train if isinstance(loop.train, tuple) else (loop.train,)
    with watch.timing("fit"):
        if len(trains) == 1 and trains[0].search is None:
            work.report({"fit": trains[0].estimator.name, "rows": len(rows)})
            return fitted_on(work, trains[0], rows, {})
        return search_all(work, trains, rows)


def search_all(work: Work, trains: Sequence[Train], rows: pl.DataFrame) -> Made:
    raise TrainError("search is not there yet")


def fitted_on(work: Work, train: Train, rows: pl.DataFrame, parameters: Mapping[str, Any]) -> Made:
    """Learn the encoding on these rows and fit on them."""
    resolved = work.resolved
    wanted = needs(train, source=work.declaration)
    features = columns_of(work.features(rows))
    learned = encoding.learn(
        features,
        resolved.feature_types,
        native_categories=wanted.native_categories,
        accepts_missing=wanted.accepts_missing,
    )
    target = work.target(rows)
    weighing = {train.weight: rows[train.weight].to_numpy()} if isinstance(train.weight, str) and train.weight in rows.columns else {}
    fitted = fit(
        train,
        learned,
        encoding.apply(learned, features),
        target,
        task=resolved.task,
        classes=max(1, len(resolved.classes)),
        weights=row_weights(train.weight, target, classes=resolved.classes, columns=weighing),
        parameters=parameters,
        scale=resolved.loop.label.scale,
        source=work.declaration,
        context=TrainContext(seed=train.seed, threads=share(), folder=None, progress=work.report),
    )
    return Made(train=train, encoding=learned, fitted=fitted, parameters=parameters)


def signature_of(resolved: Resolved) -> Signature:
    """The raw columns that the graph takes, each at its place in the packed input of its kind."""
    places: dict[str, int] = {}
    columns: list[InputColumn] = []
    for name in resolved.inputs:
        kind = resolved.schema[name]
        packed = PACKED.get(kind, "integers")
        places[packed] = places.get(packed, -1) + 1
        zone = resolved.loop.source.time_zone if kind == "instant" else None
        columns.append(InputColumn(name=name, type=kind, index=places[packed], time_zone=zone))
    event_time = resolved.loop.source.event_time
    return Signature(
        inputs=tuple(columns),
        task=resolved.task,
        classes=resolved.classes,  # type: ignore[arg-type]
        positive=resolved.positive,
        key=resolved.loop.source.key,
        event_time=event_time if isinstance(event_time, str) else None,
    )


def profile_of(
    resolved: Resolved, signature: Signature, rows: pl.DataFrame, graph: bytes, extensions: bool
) -> profiles.Profile:
    """What the training rows looked like, and what the shipped graph says of them: what drift is held against."""
    types = {column.name: column.type for column in signature.inputs}
    columns = {name: array_of(rows[name]) for name in types}
    answers = Predictor.of(graph, signature, extensions=extensions).predict(rows).prediction
    said = answers[:, resolved.positive or 0]
    own = profiles.build(columns, types=types)
    beside = profiles.build({PREDICTION: said})
    return profiles.Profile(rows=own.rows, columns={**own.columns, **beside.columns})


def leave(
    folder: Path, test: pl.DataFrame, truth: Any, prediction: Any, graph: bytes, profile: profiles.Profile
) -> None:
    """Write what the turn goes on with."""
    table = prediction.reshape(len(test), -1)
    answers = {f"_prediction_{place}": table[:, place] for place in range(table.shape[1])}
    test.with_columns(_truth=truth, **{name: pl.Series(values) for name, values in answers.items()}).write_parquet(
        folder / "test.parquet"
    )
    (folder / "graph.onnx").write_bytes(graph)
    (folder / "profile.json").write_bytes(profiles.to_json(profile))
