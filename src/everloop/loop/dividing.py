"""Makes an experiment or a route out of what a person asks for, and holds it against the packages. Starts neither.

What is refused here would otherwise be refused by every server, and leave the champion answering alone.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from everloop.clock import microseconds
from everloop.errors import NotFound, ReleaseError, ServeError
from everloop.loop.installation import Installation
from everloop.measure.truth import class_name
from everloop.records import Experiment, ExperimentArm, Route, RouteArm, Signature
from everloop.release.divide import MOST_ARMS, RESERVED
from everloop.release.weigh import OTHERS, weights_of
from everloop.serve.arms import assign, bounds
from everloop.serve.rows import layout
from everloop.store import packages
from everloop.store.ledger import experiments, releases, versions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedArm:
    """An arm as it was asked for; ``share`` None: an even part of what the others leave."""

    name: str
    version: int
    share: float | None = None


def new_experiment(
    installation: Installation,
    name: str,
    arms: Sequence[AskedArm],
    *,
    unit: str | None = None,
    sticky: Literal["hour", "always"] = "always",
) -> Experiment:
    """An experiment with a fresh salt. Raises ReleaseError for what cannot be one, NotFound for an unknown version."""
    if not NAME.fullmatch(name):
        raise ReleaseError(f"{name!r} cannot name an experiment; write at most 63 letters, digits, '.', - and _.")
    _names(arms, at_least=2)
    source, label = installation.loop.source, installation.loop.label.column
    if unit is not None and unit in (*source.after, label):
        raise ReleaseError(f"The unit is {unit!r}, which is known only after the event; name a column of the request.")
    signatures = [_signature(installation, each.version) for each in arms]
    _together(installation, signatures, unit)
    return Experiment(
        loop=installation.name,
        name=name,
        arms=tuple(
            ExperimentArm(name=each.name, version=each.version, share=share)
            for each, share in zip(arms, _shares(arms), strict=True)
        ),
        # Nobody who chooses ids can choose an arm, and no two experiments draw alike.
        salt=f"{installation.name}:{name}:{secrets.token_hex(8)}",
        unit=unit,
        sticky=sticky,
        started=installation.clock.now(),
    )


def arm_of(experiment: Experiment, unit: str, at: datetime) -> ExperimentArm:
    """The arm of a unit (or, where a row brought none, of its prediction's id), as every server assigns it."""
    ends = bounds([each.share for each in experiment.arms])
    place = assign(unit, ends, salt=experiment.salt, at=microseconds(at), sticky=experiment.sticky)
    return experiment.arms[place]


def route_by_model(installation: Installation, by: str, arms: Sequence[AskedArm]) -> Route:
    """A route that the champion of the loop ``by`` decides. Its decisions are the names of the arms.

    Raises ReleaseError when it cannot decide so, NotFound for an unknown loop or version.
    """
    _names(arms, at_least=1)
    if by == installation.name:
        raise ReleaseError(f"{by} cannot decide for itself; name a loop that predicts which version is to answer.")
    with installation.ledger.read() as connection:
        number = releases.get(connection, by).champion
        if number is None:
            raise NotFound(f"The loop {by!r} has no champion in this home; `everloop run` its declaration first.")
        package = versions.get(connection, by, number).package
    router = _of_package(installation, package)
    if router.task == "regression":
        raise ReleaseError(f"{by} predicts a number; a route needs a class for each arm.")
    classes = [class_name(value) for value in router.classes]
    unknown = [each.name for each in arms if each.name not in classes]
    if unknown:
        raise ReleaseError(
            f"{by} decides among {', '.join(classes)}, never {', '.join(unknown)}; name the arms as it decides."
        )
    _together(installation, [router, *(_signature(installation, each.version) for each in arms)], None)
    return Route(
        arms=tuple(RouteArm(name=each.name, version=each.version) for each in arms),
        by=by,
        by_version=number,
        by_package=package,
        started=installation.clock.now(),
    )


def cascade(installation: Installation, threshold: float, arms: Sequence[AskedArm]) -> Route:
    """A route in which each arm answers what it is sure enough of, and the last one the rest. Raises like the others."""
    _names(arms, at_least=2)
    if not 0 < threshold <= 1:
        raise ReleaseError(f"The cascade's confidence is {threshold:g}; write a probability above 0, up to 1.")
    signatures = [_signature(installation, each.version) for each in arms]
    if any(each.task == "regression" for each in signatures):
        raise ReleaseError(
            f"{installation.name} predicts a number, which brings no confidence; use a model that routes."
        )
    _together(installation, signatures, None)
    return Route(
        arms=tuple(RouteArm(name=each.name, version=each.version) for each in arms),
        threshold=threshold,
        started=installation.clock.now(),
    )


def by_meaning(installation: Installation, arms: Sequence[AskedArm]) -> Route:
    """A route by what queries are about: every class begins with even weights. Raises like the others."""
    _names(arms, at_least=2)
    meaning = installation.loop.serve.meaning
    if meaning is None:
        raise ReleaseError(
            f"{installation.name} does not declare what a query is about; write Serve(meaning=el.Meaning(…)) first."
        )
    if meaning.least * len(arms) > 1:
        raise ReleaseError(f"{len(arms)} arms cannot each have at least {meaning.least:g}; lower Meaning.least.")
    signatures = [_signature(installation, each.version) for each in arms]
    _together(installation, signatures, None)
    with installation.ledger.read() as connection:
        number = releases.get(connection, installation.name).champion
        package = None if number is None else versions.get(connection, installation.name, number).package
    return Route(
        arms=tuple(RouteArm(name=each.name, version=each.version) for each in arms),
        by_version=number,
        by_package=package,
        weights={OTHERS: weights_of(None, len(arms), meaning.least, meaning.most)},
        started=installation.clock.now(),
    )


def known(installation: Installation, name: str) -> Experiment:
    """Raises NotFound."""
    with installation.ledger.read() as connection:
        return experiments.get(connection, installation.name, name)


def _names(arms: Sequence[AskedArm], *, at_least: int) -> None:
    names = [each.name for each in arms]
    if not at_least <= len(arms) <= MOST_ARMS:
        raise ReleaseError(f"There are {len(arms)} arms; give between {at_least} and {MOST_ARMS} with --arm.")
    for name in names:
        if not NAME.fullmatch(name):
            raise ReleaseError(f"{name!r} cannot name an arm; write at most 63 letters, digits, '.', - and _.")
        if name in RESERVED or name.isdigit():
            raise ReleaseError(f"An arm cannot be called {name!r}, which means something else; call it control, say.")
        if names.count(name) > 1:
            raise ReleaseError(f"The arm {name!r} is there twice; give each arm a name of its own.")


def _shares(arms: Sequence[AskedArm]) -> list[float]:
    given = [each.share for each in arms if each.share is not None]
    rest = len(arms) - len(given)
    if any(not 0 < share < 1 for share in given):
        raise ReleaseError(f"The shares are {', '.join(f'{share:g}' for share in given)}; each lies between 0 and 1.")
    left = 1 - sum(given)
    if (rest and left <= 1e-9) or (not rest and not math.isclose(left, 0, abs_tol=1e-9)):
        raise ReleaseError(
            f"The shares add up to {sum(given):g}; all arms together take all of the traffic: leave out a share and that "
            "arm gets what is left."
        )
    return [left / rest if each.share is None else each.share for each in arms]


def _signature(installation: Installation, version: int) -> Signature:
    with installation.ledger.read() as connection:
        package = versions.get(connection, installation.name, version).package
    return _of_package(installation, package)


def _of_package(installation: Installation, package: str) -> Signature:
    home = installation.home
    return packages.open_package(home.packages / package, packages.trusted_keys(home.keys)).manifest.signature


def _together(installation: Installation, signatures: Sequence[Signature], unit: str | None) -> None:
    """Raises ReleaseError when these and the champion cannot read the same requests."""
    with installation.ledger.read() as connection:
        champion = releases.get(connection, installation.name).champion
    first = [_signature(installation, champion)] if champion is not None else []
    try:
        layout([*first, *signatures], unit)
    except ServeError as error:
        raise ReleaseError(f"These versions cannot answer the same requests: {error}") from None
