"""One turn of the loop as a durable run: snapshot, fit, gate, package, release.

Each step's result is JSON and its output is named by content, so a step that is run again after a kill changes
nothing. What follows from the turn is decided in ``loop.decide``.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from everloop.data import snapshot as snapshots
from everloop.durable.run import Run
from everloop.errors import DataError, JobError, JobKilled, NotFound, PackageError, TrainError
from everloop.jobs.process import Job, ProcessExecutor
from everloop.jobs.worker import RESULT
from everloop.loop import beside, gating
from everloop.loop.events import TurnEnded
from everloop.loop.installation import Installation
from everloop.loop.remembered import remember
from everloop.records import Candidate, Snapshot, Verdict, Version, decode, digest_of, encode
from everloop.spec.function import Function
from everloop.spec.torch import Torch
from everloop.store import packages
from everloop.store.ledger import candidates, releases, versions
from everloop.store.ledger import snapshots as snapshot_ledger

Progress = Callable[[str, dict[str, Any]], None]
JSON = dict[str, Any]
LOOK_SECONDS = 0.2
KILLED = 2
"""How often a fit that may keep checkpoints goes on after it was killed. Others keep nothing to go on with."""
T = TypeVar("T")


def plain(record: Any) -> JSON:
    value: JSON = msgspec.json.decode(encode(record))
    return value


def restored(value: JSON, kind: type[T]) -> T:
    return decode(encode(value), kind)


class Turn:
    """The steps of one turn over one installation. ``end`` receives what came of it, exactly once per run."""

    def __init__(
        self,
        installation: Installation,
        executor: ProcessExecutor,
        end: Callable[[Connection, TurnEnded], None],
        progress: Progress | None = None,
    ) -> None:
        self._installation = installation
        self._executor = executor
        self._end = end
        self._progress = progress or (lambda step, detail: None)

    def __call__(self, run: Run) -> JSON:
        try:
            snapshot = run.step("snapshot", self.snapshot)
            candidate = run.step("fit", lambda: self.fit(restored(snapshot, Snapshot), run.stopped))
            verdict = run.step("gate", lambda: self.gate(restored(candidate, Candidate)))
            version = run.step(
                "package",
                lambda: self.package(
                    restored(snapshot, Snapshot),
                    restored(candidate, Candidate),
                    restored(verdict, Verdict),
                    str(run.arguments.get("because", "")),
                ),
            )
            ended = TurnEnded(run=run.id, version=restored(version, Version).number, verdict=restored(verdict, Verdict))
        except (DataError, TrainError, JobError, PackageError) as error:
            # The user's rows, code or model: the turn is over and says why. Everything else is for the engine.
            ended = TurnEnded(run=run.id, version=None, verdict=None, because=f"{type(error).__name__}: {error}")
        run.commit("release", lambda connection: self.release(connection, ended))
        return {"version": ended.version, "because": ended.because or (ended.verdict.because if ended.verdict else "")}

    def snapshot(self) -> JSON:
        self._progress("snapshot", {})
        each = self._installation
        taken = snapshots.take(each.resolved, each.lake, as_of=each.clock.now())
        with each.ledger.write() as connection:
            snapshot_ledger.add(connection, taken)
        return plain(taken)

    def fit(self, snapshot: Snapshot, stop: Event) -> JSON:
        each = self._installation
        remembered = remember(each, snapshot.as_of)
        named: JSON = {"snapshot": snapshot.digest, "code": each.code}
        # What a search begins with is part of what its candidate is made of.
        champion = self._champion()
        named |= {"remembered": remembered} if remembered else {}
        named |= {"champion": champion} if champion is not None else {}
        held = beside.contents(each)
        named |= {"beside": held} if held else {}
        digest = digest_of(encode(named))
        record = each.home.candidates / digest / "candidate.json"
        # Two turns over the same rows and code would make one candidate in one folder: the second one waits for it.
        with _alone(each.home.jobs / f"{each.name}.lock", stop):
            if record.exists():
                # Same rows, same code, same parameters: the same candidate. Fitting again could only waste time.
                self._progress("fit", {"reused": digest})
            else:
                self._progress("fit", {"rows": snapshot.train_rows})
                self._made(snapshot, digest, remembered, champion, stop)
        candidate = decode(record.read_bytes(), Candidate)
        with each.ledger.write() as connection:
            candidates.add(connection, candidate)
        return plain(candidate)

    def _champion(self) -> str | None:
        """The candidate of the version that serves, where a fit is to go on from it."""
        each = self._installation
        networks = [one.estimator for one in each.loop.trains if isinstance(one.estimator, Torch)]
        if not each.loop.warm and all(one.start != "champion" for one in networks):
            return None
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
            version = versions.get(connection, each.name, release.champion) if release.champion else None
            made = candidates.of(connection, each.name)
        if version is None:
            return None
        of_champion = [one for one in made if one.snapshot == version.snapshot and one.score == version.score]
        return of_champion[-1].digest if of_champion else None

    def _made(self, snapshot: Snapshot, digest: str, remembered: list[JSON], champion: str | None, stop: Event) -> None:
        each = self._installation
        # What a killed job left is where this one goes on: the trials of its search, its checkpoints.
        job_folder = each.home.jobs / digest
        if not (job_folder / "candidate" / "candidate.json").exists():
            (job_folder / RESULT).unlink(missing_ok=True)
        self._executor.run(
            Job(
                name="fit",
                entry="everloop.loop.fit_job:main",
                arguments={
                    "loop": each.name,
                    "home": str(each.home.root),
                    "code": each.code,
                    "declaration": str(each.home.code / each.code / "declaration.py"),
                    "snapshot": plain(snapshot),
                    "schema": dict(each.schema),
                    "facts": plain(each.facts) if each.facts else None,
                    "digest": digest,
                    "remembered": remembered,
                    "champion": champion,
                    "folder": str(each.folder),
                    "machine": {
                        "processes": each.environment.nproc,
                        "sharded": each.environment.sharded,
                        "ray": each.environment.ray if each.environment.executor == "ray" else None,
                    },
                },
                folder=job_folder,
                timeout=_patience(each),
                retries=KILLED if any(isinstance(one.estimator, Torch | Function) for one in each.loop.trains) else 0,
            ),
            on_progress=lambda detail: self._progress("fit", detail),
            stop=stop,
        )
        _rename_into_place(job_folder / "candidate", each.home.candidates / digest)
        shutil.rmtree(job_folder, ignore_errors=True)

    def gate(self, candidate: Candidate) -> JSON:
        self._progress("gate", {})
        each = self._installation
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
            known = versions.of(connection, each.name)
        return plain(gating.judge(each, candidate, release, known))

    def package(self, snapshot: Snapshot, candidate: Candidate, verdict: Verdict, trigger: str) -> JSON:
        self._progress("package", {})
        each = self._installation
        folder = each.home.candidates / candidate.digest
        details = msgspec.json.decode((folder / "details.json").read_bytes())
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
            champion = versions.get(connection, each.name, release.champion) if release.champion else None
        if champion is not None and self._is_of(champion, candidate):
            return plain(champion)
        parent = champion.package if champion is not None else None
        evidence = encode({"verdict": plain(verdict), "trigger": trigger, "parity": details["parity"]})
        digest = packages.seal(
            each.home.packages,
            files={
                "model.onnx": (folder / "graph.onnx").read_bytes(),
                "profile.json": (folder / "profile.json").read_bytes(),
                "evidence.json": evidence,
            },
            key=packages.load_signing_key(each.home.keys),
            loop=each.name,
            created_at=snapshot.as_of,
            signature=candidate.signature,
            extensions=bool(details["extensions"]),
            score=candidate.score,
            metric=each.resolved.score.name,
            lineage={
                "snapshot": snapshot.digest,
                "code": candidate.code,
                "features": each.resolved.features.digest,
                "estimator": candidate.estimator,
                "parameters": candidate.parameters,
                "parent": parent,
                "explain": {"candidate": candidate.digest, **details.get("explain", {})},
                "refit": each.loop.window.refit,
                "raw_version": snapshot.raw_version,
                "outcomes_version": snapshot.outcomes_version,
            },
            requirements=details["requirements"],
            opset=details["opset"],
        )
        with each.ledger.write() as connection:
            version = versions.add(
                connection,
                loop=each.name,
                package=digest,
                snapshot=snapshot.digest,
                created_at=each.clock.now(),
                score=candidate.score,
                verdict=verdict,
                trigger=trigger,
            )
        return plain(version)

    def _is_of(self, version: Version, candidate: Candidate) -> bool:
        """Whether this version is the candidate already: a release would put it beside itself."""
        home = self._installation.home
        try:
            opened = packages.open_package(home.packages / version.package, packages.trusted_keys(home.keys))
        except (PackageError, NotFound):
            return False  # It is damaged: to make it anew is what helps.
        lineage = opened.manifest.lineage
        return (lineage["snapshot"], lineage["code"]) == (candidate.snapshot, candidate.code)

    def release(self, connection: Connection, ended: TurnEnded) -> JSON:
        self._end(connection, ended)
        return {}


@contextmanager
def _alone(path: Path, stop: Event) -> Iterator[None]:
    """Hold the lock, which dies with its holder. Raises JobKilled when the run is stopped while it waits."""
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(LOOK_SECONDS):
                    raise JobKilled(
                        "The fit did not begin: its run was stopped while another one was fitted."
                    ) from None
        yield


def _patience(installation: Installation) -> timedelta | None:
    """How long the job may take: it fits every declared model one after the other, and with ``refit`` the best again."""
    train = installation.loop.train
    limits = [each.timeout for each in (train if isinstance(train, tuple) else (train,))]
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return None
    again = max(known) if installation.loop.window.refit else timedelta(0)
    return sum(known, again)


def _rename_into_place(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "candidate.json").exists():
            raise
        # Somebody made the same candidate meanwhile: theirs is as good.
        shutil.rmtree(made, ignore_errors=True)
