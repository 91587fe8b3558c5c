"""Keeps a loop up: a server beside a controller that looks, works and publishes until it is told to stop.

The server outlives a killed controller: it is a process group of its own, and the next controller finds it by its
status file. Of several controllers one keeps the server, the one that holds a lock; the lock dies with its holder.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta

from everloop.durable.engine import Engine
from everloop.errors import EverloopError, ReleaseConflict
from everloop.jobs.process import ProcessExecutor
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.loop.installation import Installation
from everloop.loop.preload import modules
from everloop.loop.publish import publish
from everloop.loop.server import ServingProcess, hand_over, handed_over
from everloop.records import Decision
from everloop.serve.settings import Changed, is_loopback
from everloop.store.lake import OUTCOMES, RAW

AGAIN = timedelta(hours=1)
"""After a first turn that failed, where no new row and no longer delay says when."""


class Upkeep:
    def __init__(
        self,
        installation: Installation,
        *,
        host: str,
        port: int,
        processes: int,
        every: timedelta,
        told: Callable[[Decision], None],
        said: Callable[[str], None],
    ) -> None:
        self._installation = installation
        self._host, self._port, self._processes = host, port, processes
        self._every = every.total_seconds()
        self._said = said
        self._executor = ProcessExecutor(preload=modules(installation.loop))
        self._executor.warm()
        self._engine = Engine(installation.ledger, installation.clock)
        self._controller = Controller(installation, self._engine, self._executor, told=told)
        self._worker: threading.Thread | None = None
        self._server: ServingProcess | None = None
        self._tried: tuple[tuple[int, int], datetime] | None = None
        """What the lake held when a first turn was begun, and when that was."""
        self._held = ExitStack()
        self._keeps = False

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; then ends the server it keeps, draining it, and returns.

        An error that nobody thought of passes, and leaves the server to go on: the next controller finds it.
        """
        try:
            begun = False
            while not stop.is_set():
                begun = begun or self._try(self._begin)
                for part in (self._first, self._work, self._controller.look, self._serve):
                    self._try(part)
                stop.wait(self._every)
            self._said("stopping: the server drains, a turn under way goes on at the next start")
            if self._server is not None:
                self._server.stop()
        finally:
            self._held.close()
            self._executor.close()

    def _begin(self) -> None:
        self._controller.take_in()
        publish(self._installation)

    def _first(self) -> None:
        """Begin a turn while there is no version: at once, and after one that failed when more is known."""
        state = self._controller.state()
        if state.release.champion is not None or state.turn is not None or state.release.paused:
            return
        lake, now = self._installation.lake, self._installation.clock.now()
        known = lake.version(RAW), lake.version(OUTCOMES)
        if self._tried is not None:
            before, at = self._tried
            # Labels come to be known by waiting too.
            if known == before and now < at + max(self._installation.loop.label.delay, AGAIN):
                return
        self._tried = known, now
        self._said("no version yet: the first turn starts now")
        self._controller.ask(Asked(action="run", by="the first start"))

    def _try(self, part: Callable[[], object]) -> bool:
        """Whether it went well. What fails (on a full disk, say) must not end the loop: it is said at every look."""
        try:
            part()
        except ReleaseConflict as conflict:
            self._said(f"another controller was first: {conflict}")
        except EverloopError as error:
            self._said(f"{type(error).__name__}: {error}")
        else:
            return True
        return False

    def _work(self) -> None:
        """Turns run beside the looks, so that a release goes on being judged while a fit takes its hours."""
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._worked, name="turns", daemon=True)
            self._worker.start()

    def _worked(self) -> None:
        try:
            self._controller.work()
        except EverloopError as error:
            self._said(f"{type(error).__name__}: {error}")

    def _serve(self) -> None:
        if self._server is not None and not self._server.alive():
            self._said(f"the server ended by itself: {self._server.last_words()}; it is started again")
            self._server = None
        if self._server is None and self._controller.state().release.champion is not None and self._is_keeper():
            self._server = self._found() or self._started()
            self._port = self._server.port
            scheme = "http" if self._installation.environment.serve.tls is None else "https"
            self._said(f"serving on {scheme}://{self._host}:{self._port}/predict/{self._installation.name}")
            if scheme == "http" and not is_loopback(self._host):
                self._said(
                    "keys and rows travel as anybody on the way can read them: write tls = { certificate = …, key = … } "
                    "in [ENV.serve], or put a proxy with TLS before it"
                )

    def _is_keeper(self) -> bool:
        """Whether this controller keeps the server: tried at every look, for the one that does may be killed."""
        if not self._keeps:
            lock = (self._installation.home.servers / f"{self._installation.name}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._held.enter_context(lock)
            self._keeps = True
        return self._keeps

    def _found(self) -> ServingProcess | None:
        """The server that a killed controller left behind, if it is as this one is to be."""
        found = ServingProcess.find(self._installation.home, [self._installation.name])
        if found is None:
            return None
        home, settings = self._installation.home, self._installation.environment.serve
        other = Changed.between(handed_over(home), settings).restart
        if other:
            self._said(f"the server left on port {found.port} drains; {', '.join(other)} changed since it was started")
        elif self._port in (0, found.port):
            hand_over(settings, home)
            return found
        else:
            self._said(f"the server left on port {found.port} drains; this one is to listen on {self._port}")
        found.stop()
        return None

    def _started(self) -> ServingProcess:
        return ServingProcess.start(
            self._installation.home,
            [self._installation.name],
            host=self._host,
            port=self._port,
            processes=self._processes,
            settings=self._installation.environment.serve,
        )
