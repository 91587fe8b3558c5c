"""What is told of what fires, and when. Pure: readings, what is known and the time in; alerts and messages out.

An alert is one episode of a broken rule: it fires once however often it is read, ends when it has been quiet for a
while, and is told when it begins, again while it goes on, and when it is over. Where too much is to be told at once,
one summary stands for all of it. Knows nothing of how rules are read or who is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from everloop.records import Alert, AlertMessage, Silence, digest_of
from everloop.spec.notify import Pace

HOUR = timedelta(hours=1)
GRACE = timedelta(minutes=10)
"""So much later than the next repetition a receiver may take an alert for over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One rule as it was read now.

    ``fires``: beyond its limit, and not by chance. ``holds``: not enough to begin, enough to go on. ``unknown``: there
    was nothing to read, so what was so is taken to be so still.
    """

    rule: str
    level: str
    severity: str
    state: Literal["fires", "holds", "quiet", "unknown"]
    because: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the pace remembers: when messages went out in the last hour, and since when summaries stand for them."""

    sent: tuple[datetime, ...] = ()
    storm: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """``alerts``: those that changed. ``began`` and ``ended`` for a person beside the console."""

    alerts: tuple[Alert, ...] = ()
    messages: tuple[AlertMessage, ...] = ()
    told: Told = field(default_factory=Told)
    began: tuple[Alert, ...] = ()
    ended: tuple[Alert, ...] = ()


def fingerprint(loop: str, rule: str, severity: str) -> str:
    """The same for one rule however its limit is changed, so that a change of limit is no second alert."""
    return digest_of(f"{loop}/{rule}/{severity}".encode())[:16]


def follow(
    loop: str,
    known: Sequence[Alert],
    readings: Iterable[Reading],
    silences: Sequence[Silence],
    told: Told,
    pace: Pace,
    now: datetime,
) -> Followed:
    """One look. ``known``: the episodes that are not settled. A rule that is declared no more has ended."""
    before = {each.fingerprint: each for each in known if each.ended is None}
    after: dict[tuple[str, datetime], Alert] = {(each.fingerprint, each.began): each for each in known}
    began: list[Alert] = []
    ended: list[Alert] = []
    read: set[str] = set()
    for reading in readings:
        mark = fingerprint(loop, reading.rule, reading.severity)
        read.add(mark)
        alert = before.get(mark)
        if alert is None and reading.state == "fires":
            alert = _begun(loop, mark, reading, now)
            began.append(alert)
        elif alert is not None and reading.state in ("fires", "holds"):
            alert = replace(alert, seen=now, because=reading.because, value=reading.value, limit=reading.limit)
        elif alert is not None and reading.state == "quiet" and now - alert.seen >= pace.settle:
            alert = replace(alert, ended=now, because=reading.because or alert.because, value=reading.value)
            ended.append(alert)
        if alert is not None:
            after[mark, alert.began] = alert
    for mark, alert in before.items():
        if mark not in read:
            alert = replace(alert, ended=now, because="the declaration asks for it no more")
            ended.append(alert)
            after[mark, alert.began] = alert

    due = [(each, kind) for each in after.values() if (kind := _due(each, silences, pace, now)) is not None]
    messages, told = _paced(loop, due, [each for each in after.values() if each.ended is None], told, pace, now)
    if messages:
        for alert, kind in due:
            said: Literal["firing", "resolved"] = "resolved" if kind == "resolved" else "firing"
            after[alert.fingerprint, alert.began] = replace(alert, told=said, told_at=now, messages=alert.messages + 1)
    for place, alert in after.items():
        if alert.ended is not None and alert.told != "firing":
            after[place] = replace(alert, settled=True)
    same = {(each.fingerprint, each.began): each for each in known}
    changed = tuple(alert for place, alert in after.items() if same.get(place) != alert)
    return Followed(alerts=changed, messages=messages, told=told, began=tuple(began), ended=tuple(ended))


def _begun(loop: str, mark: str, reading: Reading, now: datetime) -> Alert:
    return Alert(
        loop=loop,
        fingerprint=mark,
        rule=reading.rule,
        level=reading.level,
        severity=reading.severity,
        began=now,
        seen=now,
        because=reading.because,
        value=reading.value,
        limit=reading.limit,
    )


Kind = Literal["firing", "repeated", "resolved"]


def _due(alert: Alert, silences: Sequence[Silence], pace: Pace, now: datetime) -> Kind | None:
    """What is to be told of an alert now. Whoever was told that it fires is told its end, silence or not."""
    if alert.ended is not None:
        return "resolved" if alert.told == "firing" else None
    if any(each.until > now and each.rule in (None, alert.rule) for each in silences):
        return None
    if alert.told is None:
        return "firing"
    return "repeated" if alert.told_at is not None and now - alert.told_at >= pace.repeat else None


def _paced(
    loop: str, due: Sequence[tuple[Alert, Kind]], firing: Sequence[Alert], told: Told, pace: Pace, now: datetime
) -> tuple[tuple[AlertMessage, ...], Told]:
    """The messages that may go now. While a storm lasts nothing goes; what is due then waits for its end."""
    sent = tuple(each for each in told.sent if now - each < HOUR)
    if told.storm is not None and now - told.storm < HOUR:
        return (), replace(told, sent=sent)
    if not due:
        return (), Told(sent=sent)
    until = now + pace.repeat + GRACE
    if told.storm is None and len(sent) + len(due) <= pace.most_per_hour:
        messages = tuple(
            AlertMessage(
                key=f"{loop}/{each.fingerprint}/{each.began:%Y%m%dT%H%M%S%f}/{kind}/{each.messages}",
                loop=loop,
                kind=kind,
                at=now,
                until=until,
                alerts=(each,),
                because=each.because,
            )
            for each, kind in due
        )
        return messages, Told(sent=(*sent, *(now for _ in messages)))
    over = sum(kind == "resolved" for _, kind in due)
    because = f"{len(due)} changes at once or within the hour: {len(firing)} alerts fire now, {over} have ended"
    key = f"{loop}/summary/{now:%Y%m%dT%H%M%S%f}"
    summary = AlertMessage(
        key=key, loop=loop, kind="summary", at=now, until=until, alerts=tuple(each for each, _ in due), because=because
    )
    # As long as there is more than may be told, a summary an hour is what is told.
    again = told.storm is None or len(due) > pace.most_per_hour
    return (summary,), Told(sent=(*sent, now), storm=now if again else None)
