"""What is live now: the arms, and how a request's rows are read for them. Knows nothing of HTTP, batching or logs."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.errors import RequestError
from everloop.measure.truth import class_name
from everloop.serve.cache import Cache, Recall
from everloop.serve.metrics import SECONDS, Histogram
from everloop.serve.model import Model
from everloop.serve.releases import ReleaseFile, Served
from everloop.serve.rows import Column, Packed, Packer, Reader, Row

Outputs = tuple[NDArray[np.float64], NDArray[np.int64] | None]
Key = str | int | float | bool


class Probabilities(msgspec.Struct, gc=False):
    """A probability a class, in the order of the classes. Each arm has a type of its own with their names."""

    def values(self) -> tuple[float, ...]:
        return msgspec.structs.astuple(self)


class Classified(msgspec.Struct, gc=False):
    id: str
    version: int
    decision: Key
    probability: Probabilities


class Estimated(msgspec.Struct, gc=False):
    id: str
    version: int
    value: float


Answer = Classified | Estimated


class Meter:
    """What one version did in one role."""

    __slots__ = ("compute", "failed", "queue", "requests", "rows")

    def __init__(self) -> None:
        self.requests = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.rows = 0
        self.failed = 0


class Arm:
    """One live version: its model, how rows are packed for it, how its outputs become answers."""

    __slots__ = ("_classes", "_probabilities", "held", "model", "package", "packer", "recall", "version")

    experiment = ""
    """The experiment that it is an arm of."""
    variant = ""
    """Its name there, or in a route."""
    share: float | None = None
    """Its share there; None: as the release says."""

    def __init__(self, served: Served, model: Model, columns: Sequence[Column], cache: Cache | None = None) -> None:
        self.recall = None if cache is None else Recall(cache, served.package, columns, model.signature)
        """What it predicted before, if the loop declares a cache."""
        self.held: Any = None
        """What its requests are sketched like (`everloop.serve.sketches.Held`); None: they are not."""
        self.version = served.version
        self.package = served.package
        self.model = model
        self.packer = Packer(columns, model.signature)
        self._classes = model.signature.classes
        fields = [(f"p{n}", float) for n in range(len(self._classes))]
        rename = {f"p{n}": class_name(value) for n, value in enumerate(self._classes)}
        made: Any = msgspec.defstruct("Probabilities", fields, bases=(Probabilities,), rename=rename, gc=False)
        self._probabilities: Callable[..., Probabilities] = made

    def answers(
        self, ids: Sequence[str], prediction: NDArray[np.float64], decision: NDArray[np.int64] | None
    ) -> list[Answer]:
        version = self.version
        if decision is None:
            return [Estimated(id, version, value) for id, value in zip(ids, prediction[:, 0].tolist(), strict=True)]
        probabilities, classes = self._probabilities, self._classes
        return [
            Classified(id, version, classes[chosen], probabilities(*row))
            for id, row, chosen in zip(ids, prediction.tolist(), decision.tolist(), strict=True)
        ]


class ClassifiedBy(Classified, gc=False):
    variant: str


class EstimatedBy(Estimated, gc=False):
    variant: str


class Named(Arm):
    """An arm with a name that its answers carry."""

    __slots__ = ("experiment", "share", "variant")

    def __init__(
        self,
        served: Served,
        model: Model,
        columns: Sequence[Column],
        variant: str,
        *,
        experiment: str = "",
        share: float | None = None,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(served, model, columns, cache)
        self.variant = variant
        self.experiment = experiment
        self.share = share

    def answers(
        self, ids: Sequence[str], prediction: NDArray[np.float64], decision: NDArray[np.int64] | None
    ) -> list[Answer]:
        name = self.variant
        return [
            ClassifiedBy(each.id, each.version, each.decision, each.probability, name)
            if isinstance(each, Classified)
            else EstimatedBy(each.id, each.version, each.value, name)
            for each in super().answers(ids, prediction, decision)
        ]

    def instead(self, live: "Live") -> "Named":
        """The champion, answering what this arm was drawn for."""
        champion = live.champion
        return Named(
            Served(champion.version, champion.package),
            champion.model,
            live.reader.columns,
            self.variant,
            experiment=self.experiment,
            share=self.share,
            cache=live.cache,
        )


class Way(Protocol):
    """How the rows of a batch come to their arms where more than the champion may answer (`everloop.serve.traffic`)."""

    named: Mapping[str, Arm]
    """The arms that a tester may name, besides champion and challenger."""

    def prepare(self, batch: Any, random: Callable[[], float]) -> None:
        """Give ``batch`` its parts, as far as they are known before anything runs; in the loop's thread."""
        ...

    def seconds(self, rows: int) -> float:
        """How long a batch takes whose parts are not known before it runs."""
        ...

    def execute(self, batch: Any) -> None:
        """Run the parts, and those that come of it. Never raises for what a model does."""
        ...


class Live:
    """A release as it is served. A new release makes a new one; requests keep the one they were read for."""

    __slots__ = (
        "_pinned", "budget", "cache", "challenger", "champion", "cost", "described", "first", "first_meanings", "meaning",
        "reader", "recalls", "release", "shadow", "shadows", "way",
    )  # fmt: skip

    def __init__(
        self,
        release: ReleaseFile,
        champion: Model,
        challenger: Model | None,
        cache: Cache | None = None,
        *,
        besides: Sequence[Model] = (),
        former: Model | None = None,
    ) -> None:
        """``besides``: the models of an experiment or a route. Raises ServeError when they cannot be live together."""
        assert release.champion is not None
        signatures = [each.signature for each in (champion, challenger, *besides, former) if each is not None]
        self.release = release
        self.reader = Reader(signatures, release.experiment.unit if besides and release.experiment else release.unit)
        self.champion = Arm(release.champion, champion, self.reader.columns, cache)
        self.challenger = (
            Arm(release.challenger, challenger, self.reader.columns, cache)
            if challenger and release.challenger
            else None
        )
        self.shadow: tuple[Arm, str] | None = None
        """Who answers what the champion has answered, when nothing waits, and in which role: for the watch alone."""
        if self.challenger is not None:
            self.shadow = (self.challenger, "shadow") if release.stage == "shadow" else None
        elif former is not None and release.former is not None:
            self.shadow = Arm(release.former, former, self.reader.columns, cache), "former"
        self.shadows = self.shadow is not None
        self.way: Way | None = None
        """None: the champion answers everything."""
        self.cost = champion.cost
        """What a batch costs is judged by the champion's runs; the batcher learns how much more it is."""
        self.first: Callable[[Sequence[Row]], bool] | None = None
        """Whether a request goes before others (`everloop.serve.meaning`); None: nobody does by what it holds."""
        self.first_meanings: frozenset[str] = frozenset()
        """Classes of ``meaning`` that go before others, besides."""
        self.meaning: Callable[[Sequence[Row]], list[str]] | None = None
        """What each row is about."""
        self.budget = (release.p99_ms or 0.0) / 1e3
        """Seconds within which an answer is of use unless the request says so itself; 0: for ever."""
        self.cache = cache
        self.recalls = cache is not None
        """Whether a request that is known in the cache can be answered at once: who answers it is certain."""
        self.described: Any = None
        """What a protocol made of it, once."""
        self._pinned: dict[Arm, Live] = {}

    def divide(self, way: Way) -> None:
        """Let others than the champion answer, too."""
        self.way = way
        self.recalls = False

    @property
    def arms(self) -> list[Arm]:
        """All that may answer: the champion, the challenger, those of an experiment or a route."""
        named = self.way.named.values() if self.way is not None else ()
        return [self.champion, *([self.challenger] if self.challenger is not None else []), *named]

    @property
    def versions(self) -> list[int]:
        """Of all arms, each once, the champion's first."""
        return list(dict.fromkeys(arm.version for arm in self.arms))

    def pinned(self, version: int, *, override: bool = False) -> "Live":
        """The same release with ``version`` answering whatever is asked of it: no draw, no shadow.

        Its answers are logged under the role "override": they count neither for nor against anybody; but for a champion
        that would have answered anyway, unless ``override`` says that this is no traffic of the world. Raises
        RequestError (404) when that version is not live.
        """
        arm = next((arm for arm in self.arms if arm.version == version), None)
        if arm is None:
            live = ", ".join(map(str, self.versions))
            raise RequestError(
                f"Version {version} of {self.release.loop} is not live; live are {live}.", status=404, reason="version"
            )
        if self.way is None and arm is self.champion and not override:
            return self  # nobody else would answer anyway
        return self.pinned_to(arm)

    def pinned_to(self, arm: Arm) -> "Live":
        found = self._pinned.get(arm)
        if found is None:
            found = self._pinned[arm] = copy(self)
            found._pinned = {}
            served = Served(arm.version, arm.package)
            named = Named(served, arm.model, self.reader.columns, "override", cache=self.cache)
            found.champion, found.challenger = named, None
            found.shadows, found.described = False, None
            found.cost = arm.model.cost
            found.divide(Pinned(named))
        return found


class Pinned:
    """One arm answers everything because somebody named it; where it fails, they are told so."""

    def __init__(self, arm: Arm) -> None:
        self.named: Mapping[str, Arm] = {}
        self._arm = arm

    def prepare(self, batch: Any, random: Callable[[], float]) -> None:
        batch.parts.append(Part(self._arm, "override", batch.rows, None))

    def seconds(self, rows: int) -> float:
        return self._arm.model.cost.predict(rows)

    def execute(self, batch: Any) -> None:
        batch.parts[0].run(batch.ids)


class Part:
    """The rows of a batch that one arm answers. After `run`, ``answers`` holds None where the arm failed."""

    __slots__ = (
        "answers",
        "arm",
        "decision",
        "error",
        "failed",
        "packed",
        "places",
        "prediction",
        "role",
        "rows",
        "seconds",
    )

    aside = False
    """It ran to decide, and answers nobody."""
    certainty: NDArray[np.float64] | None = None
    """How sure a route was of each row."""

    def __init__(self, arm: Arm, role: str, rows: Sequence[Row], places: Sequence[int] | None) -> None:
        self.arm = arm
        self.role = role
        self.places = places
        """Which rows of the batch; None: all, in order."""
        self.rows = rows
        self.packed: Packed = arm.packer.pack(rows)
        self.prediction: NDArray[np.float64] | None = None
        self.decision: NDArray[np.int64] | None = None
        self.answers: list[Answer | None] = []
        self.failed: list[int] = []
        """Positions in this part."""
        self.error = ""
        self.seconds = 0.0
        """What the graph took; 0 when all was known."""

    @property
    def variant(self) -> str:
        """What it is called in metrics: the arm's name in an experiment or a route, else its role."""
        return self.arm.variant if self.role in ("experiment", "route") else self.role

    def answered(self) -> None:
        """Let go of what the log does not need: until it is written, thousands of rows would be kept as objects.

        What the next batch allocates then lies where this one lay, in the processor's caches.
        """
        self.rows = ()
        self.answers = []

    def run(self, ids: Sequence[str]) -> None:
        """Run the graph; when it fails, each row alone, so that one row cannot spoil the others. Never raises."""
        try:
            self._run(ids)
        except Exception as error:
            self.error = str(error)
            self._one_by_one(ids)

    def _run(self, ids: Sequence[str]) -> None:
        recall = self.arm.recall
        prediction, decision = (
            self._compute(self.packed) if recall is None else recall.through(self.rows, self.packed, self._compute)
        )
        if not np.isfinite(prediction).all():
            raise ArithmeticError("the prediction is not a finite number")
        self.answers = list(self.arm.answers(ids, prediction, decision))
        self.prediction, self.decision = prediction, decision

    def _compute(self, packed: Packed) -> Outputs:
        # The thread's own CPU time: in the worker thread, wall time would count waiting for the interpreter.
        started = time.thread_time()
        outputs = self.arm.model.run(packed)
        self.seconds = time.thread_time() - started
        self.arm.model.cost.observe(len(outputs[0]), self.seconds)
        return outputs

    def _one_by_one(self, ids: Sequence[str]) -> None:
        model = self.arm.model
        self.prediction = np.full((len(ids), model.width), np.nan)
        self.decision = None if model.signature.task == "regression" else np.full(len(ids), -1, dtype=np.int64)
        self.answers = [None] * len(ids)
        for place, id in enumerate(ids):
            try:
                prediction, decision = model.run(
                    {kind: array[place : place + 1] for kind, array in self.packed.items()}
                )
                if not np.isfinite(prediction).all():
                    raise ArithmeticError("the prediction is not a finite number")
                self.answers[place] = self.arm.answers([id], prediction, decision)[0]
            except Exception as error:
                self.error = str(error)
                self.failed.append(place)
                continue
            self.prediction[place] = prediction[0]
            if self.decision is not None and decision is not None:
                self.decision[place] = decision[0]
