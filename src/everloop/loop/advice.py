"""What `status` says of the champion's labels: coverage, selection, an estimate where none is due. Decides nothing."""

from __future__ import annotations

from everloop.errors import NotFound, PackageError
from everloop.loop.installation import Installation
from everloop.store import packages
from everloop.store.lake import PREDICTIONS
from everloop.store.ledger import releases, versions
from everloop.watch.advice import Advice, advise
from everloop.watch.labels import Truth


def advice(installation: Installation) -> Advice | None:
    """Of the champion as it stands; None while nothing serves, or nothing was answered."""
    each, resolved, label = installation, installation.resolved, installation.loop.label
    with each.ledger.read() as connection:
        champion = releases.get(connection, each.name).champion
        if champion is None or not each.lake.exists(PREDICTIONS):
            return None
        version = versions.get(connection, each.name, champion)
        since = next(
            (known.since for known in releases.history(connection, each.name) if known.champion == champion), None
        )
    try:
        opened = packages.open_package(each.home.packages / version.package, packages.trusted_keys(each.home.keys))
    except (PackageError, NotFound):
        return None  # who serves it says so; here it must not hide the rest of the status
    return advise(
        each.lake,
        Truth(
            column=label.column,
            delay=label.delay,
            task=resolved.task,
            classes=resolved.classes,
            absent=label.absent,
        ),
        resolved.score,
        version=champion,
        since=since or version.created_at,
        now=each.clock.now(),
        positive=1 if resolved.positive is None else resolved.positive,
        classes=opened.manifest.signature.classes,
    )
