"""The job that fits for a backtest: it stays, and takes one letter after the other from a folder until it is told to stop.

A process that imports its libraries once and keeps the models it made is what makes many small fits cheap. The letters
are files, so that any executor with the same folder will do. Knows no policies: whoever writes the letters decides.

A fit's folder is renamed into place when it is whole: a kill costs the fits under way and no other.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.errors import EverloopError, TrainError
from everloop.loop.backtest.cells import cell, positive
from everloop.loop.backtest.mapped import read_array, write_array
from everloop.loop.backtest.result import Cell, FitName
from everloop.loop.backtest.timeline import Timeline
from everloop.loop.functions import binder
from everloop.measure import encode as encoding
from everloop.measure import habit, season, space
from everloop.measure import profile as profiles
from everloop.records import digest_of, encode
from everloop.spec import codec
from everloop.spec.metric import Custom
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.spec.wholes import forms_of
from everloop.store.files import write_atomically
from everloop.train import warm
from everloop.train.compete import Rows, Trained, refit, train
from everloop.train.judging import Goal
from everloop.watch.observed import PREDICTION, array_of

Array = npt.NDArray[Any]

QUEUE, TAKEN, DONE, STOP = "queue", "taken", "done", "stop"
RECORD, MODEL, LOG = "fit.json", "model.pickle", "made.log"
KEPT_BYTES = 256 << 20
"""Models that are held in memory, by what they are when written down; one always is."""
AT_ONCE = 100_000
"""Rows that a model is asked about at once."""
SHORTEST_SLEEP, LONGEST_SLEEP = 0.0005, 0.01


def fit_folder(cache: Path, fit: str) -> Path:
    return cache / "fits" / fit[:2] / fit


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of the job."""
    for name in arguments["preload"]:
        with suppress(Exception):  # Whoever needs it will import it again, and be told why it fails.
            importlib.import_module(name)
    worker = Worker(arguments)
    mail = Path(arguments["mail"])
    sleep = SHORTEST_SLEEP
    done = 0
    while not (mail / STOP).exists():
        letter = _claimed(mail, arguments["worker"])
        if letter is None:
            time.sleep(sleep)
            sleep = min(sleep * 1.5, LONGEST_SLEEP)
            continue
        sleep = SHORTEST_SLEEP
        began, cpu = time.perf_counter(), time.process_time()
        answer = worker.perform(msgspec.json.decode(letter.read_bytes()))
        answer |= {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "predicting": worker.predicting,
        }
        write_atomically(mail / DONE / letter.name.partition("@")[0], encode(answer), sync=False)
        letter.unlink()
        done += 1
    return {"letters": done, "cpu": time.process_time()}


def _claimed(mail: Path, worker: str) -> Path | None:
    """The oldest letter, taken by renaming it: one worker alone can."""
    with os.scandir(mail / QUEUE) as found:
        names = sorted(each.name for each in found if not each.name.startswith("."))
    for name in names:
        mine = mail / TAKEN / f"{name}@{worker}"
        with suppress(FileNotFoundError):
            (mail / QUEUE / name).rename(mine)
            return mine
    return None


class Worker:
    """Fits and answers over one history. Everything it makes is kept under ``cache``."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._cache = Path(arguments["cache"])
        self._declaration = Path(arguments["declaration"])
        loop = codec.from_bytes(Path(arguments["loop"]).read_bytes(), bind=binder(self._declaration))
        facts = msgspec.convert(arguments["facts"], LabelFacts) if arguments["facts"] else None
        self._resolved: Resolved = resolve(loop, arguments["schema"], facts)
        self._timeline = Timeline.open(Path(arguments["timeline"]))
        self._cores = int(arguments["cores"])
        self.predicting = 0.0
        """CPU seconds that models took to predict, in the last letter."""
        self._models: OrderedDict[str, tuple[Trained, int]] = OrderedDict()
        """With the bytes that each of them is when written down."""
        self._bytes = 0
        self._custom = isinstance(self._resolved.score, Custom)
        self._goal = Goal(
            task=self._resolved.task,
            metric=self._resolved.score,
            classes=self._resolved.classes,
            positive=positive(self._resolved),
            scale=loop.label.scale,
        )

    def perform(self, letter: dict[str, Any]) -> dict[str, Any]:
        """Everything that a letter asks for, in its order. A user's mistake is an answer; ours ends the job."""
        answers: list[Any] = []
        self.predicting = 0.0
        for task in letter["tasks"]:
            try:
                answers.append({"answer": getattr(self, f"_{task['kind']}")(task)})
            except EverloopError as error:
                answers.append({"problem": str(error)})
        return {"answers": answers}

    # What it does.

    def _fit(self, task: dict[str, Any]) -> dict[str, Any]:
        name = msgspec.convert(task["name"], FitName)
        digest = name.digest
        folder = fit_folder(self._cache, digest)
        if (folder / RECORD).exists():
            known: dict[str, Any] = msgspec.json.decode((folder / RECORD).read_bytes())
            return known
        beside = folder.with_name(f".{digest}.{os.getpid()}.{os.urandom(4).hex()}")
        beside.mkdir(parents=True)
        began, cpu = time.perf_counter(), time.process_time()
        made: Trained | None = None
        problem: str | None = None
        count = 0
        try:
            rows = self._rows(name)
            count = len(rows.target)
            made = self._trained(name, rows, beside)
        except TrainError as error:
            problem = str(error)
        record = {
            "name": task["name"],
            "rows": count,
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "problem": problem,
        }
        if made is not None:
            self._save(name, made, beside)
        (beside / RECORD).write_bytes(encode(record))
        for search in beside.glob("search-*"):
            shutil.rmtree(search, ignore_errors=True)
        try:
            beside.rename(folder)
        except OSError:
            if not (folder / RECORD).exists():
                raise
            shutil.rmtree(beside, ignore_errors=True)  # somebody else made it meanwhile
        _noted(self._cache / LOG, digest)
        return record

    def _trained(self, name: FitName, rows: Rows, folder: Path) -> Trained:
        declared = self._resolved.loop.train
        if name.parent is not None:
            return warm.go_on(
                declared, self._model(name.parent), rows, self._goal, source=self._declaration, cores=self._cores
            )
        if name.like is not None:
            return refit(
                declared, self._model(name.like), rows, self._goal, source=self._declaration, cores=self._cores
            )
        return train(declared, rows, self._goal, source=self._declaration, folder=folder, cores=self._cores)

    def _rows(self, name: FitName) -> Rows:
        line = self._timeline
        low, high = line.place(name.since), line.place(name.until)
        places, target = line.truths(low, high)
        if name.share < 1.0:
            kept = known_share(line.keys[places], name.share)
            places, target = places[kept], target[kept]
        columns: dict[str, Array] = {}
        weights = [each.weight for each in self._resolved.loop.trains if isinstance(each.weight, str)]
        if self._custom or any(each != "balanced" for each in weights):
            raw = line.raw(low, high, places)
            columns = {each: raw[each].to_numpy() for each in raw.columns}
        return Rows(
            features=line.features(low, high, places),
            types=self._resolved.feature_types,
            target=target,
            event_time=np.asarray(line.times[places]),
            columns=columns,
            forms=forms_of(self._resolved.features),
        )

    def _answers(self, task: dict[str, Any]) -> dict[str, Any]:
        low, high = int(task["since"]), int(task["until"])
        path = fit_folder(self._cache, task["fit"]) / f"{low}-{high}.npy"
        if not path.exists():
            write_array(path, self._said(task["fit"], low, high), rows=high - low)
        return {}

    def _cells(self, task: dict[str, Any]) -> list[Any]:
        """One prediction over all windows, judged window by window."""
        windows = task["windows"]
        low, high = windows[0][1], windows[-1][2]
        path = fit_folder(self._cache, task["fit"]) / f"cells-{digest_of(encode(windows))[:16]}.json"
        if path.exists():
            known: list[Any] = msgspec.json.decode(path.read_bytes())
            return known
        said = self._told(task["fit"], low, high)
        found = []
        for group in _groups(windows):
            begin, end = group[0][1], group[-1][2]
            answers = said[begin - low : end - low] if said is not None else self._predicted(task["fit"], begin, end)
            for index, since, until in group:
                places, truth = self._timeline.truths(since, until)
                rows = self._timeline.raw(since, until, places) if self._custom else None
                found.append([index, cell(self._resolved, truth, answers[places - begin], rows=rows)])
        write_atomically(path, encode(found), sync=False)
        return found

    def _told(self, fit: str, low: int, high: int) -> Array | None:
        """What the fit said of these rows when it was asked about them before; None: it was not."""
        for path in fit_folder(self._cache, fit).glob("[0-9]*.npy"):
            since, _, until = path.stem.partition("-")
            if int(since) <= low and high <= int(until):
                return read_array(path)[low - int(since) : high - int(since)]
        return None

    def _profile(self, task: dict[str, Any]) -> dict[str, Any]:
        """As `loop.fit_job.profile_of` makes it for a package, from the trainer's own answers."""
        folder = fit_folder(self._cache, task["fit"])
        path = folder / f"profile-{task['season']}.json"
        if not path.exists():
            line, resolved = self._timeline, self._resolved
            name = msgspec.convert(msgspec.json.decode((folder / RECORD).read_bytes())["name"], FitName)
            low, high = line.place(name.since), line.place(name.until)
            places, _ = line.truths(low, high)
            said = self._predicted(task["fit"], low, high)[places - low]
            said = said if said.ndim == 1 else said[:, resolved.positive or 0]
            raw = line.raw(low, high, places)
            types = {each: resolved.schema[each] for each in resolved.inputs if resolved.schema[each] != "bytes"}
            columns = {each: array_of(raw[each]) for each in types}
            spaces, later = space.learned(columns, types, {})
            columns = {each: values for each, values in columns.items() if each not in spaces}
            own = profiles.with_spaces(profiles.build(columns, types=types), spaces, later)
            beside = profiles.build({PREDICTION: said})
            whole = replace(own, rows=len(places), columns={**own.columns, **beside.columns})
            times = np.asarray(line.times[places])
            known = {**columns, **later, PREDICTION: said}
            made = habit.daily(season.seasonal(whole, known, times, season=task["season"]), known, times)
            write_atomically(path, profiles.to_json(made), sync=False)
        return {}

    # Models.

    def _predicted(self, fit: str, low: int, high: int) -> Array:
        found = list(self._said(fit, low, high))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _said(self, fit: str, low: int, high: int) -> Iterator[Array]:
        """Answers about [low, high), at most `AT_ONCE` rows at a time, at least one array."""
        made = self._model(fit)
        if high <= low:
            yield np.zeros(0) if self._resolved.task == "regression" else np.zeros((0, len(self._resolved.classes)))
        for since in range(low, high, AT_ONCE):
            until = min(since + AT_ONCE, high)
            matrix = encoding.inputs(made.encoding, self._timeline.features(since, until))
            cpu = time.process_time()
            said = made.fitted.predict(matrix)
            self.predicting += time.process_time() - cpu
            if len(said) != until - since:
                raise TrainError(
                    f"The model was asked about {until - since:,} rows and answered {len(said):,}; answer each."
                )
            yield said

    def _model(self, fit: str) -> Trained:
        if fit not in self._models:
            path = fit_folder(self._cache, fit) / MODEL
            try:
                data = path.read_bytes()
                self._keep(fit, pickle.loads(data), len(data))
            except FileNotFoundError:
                raise TrainError(
                    f"The model of the fit {fit[:12]} could not be kept (it does not pickle) and is gone; return a model "
                    "that pickles from the training function."
                ) from None
        self._models.move_to_end(fit)
        return self._models[fit][0]

    def _keep(self, fit: str, made: Trained, size: int) -> None:
        self._models[fit] = made, size
        self._bytes += size
        while self._bytes > KEPT_BYTES and len(self._models) > 1:
            self._bytes -= self._models.popitem(last=False)[1][1]

    def _save(self, name: FitName, made: Trained, folder: Path) -> None:
        """The model, or, where it cannot be written down, all that it will ever be asked for."""
        try:
            data = pickle.dumps(made, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError):
            self._keep(name.digest, made, KEPT_BYTES)
            low, high = self._timeline.place(name.since), len(self._timeline)
            write_array(folder / f"{low}-{high}.npy", self._said(name.digest, low, high), rows=high - low)
            return
        self._keep(name.digest, made, len(data))
        (folder / MODEL).write_bytes(data)


def known_share(keys: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Which rows' labels are known where only a share of them ever is: the same ones whoever asks."""
    kept: npt.NDArray[np.bool_] = (keys % np.uint64(1_000_003)).astype(np.float64) < share * 1_000_003
    return kept


def cells_of(answer: list[Any]) -> dict[int, Cell]:
    return {int(index): msgspec.convert(each, Cell) for index, each in answer}


def _groups(windows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """(index, since, until) in groups of about `AT_ONCE` rows, at least one window each."""
    group: list[Sequence[int]] = []
    for each in windows:
        if group and each[2] - group[0][1] > AT_ONCE:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _noted(log: Path, digest: str) -> None:
    """One line a fit that was made: what a promise counts."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, f"{digest}\n".encode())
    finally:
        os.close(descriptor)
