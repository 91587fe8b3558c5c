"""Keeps loops up: a server beside a controller for each, that looks, works and publishes until it is told to stop.

The server outlives a killed controller: it is a process group of its own, and the next controller finds it by its
status file. Of several controllers one keeps the server, the one that holds a lock; the lock dies with its holder.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Literal

from everloop.durable.engine import Engine
from everloop.errors import CannotListen, EverloopError, ReleaseConflict
from everloop.loop.alerting import Alerting
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.loop.executing import executor_of
from everloop.loop.gauges import page
from everloop.loop.installation import Installation
from everloop.loop.metrics_page import MetricsPage
from everloop.loop.mirror import Mirroring, address_of
from everloop.loop.publish import publish
from everloop.loop.server import ServingProcess, check_address, hand_over, handed_over
from everloop.records import Decision
from everloop.serve.settings import Changed, is_loopback
from everloop.store.lake import OUTCOMES, RAW
from everloop.watch.look import Seen

AGAIN = timedelta(hours=1)
"""After a first turn that failed, where no new row and no longer delay says when."""
Said = Callable[[str], None]


class Turning:
    """One loop that is kept turning: first turns, turns, looks. Knows nothing of the server."""

    def __init__(self, installation: Installation, *, told: Callable[[Decision], None], said: Said) -> None:
        self.installation = installation
        self._said = said
        self._executor = executor_of(installation.environment, installation.loop)
        self._executor.warm()
        self._engine = Engine(installation.ledger, installation.clock)
        self.controller = Controller(installation, self._engine, self._executor, told=told)
        self.alerting = Alerting(installation, self._engine, said=said)
        self._worker: threading.Thread | None = None
        self._begun = False
        self._tried: tuple[tuple[int, int], datetime] | None = None
        """What the lake held when a first turn was begun, and when that was."""

    def look(self) -> None:
        self._begun = self._begun or self.attempt(self._begin)
        seen: list[Seen] = []
        for part in (self._first, self._work, lambda: seen.append(self.controller.look().seen)):
            self.attempt(part)
        # A look that failed is no reason to keep quiet about the machine; and no alert is a reason to stop looking.
        try:
            self.alerting.look(seen[0] if seen else None)
        except Exception as error:
            self._said(f"alerts could not be looked at: {type(error).__name__}: {error}")

    def attempt(self, part: Callable[[], object]) -> bool:
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

    @property
    def released(self) -> bool:
        """Whether there is something to serve."""
        return self.controller.state().release.champion is not None

    def close(self) -> None:
        self._executor.close()

    def _begin(self) -> None:
        self.controller.take_in()
        publish(self.installation)

    def _first(self) -> None:
        """Begin a turn while there is no version: at once, and after one that failed when more is known."""
        state = self.controller.state()
        if state.release.champion is not None or state.turn is not None or state.release.paused:
            return
        lake, now = self.installation.lake, self.installation.clock.now()
        known = lake.version(RAW), lake.version(OUTCOMES)
        if self._tried is not None:
            before, at = self._tried
            # Labels come to be known by waiting too.
            if known == before and now < at + max(self.installation.loop.label.delay, AGAIN):
                return
        self._tried = known, now
        self._said("no version yet: the first turn starts now")
        self.controller.ask(Asked(action="run", by="the first start"))

    def _work(self) -> None:
        """Turns run beside the looks, so that a release goes on being judged while a fit takes its hours."""
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._worked, name="turns", daemon=True)
            self._worker.start()

    def _worked(self) -> None:
        try:
            self.controller.work()
        except EverloopError as error:
            self._said(f"{type(error).__name__}: {error}")


class Upkeep:
    """Several loops of one home, and the one server that they share."""

    def __init__(
        self,
        installations: Sequence[Installation],
        *,
        host: str,
        port: int,
        processes: int | Literal["auto"],
        every: timedelta,
        told: Callable[[Decision], None],
        said: Said,
        metrics: str = "",
    ) -> None:
        """``metrics``: where the controller shows what it knows, host:port; nowhere unless it is named."""
        first = installations[0]
        self._home, self._settings = first.home, first.environment.serve
        self._names = [each.name for each in installations]
        self._host, self._port, self._processes = host, port, processes
        self._every = every.total_seconds()
        self._said = said
        several = len(installations) > 1
        self.turning = [
            Turning(each, told=told, said=_named(each.name, said) if several else said) for each in installations
        ]
        self._mirrors = [
            Mirroring(each, address, said)
            for each in installations
            if (address := address_of(each.environment)) is not None
        ]
        self._metrics = metrics
        self._server: ServingProcess | None = None
        self._served = False
        self._held = ExitStack()
        self._keeps = False

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; then ends the server it keeps, draining it, and returns.

        Raises CannotListen at the start, before anything is fitted, when the address cannot be had. An error that
        nobody thought of passes, and leaves the server to go on: the next controller finds it.
        """
        try:
            self._check_address()
            self._show_metrics()
            while not stop.is_set():
                for each in self.turning:
                    each.look()
                self._serve()
                for mirroring in self._mirrors:
                    mirroring.look()
                stop.wait(self._every)
            self._said("stopping: the server drains, a turn under way goes on at the next start")
            if self._server is not None:
                self._server.stop()
        finally:
            self._held.close()
            for each in self.turning:
                each.close()

    def _show_metrics(self) -> None:
        """Another controller may show its own there: no reason for this one not to go on."""
        if not self._metrics:
            return
        host, _, port = self._metrics.rpartition(":")
        try:
            shown = MetricsPage(host, int(port), self._page)
        except CannotListen as error:
            self._said(str(error))
            return
        self._held.callback(shown.close)
        self._said(f"metrics on http://{shown.address}/metrics")

    def _page(self) -> bytes:
        known = [each.alerting for each in self.turning]
        return page(known[0].reader.machine, [each.gauged for each in known if each.gauged is not None])

    def _serve(self) -> None:
        try:
            self._keep_served()
        except CannotListen as error:
            if not self._served:
                raise  # no other look will find the address free
            self._said(f"{type(error).__name__}: {error}")
        except EverloopError as error:
            self._said(f"{type(error).__name__}: {error}")

    def _keep_served(self) -> None:
        if self._server is not None and not self._server.alive():
            self._said(f"the server ended by itself: {self._server.last_words()}; it is started again")
            self._server = None
        if self._server is None and any(each.released for each in self.turning) and self._is_keeper():
            self._server = self._found() or self._started()
            self._port = self._server.port
            self._served = True
            scheme = "http" if self._settings.tls is None else "https"
            for name in self._names:
                self._said(f"serving on {scheme}://{self._host}:{self._port}/predict/{name}")
            if scheme == "http" and not is_loopback(self._host):
                self._said(
                    "keys and rows travel as anybody on the way can read them: write tls = { certificate = …, key = … } "
                    "in [ENV.serve], or put a proxy with TLS before it"
                )

    def _check_address(self) -> None:
        """A server that was left behind holds its own address: it is found later, or ended."""
        if self._port and ServingProcess.find(self._home, self._names) is None and self._is_keeper():
            check_address(self._host, self._port)

    def _is_keeper(self) -> bool:
        """Whether this controller keeps the server: tried at every look, for the one that does may be killed."""
        if not self._keeps:
            with ExitStack() as held:
                for name in sorted(self._names):
                    lock = held.enter_context((self._home.servers / f"{name}.lock").open("w"))
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return False
                self._held.push(held.pop_all())
            self._keeps = True
        return self._keeps

    def _found(self) -> ServingProcess | None:
        """The server that a killed controller left behind, if it is as this one is to be."""
        found = ServingProcess.find(self._home, self._names)
        if found is None:
            return None
        other = Changed.between(handed_over(self._home), self._settings).restart
        if other:
            self._said(f"the server left on port {found.port} drains; {', '.join(other)} changed since it was started")
        elif found.serves_as(self._host, self._port, self._processes):
            hand_over(self._settings, self._home)
            return found
        else:
            self._said(
                f"the server left on port {found.port} drains; "
                f"this one is to listen on {self._host}:{self._port} in {_processes(self._processes)}"
            )
        found.stop()
        return None

    def _started(self) -> ServingProcess:
        return ServingProcess.start(
            self._home,
            self._names,
            host=self._host,
            port=self._port,
            processes=self._processes,
            settings=self._settings,
        )


def _named(name: str, said: Said) -> Said:
    return lambda text: said(f"{name}: {text}")


def _processes(count: int | Literal["auto"]) -> str:
    return "1 process" if count == 1 else "a process for each core" if count == "auto" else f"{count} processes"
