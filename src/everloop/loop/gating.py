"""Puts challenger, champion and two champions of the last year on the same newest matured rows, and asks the gate.

The rows are the candidate's test rows, cut to those that no participant was fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

from everloop.gate.compare import compare
from everloop.loop.installation import Installation
from everloop.package import pack, parity
from everloop.records import Candidate, Release, Signature, Snapshot, Verdict, Version
from everloop.spec.gate import NotWorse
from everloop.store import packages
from everloop.store.ledger import releases, snapshots

ANCHOR_MEMORY = timedelta(days=365)
FLOOR = 1e-6
"""The probability given to a class that an older package does not know."""


@dataclass(frozen=True, slots=True)
class TestRows:
    """What the fit job left for the gate: raw columns, `_key`, `_event_time`, `_truth` and the challenger's answers."""

    frame: pl.DataFrame

    @classmethod
    def read(cls, folder: Path, since: datetime) -> TestRows:
        frame = pl.read_parquet(folder / "test.parquet")
        return cls(frame.filter(pl.col("_event_time") >= since))

    @property
    def truth(self) -> Any:
        return self.frame["_truth"].to_numpy()

    @property
    def challenger(self) -> Any:
        columns = sorted(
            (c for c in self.frame.columns if c.startswith("_prediction_")),
            key=lambda name: int(name.rsplit("_", 1)[1]),
        )
        return self.frame.select(columns).to_numpy()

    @property
    def days(self) -> Any:
        return self.frame["_event_time"].dt.epoch("d").to_numpy()


def judge(installation: Installation, candidate: Candidate, release: Release, known: Sequence[Version]) -> Verdict:
    loop, resolved = installation.loop, installation.resolved
    if release.champion is None:
        return Verdict(
            outcome="first",
            promote=True,
            because=f"the first version: {resolved.score.name} {candidate.score:.4f} on its test rows",
        )
    if loop.gate is None:
        return Verdict(outcome="ungated", promote=True, because="the declaration has no gate (gate=None)")
    champion = next(v for v in known if v.number == release.champion)
    anchors = _anchors(installation, known, champion)
    since = max(_fitted_until(installation, each) for each in (champion, *anchors.values()))
    rows = TestRows.read(installation.home.candidates / candidate.digest, since)
    if rows.frame.is_empty():
        return Verdict(
            outcome="unsure",
            promote=False,
            because=f"no test row is newer than what version {champion.number} was fitted on ({since:%Y-%m-%d %H:%M})",
        )
    regression = resolved.task == "regression"

    def shape(values: Any) -> Any:
        return values[:, 0] if regression else values

    slices = {name: rows.frame[name].cast(pl.String).fill_null("missing").to_numpy() for name in loop.gate.slices}
    return compare(
        loop.gate,
        resolved.score,
        truth=rows.truth,
        challenger=shape(rows.challenger),
        champion=shape(answers(installation, champion, rows.frame, candidate.signature)),
        anchors={
            name: shape(answers(installation, each, rows.frame, candidate.signature)) for name, each in anchors.items()
        },
        rows=slices,
        days=rows.days,
        keys=None,
        positive=1 if resolved.positive is None else resolved.positive,
        extra=rows.frame,
        champion_name=f"version {champion.number}",
    )


def _anchors(installation: Installation, known: Sequence[Version], champion: Version) -> dict[str, Version]:
    """The best and the oldest other champion of the last year, so that losses inside the margin cannot add up.

    The best alone is not enough: each was scored on rows of its own, and of twenty noisy scores the highest is one of
    the newest (measured: `bench.release.gate`). Versions that never served are no anchors: nobody was promised their score.
    """
    if not isinstance(installation.loop.gate, NotWorse):
        return {}
    with installation.ledger.read() as connection:
        served = {known.champion for known in releases.history(connection, installation.name)}
    recent = installation.clock.now() - ANCHOR_MEMORY
    others = [v for v in known if v.number in served and v.number != champion.number and v.created_at >= recent]
    return anchors_among(others, greater_is_better=installation.resolved.score.greater_is_better)


class Anchorable(Protocol):
    """What is known of somebody who served."""

    @property
    def number(self) -> int: ...
    @property
    def score(self) -> float: ...


Served = TypeVar("Served", bound=Anchorable)


def anchors_among(others: Sequence[Served], *, greater_is_better: bool) -> dict[str, Served]:
    """Of champions of the last year the best and the oldest, by what they are called."""
    if not others:
        return {}
    sign = 1 if greater_is_better else -1
    best, oldest = max(others, key=lambda v: sign * v.score), min(others, key=lambda v: v.number)
    named = {f"version {best.number}, the best of the last year": best}
    return named if oldest is best else {**named, f"version {oldest.number}, champion within the last year": oldest}


def _fitted_until(installation: Installation, version: Version) -> datetime:
    """As its package says: whether the declaration refits now tells nothing of a version made under another one."""
    with installation.ledger.read() as connection:
        snapshot: Snapshot = snapshots.get(connection, version.snapshot)
    return snapshot.to if _opened(installation, version).manifest.lineage.get("refit", False) else snapshot.test_from


def _opened(installation: Installation, version: Version) -> packages.Opened:
    return packages.open_package(
        installation.home.packages / version.package, packages.trusted_keys(installation.home.keys)
    )


def answers(installation: Installation, version: Version, frame: pl.DataFrame, like: Signature) -> Any:
    """The predictions [rows, classes] of a sealed package, in the order of the classes in ``like``."""
    opened = _opened(installation, version)
    session = parity.session(opened.model, extensions=opened.manifest.extensions)
    predictions = session.run(["prediction"], pack.feeds(frame, opened.manifest.signature))[0]
    theirs, ours = opened.manifest.signature.classes, like.classes
    if theirs == ours or like.task == "regression":
        return predictions
    aligned = np.full((len(predictions), len(ours)), FLOOR)
    for position, value in enumerate(ours):
        if value in theirs:
            aligned[:, position] = predictions[:, theirs.index(value)]
    return aligned / aligned.sum(axis=1, keepdims=True)
