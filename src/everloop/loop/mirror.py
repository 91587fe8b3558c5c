"""Mirrors versions to MLflow: a run and a registered version each, metrics by step, parameters, artifacts, aliases.

Everything is read from the ledger and the packages and can be sent again; nothing in the loop waits for it, and nothing
is ever read back from there. Runs carry the version's digest: one that is there and whole is left, one that was cut off is
made anew.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from everloop.errors import EverloopError, MirrorError
from everloop.loop.environment import Environment
from everloop.loop.installation import Installation
from everloop.records import Candidate, Decision, Version, encode
from everloop.store import packages
from everloop.store.files import write_atomically
from everloop.store.ledger import candidates, decisions, releases, versions
from everloop.store.mlflow import MLflow

VARIABLE = "MLFLOW_TRACKING_URI"
KEY, WHOLE = "everloop.version", "everloop.whole"
PLAIN = re.compile(r"[^A-Za-z0-9_\-./ ]")
"""What MLflow takes in no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What one pass did."""

    loop: str
    address: str
    sent: tuple[int, ...]
    """Numbers of the versions that were sent now."""
    known: int
    """Versions that were there."""
    artifacts: bool
    """False: the server takes none over HTTP, so there are none."""


def address_of(environment: Environment) -> str | None:
    """Where the mirror is: everloop.toml, else ``MLFLOW_TRACKING_URI`` where it names a server."""
    if environment.mlflow is not None:
        return environment.mlflow or None
    given = os.environ.get(VARIABLE, "")
    return given if given.startswith(("http://", "https://")) else None


def mirror(installation: Installation, address: str, *, rebuild: bool = False, seconds: float = 60.0) -> Mirrored:
    """Send what is not there yet; with ``rebuild`` look at every version again.

    Raises MirrorError, also where another process does the same just now: two would send everything twice.
    """
    place = _Note.place(installation).with_suffix(".lock")
    place.parent.mkdir(exist_ok=True)
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MirrorError(f"another process mirrors {installation.name} just now; try again later.") from None
        return _mirrored(installation, address, rebuild=rebuild, seconds=seconds)


def _mirrored(installation: Installation, address: str, *, rebuild: bool, seconds: float) -> Mirrored:
    server = MLflow(address, seconds=seconds)
    note = _Note.read(installation, server.address)
    if rebuild:
        note = _Note(address=server.address)
    with installation.ledger.read() as connection:
        known = versions.of(connection, installation.name)
        release = releases.get(connection, installation.name)
        made = {each.digest: each for each in candidates.of(connection, installation.name)}
        decided = decisions.of(connection, installation.name)
    wanted = {"champion": release.champion, "challenger": release.challenger}
    missing = [each for each in known if str(each.number) not in note.versions]
    if not missing and note.aliases == wanted:
        return Mirrored(
            loop=installation.name, address=server.address, sent=(), known=len(known), artifacts=note.artifacts
        )
    experiment = server.experiment(f"everloop/{installation.name}")
    there = {tags[KEY]: (run["info"]["run_id"], tags) for run in server.runs(experiment, KEY) for tags in (_tags(run),)}
    sent: list[int] = []
    model = f"everloop-{installation.name}"
    for version in missing:
        own = _sent(installation, server, experiment, version, made, decided, there)
        note.artifacts = note.artifacts and own.artifacts
        note.versions[str(version.number)] = server.registered(
            model, version.package, source=own.source, run=own.run,
            tags={"everloop.digest": version.package, KEY: str(version.number)},
        )  # fmt: skip
        if own.new:
            sent.append(version.number)
        note.write(installation)
    for name, number in wanted.items():
        if note.aliases.get(name) != number or rebuild:
            server.alias(model, name, None if number is None else note.versions[str(number)])
    note.aliases = wanted
    note.write(installation)
    return Mirrored(
        loop=installation.name, address=server.address, sent=tuple(sent), known=len(known) - len(sent),
        artifacts=note.artifacts,
    )  # fmt: skip


@dataclass
class _Note:
    """What this home knows to be there; losing it costs a few questions."""

    address: str
    versions: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, int | None] = field(default_factory=dict)
    artifacts: bool = True

    @staticmethod
    def place(installation: Installation) -> Path:
        return installation.home.root / "mirror" / f"{installation.name}.json"

    @classmethod
    def read(cls, installation: Installation, address: str) -> _Note:
        try:
            note = msgspec.json.decode(cls.place(installation).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return cls(address=address)
        return note if note.address == address else cls(address=address)

    def write(self, installation: Installation) -> None:
        place = self.place(installation)
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, encode(self), sync=False)


@dataclass(frozen=True)
class _Run:
    run: str
    source: str
    new: bool
    artifacts: bool


def _sent(
    installation: Installation, server: MLflow, experiment: str, version: Version, made: dict[str, Candidate],
    decided: tuple[Decision, ...], there: dict[str, tuple[str, dict[str, str]]],
) -> _Run:  # fmt: skip
    number = str(version.number)
    before = there.get(number)
    if before is not None:
        run, tags = before
        if tags.get(WHOLE) == "yes" and tags.get("everloop.digest") == version.package:
            return _Run(run, f"runs:/{run}/package", False, tags.get("everloop.artifacts") != "none")
        server.delete(run)  # it was cut off, or is of another home
    at = _milliseconds(version.created_at)
    opened = _opened(installation, version)
    lineage: dict[str, Any] = opened.manifest.lineage if opened is not None else {}
    candidate = made.get(lineage.get("explain", {}).get("candidate", "")) or next(
        (each for each in made.values() if (each.snapshot, each.code) == (version.snapshot, lineage.get("code"))), None
    )
    tags = {
        KEY: number,
        "everloop.loop": installation.name,
        "everloop.digest": version.package,
        "everloop.snapshot": version.snapshot,
        "everloop.trigger": version.trigger,
        "everloop.gate": version.verdict.because,
        "everloop.became": ", ".join(each.action for each in decided if each.version == version.number),
        "mlflow.source.name": "everloop",
    }
    run, address = server.begin(experiment, f"v{number}", at, {**tags, WHOLE: "no"})
    parameters = {"estimator": lineage.get("estimator", ""), **lineage.get("parameters", {})}
    if candidate is not None:
        parameters["seed"] = candidate.seed
    details = _details(candidate)
    server.log(
        run,
        parameters={_plain(name): value for name, value in parameters.items()},
        metrics=list(_metrics(installation, version, candidate, details, at)),
        tags={},
    )
    kept = True
    for name, content in _artifacts(opened, details):
        kept = kept and server.artifact(address, name, content)
        if not kept:
            break
    server.end(run, at + round(1_000 * sum(candidate.seconds.values() if candidate is not None else ())))
    server.log(run, parameters={}, metrics=(), tags={WHOLE: "yes", "everloop.artifacts": "kept" if kept else "none"})
    return _Run(run, f"runs:/{run}/package", True, kept)


def _metrics(
    installation: Installation, version: Version, candidate: Candidate | None, details: dict[str, Any], at: int
) -> Iterator[tuple[str, float, int, int]]:
    score = installation.resolved.score
    yield _plain(score.name), version.score, 0, at
    for name, seconds in (candidate.seconds if candidate is not None else {}).items():
        yield f"seconds/{_plain(name)}", seconds, 0, at
    for entry in details.get("entries", ()):
        best: float | None = None
        name = _plain(entry["estimator"])
        for step, trial in enumerate(entry["trials"]):
            found = trial["score"]
            if found is None:
                continue
            better = best is None or (found > best if score.greater_is_better else found < best)
            best = found if better else best
            yield f"search/{name}/score", found, step, at
            yield f"search/{name}/best", float(best or 0.0), step, at
        if not entry["trials"] and entry["score"] is not None:
            yield f"competitor/{name}", entry["score"], 0, at
    for step, point in enumerate(details.get("curve", ())):
        for name, value in point.items():
            if name not in ("epoch", "step", "of") and _number(value):
                yield f"fit/{_plain(name)}", float(value), int(point.get("epoch", step)), at


def _artifacts(opened: packages.Opened | None, details: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The package without its graph: what it is and why, small; the graph is found by its digest at home."""
    if opened is None:
        return
    yield "package/manifest.json", encode(opened.manifest)
    if "evidence.json" in opened.files:
        yield "package/evidence.json", opened.files["evidence.json"]
    searched = [entry for entry in details.get("entries", ()) if entry["trials"]]
    if searched:
        yield "search/trials.json", encode(searched)
        picture = _drawn(searched)
        if picture:
            yield "search/trials.svg", picture.encode()


def _drawn(searched: list[dict[str, Any]]) -> str:
    from everloop.loop.page import BLUE, MUTED, as_svg, new_figure

    figure, axes = new_figure(3.0, dates=False)
    for entry in searched:
        points = [(step, each["score"]) for step, each in enumerate(entry["trials"]) if each["score"] is not None]
        axes.plot(
            [x for x, _ in points], [y for _, y in points], "o", markersize=4, color=BLUE, label=entry["estimator"]
        )
    axes.set_xlabel("trial", color=MUTED)
    axes.set_ylabel("score", color=MUTED)
    return as_svg(figure)


def _opened(installation: Installation, version: Version) -> packages.Opened | None:
    try:
        trusted = packages.trusted_keys(installation.home.keys)
        return packages.open_package(installation.home.packages / version.package, trusted)
    except EverloopError:
        return None  # The ledger still tells what there was.


def _details(candidate: Candidate | None) -> dict[str, Any]:
    if candidate is None:
        return {}
    try:
        found: dict[str, Any] = msgspec.json.decode((Path(candidate.folder) / "details.json").read_bytes())
        return found
    except (OSError, msgspec.DecodeError):
        return {}


def _tags(run: Any) -> dict[str, str]:
    return {each["key"]: each["value"] for each in run["data"].get("tags", ())}


def _plain(name: str) -> str:
    return PLAIN.sub("_", name)[:240]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000)


class Mirroring:
    """Mirrors beside the loop, in a thread of its own that nobody waits for."""

    def __init__(self, installation: Installation, address: str, said: Callable[[str], None]) -> None:
        self._installation, self._address, self._said = installation, address, said
        self._thread: threading.Thread | None = None
        self._trouble = ""

    def look(self) -> None:
        """Begin a pass unless one is under way. Never raises."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._pass, name="mirror", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether the pass under way has ended within so long."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _pass(self) -> None:
        try:
            done = mirror(self._installation, self._address)
        except MirrorError as error:
            self._tell(f"the mirror is behind: {error}")
        except Exception as error:  # whatever it is: nobody's loop ends for a mirror
            self._tell(f"the mirror is behind: {type(error).__name__}: {error}")
        else:
            if self._trouble:
                self._said(f"mirrored again to {done.address}")
            self._trouble = ""

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:  # once, not at each look
            self._said(trouble)
        self._trouble = trouble
