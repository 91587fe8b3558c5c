"""Who is told of an alert, and how often (users see ``el.notify``). Sends nothing.

A secret is never written here: ``$NAME`` stands for the environment variable NAME of the process that sends, and is
looked up when a message is sent. So it is in no declaration, no ledger and no package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive
from everloop.spec.taught import taught

VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


@taught
@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A POST of JSON to ``url``; with ``token`` (an environment variable, ``$NAME``) as ``authorization: Bearer``."""

    url: str = field(kw_only=False)
    token: str | None = None

    def __post_init__(self) -> None:
        conform(self)
        _address(self.url, "notify.Webhook.url")
        _secret(self.token, "notify.Webhook.token")


@taught
@dataclass(frozen=True)
class Slack:
    """A message to a Slack-compatible incoming webhook (Slack, Mattermost, Rocket.Chat). The address is the secret."""

    url: str

    def __post_init__(self) -> None:
        conform(self)
        _secret(self.url, "notify.Slack.url")


@taught
@dataclass(frozen=True, kw_only=True)
class Email:
    """A plain mail through ``server`` (host:port), with STARTTLS unless ``security`` says otherwise."""

    to: tuple[str, ...] = field(kw_only=False)
    sender: str
    server: str
    user: str | None = None
    password: str | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            to: str | Sequence[str],
            *,
            sender: str,
            server: str,
            user: str | None = None,
            password: str | None = None,
            security: Literal["starttls", "tls", "none"] = "starttls",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", (self.to,) if isinstance(self.to, str) else self.to)
        conform(self)
        for where, each in (*(("to", one) for one in self.to), ("sender", self.sender)):
            if "@" not in each or any(mark in each for mark in "\r\n"):
                raise SpecError(f"notify.Email.{where} is {each!r}; write an address such as ops@example.com.")
        if not self.to:
            raise SpecError("notify.Email.to is (); write an address such as ops@example.com.")
        host, colon, port = self.server.rpartition(":")
        if not host or not colon or not port.isdigit() or not 0 < int(port) < 65_536:
            raise SpecError(f"notify.Email.server is {self.server!r}; write host:port, such as smtp.example.com:587.")
        _secret(self.password, "notify.Email.password")
        if self.password is not None and self.security == "none":
            raise SpecError('notify.Email has a password and security="none": it would travel open; write "starttls".')


@taught
@dataclass(frozen=True, kw_only=True)
class Alertmanager:
    """Prometheus' Alertmanager at ``url``, by its API v2: it groups, routes and silences on its own."""

    url: str = field(kw_only=False)
    token: str | None = None

    def __post_init__(self) -> None:
        conform(self)
        _address(self.url, "notify.Alertmanager.url")
        _secret(self.token, "notify.Alertmanager.token")


@taught
@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often somebody is told. Beyond ``most_per_hour`` one summary stands for all that follows in that hour."""

    repeat: timedelta = timedelta(hours=12)
    """An alert that goes on is told again after this long."""
    settle: timedelta = timedelta(minutes=5)
    """It is resolved when it has been quiet for so long: what comes and goes is one alert."""
    most_per_hour: int = 20

    def __post_init__(self) -> None:
        conform(self)
        positive(self.repeat, "notify.Pace.repeat", example="timedelta(hours=12)")
        if self.settle < timedelta(0):
            raise SpecError(f"notify.Pace.settle is {self.settle}; write 0 or more.")
        if self.most_per_hour < 1:
            raise SpecError(f"notify.Pace.most_per_hour is {self.most_per_hour}; write at least 1.")


Receiver = Webhook | Slack | Email | Alertmanager
DEFAULT_PACE = Pace()


def _address(url: str, where: str) -> None:
    """An http address without a secret in it, or one that is wholly in the environment."""
    if VARIABLE.fullmatch(url):
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"{where} is {url!r}; write an address such as https://example.com/alerts, or $NAME.")
    if parts.username or parts.password or parts.query:
        raise SpecError(
            f"{where} has a user or a query, where secrets stand: a declaration is kept and shown. "
            'Set an environment variable to the address and write its name, such as "$ALERTS_URL".'
        )


def _secret(value: str | None, where: str) -> None:
    if value is not None and not VARIABLE.fullmatch(value):
        raise SpecError(
            f"{where} is a secret and is not kept in a declaration; set an environment variable to it and write the "
            'variable\'s name, such as "$ALERTS_TOKEN".'
        )
