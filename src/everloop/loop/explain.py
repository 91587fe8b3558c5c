"""Answers "why?" and "what served then?" from the ledger, the packages and the lake. Decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from everloop.errors import NotFound
from everloop.loop.installation import Installation
from everloop.loop.turn import plain
from everloop.records import ExperimentArm, RouteArm, Version
from everloop.store import packages
from everloop.store.ledger import decisions, experiments, releases, snapshots, versions


def prediction(installation: Installation, id: str) -> dict[str, Any]:
    """The whole way back from one prediction. Raises NotFound when no such prediction is in the log."""
    rows = installation.lake.read("predictions", where=pl.col("id") == id)
    if rows.is_empty():
        raise NotFound(
            f"The prediction log of {installation.name} has no {id!r}; ids are case-sensitive, keys joined by '|'."
        )
    outcomes = installation.lake.read("outcomes", where=pl.col("id") == id)
    answered = rows.filter(~pl.col("arm").is_in(["shadow", "former"]))
    version = int((answered if len(answered) else rows)["version"][0])
    return {
        "prediction": rows.to_dicts(),
        "outcomes": outcomes.to_dicts(),
        **of_version(installation, version),
    }


def of_version(installation: Installation, number: int) -> dict[str, Any]:
    """Package → fit → exact rows → trigger → gate → what became of it."""
    with installation.ledger.read() as connection:
        version = versions.get(connection, installation.name, number)
        snapshot = snapshots.get(connection, version.snapshot)
        about = decisions.of(connection, installation.name, version=number)
        runs = {each.run for each in about if each.run}
        started = [each for run in runs for each in decisions.of(connection, installation.name, run=run)]
    opened = packages.open_package(
        installation.home.packages / version.package, packages.trusted_keys(installation.home.keys)
    )
    triggers = [each for each in started if each.action == "turn started"]
    return {
        "version": plain(version),
        "package": {
            "digest": version.package,
            "metric": opened.manifest.metric,
            "score": opened.manifest.score,
            "lineage": plain(opened.manifest.lineage),
            "requirements": dict(opened.manifest.requirements),
        },
        "rows": plain(snapshot),
        "trigger": [plain(each) for each in triggers],
        "gate": plain(version.verdict),
        "decisions": [plain(each) for each in about],
    }


def live_at(installation: Installation, time: datetime) -> dict[str, Any]:
    """Who served at ``time``: champion, challenger, share, and the decision that made it so."""
    with installation.ledger.read() as connection:
        release = releases.at(connection, installation.name, time)
        if release is None:
            first = releases.history(connection, installation.name)
            since = (
                f"the first release came into force at {first[0].since.isoformat()}"
                if first and first[0].since
                else "nothing was released yet"
            )
            raise NotFound(f"Nothing of {installation.name} served at {time.isoformat()}: {since}.")
        because = [d for d in decisions.of(connection, installation.name) if d.revision == release.revision]
        participants: dict[str, Version] = {
            name: versions.get(connection, installation.name, number)
            for name, number in (("champion", release.champion), ("challenger", release.challenger))
            if number is not None
        }
        divided: tuple[ExperimentArm | RouteArm, ...] = release.route.arms if release.route else ()
        if release.experiment is not None:
            divided = experiments.get(connection, installation.name, release.experiment).arms
        participants |= {each.name: versions.get(connection, installation.name, each.version) for each in divided}
    return {
        "time": time.isoformat(),
        "release": plain(release),
        "packages": {name: version.package for name, version in participants.items()},
        "because": [plain(each) for each in because],
    }
