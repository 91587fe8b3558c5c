"""One competitor judged on held-out rows, by any process: what it is fitted on, and how good its parameters are.

Can be left in a folder and read again elsewhere as plain arrays; nothing is pickled.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.measure.metrics import score
from everloop.measure.tensors import Tensors
from everloop.records import Encoding, Task, encode
from everloop.spec.metric import Custom, Metric
from everloop.spec.torch import Torch
from everloop.spec.train import Estimator, Train
from everloop.train import kept_tensors
from everloop.train.fit import Inputs, Watched, fit
from everloop.train.function import TrainContext
from everloop.train.held import Scoring
from everloop.train.labels import Value

Array = npt.NDArray[Any]
ABOUT = "judging.json"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is learned and how it is judged."""

    task: Task
    metric: Metric
    classes: tuple[Value, ...] = ()
    positive: int = 1
    scale: Literal["log1p"] | None = None


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Called with parameters and, in a trial, where to report to: what the declared score says of them."""

    train: Train
    goal: Goal
    encoding: Encoding
    matrix: Inputs
    """The older rows, on which it is fitted."""
    target: Array
    weights: Array | None
    held: Inputs
    """The newer rows, on which it is judged."""
    truth: Array
    columns: Mapping[str, Array]
    """Raw columns of the newer rows, for a score of the user's own."""
    threads: int
    source: Path | None = None
    folder: Path | None = None
    """The declaration's own: what paths of pretrained weights are relative to."""

    def __call__(self, parameters: Mapping[str, Any], report: Callable[[int, float], None] | None) -> float:
        watched = None
        if report is not None and self.train.search is not None and self.train.search.pruner is not None:
            watched = Watched(matrix=self.held, judge=self._score, report=report)
        fitted = fit(
            self.train, self.encoding, self.matrix, self.target, task=self.goal.task,
            classes=max(1, len(self.goal.classes)), weights=self.weights, parameters=parameters,
            scale=self.goal.scale, source=self.source, watched=watched,
            context=TrainContext(seed=self.train.seed, threads=self.threads, weights=self.folder),
            scoring=Scoring(metric=self.goal.metric, positive=self.goal.positive),
        )  # fmt: skip
        return self._score(fitted.predict(self.held))

    def _score(self, prediction: Array) -> float:
        rows = self.columns
        return float(score(self.goal.metric, self.truth, prediction, rows=rows, positive=self.goal.positive))

    def plan(self, remembered: Sequence[Mapping[str, Any]]) -> Any:
        """Its search (`everloop.train.search.Plan`)."""
        from everloop.train.search import Plan

        assert self.train.search is not None
        form, name = self.train.estimator, name_of(self.train)
        declared = [form.parameters] if isinstance(form, Estimator) else [form.tried] if isinstance(form, Torch) else []
        earlier = [each["parameters"] for each in remembered if each["estimator"] == name]
        return Plan(
            declared=self.train.search, greater_is_better=self.goal.metric.greater_is_better, seed=self.train.seed,
            first=(*declared, *earlier),
        )  # fmt: skip

    def leave(self, folder: Path, remembered: Sequence[Mapping[str, Any]]) -> None:
        """Write all but the declaration's own parts into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("target", "truth"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        for name in ("matrix", "held"):
            _save(folder / name, getattr(self, name))
        if self.weights is not None:
            np.save(folder / "weights.npy", self.weights)
        if isinstance(self.goal.metric, Custom):
            import polars as pl

            pl.DataFrame(dict(self.columns)).write_parquet(folder / "columns.parquet")
        about = {"encoding": self.encoding, "threads": self.threads, "remembered": list(remembered),
                 "folder": None if self.folder is None else str(self.folder)}  # fmt: skip
        (folder / ABOUT).write_bytes(encode(about))

    @classmethod
    def read(cls, folder: Path, train: Train, goal: Goal, *, source: Path | None) -> tuple["Judging", Any]:
        """What `leave` wrote, and its plan. Arrays are mapped, so that several processes share their memory."""
        about = json.loads((folder / ABOUT).read_bytes())

        def array(name: str) -> Any:
            return _load(folder / name)

        columns: dict[str, Array] = {}
        if (folder / "columns.parquet").exists():
            import polars as pl

            frame = pl.read_parquet(folder / "columns.parquet")
            columns = {name: frame[name].to_numpy() for name in frame.columns}
        task = cls(
            train=train, goal=goal, encoding=msgspec.convert(about["encoding"], Encoding), matrix=array("matrix"),
            target=array("target"), weights=array("weights") if (folder / "weights.npy").exists() else None,
            held=array("held"), truth=array("truth"), columns=columns, threads=about["threads"], source=source,
            folder=Path(about["folder"]) if about["folder"] else None,
        )  # fmt: skip
        return task, task.plan(about["remembered"])


def _save(place: Path, matrix: Any) -> None:
    if isinstance(matrix, Tensors):
        kept_tensors.save(place, matrix)
        return
    if not hasattr(matrix, "toarray"):
        np.save(place.with_suffix(".npy"), matrix)
        return
    from scipy.sparse import save_npz

    save_npz(place.with_suffix(".npz"), matrix, compressed=False)


def _load(place: Path) -> Any:
    if place.is_dir():
        return kept_tensors.load(place)
    if place.with_suffix(".npy").exists():
        return np.load(place.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    from scipy.sparse import load_npz

    return load_npz(place.with_suffix(".npz"))


def name_of(each: Train) -> str:
    """The estimator as people read it, and as a candidate keeps it."""
    form = each.estimator
    if isinstance(form, Estimator) and form.path.endswith(".Pipeline"):
        return "Pipeline(" + ", ".join(step.name for _, step in form.parameters["steps"] if step != "passthrough") + ")"
    return form.name
