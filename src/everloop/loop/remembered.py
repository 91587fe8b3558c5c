"""What searches of earlier turns found, for the next one to begin with. Read from sealed packages; decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from everloop.errors import EverloopError
from everloop.loop.installation import Installation
from everloop.store import packages
from everloop.store.ledger import releases, versions


def remember(installation: Installation, as_of: datetime) -> list[dict[str, Any]]:
    """``{"estimator", "parameters"}`` of the champion and of the newest version at ``as_of``, where a search chose them.

    Empty without a search. The same instant gives the same answer for ever: a turn that was killed goes on with it.
    """
    train = installation.loop.train
    if all(each.search is None for each in (train if isinstance(train, tuple) else (train,))):
        return []
    with installation.ledger.read() as connection:
        release = releases.at(connection, installation.name, as_of)
        known = [each for each in versions.of(connection, installation.name) if each.created_at <= as_of]
    champion = release.champion if release is not None else None
    chosen = [each for each in known if each.number == champion] + known[-1:]
    trusted = packages.trusted_keys(installation.home.keys)
    found: list[dict[str, Any]] = []
    for version in chosen:
        try:
            lineage = packages.open_package(installation.home.packages / version.package, trusted).manifest.lineage
        except EverloopError:
            continue  # It was damaged or taken away: a search can do without.
        each = {"estimator": lineage["estimator"], "parameters": lineage["parameters"]}
        if each["parameters"] and each not in found:
            found.append(each)
    return found
