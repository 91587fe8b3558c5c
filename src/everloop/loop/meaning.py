"""What queries are about, and which version is to answer which: the mix of classes, and weights by matured labels.

Reads the lake; what follows from it is decided in `everloop.release.weigh`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from everloop.errors import NotFound, PackageError
from everloop.loop.installation import Installation
from everloop.measure import metrics
from everloop.measure.truth import Class
from everloop.records import Evidence, Release, Route
from everloop.release.weigh import MOST_CLASSES, OTHERS, Seen, Weighed, moved, weigh
from everloop.spec.serve import Meaning
from everloop.store import packages
from everloop.store.lake import PREDICTIONS, moment
from everloop.store.ledger import versions
from everloop.watch.labels import Truth, answers, matured, truths

RECENT, BEFORE = timedelta(days=7), timedelta(days=28)
ANSWERED = ("champion", "challenger", "experiment", "route", "fallback")
LEAST_ROWS = 100
"""Rows of both times before their mixes are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reweighed:
    """A route with other weights, and why."""

    route: Route
    because: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    name: str
    """Empty: queries that have no class."""
    recent: float
    """Its share of the queries of the last seven days, and of the four weeks before them."""
    before: float | None
    rows: int
    """In those seven days."""
    weights: dict[str, float] = field(default_factory=dict)
    labelled: int = 0
    losses: dict[str, float | None] = field(default_factory=dict)
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeaningReport:
    """What came in and who answers it; classes by their share, largest first."""

    loop: str
    classes: tuple[ClassReport, ...]
    loss: str
    moved: float | None
    """PSI of the mix of the last seven days against the four weeks before; None: too few rows."""
    words: str


def reweighed(installation: Installation, release: Release) -> Reweighed | None:
    """The weights as the labels now say; None where nothing is to be moved."""
    route, meaning = release.route, installation.loop.serve.meaning
    if route is None or route.weights is None or meaning is None:
        return None
    weighed = _weighed(installation, route, meaning)
    after = moved(route.weights, weighed, len(route.arms), meaning.least, meaning.most)
    changed = [name for name in after if after[name] != route.weights.get(name)]
    if not changed:
        return None
    names = [each.name for each in route.arms]
    said = "; ".join(f"{name}: {weighed[name].because}" for name in changed[:5])
    evidence = tuple(
        Evidence(
            name=f"weights of {name}",
            value=dict(zip(names, after[name], strict=True)),
            detail={
                "rows": weighed[name].rows,
                "losses": dict(zip(names, map(_plain, weighed[name].losses), strict=True)),
                "because": weighed[name].because,
            },
        )
        for name in changed
    )
    return Reweighed(route=replace(route, weights=after), because=said, evidence=evidence)


def report(installation: Installation, release: Release, now: datetime) -> MeaningReport:
    """Raises NotFound while no query with a meaning is in the log."""
    meaning = installation.loop.serve.meaning
    recent, before = (
        _mix(installation, since, until)
        for since, until in ((now - RECENT, now), (now - RECENT - BEFORE, now - RECENT))
    )
    if not recent and not before:
        raise NotFound(
            f"No query of {installation.name} has a meaning yet; declare Serve(meaning=el.Meaning(…)) and look again when "
            "requests have come."
        )
    route = release.route if release.route is not None and release.route.weights is not None else None
    names = [each.name for each in route.arms] if route is not None else []
    weighed = _weighed(installation, route, meaning) if route is not None and meaning is not None else {}
    total, earlier = max(1, sum(recent.values())), sum(before.values())
    classes = []
    for name in sorted({*recent, *before}, key=lambda each: (-recent.get(each, 0), each)):
        found = weighed.get(name)
        weights = (route.weights or {}).get(name, (route.weights or {}).get(OTHERS, ())) if route is not None else ()
        classes.append(
            ClassReport(
                name=name,
                recent=recent.get(name, 0) / total,
                before=before.get(name, 0) / earlier if earlier else None,
                rows=recent.get(name, 0),
                weights=dict(zip(names, weights, strict=False)),
                labelled=found.rows if found is not None else 0,
                losses=dict(zip(names, map(_plain, found.losses), strict=True)) if found is not None else {},
                because=found.because if found is not None else "",
            )
        )
    far = _psi(recent, before)
    words = "too few queries to say whether the mix has moved"
    if far is not None:
        state = "has moved" if far >= 0.2 else "has moved a little" if far >= 0.1 else "is as it was"
        words = f"the mix of the last {RECENT.days} days {state} (PSI {far:.2f} against the {BEFORE.days} days before)"
    loss = installation.resolved.score.companion.name
    return MeaningReport(loop=installation.name, classes=tuple(classes), loss=loss, moved=far, words=words)


def _mix(installation: Installation, since: datetime, until: datetime) -> dict[str, int]:
    lake = installation.lake
    if not lake.exists(PREDICTIONS) or "meaning" not in lake.schema(PREDICTIONS):
        return {}
    where = pl.col("at").is_between(moment(since), moment(until), closed="left") & pl.col("arm").is_in(list(ANSWERED))
    rows = lake.read(PREDICTIONS, columns=["id", "meaning"], where=where).unique("id", keep="first")
    counted = rows.group_by("meaning").len().sort("len", descending=True).head(4 * MOST_CLASSES)
    found = {name or "": count for name, count in counted.iter_rows()}
    return found if set(found) != {""} else {}


def _psi(recent: dict[str, int], before: dict[str, int]) -> float | None:
    if min(sum(recent.values()), sum(before.values())) < LEAST_ROWS:
        return None
    names = sorted({*recent, *before})
    q, p = (np.array([counts.get(name, 0) + 0.5 for name in names]) for counts in (recent, before))
    q, p = q / q.sum(), p / p.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def _weighed(installation: Installation, route: Route, meaning: Meaning) -> dict[str, Weighed]:
    """Of each class with labelled rows since the route began."""
    each, label = installation, installation.loop.label
    truth = Truth(
        column=label.column,
        delay=label.delay,
        task=each.resolved.task,
        classes=each.resolved.classes,
        absent=label.absent,
    )
    if not each.lake.exists(PREDICTIONS) or not {"meaning", "variant", "certainty"} <= set(
        each.lake.schema(PREDICTIONS)
    ):
        return {}
    rows = matured(
        each.lake,
        truth,
        since=route.started + label.delay,
        until=each.clock.now(),
        arms=("route",),
        inputs=("meaning", "variant", "certainty"),
    )
    names = [arm.name for arm in route.arms]
    if rows.is_empty():
        return {}
    known = pl.col("truth").is_not_null() & (pl.col("certainty") > 0) & pl.col("variant").is_in(names)
    rows = rows.filter(known).with_columns(pl.col("meaning").fill_null(OTHERS))
    if rows.is_empty():
        return {}
    metric = each.resolved.score.companion
    loss = metrics.row_loss(metric, truths(rows, truth), answers(rows, truth, _classes(each, route)))
    arm = rows["variant"].replace_strict(names, list(range(len(names)))).to_numpy().astype(np.int64)
    weight = rows["certainty"].to_numpy()
    told = rows["meaning"].to_numpy()
    counted = rows["meaning"].value_counts(sort=True)["meaning"].to_list()[:MOST_CLASSES]
    return {
        name: weigh(
            Seen(arm=arm[told == name], weight=weight[told == name], loss=np.asarray(loss)[told == name]),
            names,
            meaning.margin,
            classes=MOST_CLASSES if len(counted) > 8 else 8,
        )
        for name in counted
    }


def _classes(installation: Installation, route: Route) -> dict[int, tuple[Class, ...]]:
    home, found = installation.home, dict[int, tuple[Class, ...]]()
    with installation.ledger.read() as connection:
        known = {each.version: versions.get(connection, installation.name, each.version).package for each in route.arms}
    for number, package in known.items():
        try:
            opened = packages.open_package(home.packages / package, packages.trusted_keys(home.keys))
        except (PackageError, NotFound):
            continue
        found[number] = opened.manifest.signature.classes
    return found


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
