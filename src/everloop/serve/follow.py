"""Follows the release file of one loop: loads what it names, then switches. Knows nothing of HTTP or requests.

Loading, verifying and warming happen in a thread while the old version goes on answering. A package that is not
sound is refused, said and counted; the champion that was live stays.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from everloop.errors import NotFound, PackageTampered, ServeError
from everloop.serve import meaning, releases, traffic
from everloop.serve.ahead import Ahead
from everloop.serve.cache import Cache
from everloop.serve.cores import cores
from everloop.serve.journal import say
from everloop.serve.live import Live
from everloop.serve.loading import Allowance, Loader
from everloop.serve.model import ALLOWANCE, Model
from everloop.serve.models import Models
from everloop.serve.releases import ReleaseFile, Served
from everloop.serve.rows import layout
from everloop.store.home import Home
from everloop.store.packages import folder_of, open_package, trusted_keys

RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 600.0
"""A release that could not be served whole is tried again after five seconds, then ten, and so on up to ten minutes:
its package may be restored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of reading the release file. ``live`` None with ``accepted``: nothing is to be served now."""

    release: ReleaseFile | None
    live: Live | None
    accepted: bool
    problem: str | None = None
    refused: str | None = None
    """The package that was refused, if one was."""
    models: tuple[Model, ...] = ()
    """What ``live`` is made of."""


class Follower:
    """``revision`` is what is served; ``problem`` is why the newest release is not served whole, None when it is."""

    def __init__(
        self, home: Home, loop: str, switch: Callable[[Live | None], None], *, processes: int = 1,
        allowance: Allowance = ALLOWANCE, models: Models | None = None,
    ) -> None:  # fmt: skip
        """``processes`` that serve this loop share the bytes of its cache, each with a part of its own.

        ``models``: those of all loops of this process.
        """
        self.loop = loop
        self.cache: Cache | None = None
        """What was predicted before, if the release has a cache."""
        self.revision = -1
        self.problem: str | None = None
        self.refusals = {"tampered": 0, "unknown": 0, "other": 0}
        self.switches = 0
        self.release: ReleaseFile | None = None
        self.resting = False
        """It follows the file and loads nothing: its models are not to be in memory."""
        self.waking = False
        """It is to be in memory again and is not yet."""
        self.models = models or Models(home, allowance)
        self._home = home
        self._path = home.release_file(loop)
        self._switch = switch
        self._processes = processes
        self._threads = 1
        """Cores that one run may use, as the release last looked at says."""
        self._mark: releases.Mark | None = None
        self._ahead: Ahead | None = None
        self._allowance = allowance
        self._began: float | None = None
        """When the load that runs now began; None when none does."""
        self._attempt = 0
        self._wait = RETRY_SECONDS
        self._again = 0.0
        """When to try again, monotonic."""
        self._serves = False

    def start(self, ahead: Ahead | None = None) -> None:
        """Load what the file names now, here; ``ahead`` may have read it."""
        self._mark = releases.mark(self._path)
        if self._mark is not None:
            self._ahead = ahead
            self._ended(self._sought())
            self._ahead = None

    @property
    def loading(self) -> bool:
        return self._began is not None

    @property
    def packages(self) -> set[str]:
        """What the release that is followed is made of."""
        return packages_of(self.release) if self.release is not None else set()

    def peek(self) -> set[str]:
        """What the file names now, before it is followed."""
        try:
            return packages_of(releases.read(self._path))
        except ServeError:
            return set()

    def rest(self) -> None:
        """Serve nothing until `wake`: the memory of its models is wanted for others."""
        self.resting = True
        self.waking = False
        self._attempt += 1  # what is being loaded now is not wanted any more
        self._began = None
        self._serves = False
        self._switch(None)
        self.models.let_go(self.loop)

    def wake(self) -> None:
        """Load at the next look what the file names then, even if that was tried before."""
        self.resting = False
        self.waking = True
        self._mark = None

    def poll(self, loader: Loader, call_in_loop: Callable[..., object], applied: Callable[[], None]) -> None:
        """Look once; let the loader load what has changed. ``applied`` is called in the loop after a switch."""
        now = time.monotonic()
        if self._began is not None:
            if now - self._began > self._allowance.patience:
                self._give_up(applied)
            return
        mark = releases.mark(self._path)
        again = self.problem is not None and now >= self._again
        if mark is None or (mark == self._mark and not again):
            return
        self._wait = min(LONGEST_RETRY_SECONDS, 2 * self._wait) if mark == self._mark else RETRY_SECONDS
        self._mark = mark
        self._began = now
        self._attempt += 1
        attempt = self._attempt

        def done(found: Found) -> None:
            if attempt == self._attempt:  # nobody waits for one that was given up
                self._ended(found)
                applied()

        def work() -> None:
            found = self._sought()
            call_in_loop(done, found)

        loader.submit(work)

    def _give_up(self, applied: Callable[[], None]) -> None:
        self._attempt += 1
        seconds = self._allowance.patience
        problem = f"The release was still being loaded after {seconds:g} seconds, and could not be stopped."
        self._ended(Found(release=None, live=None, accepted=False, problem=problem, refused="other"))
        applied()

    def _ended(self, found: Found) -> None:
        self._began = None
        self.waking = False
        self._again = time.monotonic() + self._wait
        self._apply(found)

    def _sought(self) -> Found:
        try:
            return self._find()
        except Exception as error:  # also what nobody thought of: the old champion must go on
            return Found(release=None, live=None, accepted=False, problem=str(error), refused=_kind(error))

    def _find(self) -> Found:
        release = releases.read(self._path)
        if release.loop != self.loop:
            raise ServeError(f"{self._path} is about the loop {release.loop[:80]!r}, not {self.loop}.")
        if release.champion is None or self.resting:
            return Found(release=release, live=None, accepted=True)
        needed = traffic.besides(release)
        self._threads = cores_for(self._processes) if release.mode == "latency" else 1
        champion = self._model(release.champion.package, self.loop)
        challenger: Model | None = None
        problem = refused = None
        if release.challenger is not None:
            try:
                challenger = self._model(release.challenger.package, self.loop)
            except Exception as error:
                problem, refused = str(error), _kind(error)
        besides: dict[str, Model] = {}
        try:
            besides = {package: self._model(package, loop) for package, loop in needed}
        except Exception as error:
            problem, refused = str(error), _kind(error)
        cache = self._cache(release)
        former = self._former(release)
        try:
            live = traffic.live_of(release, champion, challenger, besides, cache, former)
        except Exception as error:
            problem, refused = str(error), _kind(error)
            live = traffic.live_of(release, champion, None, None, cache)
        for said in meaning.ask(live, self._profile):
            say("not asked", loop=self.loop, because=said)
        if release.sketch and not release.log:
            # Loaded by whoever needs it: two megabytes and a library.
            sketching: Any = importlib.import_module("everloop.serve.sketches")
            for said in sketching.hold(self._home, live):
                say("not sketched", loop=self.loop, because=said)
        models = (champion, *(each for each in (challenger, former) if each is not None), *besides.values())
        return Found(release=release, live=live, accepted=True, problem=problem, refused=refused, models=models)

    def _apply(self, found: Found) -> None:
        before, self.problem = self.problem, found.problem
        if found.problem is not None and found.problem != before:
            what = "challenger refused" if found.accepted else "release refused"
            say(what, loop=self.loop, because=found.problem)
            self.refusals[found.refused or "other"] += 1
        if not found.accepted or found.release is None:
            return
        serves = found.live is not None
        if found.release == self.release and found.problem == before and serves == self._serves:
            return  # tried again, and nothing is different
        self.switches += found.release != self.release
        self.revision = found.release.revision
        self.release = found.release
        self._serves = serves
        self.models.hold(self.loop, found.models)
        self.cache = found.live.cache if found.live is not None else None
        if self.cache is not None:
            served = (found.release.champion, found.release.challenger, found.release.former)
            besides = {package for package, _ in traffic.besides(found.release)}
            self.cache.retain(besides | {each.package for each in served if each is not None})
        self._switch(found.live)
        say(
            "release",
            loop=self.loop,
            revision=found.release.revision,
            stage=found.release.stage,
            champion=_number(found.release.champion),
            challenger=_number(found.release.challenger),
            share=found.release.share,
            experiment=found.release.experiment.name if found.release.experiment else None,
            routed=found.release.route is not None,
        )

    def _cache(self, release: ReleaseFile) -> Cache | None:
        """The one that is there, unless its terms change."""
        if release.cache is None:
            return None
        limit = release.cache.bytes // self._processes
        present = self.cache
        if present is not None and (present.limit, present.seconds) == (limit, release.cache.seconds):
            return present
        return Cache(limit, release.cache.seconds)

    def _former(self, release: ReleaseFile) -> Model | None:
        """The champion of before, if it can answer beside this one; nobody waits for it, so that it may as well not."""
        if release.former is None or release.challenger is not None or traffic.besides(release):
            return None
        assert release.champion is not None
        try:
            former = self._model(release.former.package, self.loop)
            champion = self._model(release.champion.package, self.loop)
            layout([champion.signature, former.signature], release.unit)
        except Exception as error:
            say("the champion of before is left out", loop=self.loop, because=str(error))
            return None
        return former

    def _profile(self, package: str) -> bytes:
        """What the rows of a package looked like. Raises PackageTampered or NotFound."""
        opened = open_package(folder_of(self._home.packages, package), trusted_keys(self._home.keys))
        return opened.files.get("profile.json", b"{}")

    def _model(self, package: str, owner: str) -> Model:
        return self.models.get(package, owner=owner, loop=self.loop, threads=self._threads, ahead=self._ahead)


def packages_of(release: ReleaseFile) -> set[str]:
    """All that a release needs in memory."""
    if release.champion is None:
        return set()
    named = {each.package for each in (release.champion, release.challenger, release.former) if each is not None}
    return named | {package for package, _ in traffic.besides(release)}


def cores_for(processes: int) -> int:
    """Cores that each of so many processes has to itself, one at the least."""
    return max(1, len(cores()) // processes)


def _number(served: Served | None) -> int | None:
    return served.version if served else None


def _kind(error: Exception) -> str:
    if isinstance(error, PackageTampered):
        return "tampered"
    return "unknown" if isinstance(error, NotFound) else "other"
