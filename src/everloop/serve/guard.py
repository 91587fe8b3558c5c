"""Makes the gate that the settings ask for and makes it anew when keys or settings change. Knows nothing of requests."""

from pathlib import Path
from typing import Any, Protocol

from everloop.errors import SpecError, StoreError
from everloop.serve import keys
from everloop.serve.access import AccessLog
from everloop.serve.exchange import Exchange, Observer
from everloop.serve.gate import Gate
from everloop.serve.journal import say
from everloop.serve.keys import KeyFile, Keyring
from everloop.serve.limits import Usage
from everloop.serve.pages import Pages
from everloop.serve.releases import mark
from everloop.serve.settings import Changed, ServerSettings, is_loopback, read
from everloop.serve.tls import Certificate
from everloop.store.home import Home


class Guarded(Protocol):
    """What stands behind the gate."""

    gate: Any
    pages: Pages | None
    observer: Observer | None


class Guard:
    """Everything of the settings that lives as long as the process. Raises SpecError or StoreError at the start."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        home: Home,
        host: str,
        loops: tuple[str, ...],
        file: Path | None = None,
        open_to_the_world: bool = False,
        behind: bool = False,
    ) -> None:
        """``behind``: another server holds the sockets, and TLS is its business."""
        self.settings = settings
        self.certificate = Certificate(settings.tls) if settings.tls is not None else None
        self.log: AccessLog | None = None
        self.traces = None
        self._home = home
        self._host = host
        self._opened = open_to_the_world
        self._only = loops[0].encode() if len(loops) == 1 else None
        self._file = file
        self._file_mark = mark(file) if file is not None else None
        self._keys_path = keys.path_of(home)
        self._keys_mark = mark(self._keys_path)
        self._keys = keys.read(self._keys_path) if settings.keys else KeyFile()
        self._usages: dict[str, Usage] = {}
        if settings.access_log is not None:
            self.log = _log(settings)
        if settings.trace is not None:
            from everloop.serve.trace import Tracing  # an extra: nobody else pays for it

            self.traces = Tracing(settings.trace, settings.trace_share)
        self.gate = self._made()
        if settings.keys and not self._keys.keys:
            say("no keys yet", remedy="everloop keys add NAME")
        if not (behind or is_loopback(host)) and settings.tls is None:
            say("no TLS", because=f"keys and rows are readable on their way to {host}", remedy="serve.tls")

    @property
    def observer(self) -> Observer | None:
        """Who is told of each answer."""
        log, traces = self.log, self.traces
        if log is not None and traces is not None:

            def both(exchange: Exchange, status: int, size: int) -> None:
                log.ended(exchange, status, size)
                traces.ended(exchange, status, size)

            return both
        return log.ended if log is not None else traces.ended if traces is not None else None

    def stand_before(self, guarded: Guarded) -> None:
        guarded.gate = self.gate
        guarded.pages = None if self.settings.keys else Pages(self.settings.cors, loopback=is_loopback(self._host))
        guarded.observer = self.log.ended if self.log is not None else None

    def poll(self, guarded: Guarded) -> None:
        """Look once at the files, fifty times a second: three calls of stat at most."""
        if self._file is not None and (found := mark(self._file)) != self._file_mark:
            self._file_mark = found
            self._follow_settings(self._file)
        if self.settings.keys and (found := mark(self._keys_path)) != self._keys_mark:
            self._keys_mark = found
            self._follow_keys()
        if self.certificate is not None:
            self.certificate.poll()
        if guarded.gate is not self.gate:
            self.stand_before(guarded)

    def close(self) -> None:
        if self.gate is not None:
            self.gate.close()
        for usage in self._usages.values():
            usage.close()
        if self.log is not None:
            self.log.close()
        if self.traces is not None:
            self.traces.close()

    def _follow_settings(self, file: Path) -> None:
        try:
            new = read(file)
            if not self._opened:
                new.check_open(self._host)
            ring = keys.read(self._keys_path) if new.keys else KeyFile()
        except (SpecError, StoreError) as error:
            say("settings refused, the old ones stay", because=str(error))
            return
        changed = Changed.between(self.settings, new)
        before = self.settings, self._keys, self._keys_mark
        self.settings, self._keys, self._keys_mark = new, ring, mark(self._keys_path)
        try:
            self._replace()
        except StoreError as error:
            self.settings, self._keys, self._keys_mark = before
            say("settings refused, the old ones stay", because=str(error))
            return
        say("settings", now=list(changed.now), after_a_restart=list(changed.restart))

    def _follow_keys(self) -> None:
        try:
            self._keys = keys.read(self._keys_path)
        except StoreError as error:
            say("keys refused, the old ones stay", because=str(error))
            return
        self._replace()
        say("keys", known=len(self._keys.keys))

    def _replace(self) -> None:
        made = self._made()
        if self.gate is not None:
            self.gate.close()
        self.gate = made

    def _made(self) -> Gate | None:
        """None when nothing is declared that a request would have to be held against."""
        settings, limits, observer = self.settings, self.settings.limits, self.observer
        asked = settings.keys or limits.address_rate or settings.cors or settings.request_ids or observer
        if not asked and is_loopback(self._host):
            return None
        return Gate(
            settings,
            keyring=Keyring(self._keys) if settings.keys else None,
            usage=self._usage("usage") if settings.keys else None,
            addresses=self._usage("addresses") if limits.address_rate and not settings.keys else None,
            only=self._only,
            observer=observer,
            tracer=self.traces,
        )

    def _usage(self, name: str) -> Usage:
        found = self._usages.get(name)
        if found is None:
            found = self._usages[name] = Usage(self._home.keys / name)
        return found


def _log(settings: ServerSettings) -> AccessLog:
    assert settings.access_log is not None
    try:
        return AccessLog(settings.access_log, file_bytes=settings.access_log_bytes, files=settings.access_log_files)
    except OSError as error:
        raise SpecError(
            f"The access log {settings.access_log} cannot be written: {error.strerror}. "
            'Name another file, or "stderr" (serve.access_log).'
        ) from None
