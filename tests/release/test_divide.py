"""Experiments and routes as changes of the release: what may divide the traffic, and what must wait for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from everloop.errors import ReleaseError
from everloop.records import Experiment, ExperimentArm, Release, Route, RouteArm
from everloop.release import divide, plan
from everloop.spec.rollout import Canary, Direct

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVING = Release(loop="made", revision=4, stage="steady", champion=2, epoch=3, previous=1)
SHADOW = plan.begin(SERVING, 3, Canary(), now=NOW).release
PRICE = Experiment(
    loop="made",
    name="price",
    arms=(ExperimentArm(name="a", version=2, share=0.5), ExperimentArm(name="b", version=3, share=0.5)),
    salt="s",
    started=NOW,
)
ROUTE = Route(arms=(RouteArm(name="easy", version=1),), by="difficulty", by_version=1, by_package="p", started=NOW)
CASCADE = Route(arms=(RouteArm(name="cheap", version=1), RouteArm(name="dear", version=2)), threshold=0.8, started=NOW)
TRIED = divide.start(SERVING, PRICE, NOW).release
ROUTED = divide.route(SERVING, ROUTE, NOW).release


def test_an_experiment_is_one_change_of_the_release_and_so_is_its_end() -> None:
    change = divide.start(SERVING, PRICE, NOW)
    assert (change.action, change.release.experiment, change.release.stage) == ("experiment started", "price", "steady")
    assert (change.release.revision, change.release.epoch) == (5, 4)
    assert "a v2 0.5" in change.because
    ended = divide.stop(change.release, "price", NOW)
    assert (ended.action, ended.release.experiment) == ("experiment stopped", None)
    assert (ended.release.revision, ended.release.epoch, ended.release.champion) == (6, 5, 2)


def test_a_route_replaces_a_route_and_is_stopped() -> None:
    change = divide.route(ROUTED, CASCADE, NOW)
    assert (change.action, change.release.route, change.release.revision) == ("routed", CASCADE, 6)
    ended = divide.unroute(change.release, NOW)
    assert (ended.action, ended.release.route, ended.release.epoch) == ("unrouted", None, 6)


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (Release(loop="made"), "no champion yet"),
        (SHADOW, "Version 3 of made is being released"),
        (replace(SHADOW, stage="canary", share=0.1), "its judge counts on"),
        (TRIED, "Experiment price of made runs"),
    ],
)
def test_what_else_divides_the_traffic_is_in_the_way(release: Release, words: str) -> None:
    with pytest.raises(ReleaseError, match=words):
        divide.start(release, replace(PRICE, name="other"), NOW)
    with pytest.raises(ReleaseError, match=words):
        divide.route(release, ROUTE, NOW)


def test_an_experiment_waits_for_a_route() -> None:
    with pytest.raises(ReleaseError, match="everloop route stop"):
        divide.start(ROUTED, PRICE, NOW)


@pytest.mark.parametrize(("release", "words"), [(TRIED, "Experiment price"), (ROUTED, "A route")])
@pytest.mark.parametrize("rollout", [Canary(), Canary(shadow=False), Direct()])
def test_no_release_begins_while_the_traffic_is_divided(release: Release, words: str, rollout: Canary | Direct) -> None:
    with pytest.raises(ReleaseError, match=f"{words} divides the traffic of made; stop that before version 7"):
        plan.begin(release, 7, rollout, now=NOW)


@pytest.mark.parametrize(
    ("release", "words"), [(TRIED, "; experiment price ends with it"), (ROUTED, "; the route ends")]
)
def test_a_person_s_promote_and_rollback_win_and_say_what_ends(release: Release, words: str) -> None:
    for change in (plan.promote(release, 7, NOW), plan.rollback(release, NOW)):
        assert (change.release.experiment, change.release.route) == (None, None)
        assert words in change.because


def test_a_pause_keeps_the_experiment() -> None:
    assert plan.pause(TRIED, NOW).release.experiment == "price"
    resumed = plan.resume(plan.pause(TRIED, NOW).release, NOW + timedelta(hours=1)).release
    assert (resumed.experiment, resumed.epoch) == ("price", TRIED.epoch)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: divide.stop(SERVING, None, NOW), "No experiment of made runs"),
        (lambda: divide.stop(TRIED, "colour", NOW), "Experiment colour of made does not run; price does"),
        (lambda: divide.unroute(SERVING, NOW), "made is not routed"),
    ],
)
def test_what_does_not_run_is_not_stopped(ask: object, words: str) -> None:
    with pytest.raises(ReleaseError, match=words):
        ask()  # type: ignore[operator]
