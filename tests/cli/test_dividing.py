"""`everloop experiment` and `everloop route` over a home that serves: started, published, served, said again, stopped."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everloop.clock import SimulatedClock, instant
from everloop.loop.events import ChangeRelease
from everloop.loop.server import ServingProcess
from everloop.store import segments
from everloop.store.home import Home
from everloop.store.segments import PredictionFrame
from everloop.testing.serving import Client
from small_loop import Ended, SmallLoop, made_rows

Everloop = Callable[..., Ended]
ROWS = made_rows(120, seed=5)


@pytest.fixture
def two(lived: SmallLoop, everloop: Everloop) -> SmallLoop:
    """Version 1 serves; version 2 was turned back and is there for an experiment."""
    assert everloop("rollback", "--home", lived.home).code == 0
    return lived


@contextmanager
def client(loop: SmallLoop) -> Iterator[Client]:
    with ServingProcess.start(Home(loop.home), [loop.name]) as server, Client(server.port) as asked:
        yield asked


def rows(count: int = len(ROWS), **more: Any) -> list[dict[str, Any]]:
    asked = ROWS.drop("late").head(count).to_dicts()
    return [
        {**row, "sent": row["sent"].isoformat(), **{k: v(n) for k, v in more.items()}} for n, row in enumerate(asked)
    ]


def frames(loop: SmallLoop) -> list[PredictionFrame]:
    found = [
        segments.decode(payload)
        for path in segments.files(Home(loop.home).segments(loop.name))
        for payload, _ in segments.read(path)
    ]
    return [each for each in found if isinstance(each, PredictionFrame)]


def published(loop: SmallLoop) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Home(loop.home).release_file(loop.name).read_bytes())
    return content


@pytest.mark.parametrize("sticky", ["always", "hour"])
def test_an_assignment_can_be_said_again_from_the_id_alone(two: SmallLoop, everloop: Everloop, sticky: str) -> None:
    at = ("--home", two.home)
    started = everloop(
        "experiment", "start", "price", "--arm", "control=v1", "--arm", "treatment=v2:0.3", "--unit", "customer",
        "--sticky", sticky, *at, "--json",
    )  # fmt: skip
    assert started.code == 0, started.err
    assert [(arm["name"], arm["share"]) for arm in started.value["arms"]] == [("control", 0.7), ("treatment", 0.3)]
    asked = rows(60, customer=lambda n: f"c{n % 12}")
    for row in asked[::6]:
        del row["customer"]
    before = len(frames(two))
    with client(two) as server:
        status, answers = server.post("/predict", asked)
        assert status == 200
    seen = 0
    for frame in frames(two)[before:]:
        for place, id in enumerate(frame.ids):
            moment = instant(int.from_bytes(frame.at[8 * place : 8 * place + 8], "little")).isoformat()
            again = ("experiment", "assign", "price", frame.units[place] or id, "--at", moment, *at, "--json")
            said = everloop(*again).value
            assert (said["arm"], said["version"], said["share"]) == (frame.variant, frame.version, frame.share)
            seen += 1
    assert seen == 60
    assert {answer["variant"] for answer in answers} == {"control", "treatment"}
    assert "treatment" in everloop("experiment", "list", *at).out
    assert everloop("experiment", "stop", "price", *at).code == 0
    assert everloop("experiment", "assign", "price", "c1", *at).code == 0, "also after its end"


def test_while_an_experiment_runs_nothing_is_released(two: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", two.home)
    arms = ("--arm", "control=1", "--arm", "treatment=V2")
    assert everloop("experiment", "start", "price", *arms, *at).code == 0
    assert published(two)["experiment"]["unit"] is None
    assert "experiment price divides the traffic" in everloop("status", *at).out
    assert everloop("experiment", "start", "colour", *arms, *at).code == 8
    assert everloop("route", "start", "--cascade", 0.8, *arms, *at).code == 8
    two.deliver("002", made_rows(200, seed=11))
    ended = two.command("run", str(two.file))
    assert "waits: experiment price divides the traffic" in ended.out + ended.err + everloop("status", *at).out
    assert everloop("experiment", "stop", "colour", *at).code == 11
    assert everloop("experiment", "stop", "price", *at, "--json").value["stopped"] is not None
    assert published(two)["experiment"] is None
    assert everloop("experiment", "stop", "price", *at).code == 8
    again = everloop("experiment", "start", "price", *arms, *at)
    assert (again.code, "another name" in again.err) == (8, True)
    actions = [each["action"] for each in everloop("status", *at, "--json").value["decisions"]]
    assert [each for each in actions if "experiment" in each] == ["experiment started", "experiment stopped"]


def test_promote_ends_an_experiment_and_says_so(two: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", two.home)
    assert everloop("experiment", "start", "price", "--arm", "a=v1", "--arm", "b=v2", *at).code == 0
    assert everloop("promote", 2, *at).code == 0
    assert published(two)["experiment"] is None
    (found,) = everloop("experiment", "list", *at, "--json").value
    assert found["stopped"] is not None
    last = everloop("status", *at, "--json").value["decisions"][-1]
    assert "experiment price ends with it" in last["because"]


def test_an_experiment_does_not_begin_during_a_release(lived: SmallLoop, everloop: Everloop) -> None:
    said = everloop("experiment", "start", "price", "--arm", "a=v1", "--arm", "b=v2", "--home", lived.home)
    assert (said.code, "Version 2 of parcels is being released" in said.err) == (8, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 8, "0 arms"),
        (("--arm", "a=v1"), 8, "1 arms"),
        (("--arm", "a=v1", "--arm", "a=v2"), 8, "'a' is there twice"),
        (("--arm", "a=v1", "--arm", "champion=v2"), 8, "'champion'"),
        (("--arm", "a=v1", "--arm", "7=v2"), 8, "'7'"),
        (("--arm", "a=v1:0.6", "--arm", "b=v2:0.6"), 8, "add up to 1.2"),
        (("--arm", "a=v1:0.5", "--arm", "b=v2:0.4"), 8, "add up to 0.9"),
        (("--arm", "a=v1:0.6", "--arm", "b=v2:0.4", "--arm", "c=v2"), 8, "add up to 1;"),
        (("--arm", "a=v1", "--arm", "b=v9"), 11, "no version 9"),
        (("--arm", "a=v1", "--arm", "b"), 2, "--arm is 'b'"),
        (("--arm", "a=v1", "--arm", "b=v2:much"), 2, "b=v2:much"),
        (("--arm", "a=v1", "--arm", "b=v2:1.5"), 2, "b=v2:1.5"),
        (("--arm", "a=v1", "--arm", "b=v2:nan"), 2, "b=v2:nan"),
        (("--arm", "a=v1", "--arm", "=v2"), 2, "'=v2'"),
        (("--arm", "a=v1", "--arm", "[b]=v2"), 8, "'[b]'"),
        (("--arm", "a=v1", "--arm", "b=v2", "--unit", "late"), 8, "known only after the event"),
        (("--arm", "a=v1", "--arm", "b=v2", "--sticky", "week"), 2, "hour or always"),
    ],
)
def test_a_mistaken_experiment_is_refused_with_its_remedy(
    two: SmallLoop, everloop: Everloop, arguments: tuple[str, ...], code: int, words: str
) -> None:
    said = everloop("experiment", "start", "price", *arguments, "--home", two.home)
    assert (said.code, words in said.err) == (code, True), said.err
    assert everloop("experiment", "list", "--home", two.home, "--json").value == []


@pytest.mark.parametrize("name", ["", " ", "a b", "é", "../x", "a" * 64, "-x"])
def test_a_name_that_cannot_be_one_is_refused(two: SmallLoop, everloop: Everloop, name: str) -> None:
    said = everloop("experiment", "start", "--arm", "a=v1", "--arm", "b=v2", "--home", two.home, "--", name)
    assert (said.code, "cannot name an experiment" in said.err) == (8, True), said.err


def test_a_cascade_is_published_served_and_stopped(two: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", two.home)
    started = everloop("route", "start", "--cascade", 0.9, "--arm", "dear=v2", "--arm", "cheap=v1", *at)
    assert started.code == 0, started.err
    assert "confidence 0.9 decides who answers (dear v2, cheap v1)" in started.out
    assert [arm["name"] for arm in published(two)["route"]["arms"]] == ["dear", "cheap"], "the order is the one asked"
    with client(two) as server:
        _, answers = server.post("/predict", rows())
    for answer in answers:
        sure = max(answer["probability"].values())
        assert (answer["variant"], sure >= 0.9) in (("dear", True), ("cheap", True), ("cheap", False))
    assert {answer["variant"] for answer in answers} == {"dear", "cheap"}
    with two.controller() as controller:
        controller.look()
    (found, *_) = everloop("why", answers[0]["id"], *at, "--json").value["prediction"]
    assert (found["arm"], found["variant"]) == ("route", answers[0]["variant"])
    assert found["certainty"] > 0.5
    assert everloop("live-at", "2100-01-01", *at, "--json").value["packages"].keys() == {"champion", "dear", "cheap"}
    assert everloop("route", "stop", *at).code == 0
    assert published(two)["route"] is None
    assert everloop("route", "stop", *at).code == 8


def test_another_loop_decides_who_answers(two: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", two.home, "--loop", two.name)
    two.declare(name='"difficulty"', label='el.Label("late", delay=td(days=1))')
    ended = two.command("run", str(two.file))
    assert ended.code == 0, ended.err
    wrong = everloop("route", "start", "--by", "difficulty", "--arm", "hard=v2", *at)
    assert (wrong.code, "decides among false, true, never hard" in wrong.err) == (8, True)
    assert everloop("route", "start", "--by", two.name, "--arm", "true=v2", *at).code == 8
    assert everloop("route", "start", "--by", "nobody", "--arm", "true=v2", *at).code == 11
    assert everloop("route", "start", "--arm", "true=v2", *at).code == 2
    started = everloop("route", "start", "--by", "difficulty", "--arm", "true=v2", *at)
    assert started.code == 0, started.err
    assert "version 1 of difficulty decides who answers (true v2)" in started.out
    with client(two) as server:
        _, answers = server.post("/predict/parcels", rows())
        metrics = server.get("/metrics")[1].decode()
    assert {(answer["variant"], answer["version"]) for answer in answers} == {("true", 2), ("false", 1)}
    assert 'variant="router"} 120' in metrics


def test_a_shadow_and_its_champion_pair_by_id_in_the_lake(lived: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", lived.home)
    with client(lived) as server:
        asked = rows()
        assert server.post("/predict", asked)[0] == 200
        for row in asked[:5]:
            assert server.post("/predict", row, x_everloop_version="champion")[1]["variant"] == "override"
    with lived.controller() as controller:
        controller.look()
        predictions = controller.installation.lake.read("predictions")
    here = predictions.filter(predictions["id"].is_in(ROWS["parcel"].to_list()))
    by_arm = {arm[0]: set(group["id"]) for arm, group in here.group_by("arm")}
    assert by_arm["champion"] == by_arm["shadow"] == set(ROWS["parcel"])
    assert by_arm["override"] == set(ROWS["parcel"][:5])
    both = here.filter(here["arm"] == "champion").join(here.filter(here["arm"] == "shadow"), on="id")
    assert both.height == len(ROWS), "one row of each"
    assert (both["input_distance"] == both["input_distance_right"]).all()
    assert everloop("status", *at).code == 0


def test_a_new_share_draws_units_anew_unless_they_stay_for_good(lived: SmallLoop) -> None:
    from dataclasses import replace

    from everloop.loop.publish import publish
    from everloop.records import Decision, Release
    from everloop.store.ledger import releases

    for sticky, drawn_anew in (("hour", True), ("always", False)):
        lived.declare(rollout=f'el.Canary(guards=(el.guard.Errors(),), unit="carrier", sticky="{sticky}")')
        installation = lived.install()
        salts = []
        for share in (0.1, 0.5):
            with installation.ledger.write() as connection:
                before: Release = releases.get(connection, lived.name)
                after = replace(
                    before, revision=before.revision + 1, epoch=before.epoch + 1, stage="canary", share=share
                )
                decision = Decision(loop=lived.name, at=installation.clock.now(), action="canary", because="a test")
                releases.change(connection, before.revision, after, decision)
            publish(installation)
            salts.append(published(lived)["salt"])
            assert published(lived)["share"] == share
        installation.close()
        assert (salts[0] != salts[1]) is drawn_anew


def test_home_options_are_the_same_as_everywhere(two: SmallLoop, everloop: Everloop, tmp_path: Path) -> None:
    said = everloop("experiment", "list", "--home", two.folder)
    assert (said.code, "no experiment yet" in said.out) == (0, True)


def test_a_route_by_meaning_is_weighed_by_its_labels_and_shown(two: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", two.home)
    undeclared = everloop("route", "start", "--meaning", "--arm", "cheap=v1", "--arm", "dear=v2", *at)
    assert (undeclared.code, "does not declare what a query is about" in undeclared.err) == (8, True)
    assert everloop("route", "show", *at).code == 11
    assert everloop("route", "start", "--meaning", "--cascade", 0.5, "--arm", "a=v1", "--arm", "b=v2", *at).code == 2
    two.declare(serve="el.Serve(meaning=el.Meaning(lambda row: row.carrier, first='west', margin=0.5))")
    ended = two.command("run", str(two.file))
    assert ended.code == 0, ended.err
    assert everloop("rollback", *at).code == 0  # what was made is in shadow: nothing else begins meanwhile
    started = everloop("route", "start", "--meaning", "--arm", "cheap=v1", "--arm", "dear=v2", *at)
    assert started.code == 0, started.err
    assert "meaning decides who answers (cheap v1, dear v2)" in started.out
    began = datetime.now(UTC) + timedelta(seconds=1)
    asked = made_rows(1_200, seed=9, start=began, days=0.01)
    with client(two) as server:
        for part in asked.iter_slices(300):
            body = [
                {**row, "sent": row["sent"].replace(tzinfo=UTC).isoformat()} for row in part.drop("late").to_dicts()
            ]
            status, answers = server.post("/predict", body)
            assert status == 200, answers
            told = [{"id": id, "value": late} for id, late in zip(part["parcel"], part["late"], strict=True)]
            assert server.post("/outcomes", told)[0] == 200
    with two.controller(SimulatedClock(began + timedelta(days=3))) as controller:
        look = controller.look()
        assert [each.change.action for each in look.commands if isinstance(each, ChangeRelease)] == ["weights moved"]
        again = controller.look()
        assert not [each for each in again.commands if isinstance(each, ChangeRelease)], "what is settled moves once"
    weights = published(two)["route"]["weights"]
    assert weights.keys() == {"", "north", "south", "west"}
    assert weights["west"] == [0.95, 0.05], "none is better by more than half a loss: the first one leads"
    shown = everloop("route", "show", *at, "--json").value
    assert {each["name"] for each in shown["classes"]} == {"north", "south", "west"}
    assert sum(each["recent"] for each in shown["classes"]) == pytest.approx(1)
    assert all(each["weights"] == {"cheap": 0.95, "dear": 0.05} for each in shown["classes"])
    people = everloop("route", "show", *at)
    assert "too few queries to say whether the mix has moved" in people.out
    assert "cheap 95%, dear 5%" in people.out
    newest = everloop("status", *at).out
    assert "weights moved" in newest
