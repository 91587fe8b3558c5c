"""Writes the release file that servers watch. Derived from the ledger: losing it loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everloop.loop.installation import Installation
from everloop.records import Experiment, Release, Route, encode
from everloop.spec.loop import Loop
from everloop.spec.rollout import Canary
from everloop.spec.serve import Meaning
from everloop.spec.tree import to_json
from everloop.store.files import write_atomically
from everloop.store.ledger import experiments, releases, versions
from everloop.watch.sketched import stretch


def publish(installation: Installation) -> Release:
    """Bring the release file up to the ledger's release, which is returned."""
    with installation.ledger.read() as connection:
        release = releases.get(connection, installation.name)

        def package(number: int) -> str:
            return versions.get(connection, installation.name, number).package

        def participant(number: int | None) -> dict[str, Any] | None:
            if number is None:
                return None
            return {"version": number, "package": package(number)}

        champion, challenger = participant(release.champion), participant(release.challenger)
        former = participant(release.former)
        experiment = route = None
        if release.experiment is not None:
            experiment = _experiment(experiments.get(connection, installation.name, release.experiment), package)
        if release.route is not None:
            route = _route(release.route, package)
    rollout, serve = installation.loop.rollout, installation.loop.serve
    unit = rollout.unit if isinstance(rollout, Canary) else None
    sticky = rollout.sticky if isinstance(rollout, Canary) else "hour"
    # A new salt at each share, so that a unit's arm there is drawn anew: kept, its arm and what it did at the last share
    # would say what comes at this one. A unit that stays for ever cannot be drawn again and counts once in a release.
    salt = f"{release.loop}:{release.started.isoformat() if release.started else 0}"
    if sticky == "hour":
        salt += f":{release.epoch}"
    content = {
        "loop": release.loop,
        "revision": release.revision,
        "stage": release.stage,
        "champion": champion,
        "challenger": challenger,
        "former": former,
        "share": release.share,
        "epoch": release.epoch,
        "unit": unit,
        "sticky": sticky,
        "salt": salt,
        "label": installation.loop.label.column,
        "task": installation.resolved.task,
        "classes": installation.resolved.classes,
        "log": serve.log,
        "sketch": _stretch(installation.loop),
        "p99_ms": serve.p99.total_seconds() * 1_000 if serve.p99 else None,
        "mode": serve.mode,
        "cache": None
        if serve.cache is None
        else {"bytes": serve.cache.bytes, "seconds": serve.cache.time_to_live.total_seconds()},
        "experiment": experiment,
        "route": route,
        "first": None if serve.first is None else to_json(serve.first),
        "meaning": _meaning(serve.meaning, release, package) if release.champion is not None else None,
    }
    write_atomically(installation.home.release_file(installation.name), encode(content))
    return release


def _stretch(loop: Loop) -> int:
    """Seconds for which servers sketch into one file; 0: they do not."""
    return int(stretch([each.window for each in loop.sketched]).total_seconds()) if loop.sketched else 0


def _meaning(meaning: Meaning | None, release: Release, package: Callable[[int], str]) -> dict[str, Any] | None:
    """Of a route the clusters that it began with: those of another champion have other numbers."""
    if meaning is None or release.champion is None:
        return None
    if not isinstance(meaning.of, str):
        return {"node": to_json(meaning.of), "first": list(meaning.first)}
    whose = release.route.by_package if release.route is not None and release.route.weights is not None else None
    return {"column": meaning.of, "package": whose or package(release.champion), "first": list(meaning.first)}


def _experiment(experiment: Experiment, package: Callable[[int], str]) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "salt": experiment.salt,
        "unit": experiment.unit,
        "sticky": experiment.sticky,
        "arms": [
            {"name": each.name, "version": each.version, "package": package(each.version), "share": each.share}
            for each in experiment.arms
        ],
    }


def _route(route: Route, package: Callable[[int], str]) -> dict[str, Any]:
    by = (
        None
        if route.by is None or route.weights is not None
        else {"version": route.by_version, "package": route.by_package}
    )
    return {
        "loop": route.by,
        "by": by,
        "threshold": route.threshold,
        "weights": route.weights,
        # `encode` sorts the names of an object: a cascade's order stands in an array.
        "arms": [{"name": each.name, "version": each.version, "package": package(each.version)} for each in route.arms],
    }
