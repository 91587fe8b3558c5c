"""Writes the release file that servers watch. Derived from the ledger: losing it loses nothing."""

from __future__ import annotations

from typing import Any

from everloop.loop.installation import Installation
from everloop.records import Release, encode
from everloop.spec.rollout import Canary
from everloop.store.files import write_atomically
from everloop.store.ledger import releases, versions


def publish(installation: Installation) -> Release:
    """Bring the release file up to the ledger's release, which is returned."""
    with installation.ledger.read() as connection:
        release = releases.get(connection, installation.name)

        def participant(number: int | None) -> dict[str, Any] | None:
            if number is None:
                return None
            return {"version": number, "package": versions.get(connection, installation.name, number).package}

        champion, challenger = participant(release.champion), participant(release.challenger)
    rollout, serve = installation.loop.rollout, installation.loop.serve
    unit = rollout.unit if isinstance(rollout, Canary) else None
    content = {
        "loop": release.loop,
        "revision": release.revision,
        "stage": release.stage,
        "champion": champion,
        "challenger": challenger,
        "share": release.share,
        "epoch": release.epoch,
        "unit": unit,
        "sticky": rollout.sticky if isinstance(rollout, Canary) else "hour",
        # One salt for the whole release: a unit that stays for ever must not be drawn again at the next share.
        "salt": f"{release.loop}:{release.started.isoformat() if release.started else 0}",
        "label": installation.loop.label.column,
        "log": serve.log,
        "p99_ms": serve.p99.total_seconds() * 1_000 if serve.p99 else None,
        "cache": None
        if serve.cache is None
        else {"bytes": serve.cache.bytes, "seconds": serve.cache.time_to_live.total_seconds()},
    }
    write_atomically(installation.home.release_file(installation.name), encode(content))
    return release
