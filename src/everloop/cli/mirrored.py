"""`everloop mirror`: sends to MLflow what it does not have yet."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from everloop.cli.kept import opened
from everloop.cli.show import emit
from everloop.errors import SpecError
from everloop.loop import mirror as mirrors
from everloop.loop.turn import plain

SECONDS = 600.0
"""A whole history may take long to send."""


def mirror(home: Path, *, loop: str | None, rebuild: bool, as_json: bool) -> None:
    with opened(home, loop) as each:
        address = mirrors.address_of(each.environment)
        if address is None:
            given = os.environ.get(mirrors.VARIABLE)
            instead = (
                f"{mirrors.VARIABLE} is {given!r}, which is no server" if given else f"{mirrors.VARIABLE} is not set"
            )
            raise SpecError(
                f"There is no mirror: everloop.toml names no mlflow, and {instead}; write http://host:port in either."
            )
        done = mirrors.mirror(each, address, rebuild=rebuild, seconds=SECONDS)

    def people(console: Console) -> None:
        sent = ", ".join(f"v{number}" for number in done.sent) or "nothing was missing"
        console.print(f"{done.loop} at {done.address}: sent {sent}; {done.known} were there", markup=False)
        if not done.artifacts:
            console.print("the server takes no artifacts over HTTP (--serve-artifacts), so it has none", markup=False)

    emit(plain(done), as_json, people)
