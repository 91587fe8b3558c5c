"""Which arm answers which rows of a batch when more than the champion may. Knows nothing of HTTP, logs or files.

Five ways (`everloop.serve.live.Way`), one at a time; where there is none the champion answers and none of this runs:

- a canary: each row drawn at random with the logged share, or by the keyed hash of its unit;
- an experiment: each row by the keyed hash of its unit or id, so that the arm can be computed again (`arms.assign`);
- a route by a small model: its decision names the arm;
- a cascade: the arms in turn, until one is sure enough;
- a route by meaning: drawn by the weights of the query's class.

A row on which its arm fails is answered by the champion (role "fallback"); the failure stays on the arm's account.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.errors import RequestError
from everloop.measure.truth import class_name
from everloop.serve.arms import assign, bounds, draw
from everloop.serve.cache import Cache
from everloop.serve.live import Answer, Arm, Estimated, Live, Meter, Named, Part
from everloop.serve.model import Model
from everloop.serve.releases import ExperimentFile, ReleaseFile, RouteFile, Served, Share, Way
from everloop.serve.rows import Row

Random = Callable[[], float]
NOTHING = Estimated("", 0, 0.0)


class Decider(Arm):
    """A package that is asked who answers. Its own answers go to nobody."""

    __slots__ = ()

    def answers(
        self, ids: Sequence[str], prediction: NDArray[np.float64], decision: NDArray[np.int64] | None
    ) -> list[Answer]:
        classes = len(self.model.signature.classes)
        if decision is None or not ((decision >= 0) & (decision < classes)).all():
            raise ArithmeticError("the decision is none of the package's classes")
        return [NOTHING] * len(ids)


class RoutedPart(Part):
    __slots__ = ("aside", "certainty")

    def __init__(
        self,
        arm: Arm,
        role: str,
        rows: Sequence[Row],
        places: Sequence[int],
        certainty: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(arm, role, rows, places)
        self.aside = False
        self.certainty: NDArray[np.float64] = np.full(len(rows), np.nan) if certainty is None else certainty

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Leave only these of its rows in it."""
        which = np.flatnonzero(kept)
        failed = set(self.failed)
        self.rows = picked(self.rows, which.tolist())
        self.packed = {kind: array[which] for kind, array in self.packed.items()}
        self.prediction = None if self.prediction is None else self.prediction[which]
        self.decision = None if self.decision is None else self.decision[which]
        self.certainty = self.certainty[which]
        self.answers = picked(self.answers, which.tolist())
        self.places = picked(self.places, which.tolist())
        self.failed = [n for n, place in enumerate(which.tolist()) if place in failed]


# The ways


class Canary:
    """The challenger's share of each batch, drawn at random or by unit."""

    def __init__(self, live: Live, challenger: Arm) -> None:
        self.named: Mapping[str, Arm] = {}
        self._champion = live.champion
        self._challenger = challenger
        self._release = live.release

    def prepare(self, batch: Any, random: Random) -> None:
        release, rows = self._release, batch.rows
        # A unit that is missing or empty is nobody's: such rows are drawn, and counted, one by one.
        units = [unit or None for unit in batch.units] if batch.units else None
        chosen = draw(
            len(rows), release.share, random, units=units, at=batch.at, salt=release.salt, sticky=release.sticky
        )
        if not any(chosen):
            batch.parts.append(Part(self._champion, "champion", rows, None))
            return
        ours = [n for n, challenger in enumerate(chosen) if challenger]
        rest = [n for n, challenger in enumerate(chosen) if not challenger]
        if rest:
            batch.parts.append(Part(self._champion, "champion", picked(rows, rest), rest))
        batch.parts.append(Part(self._challenger, "challenger", picked(rows, ours), ours))

    def seconds(self, rows: int) -> float:
        return self._champion.model.cost.predict(rows)

    def execute(self, batch: Any) -> None:
        for part in list(batch.parts):
            part.run(picked(batch.ids, part.places))
            if part.role == "challenger":
                answer_instead(batch, part, self._champion)


class Divided:
    """Named arms whose parts of a batch are known before any of them runs."""

    def __init__(self, live: Live, arms: Sequence[Named]) -> None:
        self._arms = arms
        self.named: Mapping[str, Arm] = {arm.variant: arm for arm in arms}
        self._instead = {arm.variant: arm.instead(live) for arm in arms}

    def seconds(self, rows: int) -> float:
        return max(arm.model.cost.predict(rows) for arm in self._arms)

    def execute(self, batch: Any) -> None:
        for part in list(batch.parts):
            part.run(picked(batch.ids, part.places))
            answer_instead(batch, part, self._instead[part.arm.variant])


class Split(Divided):
    """The arms of an experiment, each row by what its unit or its id hashes to."""

    def __init__(self, live: Live, experiment: ExperimentFile, models: Mapping[str, Model]) -> None:
        super().__init__(live, _arms(live, experiment.arms, models, experiment.name))
        self._ends = bounds([each.share for each in experiment.arms])
        self._experiment = experiment

    def prepare(self, batch: Any, random: Random) -> None:
        experiment, ends = self._experiment, self._ends
        units = batch.units or [""] * len(batch.ids)
        places: list[list[int]] = [[] for _ in self._arms]
        for place, (unit, id, at) in enumerate(zip(units, batch.ids, batch.at, strict=True)):
            chosen = assign(unit or id, ends, salt=experiment.salt, at=at, sticky=experiment.sticky)
            places[chosen].append(place)
        for arm, ours in zip(self._arms, places, strict=True):
            if ours:
                batch.parts.append(Part(arm, "experiment", picked(batch.rows, ours), ours))


class ModelRoute(Divided):
    """A small model is asked first; its decision names the arm, and the champion answers for what has none."""

    def __init__(self, live: Live, route: RouteFile, models: Mapping[str, Model]) -> None:
        assert route.by is not None
        columns = live.reader.columns
        self._router = Decider(route.by, models[route.by.package], columns, live.cache)
        served = {each.name: Served(each.version, each.package) for each in route.arms}
        champion = Served(live.champion.version, live.champion.package)
        names = [class_name(each) for each in self._router.model.signature.classes]
        arms = [
            Named(served[name], models[served[name].package], columns, name, cache=live.cache)
            if name in served
            else Named(champion, live.champion.model, columns, name, cache=live.cache)
            for name in names
        ]
        super().__init__(live, arms)
        self._unrouted = Named(champion, live.champion.model, columns, "", cache=live.cache)

    def prepare(self, batch: Any, random: Random) -> None:
        """Nothing: who answers is known only when the router has run."""

    def seconds(self, rows: int) -> float:
        return self._router.model.cost.predict(rows) + max(arm.model.cost.predict(rows) for arm in self._arms)

    def execute(self, batch: Any) -> None:
        count = len(batch.rows)
        router = RoutedPart(self._router, "router", batch.rows, range(count))
        router.aside = True
        router.run(batch.ids)
        batch.parts.append(router)
        decision = np.full(count, -1) if router.decision is None else router.decision.copy()
        decision[router.failed] = -1
        for code in np.unique(decision).tolist():
            places = np.flatnonzero(decision == code).tolist()
            if code < 0:
                _run(batch, self._unrouted, "fallback", places, None)
                continue
            arm = self._arms[code]
            certainty = None if router.prediction is None else router.prediction[places, code]
            part = _run(batch, arm, "route", places, certainty)
            answer_instead(batch, part, self._instead[arm.variant])


class Cascade(Divided):
    """Each arm answers what it is sure enough of; the last one answers the rest."""

    def __init__(self, live: Live, route: RouteFile, models: Mapping[str, Model]) -> None:
        assert route.threshold is not None
        super().__init__(live, _arms(live, route.arms, models))
        self._threshold = route.threshold

    def prepare(self, batch: Any, random: Random) -> None:
        """Nothing: who answers is known only when the arms before have run."""

    def seconds(self, rows: int) -> float:
        return sum(arm.model.cost.predict(rows) for arm in self._arms)

    def execute(self, batch: Any) -> None:
        places = list(range(len(batch.rows)))
        before: NDArray[np.float64] | None = None
        for arm in self._arms[:-1]:
            part = _run(batch, arm, "route", places, None)
            assert part.prediction is not None
            part.certainty = before = part.prediction.max(axis=1)
            goes_on = before < self._threshold  # not where it failed: there the certainty is NaN
            part.keep(~goes_on)
            part.aside = not part.answers
            answer_instead(batch, part, self._instead[arm.variant])
            before, places = before[goes_on], picked(places, np.flatnonzero(goes_on).tolist())
            if not places:
                return
        part = _run(batch, self._arms[-1], "route", places, before)
        answer_instead(batch, part, self._instead[self._arms[-1].variant])


class ByMeaning(Divided):
    """Each row's arm is drawn by the weights of its class; the weight is logged as its certainty."""

    def __init__(self, live: Live, route: RouteFile, models: Mapping[str, Model]) -> None:
        assert route.weights is not None
        super().__init__(live, _arms(live, route.arms, models))
        self._weights = route.weights
        self._ends = {name: bounds(weights) for name, weights in route.weights.items()}

    def prepare(self, batch: Any, random: Random) -> None:
        ends, weights = self._ends, self._weights
        meanings = batch.meanings or [""] * len(batch.rows)
        places: list[list[int]] = [[] for _ in self._arms]
        certain: list[list[float]] = [[] for _ in self._arms]
        for place, meaning in enumerate(meanings):
            known = meaning if meaning in ends else ""
            chosen = bisect_right(ends[known], random())
            places[chosen].append(place)
            certain[chosen].append(weights[known][chosen])
        for arm, ours, sure in zip(self._arms, places, certain, strict=True):
            if ours:
                batch.parts.append(RoutedPart(arm, "route", picked(batch.rows, ours), ours, np.array(sure)))


def _arms(live: Live, arms: Sequence[Share | Way], models: Mapping[str, Model], experiment: str = "") -> list[Named]:
    return [
        Named(
            Served(each.version, each.package), models[each.package], live.reader.columns, each.name,
            experiment=experiment, share=each.share if isinstance(each, Share) else None, cache=live.cache,
        )
        for each in arms
    ]  # fmt: skip


def _run(batch: Any, arm: Arm, role: str, places: list[int], certainty: NDArray[np.float64] | None) -> RoutedPart:
    part = RoutedPart(arm, role, picked(batch.rows, places), places, certainty)
    part.run(picked(batch.ids, places))
    batch.parts.append(part)
    return part


def answer_instead(batch: Any, part: Part, champion: Arm) -> None:
    """Let the champion answer the rows on which the arm failed; the failure stays on the arm's account."""
    if not part.failed or part.places is None:
        return
    places = [part.places[n] for n in part.failed]
    rows = picked(batch.rows, places)
    if part.certainty is None:
        instead = Part(champion, "fallback", rows, places)
    else:
        instead = RoutedPart(champion, "fallback", rows, places, part.certainty[part.failed])
    instead.run(picked(batch.ids, places))
    batch.parts.append(instead)


# For those who know nothing of ways


def live_of(
    release: ReleaseFile,
    champion: Model,
    challenger: Model | None,
    besides: Mapping[str, Model] | None = None,
    cache: Cache | None = None,
    former: Model | None = None,
) -> Live:
    """A release as it is served, with the way in which its rows come to their arms.

    ``besides``: the models of its experiment or route, by package; without them the champion answers. Raises ServeError
    when they cannot be live together.
    """
    models = besides or {}
    live = Live(release, champion, challenger, cache, besides=list(models.values()), former=former)
    if live.challenger is not None and release.stage == "canary" and release.share > 0:
        live.divide(Canary(live, live.challenger))
    elif release.experiment is not None and models:
        live.divide(Split(live, release.experiment, models))
    elif release.route is not None and models:
        if release.route.weights is not None:
            live.divide(ByMeaning(live, release.route, models))
        elif release.route.by is not None:
            live.divide(ModelRoute(live, release.route, models))
        else:
            live.divide(Cascade(live, release.route, models))
    return live


def besides(release: ReleaseFile) -> list[tuple[str, str]]:
    """Package and loop of each model that an experiment or a route needs."""
    found = [(each.package, release.loop) for each in release.experiment.arms] if release.experiment else []
    if release.route is not None:
        found += [(each.package, release.loop) for each in release.route.arms]
        if release.route.by is not None:
            found.append((release.route.by.package, release.route.loop or ""))
    return found


def overridden(live: Live, wanted: str) -> Live:
    """The same release with one arm answering: by its version (5, v5) or its name. Raises RequestError (404)."""
    number = wanted[1:] if wanted[:1] in ("v", "V") else wanted
    if number.isascii() and number.isdigit() and len(number) < 10:
        return live.pinned(int(number), override=True)
    arms: dict[str, Arm] = {"champion": live.champion}
    if live.challenger is not None:
        arms["challenger"] = live.challenger
    if live.way is not None:
        arms |= live.way.named
    arm = arms.get(wanted)
    if arm is None:
        raise RequestError(
            f"The header x-everloop-version is {wanted[:100]!r}, which is not live; live are "
            f"{', '.join(f'{name} ({each.version})' for name, each in arms.items())}.",
            status=404,
            reason="version",
        )
    return live.pinned_to(arm)


def gathered(
    parts: Sequence[Part], rows: int, meter: Callable[[int, str], Meter]
) -> tuple[list[Answer | None], list[Meter]]:
    """The answer of each row, None where none came; and where its latency is counted: with the arm it was meant for."""
    answers: list[Answer | None] = [None] * rows
    observers: list[Any] = [None] * rows
    for part in parts:
        if part.aside:
            continue
        counted = meter(part.arm.version, part.variant)
        for place, answer in zip(range(rows) if part.places is None else part.places, part.answers, strict=True):
            if answer is not None:
                answers[place] = answer
            if observers[place] is None:
                observers[place] = counted
    return answers, observers


def picked(values: Any, places: Sequence[int] | None) -> list[Any]:
    return values if places is None else [values[n] for n in places]
