"""Watches the alert rules of one loop and has their messages delivered. What it decides is in ``watch.alerts``.

Alerts and the messages that follow from them change in one transaction, so that of two controllers one tells it. A
receiver that is down, or slow, holds up nothing: messages go out in a thread of their own, by durable runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import msgspec

from everloop.durable.engine import Engine
from everloop.loop import deliver
from everloop.loop.gauges import Gauged, gauged
from everloop.loop.installation import Installation
from everloop.loop.readings import Reader
from everloop.loop.turn import plain
from everloop.records import Alert, Silence, digest_of
from everloop.store.ledger import alerts, releases, watermarks
from everloop.watch.alerts import Followed, Reading, Told, follow
from everloop.watch.look import Seen

MEMORY = "alerts"


class Alerting:
    def __init__(self, installation: Installation, engine: Engine, *, said: Callable[[str], None]) -> None:
        self._installation = installation
        self._engine = engine
        self._said = said
        self._worker: threading.Thread | None = None
        self.reader = Reader(installation)
        self.readings: tuple[Reading, ...] = ()
        """As they were at the last look."""
        self.gauged: Gauged | None = None
        """What the last look leaves for whoever scrapes."""

    def look(self, seen: Seen | None) -> Followed:
        """Read every rule, keep what follows, and let what is to be told go its way."""
        each = self._installation
        now = each.clock.now()
        with each.ledger.read() as connection:
            release = releases.get(connection, each.name)
        self.readings = self.reader.read(seen, release, now)
        followed = self._follow(now)
        firing = [(one.rule, one.severity) for one in self._known() if one.ended is None]
        self.gauged = gauged(each, seen, self.readings, firing, now)
        for alert in followed.began:
            self._said(f"alert: {alert.rule} ({alert.severity}): {alert.because}")
        for alert in followed.ended:
            self._said(f"alert resolved: {alert.rule}: {alert.because}")
        self._deliver()
        return followed

    def _follow(self, now: datetime) -> Followed:
        """In one transaction with what is to be sent: an alert is told exactly as often as the ledger says."""
        each, loop = self._installation, self._installation.loop
        with each.ledger.write() as connection:
            kept = watermarks.get(connection, each.name, MEMORY)
            told = msgspec.convert(kept, Told) if kept else Told()
            known = alerts.unsettled(connection, each.name)
            silences = alerts.silenced(connection, each.name, now=now)
            followed = follow(each.name, known, self.readings, silences, told, loop.pace, now)
            for alert in followed.alerts:
                alerts.put(connection, alert)
            if followed.told != told:
                watermarks.put(connection, each.name, MEMORY, plain(followed.told))
            for message in followed.messages:
                for place, receiver in enumerate(loop.receivers):
                    self._engine.submit(
                        deliver.NAME,
                        each.name,
                        deliver.arguments(message, receiver),
                        "",
                        key=f"{message.key}/{place}",
                        connection=connection,
                    )
        return followed

    def _known(self) -> tuple[Alert, ...]:
        with self._installation.ledger.read() as connection:
            return alerts.unsettled(connection, self._installation.name)

    def work(self) -> int:
        """Send what is due, in this thread; how many runs were carried on."""
        functions = {deliver.NAME: partial(deliver.deliver, clock=self._installation.clock)}
        return self._engine.work(functions, deliver.NAME, loop=self._installation.name)

    def _deliver(self) -> None:
        if self._installation.loop.receivers and (self._worker is None or not self._worker.is_alive()):
            self._worker = threading.Thread(target=self._worked, name="alerts", daemon=True)
            self._worker.start()

    def _worked(self) -> None:
        try:
            self.work()
        except Exception as error:  # the next look tries again; the loop goes on
            self._said(f"alerts could not be sent: {type(error).__name__}: {error}")


def silence(installation: Installation, rule: str | None, *, lasting: timedelta, because: str = "") -> Silence:
    """Keep receivers from hearing of a rule (None: of any) for so long."""
    now = installation.clock.now()
    text = f"{installation.name}/{rule}/{now.isoformat()}"
    made = Silence(
        loop=installation.name,
        id=digest_of(text.encode())[:8],
        rule=rule,
        since=now,
        until=now + lasting,
        because=because,
    )
    with installation.ledger.write() as connection:
        alerts.silence(connection, made)
    return made


def unsilence(installation: Installation, id: str) -> Silence:
    """Raises NotFound for a silence that there is not."""
    with installation.ledger.write() as connection:
        return alerts.unsilence(connection, installation.name, id)


def kept(installation: Installation, *, newest: int) -> tuple[tuple[Alert, ...], tuple[Silence, ...]]:
    """The newest episodes, and the silences that hold."""
    with installation.ledger.read() as connection:
        return (
            alerts.of(connection, installation.name, newest=newest),
            alerts.silenced(connection, installation.name, now=installation.clock.now()),
        )
