"""Keeps watch over one loop: folds what servers wrote, looks, asks the triggers. What it remembers is in the ledger."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from everloop.errors import NotFound, PackageError, ReleaseConflict, StoreError
from everloop.loop import readings
from everloop.loop.installation import Installation
from everloop.loop.turn import plain
from everloop.measure import profile as profiles
from everloop.records import Release, Signature
from everloop.spec.gate import NotWorse
from everloop.spec.metric import RootMeanSquaredError
from everloop.spec.retrain import Degraded, Drift
from everloop.spec.rollout import Canary
from everloop.store import packages
from everloop.store.lake import OUTCOMES, RAW
from everloop.store.ledger import releases, snapshots, versions, watermarks
from everloop.watch import drift, fold, triggers
from everloop.watch.labels import Truth
from everloop.watch.look import Champion, Seen, Watched, WatchState, begin, look
from everloop.watch.sketched import Sketched, Wanted

MEMORY = "watch"
DEFAULT_SHADOW_MARGIN = 0.01
"""Where the gate names no margin: how much worse a challenger's mean loss may be and still go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one look found, and what is to be remembered of it once something is done about it."""

    seen: Seen
    fired: triggers.Fired | None
    before: Any
    """What was remembered when the look began, as plain JSON."""
    after: WatchState


def drift_state(installation: Installation) -> list[dict[str, Any]]:
    """Each drift trigger's windows and limits as they were at the last look; empty before the first."""
    state = remembered(installation)
    if state is None:
        return []
    declared = [each for _, each in triggers.placed(installation.loop.retrain) if isinstance(each, Drift)] or [Drift()]
    return [drift.described(each, state.drifts[repr(each)]) for each in declared if repr(each) in state.drifts]


def remembered(installation: Installation) -> WatchState | None:
    """What the last look left; None before the first."""
    with installation.ledger.read() as connection:
        kept = watermarks.get(connection, installation.name, MEMORY)
    return msgspec.convert(kept, WatchState, str_keys=True) if kept else None


class Watcher:
    """One look at a time. Opened packages are kept: their content never changes."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._opened: dict[str, packages.Opened] = {}
        self._known: tuple[Any, WatchState] | None = None
        """What was remembered last, as plain JSON and as it is."""
        resolved, loop = installation.resolved, installation.loop
        self._sketched = Sketched(installation.home.sketches(installation.name)) if loop.sketched else None
        """Requests, where they are not logged."""
        self._watched = Watched(
            truth=Truth(
                column=loop.label.column,
                delay=loop.label.delay,
                task=resolved.task,
                classes=resolved.classes,
                absent=loop.label.absent,
            ),
            metric=resolved.score,
            trigger=loop.retrain,
            positive=1 if resolved.positive is None else resolved.positive,
            rollout=loop.rollout if isinstance(loop.rollout, Canary) else None,
            shadow_margin=loop.gate.margin if isinstance(loop.gate, NotWorse) else DEFAULT_SHADOW_MARGIN,
            also=readings.also(loop.watched_alerts),
        )

    def look(self, release: Release, *, busy: bool) -> Found:
        """Fold, look, ask the triggers. Nothing is remembered before `keep`."""
        each = self._installation
        now = each.clock.now()
        champion = self._champion(release)
        signatures = self._signatures(release)
        fold.fold(each.home.segments(each.name), each.lake, signatures)
        classes = {number: signatures[package].classes for number, package in self._versions() if package in signatures}
        watched = replace(self._watched, classes=classes, shadow_margin=self._shadow_margin(champion))
        before, remembered = self._remembered(now)
        remembered = self._as_declared(remembered)
        seen, state = look(
            each.lake, watched, champion, release, remembered, now=now, busy=busy, requests=self._sketched
        )
        self._tidy(remembered)
        fired, following = triggers.fired(
            each.loop.retrain, seen.signals, state.triggers, now, cooldown=each.loop.cooldown
        )
        return Found(seen=seen, fired=fired, before=before, after=replace(state, triggers=following))

    def _tidy(self, remembered: WatchState) -> None:
        """Let go of sketches as far as that look is remembered: its closed windows may be held against another champion."""
        if self._sketched is None:
            return
        wanted = []
        for each in self._installation.loop.sketched:
            state = remembered.drifts.get(repr(each))
            if state is None:
                return  # a trigger that has not looked yet may ask for all of them
            edges = (*(end for window in state.closed for end in (window.since, window.until)), state.opened)
            wanted.append(Wanted(length=each.window, since=edges[0], edges=edges))
        with suppress(StoreError):  # a full disk ends no look
            self._sketched.tidy(wanted)

    def keep(self, connection: Connection, found: Found) -> None:
        """Remember a look, in the transaction that does what follows from it.

        Raises ReleaseConflict when another controller has looked since this look began: what fired for both must not
        be followed twice.
        """
        name = self._installation.name
        if watermarks.get(connection, name, MEMORY) != found.before:
            raise ReleaseConflict(f"Another controller has looked at {name} meanwhile; this look is dropped.")
        after = plain(found.after)
        watermarks.put(connection, name, MEMORY, after)
        self._known = after, found.after

    def _remembered(self, now: datetime) -> tuple[Any, WatchState]:
        """From the ledger at every look: another controller may have looked, or this one's last look came to nothing."""
        with self._installation.ledger.read() as connection:
            kept = watermarks.get(connection, self._installation.name, MEMORY)
        if self._known is None or self._known[0] != kept:
            self._known = kept, msgspec.convert(kept, WatchState, str_keys=True) if kept else self._first(now)
        return self._known

    def _first(self, now: datetime) -> WatchState:
        """Before the first look. Rows that a turn has seen already, or could have, are not new ones."""
        each = self._installation
        with each.ledger.read() as connection:
            taken = snapshots.of(connection, each.name)
        known = {RAW: each.lake.version(RAW), OUTCOMES: each.lake.version(OUTCOMES)}
        if taken:
            known = {RAW: taken[-1].raw_version, OUTCOMES: taken[-1].outcomes_version}
        return replace(begin(now), counted=known, retrain=repr(each.loop.retrain))

    def _as_declared(self, state: WatchState) -> WatchState:
        """The state, for triggers that are declared otherwise than at the last look: their places mean others now.

        Schedules go on from the last look; evidence that was used up stays used up for whoever asks.
        """
        trigger = self._installation.loop.retrain
        if state.retrain == repr(trigger):
            return state
        before = state.triggers
        latest = max(before.used.values(), default=before.began)
        used = {place: latest for place, each in triggers.placed(trigger) if isinstance(each, Drift | Degraded)}
        return replace(
            state,
            retrain=repr(trigger),
            triggers=replace(before, began=before.looked, used=used),
            began=before.looked,
        )

    def _shadow_margin(self, champion: Champion | None) -> float | None:
        """The gate's margin in the units of the paired loss: a root's margin is not that of its square."""
        margin = self._watched.shadow_margin
        if margin is None or champion is None or not isinstance(self._watched.metric, RootMeanSquaredError):
            return margin
        return (champion.score + margin) ** 2 - champion.score**2

    def _versions(self) -> list[tuple[int, str]]:
        with self._installation.ledger.read() as connection:
            return [(each.number, each.package) for each in versions.of(connection, self._installation.name)]

    def _signatures(self, release: Release) -> dict[str, Signature]:
        """Of every version; without those that are damaged, where nobody serves or is to serve them any more."""
        found: dict[str, Signature] = {}
        for number, package in self._versions():
            try:
                found[package] = self._package(package).manifest.signature
            except (PackageError, NotFound):
                if number in (release.champion, release.challenger):
                    raise
        return found

    def _package(self, digest: str) -> packages.Opened:
        if digest not in self._opened:
            home = self._installation.home
            opened = packages.open_package(home.packages / digest, packages.trusted_keys(home.keys))
            self._opened[digest] = replace(opened, files={"profile.json": opened.files["profile.json"]})
        return self._opened[digest]

    def _champion(self, release: Release) -> Champion | None:
        if release.champion is None:
            return None
        each = self._installation
        with each.ledger.read() as connection:
            version = versions.get(connection, each.name, release.champion)
            since = next(
                (known.since for known in releases.history(connection, each.name) if known.champion == version.number),
                None,
            )
            snapshot = snapshots.get(connection, version.snapshot)
        opened = self._package(version.package)
        return Champion(
            version=version.number,
            since=since or version.created_at,
            score=version.score,
            test_rows=snapshot.test_rows,
            signature=opened.manifest.signature,
            profile=profiles.from_json(opened.files["profile.json"]),
            trained_until=snapshot.to if each.loop.window.refit else snapshot.test_from,
        )
