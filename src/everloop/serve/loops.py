"""The loops of one process: which there are, which are in memory, and for which somebody waits.

Each loop follows its release file. Where memory is bounded, the loops that nobody asked for longest give theirs up
when it is needed; whoever asks for one of them waits until it is loaded again, and nobody else does. A loop that was
unloaded by request stays so until it is loaded by request. Knows nothing of HTTP, batches or packages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter

from everloop.errors import RequestError
from everloop.serve.ahead import Ahead
from everloop.serve.exchange import Exchange
from everloop.serve.journal import say
from everloop.serve.loading import Loader
from everloop.serve.memory import trim
from everloop.serve.models import Models
from everloop.serve.releases import names
from everloop.serve.service import Service
from everloop.serve.unloaded import Unloaded
from everloop.store.home import Home

DONE = b"{}"
TRIM_SECONDS = 0.3
"""What a model served last is being logged for a moment longer than it is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """``names`` empty: every loop that has a release file, and those that come. ``limit``: bytes of all models."""

    names: tuple[str, ...] = ()
    limit: int | None = None
    pinned: frozenset[str] = frozenset()
    """Loops that stay in memory."""


class Loops:
    """``make`` makes the service of a loop; ``added`` is told of each; ``soon`` has `look` called at the next moment.

    ``unloaded`` is shared by all processes of the server.
    """

    def __init__(
        self,
        home: Home,
        models: Models,
        terms: Terms,
        unloaded: Unloaded,
        *,
        make: Callable[[str], Service],
        added: Callable[[Service], None],
        soon: Callable[[], object],
    ) -> None:
        self.services: dict[str, Service] = {}
        self.unloads = {"room": 0, "asked": 0}
        self._home = home
        self._models = models
        self._terms = terms
        self._unloaded = unloaded
        self._make = make
        self._added = added
        self._soon = soon
        self._over = False
        """More is in memory than may be, and nothing can go."""
        self._freed: float | None = None
        """When something went whose memory is still to be given back, monotonic."""

    def open(self) -> None:
        """Make the service of each loop that there is."""
        for name in self._terms.names or self.found(self._home):
            self._add(name)

    @staticmethod
    def found(home: Home) -> list[str]:
        """The loops that have a release file."""
        return names(home.releases)

    @property
    def folders(self) -> Sequence[Path]:
        """Where something changes that `look` wants to know."""
        return [self._home.releases, self._unloaded.folder]

    def start(self, ahead: Ahead | None = None) -> None:
        """Load here what is to be in memory, as far as there is room."""
        unloaded = self._unloaded.names()
        for service in self._first_to_last():
            if service.name in unloaded:
                service.unloaded = True
                service.follower.rest()
            elif not self._fits(service):
                service.follower.rest()
            service.follower.start(ahead)
        self._make_room(0, keep=None)

    def look(self, loader: Loader, call_in_loop: Callable[..., object], applied: Callable[[], None]) -> None:
        """Follow what has changed: release files, new loops, what was unloaded by another process."""
        if not self._terms.names:
            for name in self.found(self._home):
                if name not in self.services:
                    service = self._add(name)
                    service.follower.resting = not self._fits(service)
        unloaded = self._unloaded.names()
        for name, service in self.services.items():
            if (name in unloaded) != service.unloaded:
                self._unload(service) if name in unloaded else self._load(service)
            service.follower.poll(loader, call_in_loop, applied)
        if self._freed is not None and monotonic() - self._freed > TRIM_SECONDS:
            self._freed = None
            loader.submit(trim)

    def settle(self) -> None:
        """After a load: those who waited go on, or are told why not; what is too much goes."""
        for service in self.services.values():
            if not service.parked:
                continue
            if service.predictor.live is not None or service.unloaded:
                service.parked.go_on()
            elif not (service.follower.loading or service.rests):
                because = service.follower.problem or "nothing of it is released"
                service.parked.refuse(f"Loop {service.name} could not be loaded: {because}")
        self._make_room(0, keep=None)

    def stop_waiting(self) -> None:
        """The server ends: nobody comes back into memory."""
        for service in self.services.values():
            service.parked.refuse("The server is ending; ask another one.")

    # By request

    def load(self, service: Service, exchange: Exchange, answer: bytes = DONE) -> None:
        """``answer`` goes out when it is loaded. Raises RequestError (400) when there is nothing to load."""
        self._unloaded.remove(service.name)
        self._load(service)
        if service.predictor.live is not None:
            exchange.finish(200, answer)
            return
        if not service.follower.packages:
            raise RequestError(f"Loop {service.name} has nothing to load: no version of it is released.")
        service.parked.add(exchange, 0, lambda: self._loaded(service, exchange, answer))
        if not service.follower.waking:  # what could not be loaded before is tried again
            service.follower.wake()
            self._soon()

    def _loaded(self, service: Service, exchange: Exchange, answer: bytes) -> None:
        if service.predictor.live is not None:
            exchange.finish(200, answer)
        else:
            exchange.refuse(400, f"Loop {service.name} was unloaded meanwhile.")

    def unload(self, service: Service, exchange: Exchange, answer: bytes = DONE) -> None:
        self._unloaded.add(service.name)
        self._unload(service)
        exchange.finish(200, answer)

    # In and out of memory

    def wake(self, service: Service) -> None:
        """Somebody asks for it: the next look loads it."""
        if service.follower.resting and not service.unloaded:
            service.predictor.asked = perf_counter()
            self._make_room(self._models.expected(service.follower.packages), keep=service)
            service.follower.wake()
            self._soon()

    def _load(self, service: Service) -> None:
        service.unloaded = False
        self.wake(service)

    def _unload(self, service: Service) -> None:
        if not service.unloaded:
            service.unloaded = True
            self._rest(service, "asked")
            service.parked.go_on()  # to be told so

    def _rest(self, service: Service, why: str) -> None:
        service.follower.rest()
        self.unloads[why] += 1
        self._freed = monotonic()
        say("unloaded", loop=service.name, because=why, models_bytes=self._models.bytes)

    def _add(self, name: str) -> Service:
        service = self.services[name] = self._make(name)
        service.wanted = lambda: self.wake(service)
        self._added(service)
        return service

    def _first_to_last(self) -> list[Service]:
        """The pinned first: they are sure to find room."""
        return sorted(self.services.values(), key=lambda each: each.name not in self._terms.pinned)

    def _fits(self, service: Service) -> bool:
        """Whether there is room for a loop that nobody has asked for yet."""
        limit = self._terms.limit
        if limit is None or service.name in self._terms.pinned:
            return True
        expected = self._models.expected(service.follower.peek())
        return self._models.bytes + expected <= limit

    def _make_room(self, expected: int, keep: Service | None) -> None:
        """Let loops rest, the one that nobody asked for longest first, until ``expected`` bytes more are no too many."""
        limit = self._terms.limit
        if limit is None or self._models.bytes + expected <= limit:
            self._over = False
            return
        if self._models.drop_spare():
            self._freed = monotonic()
        while self._models.bytes + expected > limit:
            victims = [
                each
                for each in self.services.values()
                if each.predictor.live is not None and each is not keep and each.name not in self._terms.pinned
            ]
            if len(victims) < 2 and keep is None:
                victims = []  # somebody has to be there
            if not victims:
                if not self._over:
                    self._over = True
                    say("more in memory than is allowed", models_bytes=self._models.bytes + expected, allowed=limit)
                return
            self._rest(min(victims, key=lambda each: each.predictor.asked), "room")
        self._over = False
