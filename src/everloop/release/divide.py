"""How traffic comes to be divided by an experiment or a route, and ends to be. Pure; knows no packages and no counts.

One thing divides the traffic at a time: a release (shadow or canary), an experiment, or a route. The judge of a release
counts on an arm that is a coin with the logged share and on a champion that answers all the rest; the analysis of an
experiment on shares that never change. Each would break the other's condition, so each waits for the other:

- an experiment or a route begins only while no challenger is being released, and not over an experiment;
- while one is in force no release begins: triggers wait, a turn under way keeps its version for a command;
- a person's `promote` and `rollback` win, and end it (`release.plan`).
"""

from dataclasses import replace
from datetime import datetime

from everloop.errors import ReleaseError
from everloop.records import Evidence, Experiment, Release, Route
from everloop.release.plan import Change, alone

RESERVED = frozenset({"champion", "challenger", "shadow", "former", "fallback", "override", "router"})
"""Roles that metrics and the log know: no arm may be called so."""
MOST_ARMS = 16


def start(release: Release, experiment: Experiment, now: datetime) -> Change:
    """Divide the traffic by an experiment. Raises ReleaseError while something else divides it."""
    _free(release, f"experiment {experiment.name}")
    if release.route is not None:
        raise ReleaseError(
            f"{release.loop} is routed; end that with `everloop route stop` before an experiment begins."
        )
    arms = ", ".join(f"{each.name} v{each.version} {each.share:.4g}" for each in experiment.arms)
    drawn = "the prediction's id" if experiment.unit is None else f"{experiment.unit} ({experiment.sticky})"
    return Change(
        release=_moved(replace(release, experiment=experiment.name), now),
        action="experiment started",
        because=f"experiment {experiment.name} divides the traffic by {drawn}: {arms}",
    )


def stop(release: Release, name: str | None, now: datetime) -> Change:
    """End the experiment that runs. Raises ReleaseError when none does, or not the one that is named."""
    if release.experiment is None:
        raise ReleaseError(f"No experiment of {release.loop} runs; `everloop experiment list` tells of those that did.")
    if name not in (None, release.experiment):
        raise ReleaseError(f"Experiment {name} of {release.loop} does not run; {release.experiment} does.")
    return Change(
        release=_moved(replace(release, experiment=None), now),
        action="experiment stopped",
        because=f"experiment {release.experiment} stopped by command; version {release.champion} answers all traffic",
    )


def route(release: Release, wanted: Route, now: datetime) -> Change:
    """Choose the version by what is asked, in place of a route before. Raises ReleaseError while something else divides."""
    _free(release, "a route")
    arms = ", ".join(f"{each.name} v{each.version}" for each in wanted.arms)
    if wanted.weights is not None:
        because = f"meaning decides who answers, by weights: {arms}"
    elif wanted.threshold is not None:
        because = f"a cascade answers at confidence {wanted.threshold:g}: {arms}"
    else:
        because = f"version {wanted.by_version} of {wanted.by} decides who answers: {arms}"
    return Change(release=_moved(replace(release, route=wanted), now), action="routed", because=because)


def reweigh(release: Release, wanted: Route, because: str, evidence: tuple[Evidence, ...], now: datetime) -> Change:
    """The same route by meaning with other weights. Raises ReleaseError when it is not in force any more."""
    present = release.route
    if present is None or present.weights is None or replace(wanted, weights=present.weights) != present:
        raise ReleaseError(f"{release.loop} is routed otherwise than by these weights; there is nothing to move.")
    return Change(
        release=_moved(replace(release, route=wanted), now), action="weights moved", because=because, evidence=evidence
    )


def unroute(release: Release, now: datetime) -> Change:
    """Let the champion answer everything again. Raises ReleaseError without a route."""
    if release.route is None:
        raise ReleaseError(f"{release.loop} is not routed; there is nothing to stop.")
    return Change(
        release=_moved(replace(release, route=None), now),
        action="unrouted",
        because=f"the route is stopped by command; version {release.champion} answers all traffic",
    )


def _free(release: Release, what: str) -> None:
    if release.champion is None:
        raise ReleaseError(f"{release.loop} has no champion yet; {what} needs one to fall back to.")
    if release.challenger is not None:
        raise ReleaseError(
            f"Version {release.challenger} of {release.loop} is being released, and its judge counts on a champion that "
            f"answers the rest; promote it or roll it back before {what} begins."
        )
    if release.experiment is not None:
        raise ReleaseError(
            f"Experiment {release.experiment} of {release.loop} runs; "
            f"`everloop experiment stop {release.experiment}` before {what} begins."
        )


def _moved(release: Release, now: datetime) -> Release:
    """A new epoch: who takes part has changed, and the champion of before goes."""
    return replace(alone(release), revision=release.revision + 1, epoch=release.epoch + 1, since=now)
