"""Delivers one message to one receiver: a durable run that tries again until it is taken, for a day.

At least once: whoever is killed between sending and writing it down sends again, under the same key (the header
``idempotency-key``, the mail's ``Message-ID``, Alertmanager's labels), so that a receiver can drop the second.
Secrets come from the environment of this process, at the moment of sending, and are written nowhere.
"""

from __future__ import annotations

import email.utils
import http.client
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from email.message import EmailMessage
from functools import partial
from typing import Any

import msgspec

from everloop.clock import Clock
from everloop.durable.run import Run
from everloop.errors import DeliveryError
from everloop.records import Alert, AlertMessage
from everloop.spec import notify
from everloop.spec.notify import VARIABLE, Receiver

NAME = "deliver"
"""Of the run, and of its code: what was begun by an older declaration is delivered all the same."""
PAUSES = tuple(timedelta(seconds=each) for each in (5, 15, 60, 300, 900, *([3_600] * 24)))
"""How long it waits after each attempt that failed: a day in all."""
PATIENCE = 15.0
"""Seconds for one attempt."""
KINDS: dict[str, type[Receiver]] = {
    each.__name__: each for each in (notify.Webhook, notify.Slack, notify.Email, notify.Alertmanager)
}


def arguments(message: AlertMessage, receiver: Receiver) -> dict[str, Any]:
    """What a run needs to know: no secret is in it."""
    return {
        "message": msgspec.to_builtins(message),
        "receiver": {"kind": type(receiver).__name__, **asdict(receiver)},
    }


def deliver(run: Run, clock: Clock) -> dict[str, Any]:
    """Send until it is taken. Raises DeliveryError after the last attempt."""
    message = msgspec.convert(run.arguments["message"], AlertMessage)
    fields = dict(run.arguments["receiver"])
    receiver = KINDS[fields.pop("kind")](**fields)
    said = ""
    for attempt, pause in enumerate(PAUSES):
        said = run.step(f"send {attempt}", partial(attempted, receiver, message, os.environ))
        if not said:
            return {"attempts": attempt + 1}
        run.progress({"attempts": attempt + 1, "because": said})
        run.sleep(clock.now() + pause, name=f"wait {attempt}")
    raise DeliveryError(f"The message was not taken in {len(PAUSES)} attempts: {said}")


def attempted(receiver: Receiver, message: AlertMessage, environment: Mapping[str, str]) -> str:
    """Why it was not taken; empty where it was. Never holds a secret."""
    try:
        send(receiver, message, environment)
    except (DeliveryError, OSError, smtplib.SMTPException, http.client.HTTPException, ValueError) as error:
        hidden = str(error) or type(error).__name__
        for name in _variables(receiver):
            value = environment.get(name)
            if value:
                hidden = hidden.replace(value, f"${name}")
        return f"{type(receiver).__name__}: {hidden}"
    return ""


def send(receiver: Receiver, message: AlertMessage, environment: Mapping[str, str]) -> None:
    """One attempt. Raises DeliveryError, OSError or SMTPException."""
    match receiver:
        case notify.Webhook():
            body = {"version": 1, "text": text_of(message), **msgspec.to_builtins(message)}
            _post(_known(receiver.url, environment), body, message, _token(receiver.token, environment))
        case notify.Slack():
            _post(_known(receiver.url, environment), slack(message), message, {})
        case notify.Alertmanager():
            url = _known(receiver.url, environment).rstrip("/") + "/api/v2/alerts"
            _post(url, alertmanager(message), message, _token(receiver.token, environment))
        case notify.Email():
            _mail(receiver, message, environment)


def text_of(message: AlertMessage) -> str:
    """For a person.

    A summary has a line for each alert.
    """
    if message.kind == "summary":
        lines = [f"{message.loop}: {message.because}", *(f"• {_line(each)}" for each in message.alerts[:50])]
        more = len(message.alerts) - 50
        return "\n".join(lines + ([f"… and {more} more"] if more > 0 else []))
    return f"{message.loop}: {_line(message.alerts[0])}"


def _line(alert: Alert) -> str:
    if alert.ended is not None:
        return f"resolved: {alert.rule} ({alert.because})"
    return f"{alert.severity}: {alert.rule}: {alert.because} (since {alert.began:%Y-%m-%d %H:%M} UTC)"


def slack(message: AlertMessage) -> dict[str, Any]:
    """``text`` alone is what every compatible receiver shows; the attachment gives it a colour."""
    over = all(each.ended is not None for each in message.alerts)
    critical = any(each.severity == "critical" and each.ended is None for each in message.alerts)
    colour = "good" if over else "danger" if critical else "warning"
    # What stands between < and > is a link or a command there.
    text = text_of(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": text.split("\n", 1)[0], "attachments": [{"color": colour, "text": text, "fallback": text}]}


def alertmanager(message: AlertMessage) -> list[dict[str, Any]]:
    """The body of POST /api/v2/alerts: labels are its identity there, so they hold nothing that changes."""
    return [
        {
            "labels": {
                "alertname": f"Everloop{''.join(word.capitalize() for word in each.rule.split())}",
                "loop": each.loop,
                "rule": each.rule,
                "level": each.level,
                "severity": each.severity,
            },
            "annotations": {"summary": f"{each.loop}: {each.rule}", "description": each.because},
            "startsAt": each.began.isoformat(),
            "endsAt": (each.ended or message.until).isoformat(),
        }
        for each in message.alerts
    ]


def _post(url: str, body: Any, message: AlertMessage, headers: Mapping[str, str]) -> None:
    if not url.startswith(("http://", "https://")):
        raise DeliveryError("the address does not begin with http:// or https://; correct the environment variable.")
    given = {"content-type": "application/json", "idempotency-key": message.key, "user-agent": "everloop", **headers}
    request = urllib.request.Request(url, data=msgspec.json.encode(body), headers=given, method="POST")
    try:
        # Straight to where it is declared to go: redirects would carry the token to somebody else.
        with _OPENER.open(request, timeout=PATIENCE) as answer:
            answer.read(65_536)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode(errors="replace").strip()
        raise DeliveryError(f"answered {error.code} {error.reason}{': ' + said if said else ''}") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def _mail(receiver: notify.Email, message: AlertMessage, environment: Mapping[str, str]) -> None:
    mail = EmailMessage()
    text = text_of(message)
    mail["Subject"] = " ".join(text.split("\n", 1)[0].split())[:200]
    mail["From"], mail["To"] = receiver.sender, ", ".join(receiver.to)
    mail["Date"] = email.utils.format_datetime(message.at)
    mail["Message-ID"] = f"<{message.key.replace('/', '.')}@everloop>"
    mail.set_content(text)
    host, _, port = receiver.server.rpartition(":")
    secure = ssl.create_default_context()
    opened = (
        smtplib.SMTP_SSL(host, int(port), timeout=PATIENCE, context=secure)
        if receiver.security == "tls"
        else smtplib.SMTP(host, int(port), timeout=PATIENCE)
    )
    with opened as server:
        if receiver.security == "starttls":
            server.starttls(context=secure)
        if receiver.user is not None:
            server.login(_known(receiver.user, environment), _known(receiver.password or "", environment))
        server.send_message(mail)


def _token(token: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {_known(token, environment)}"}


def _known(value: str, environment: Mapping[str, str]) -> str:
    """What ``$NAME`` stands for. Raises DeliveryError where the variable is not set."""
    found = VARIABLE.fullmatch(value)
    if found is None:
        return value
    known = environment.get(found[1], "").strip()
    if not known:
        raise DeliveryError(f"the environment variable {found[1]} is not set; set it where `everloop up` runs.")
    return known


def _variables(receiver: Receiver) -> list[str]:
    return [
        found[1] for each in asdict(receiver).values() if isinstance(each, str) and (found := VARIABLE.fullmatch(each))
    ]
