"""A guard on a user's own outcome, end to end: two packages behind a real server, outcomes by id, a decision by the loop.

Customers buy after a request, or do not; which of the two versions answered decides how often. Nobody tells the loop.
"""

import http.client
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from everloop.clock import SimulatedClock, instant, microseconds
from everloop.errors import DataError, SpecError
from everloop.loop.consequences import world_of
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Answer, Traffic
from everloop.records import Decision
from everloop.release.judge import judge
from everloop.store.ledger import decisions
from small_loop import DAY, HEAD, START, SmallLoop, made_rows

TOKEN = "a token of this test"
MONTH = START + 40 * DAY
DELAY = timedelta(hours=1)
STEP = timedelta(seconds=1)
ROLLOUT = (
    'el.Canary(shares=(0.5,), guards=(el.guard.Errors(margin=0.05), el.guard.Outcome("sold", margin=0.2, delay=td(hours=1))), '
    "shadow=False, minimum=td(0), minimum_requests=50, longest=td(days=3))"
)


class Shop:
    """A served loop in simulated time. Customers of version v buy with chance ``buys[v]``."""

    def __init__(self, loop: SmallLoop, controller: Controller, clock: SimulatedClock, server: ServingProcess) -> None:
        self.loop, self.controller, self.clock, self.server = loop, controller, clock, server
        self.traffic = Traffic(server.port, loop.name, TOKEN)
        self.random = np.random.default_rng(5)

    def visited(self, count: int) -> list[Answer]:
        """One request a second; the clock goes on by as much."""
        began = self.clock.now()
        at = [microseconds(began + number * STEP) for number in range(count)]
        ids = [f"visit-{began:%d%H%M%S}-{number}" for number in range(count)]
        row = {"distance": 300.0, "carrier": "west", "sent": microseconds(began)}
        answers = self.traffic.predict([row] * count, at, ids)
        assert not [each.error for each in answers if each.error is not None]
        self.traffic.settle()
        self.clock.advance_to(began + count * STEP)
        return answers

    def told(self, answers: list[Answer], buys: dict[int, float]) -> None:
        """Half of the sales are posted by whoever sold, the others come as a file; who bought nothing says nothing."""
        sold = [each.id for each in answers if self.random.random() < buys[each.version]]
        now = instant(microseconds(self.clock.now())).isoformat()
        posted = [{"id": each, "name": "sold", "value": True, "at": now} for each in sold[::2]]
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request("POST", f"/outcomes/{self.loop.name}", json.dumps(posted))
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"outcomes": len(posted)})
        connection.close()
        file = self.loop.folder / "sold.csv"
        file.write_text("id,name,value,at\n" + "".join(f"{each},sold,1,{now}\n" for each in sold[1::2]), "utf-8")
        ended = self.loop.command("outcomes", str(file), "--home", str(self.loop.home))
        assert ended.code == 0, ended.err

    def looked(self, after: timedelta = DELAY + timedelta(minutes=10)) -> list[Decision]:
        """A look once what was asked has come of age; what it decided."""
        self.clock.advance_to(self.clock.now() + after)
        self.controller.look()
        with self.controller.installation.ledger.read() as connection:
            known = decisions.of(connection, self.loop.name, version=2)
            revision = self.controller.state().release.revision
        self.server.wait_for(self.loop.name, revision)
        return list(known)

    def versions(self) -> set[int]:
        return {each.version for each in self.visited(40)}


@contextmanager
def opened(loop: SmallLoop, at: timedelta = timedelta(0)) -> Iterator[Shop]:
    clock = SimulatedClock(MONTH + at)
    with loop.controller(clock) as controller:
        home = controller.installation.home
        with ServingProcess.start(home, [loop.name], token=TOKEN, seed=2, bound=True) as server:
            shop = Shop(loop, controller, clock, server)
            try:
                yield shop
            finally:
                shop.traffic.close()


@pytest.fixture(scope="module")
def in_canary(turned_once: SmallLoop, more_rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """Version 1 has sold for a while and version 2 takes half of the requests since 2 hours after `MONTH`."""
    loop = turned_once.copy(tmp_path_factory.mktemp("shop"))
    loop.declare(gate="None", rollout=ROLLOUT)
    with opened(loop) as shop:
        shop.told(shop.visited(200), {1: 0.8})
        loop.deliver("001", more_rows)
        shop.clock.advance_to(MONTH + 2 * DELAY)
        shop.controller.take_in()
        shop.controller.ask(Asked(action="run"))
        shop.controller.work()
        release = shop.controller.state().release
        assert (release.champion, release.challenger, release.share) == (1, 2, 0.5)
    return loop


@pytest.fixture
def shop(in_canary: SmallLoop, tmp_path: Path) -> Iterator[Shop]:
    with opened(in_canary.copy(tmp_path), 2 * DELAY) as made:
        yield made


def test_a_version_that_sells_less_is_turned_back(shop: Shop) -> None:
    answers = shop.visited(300)
    assert {each.version for each in answers} == {1, 2}
    shop.told(answers, {1: 0.8, 2: 0.4})
    assert [each.action for each in shop.looked(timedelta(minutes=50))] == ["canary"], "nobody is of age yet"
    last = shop.looked()[-1]
    assert last.action == "rolled back"
    assert "shown worse: outcome sold" in last.because
    assert {"guard errors", "guard outcome sold"} == {each.name for each in last.evidence}
    assert shop.versions() == {1}


def test_a_version_that_sells_as_much_becomes_champion(shop: Shop) -> None:
    shop.told(shop.visited(500), {1: 0.8, 2: 0.8})
    last = shop.looked()[-1]
    assert last.action == "promoted"
    assert "shown not worse: errors" in last.because
    assert "outcome sold" in last.because
    assert shop.versions() == {2}


def test_with_little_traffic_it_says_for_how_many_it_waits(shop: Shop) -> None:
    shop.told(shop.visited(60), {1: 0.8, 2: 0.8})
    assert [each.action for each in shop.looked()] == ["canary"]
    controller = shop.controller
    evidence = controller.look().seen.evidence
    assert evidence is not None
    release = controller.state().release
    found = judge(controller.installation.loop.rollout, evidence, release=release, now=shop.clock.now())
    assert not found.rollback
    assert found.about_more is not None
    assert 50 < found.about_more < 1_000
    # At the end of its time it is neither promoted nor turned back: it says once that it waits, and for how many.
    waits = shop.looked(3 * DAY)[-1]
    assert waits.action == "waiting"
    assert f"about {found.about_more:,} more requests" in waits.because
    assert shop.looked(DAY)[-1] == waits
    assert shop.versions() == {1, 2}


def test_a_guard_that_hears_nothing_promotes_nobody(shop: Shop) -> None:
    """No news counts as no sale: if reports stop, both versions look alike."""
    shop.visited(500)
    assert [each.action for each in shop.looked()] == ["canary"]
    waits = shop.looked(3 * DAY)[-1]
    assert waits.action == "waiting"
    assert (
        "no outcome 'sold' that is a number, true or false has been reported for any of 500 requests of age, where 8"
        in waits.because
    )


# In a replay

WORLD = """
def broken(row, answer):
    return row["no such column"]


def nonsense(row, answer):
    return 1


def ends(row, answer):
    raise SystemExit(0)


class Changing(dict):
    def __iter__(self):
        raise RuntimeError("no items")

    keys = items = __iter__


def changing(row, answer):
    return Changing()


"""
PAGE = Path(__file__).parents[2] / "docs" / "outcomes.md"


def replayed(folder: Path, rows: pl.DataFrame, world: str | None) -> list[Decision]:
    loop = SmallLoop(
        folder / "loop",
        rows=rows,
        head=HEAD + WORLD,
        source='el.Parquet("rows/*.parquet", key="parcel", event_time="sent", time_zone="UTC", after=["sold"])'
        if "sold" in rows.columns
        else 'el.Parquet("rows/*.parquet", key="parcel", event_time="sent", time_zone="UTC")',
        window="el.Last(td(days=10), test=td(days=3))",
        retrain="el.Every(td(days=7))",
        gate="None",
        rollout=ROLLOUT.replace("hours=1", "hours=12").replace("minimum=td(0)", "minimum=td(days=1)"),
    )
    found = None if world is None else world_of(loop.file, world)
    account = loop.replay(folder / "home", world=found, look=timedelta(hours=12))
    return [each for each in account.decisions if each.version == 2]


def test_a_replay_says_what_the_page_shows(tmp_path: Path) -> None:
    """The declaration of the page, its command, and the lines that it prints but for their figures."""
    text = PAGE.read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    command, *lines = shown.splitlines()
    loop = SmallLoop(tmp_path, rows=made_rows(18 * 120, days=18))
    (tmp_path / "shop.py").write_text(code, "utf-8")
    ended = loop.command(*shlex.split(command.removeprefix("$ everloop ")))
    assert ended.code == 0, ended.err
    printed = _words(ended.out)
    assert len(lines) == 2
    for line in lines:
        assert _words(line) in printed, ended.out


def _words(text: str) -> str:
    """Without figures and the breaks of lines: the arms are drawn anew at each replay."""
    return " ".join(re.sub(r"\d", "", re.sub(r"\b2024-[\d-]+ [\d:]+", "", text)).replace(".%", "%").split())


def test_a_replay_reads_an_outcome_from_the_history_where_it_stands_there(tmp_path: Path) -> None:
    rows = made_rows(19 * 120, days=19)
    sold = np.random.default_rng(1).random(len(rows)) < 0.8
    decided = replayed(tmp_path, rows.with_columns(sold=pl.Series(sold)), None)
    assert [each.action for each in decided] == ["canary", "promoted"]
    assert "outcome sold" in decided[-1].because


def test_a_replay_that_cannot_know_a_guarded_outcome_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the history has no column for; name a function with --outcome"):
        replayed(tmp_path, made_rows(200, days=12), None)


@pytest.mark.parametrize(
    ("world", "words"), [("absent", "has no 'absent'; write a function absent"), ("HEAD", "has no 'HEAD'")]
)
def test_a_function_that_is_not_there_is_named(tmp_path: Path, world: str, words: str) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(20))
    ended = loop.command("replay", str(loop.file), "--outcome", world)
    assert (ended.code, "Traceback" in ended.err) == (3, False), ended.err
    assert words in " ".join(ended.err.split())
    with pytest.raises(SpecError, match=words):
        world_of(loop.file, world)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--outcome", "--outcome is empty; name a function of"),
        *((each, "'' is not an instant") for each in ("--start", "--to", "--drift", "--poison")),
    ],
)
def test_an_option_of_a_replay_that_is_empty_is_not_taken_for_none(tmp_path: Path, option: str, words: str) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(20))
    ended = loop.command("replay", str(loop.file), option, "")
    assert (ended.code, words in " ".join(ended.err.split())) == (2, True), ended.err


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ("broken", r"KeyError.*Correct it at \S+\.py:\d+; where nothing"),
        ("nonsense", "return outcomes by name"),
        ("changing", "RuntimeError: no items"),
    ],
)
def test_a_function_that_fails_ends_the_replay_with_its_row(tmp_path: Path, world: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"{world} (failed|gave 1) for the row .*{words}"):
        replayed(tmp_path, made_rows(12 * 30, days=12), world)


def test_a_function_that_ends_python_is_a_mistake_and_no_success(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path / "loop", rows=made_rows(12 * 30, days=12), head=HEAD + WORLD)
    ended = loop.command("replay", str(loop.file), "--outcome", "ends", "--home", str(tmp_path / "home"), "--json")
    assert ended.code == 4, ended.out
    assert re.search(r"ends failed for the row .*SystemExit: 0\. Correct it at \S+\.py:\d+;", ended.value["error"])
    assert "Traceback" not in ended.err
    again = loop.command("status", "--home", str(tmp_path / "home"))  # what was done until then is kept, and whole
    assert again.code == 0, again.err
    assert "version 1 serves" in again.out
