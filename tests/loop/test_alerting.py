"""From a broken rule to somebody who is told: real ledger, real machine, real receivers on loopback."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_string

import pytest

from everloop.clock import SimulatedClock
from everloop.durable import runs
from everloop.durable.engine import Engine
from everloop.errors import NotFound
from everloop.loop import deliver
from everloop.loop.alerting import Alerting, silence, unsilence
from everloop.records import AlertMessage, Release
from everloop.spec import notify
from receivers import Mail, Web, mail, web
from small_loop import SmallLoop

FULL = "[el.alert.DiskFull(above=1e-9)]"  # no disk is that empty
START = datetime(2026, 3, 1, tzinfo=UTC)


class Watched:
    def __init__(self, loop: SmallLoop) -> None:
        self.clock = SimulatedClock(START)
        self.installation = loop.install(self.clock)
        self.said: list[str] = []
        self.alerting = self.another()

    def another(self) -> Alerting:
        """As another controller would."""
        return Alerting(self.installation, Engine(self.installation.ledger, self.clock), said=self.said.append)

    def look(self) -> None:
        """One look in this thread, with what is to be sent."""
        self.alerting.reader.installation = self.installation
        release = Release(loop=self.installation.name)
        self.alerting.readings = self.alerting.reader.read(None, release, self.clock.now())
        self.alerting._follow(self.clock.now())
        self.alerting.work()

    def deliveries(self) -> tuple[runs.RunState, ...]:
        with self.installation.ledger.read() as connection:
            return runs.of(connection, self.installation.name, name=deliver.NAME)


@contextmanager
def watched(loop: SmallLoop, **fields: str) -> Iterator[Watched]:
    loop.declare(**{"alerts": FULL, **fields})
    each = Watched(loop)
    try:
        yield each
    finally:
        each.installation.close()


@pytest.fixture
def hooks() -> Iterator[Web]:
    with web() as each:
        yield each


@pytest.fixture
def post() -> Iterator[Mail]:
    with mail() as each:
        yield each


def test_a_full_disk_is_told_by_every_receiver_and_its_end_too(
    small: SmallLoop, hooks: Web, post: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK", f"{hooks.url}/slack/very-secret")
    monkeypatch.setenv("TOKEN", "also-secret")
    receivers = (
        f'[el.notify.Webhook("{hooks.url}/hook", token="$TOKEN"), el.notify.Slack("$SLACK"), '
        f'el.notify.Alertmanager("{hooks.url}/am/"), '
        f'el.notify.Email("ops@example.com", sender="loop@example.com", server="{post.address}", security="none")]'
    )
    with watched(small, notify=receivers) as each:
        each.look()
        each.look()
        found = {path: (headers, body) for path, headers, body in hooks.taken}
        assert sorted(found) == ["/am/api/v2/alerts", "/hook", "/slack/very-secret"]
        headers, body = found["/hook"]
        assert headers["authorization"] == "Bearer also-secret"
        assert headers["idempotency-key"] == body["key"]
        assert body["kind"] == "firing"
        assert body["alerts"][0]["rule"] == "disk full"
        (posted,) = found["/am/api/v2/alerts"][1]
        assert posted["labels"]["alertname"] == "EverloopDiskFull"
        assert datetime.fromisoformat(posted["endsAt"]) > each.clock.now()
        assert "parcels: critical: disk full" in found["/slack/very-secret"][1]["text"]
        (mailed,) = post.taken
        assert message_from_string(mailed)["subject"].startswith("parcels: critical: disk full")
        kept = (each.installation.home.root / "ledger.sqlite").read_bytes() + b"".join(
            file.read_bytes() for file in each.installation.home.root.glob("ledger.sqlite-wal")
        )
        assert b"secret" not in kept, "no secret is in the ledger"
        assert b"SLACK" in kept

        small.declare(alerts="[el.alert.DiskFull(above=0.999999)]", notify=receivers)
        each.installation.close()
        each.installation = small.install(each.clock)
        each.alerting = each.another()
        each.clock.sleep(timedelta(minutes=6))
        each.look()
        assert [body["kind"] for path, _, body in hooks.taken if path == "/hook"] == ["firing", "resolved"]
        (ended,) = [body for path, _, body in hooks.taken if path.startswith("/am")][-1]
        assert datetime.fromisoformat(ended["endsAt"]) == each.clock.now()
        assert "resolved: disk full" in message_from_string(post.taken[-1])["subject"]


def test_a_receiver_that_is_down_is_tried_again_under_the_same_key(small: SmallLoop, hooks: Web) -> None:
    hooks.answers = [503, 500]
    with watched(small, notify=f'[el.notify.Webhook("{hooks.url}/hook")]') as each:
        each.look()
        assert len(hooks.taken) == 1
        (run,) = each.deliveries()
        assert run.status == "sleeping"
        assert "answered 503" in run.progress["because"]
        each.look()
        assert len(hooks.taken) == 1, "not before its pause is over"
        for _ in range(2):
            each.clock.sleep(timedelta(minutes=1))
            each.alerting.work()
        (run,) = each.deliveries()
        assert run.status == "done"
        assert run.result == {"attempts": 3}
        assert len({headers["idempotency-key"] for _, headers, _ in hooks.taken}) == 1


def test_a_mail_server_that_is_busy_is_asked_again(small: SmallLoop, post: Mail) -> None:
    post.refuse = 1
    receiver = (
        f'el.notify.Email("ops@example.com", sender="loop@example.com", server="{post.address}", security="none")'
    )
    with watched(small, notify=f"[{receiver}]") as each:
        each.look()
        assert post.taken == []
        each.clock.sleep(timedelta(seconds=10))
        each.alerting.work()
        assert len(post.taken) == 1


def test_nobody_there_for_a_day_is_given_up_and_stops_nothing(small: SmallLoop) -> None:
    with watched(small, notify='[el.notify.Webhook("http://127.0.0.1:1/nobody")]') as each:
        each.look()
        for _ in range(len(deliver.PAUSES)):
            each.clock.sleep(timedelta(hours=1))
            each.alerting.work()
        (run,) = each.deliveries()
        assert run.status == "failed"
        assert "not taken in 29 attempts" in (run.because or "")
        each.look()
        assert "refused" in (run.because or "")


def test_a_variable_that_is_not_set_is_named(small: SmallLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    with watched(small, notify='[el.notify.Slack("$NOT_THERE")]') as each:
        each.look()
        (run,) = each.deliveries()
        assert "NOT_THERE is not set" in run.progress["because"]


def test_what_a_receiver_says_of_a_secret_is_not_repeated(hooks: Web) -> None:
    hooks.answers = [302]
    environment = {"ADDRESS": f"{hooks.url}/deep-secret"}
    message = AlertMessage(key="k", loop="parcels", kind="summary", at=START, until=START, alerts=(), because="none")
    said = deliver.attempted(notify.Slack("$ADDRESS"), message, environment)
    assert "302" in said
    assert [path for path, _, _ in hooks.taken] == ["/deep-secret"], "a redirect is not followed"
    said = deliver.attempted(notify.Slack("$ADDRESS"), message, {"ADDRESS": "http://127.0.0.1:1/deep-secret"})
    assert "secret" not in said


def test_two_controllers_tell_of_one_alert_once(small: SmallLoop, hooks: Web) -> None:
    with watched(small, notify=f'[el.notify.Webhook("{hooks.url}/hook")]') as each:
        other = each.another()
        each.look()
        other.look(None)
        other.work()
        each.look()
        assert len(hooks.taken) == 1


def test_a_silence_is_kept_ends_by_itself_and_can_be_ended(small: SmallLoop, hooks: Web) -> None:
    with watched(small, notify=f'[el.notify.Webhook("{hooks.url}/hook")]') as each:
        made = silence(each.installation, "disk full", lasting=timedelta(hours=1), because="being cleaned")
        each.look()
        assert hooks.taken == []
        unsilence(each.installation, made.id)
        each.look()
        assert len(hooks.taken) == 1
        with pytest.raises(NotFound, match=made.id):
            unsilence(each.installation, made.id)


def test_the_defaults_are_quiet_on_a_loop_that_has_just_begun(small: SmallLoop) -> None:
    small.declare()
    with watched(small, alerts="el.alert.DEFAULT") as each:
        each.look()
        states = {reading.rule: reading.state for reading in each.alerting.readings}
        assert set(states) == {
            "disk full", "memory full", "not serving", "errors", "refused", "drift found", "label coverage", "score",
            "run failed", "release stuck",
        }  # fmt: skip
        # This machine may be full; the loop itself has nothing to complain of.
        assert {state for rule, state in states.items() if "full" not in rule} <= {"quiet", "unknown"}


def test_the_commands_list_silence_and_unsilence(turned: SmallLoop) -> None:
    with watched(turned, alerts=FULL) as each:
        each.look()
    home = ("--home", str(turned.home))
    listed = json.loads(turned.command("alerts", "list", "--json", *home).out)
    assert [alert["rule"] for alert in listed["alerts"]] == ["disk full"]
    made = json.loads(turned.command("alerts", "silence", "disk full", "--for", "2h", "--json", *home).out)
    shown = turned.command("alerts", "list", *home).out
    assert "disk full" in shown
    assert f"silence {made['id']}: disk full until" in shown
    assert turned.command("alerts", "unsilence", made["id"], *home).code == 0
    refused = turned.command("alerts", "silence", "disc full", *home)
    assert refused.code == 2
    assert "it has: disk full" in refused.err
