"""The job that makes a candidate: rows → features → search → fit → one graph → parity → profile.

Runs in a process of its own (``everloop.jobs``), never in the controller. Leaves ``candidate/`` in its folder:
graph.onnx, profile.json, test.parquet, details.json, candidate.json. Decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

from everloop.data.features import render
from everloop.data.snapshot import LABEL, Samples, before, samples
from everloop.errors import TrainError
from everloop.forms import Image
from everloop.loop.of_version import ENCODING
from everloop.loop.search_job import goal_of, hands, opened
from everloop.measure import encode as encoding
from everloop.measure import habit, images, season, space
from everloop.measure import profile as profiles
from everloop.measure.metrics import score as measure_score
from everloop.package.build import build, columns_of
from everloop.package.pack import AT_ONCE, decoded
from everloop.package.predict import Predictor
from everloop.package.threshold import choose
from everloop.records import Candidate, ColumnType, InputColumn, Signature, Snapshot, TensorColumn, digest_of, encode
from everloop.spec.resolve import Resolved, asked_of
from everloop.spec.retrain import Drift, leaves
from everloop.spec.rollout import Canary
from everloop.spec.torch import Torch
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.train import champion, warm
from everloop.train.compete import Hands, Rows, Trained, refit, train
from everloop.train.contributions import kept
from everloop.train.function import ALONE, Machine
from everloop.train.labels import to_target
from everloop.train.threads import wait_quietly
from everloop.watch.observed import PREDICTION, array_of

PARITY_ROWS = 5_000
"""The newest rows on which graph and trainer are held against each other."""
PACKED: dict[ColumnType, str] = {"number": "numbers", "text": "texts"}

# Before a library with OpenMP is loaded: threads that spin while they wait take the cores from everybody else.
wait_quietly()

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
    remembered: Sequence[dict[str, Any]] = ()
    """What searches of earlier turns found."""
    hands: Hands | None = None
    """Other processes for a search."""
    folder: Path | None = None
    """The declaration's own: what the paths of pretrained weights are relative to."""
    machine: Machine = ALONE
    champion: Path | None = None
    """The candidate of the version that serves, where a fit begins with it."""

    @property
    def zones(self) -> dict[str, str | None]:
        instants = [name for name, kind in self.resolved.schema.items() if kind == "instant"]
        return dict.fromkeys(instants, self.resolved.loop.source.time_zone)

    def features(self, rows: pl.DataFrame) -> pl.DataFrame:
        return render(self.resolved.features, rows, self.resolved.schema, self.zones)

    def target(self, rows: pl.DataFrame) -> Any:
        return to_target(rows[LABEL].to_list(), task=self.resolved.task, classes=self.resolved.classes)


def predicted(work: Work, made: Trained, rows: pl.DataFrame) -> Any:
    """The trainer's own answers: [rows, classes], or [rows]."""
    return made.fitted.predict(encoding.inputs(made.encoding, columns_of(work.features(rows))))


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of the job. Raises DataError, TrainError, ConversionRefused or ParityError for the user."""
    watch = Stopwatch()
    home = Home(Path(arguments["home"]))
    resolved = opened(arguments)
    snapshot = msgspec.convert(arguments["snapshot"], Snapshot)
    work = Work(
        resolved=resolved,
        declaration=Path(arguments["declaration"]),
        report=context.progress,
        remembered=arguments.get("remembered", ()),
        hands=hands(arguments),
        folder=Path(arguments["folder"]),
        machine=Machine(remembered=home.measured, **arguments["machine"]),
        champion=None if arguments.get("champion") is None else home.candidates / arguments["champion"],
    )
    with watch.timing("read"):
        lake = Lake(home.lake(resolved.loop.name))
        rows = replayed(resolved, lake, snapshot, samples(resolved, lake, snapshot))
    folder = context.folder / "candidate"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
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


def replayed(resolved: Resolved, lake: Lake, snapshot: Snapshot, rows: Samples) -> Samples:
    """The rows of the snapshot, and before them older ones where a network is to remember them."""
    wanted = [each for each in resolved.loop.trains if isinstance(each.estimator, Torch) and each.estimator.replay]
    if not wanted:
        return rows
    share = max(each.estimator.replay for each in wanted if isinstance(each.estimator, Torch))
    older = before(resolved, lake, snapshot, count=round(share * len(rows.train)), seed=wanted[0].seed)
    return dataclasses.replace(rows, train=pl.concat([older.select(rows.train.columns), rows.train]))


def make(work: Work, rows: Samples, snapshot: Snapshot, *, folder: Path, watch: Stopwatch) -> Candidate:
    """Fit, export and prove one candidate; leaves its files in ``folder``."""
    resolved = work.resolved
    signature = signature_of(resolved)
    test_truth = work.target(rows.test)
    declared = resolved.loop.train
    work.report({"fit": len(rows.train)})
    made = trained(work, declared, rows.train, folder=folder.parent, watch=watch)
    with watch.timing("test"):
        prediction = predicted(work, made, rows.test)
    threshold = None
    if resolved.loop.decision is not None and resolved.positive is not None:
        threshold = choose(resolved.loop.decision, test_truth, prediction, positive=resolved.positive)
    figure = float(
        measure_score(resolved.score, test_truth, prediction, rows=rows.test, positive=resolved.positive or 0)
    )
    if not math.isfinite(figure):
        held = f"{len(rows.test)} held-out rows with {len(set(test_truth.tolist()))} different labels"
        raise TrainError(f"The score {resolved.score.name} is {figure} on {held}; hold out more in window.test.")
    shipped, seen = made, rows.train
    if resolved.loop.window.refit:
        # What was tested stays what the gate judges; what ships has seen the newest rows too.
        work.report({"refit": len(rows.train) + len(rows.test)})
        seen = pl.concat([rows.train, rows.test])
        shipped = trained(work, declared, seen, folder=folder.parent, watch=watch, like=made)
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
    champion.leave(folder, shipped.fitted, shipped.encoding)
    if resolved.loop.warm:
        warm.leave(folder, shipped)
    explain = explaining(folder, shipped, resolved)
    details = {
        "explain": explain,
        "curve": getattr(shipped.fitted.model, "history", ()),
        "parity": built.parity,
        "extensions": built.extensions,
        "opset": {"": built.opset},
        "requirements": built.requirements,
        "threshold": threshold,
        "entries": made.entries,
    }
    (folder / "details.json").write_bytes(encode(details))
    return Candidate(
        digest="",
        loop=resolved.loop.name,
        snapshot=snapshot.digest,
        code="",
        estimator=made.estimator,
        parameters=dict(made.parameters),
        seed=made.seed,
        folder=str(folder),
        signature=signature,
        score=figure,
        seconds=watch.seconds,
    )


def explaining(folder: Path, made: Trained, resolved: Resolved) -> dict[str, Any]:
    """Keep what tells the model's own contributions; what the package says of it, so that its signature covers it."""
    own = kept(made.fitted)
    if own is not None:
        name, content = own
        table = encode(made.encoding)
        (folder / name).write_bytes(content)
        (folder / ENCODING).write_bytes(table)
        return {"file": name, "sha256": digest_of(content), "encoding": digest_of(table)}
    if made.fitted.kind != "torch" or not isinstance(resolved.loop.trains[made.winner].estimator, Torch):
        return {}  # what a function of the user's has built nobody else can build again
    weights, table = (folder / champion.WEIGHTS).read_bytes(), (folder / champion.TABLE).read_bytes()
    return {
        "file": champion.WEIGHTS, "sha256": digest_of(weights), "encoding": digest_of(table), "place": made.winner,
        "centre": made.fitted.model.centre, "spread": made.fitted.model.spread,
    }  # fmt: skip


def trained(
    work: Work,
    trains: Train | Sequence[Train],
    rows: pl.DataFrame,
    *,
    folder: Path,
    watch: Stopwatch,
    like: Trained | None = None,
) -> Trained:
    """Fit the declared model, or the best of several, on these rows; with ``like`` the one that won then."""
    resolved = work.resolved
    with watch.timing("features"):
        features = columns_of(work.features(rows))
    own = Rows(
        features=features,
        types=resolved.feature_types,
        target=work.target(rows),
        event_time=rows["_event_time"].dt.epoch("us").to_numpy(),
        columns={name: rows[name].to_numpy() for name in rows.columns if not name.startswith("_")},
        forms=forms_of(resolved.features),
        folder=work.folder,
    )
    goal = goal_of(resolved)
    before = warm.read(work.champion, trains, own.types) if resolved.loop.warm else None
    if before is not None:
        made = warm.go_on(trains, before, own, goal, source=work.declaration)
    elif like is None:
        made = train(
            trains,
            own,
            goal,
            source=work.declaration,
            folder=folder,
            progress=work.report,
            remembered=work.remembered,
            hands=work.hands,
            machine=work.machine,
            champion=work.champion,
        )
    else:
        made = refit(
            trains,
            like,
            own,
            goal,
            source=work.declaration,
            folder=folder,
            progress=work.report,
            machine=work.machine,
            champion=work.champion,
        )
    for part, seconds in made.seconds.items():
        watch.seconds[part] = watch.seconds.get(part, 0.0) + seconds
    return made


def signature_of(resolved: Resolved) -> Signature:
    """The raw columns that the graph takes, each at its place in the packed input of its kind."""
    places: dict[str, int] = {}
    columns: list[InputColumn] = []
    for name in resolved.inputs:
        kind = resolved.schema[name]
        if kind == "bytes":
            continue
        packed = PACKED.get(kind, "integers")
        places[packed] = places.get(packed, -1) + 1
        zone = resolved.loop.source.time_zone if kind == "instant" else None
        columns.append(InputColumn(name=name, type=kind, index=places[packed], time_zone=zone))
    event_time = resolved.loop.source.event_time
    return Signature(
        inputs=tuple(columns),
        task=resolved.task,
        classes=resolved.classes,
        positive=resolved.positive,
        key=resolved.loop.source.key,
        event_time=event_time if isinstance(event_time, str) else None,
        carried=carried_of(resolved),
        tensors=tuple(image_column(name, form) for name, form in resolved.images.items()),
    )


def image_column(name: str, form: Image) -> TensorColumn:
    """What the graph takes of a column of images, and how this trainer decodes."""
    shape = (form.height, form.width, form.channels)
    return TensorColumn(name=name, datatype="UINT8", shape=shape, image=form, probe=images.probed(form))


def carried_of(resolved: Resolved) -> tuple[InputColumn, ...]:
    """Columns that requests may bring beside the graph's inputs: what names a row, when it happened, who asked."""
    source, rollout = resolved.loop.source, resolved.loop.rollout
    names = [*source.key, source.event_time_column]
    if isinstance(rollout, Canary) and rollout.unit is not None:
        names.append(rollout.unit)
    names += [name for _, asked in asked_of(resolved.loop) for name in sorted(asked)]
    chosen = [name for name in dict.fromkeys(names) if name not in resolved.inputs]
    return tuple(
        InputColumn(
            name=name,
            type=resolved.schema[name],
            index=-1,
            time_zone=source.time_zone if resolved.schema[name] == "instant" else None,
        )
        for name in chosen
    )


def profile_of(
    resolved: Resolved, signature: Signature, rows: pl.DataFrame, graph: bytes, extensions: bool
) -> profiles.Profile:
    """What the training rows looked like, and what the shipped graph says of them: what drift is held against."""
    types = {column.name: column.type for column in signature.inputs}
    columns = {name: array_of(rows[name]) for name in types}
    answers = Predictor.of(graph, signature, extensions=extensions).predict(rows).prediction
    said = answers[:, resolved.positive or 0]
    arrays = {each.name: points_of(rows[each.name], each) for each in signature.tensors if each.name in rows.columns}
    spaces, later = space.learned(columns, types, arrays)
    columns = {name: values for name, values in columns.items() if name not in spaces}
    own = profiles.with_spaces(profiles.build(columns, types=types), spaces, later)
    beside = profiles.build({PREDICTION: said})
    whole = dataclasses.replace(own, rows=len(rows), columns={**own.columns, **beside.columns})
    times = rows["_event_time"].dt.epoch("us").to_numpy()
    declared = {each.season for each in leaves(resolved.loop.retrain) if isinstance(each, Drift)} - {"none", "detect"}
    wanted: season.Season | Literal["detect"] = (
        "detect" if len(declared) != 1 else "week" if "week" in declared else "day"
    )
    known = {**columns, **later, PREDICTION: said}
    return habit.daily(season.seasonal(whole, known, times, season=wanted), known, times)


def points_of(series: pl.Series, column: TensorColumn) -> Any:
    """What drift looks at: arrays of one shape [rows, …], or what the server would log of images."""
    if column.image is None:
        return np.stack([np.asarray(each) for each in series.to_list()])
    pieces = [series[begin : begin + AT_ONCE] for begin in range(0, len(series), AT_ONCE)]
    return np.concatenate([space.summary(decoded(column.name, each, column.image)) for each in pieces])


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
