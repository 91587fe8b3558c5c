"""The commands about API keys. They need a home and no declaration; a server follows what they change."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from everloop.cli.show import Usage, emit, parse_duration, table
from everloop.errors import EverloopError, NotFound, SpecError
from everloop.serve import keys
from everloop.serve.keys import PRIORITIES, SCOPES, StoredKey
from everloop.serve.limits import Usage as Used
from everloop.serve.limits import name_of
from everloop.serve.settings import read
from everloop.store.home import Home

DEFAULT_FOLDER = ".everloop"
SIGNS = ("ledger.sqlite", "releases", "packages")
"""What a home has that something has served from."""


def add(
    name: str,
    home: Path,
    *,
    expires: str | None,
    rate: str | None,
    quota: str | None,
    priority: str,
    loops: list[str],
    scopes: list[str],
    as_json: bool,
) -> None:
    found = opened(home)
    if priority not in PRIORITIES:
        raise Usage(f"--priority is {priority!r}; write high, normal or low.")
    for scope in scopes:
        if scope not in SCOPES:
            raise Usage(f"--scope is {scope!r}; write predict or operate.")
    seconds = parse_duration(expires).total_seconds() if expires is not None else None
    try:
        made = keys.add(
            found,
            name,
            now=time.time(),
            seconds=seconds,
            rate=rate,
            quota_=quota,
            priority=priority,  # type: ignore[arg-type]
            loops=tuple(loops),
            scopes=tuple(scopes) or ("predict",),  # type: ignore[arg-type]
        )
    except SpecError as error:
        raise Usage(str(error)) from None
    _tell(found, name, made, as_json)


def rotate(name: str, home: Path, *, overlap: str, as_json: bool) -> None:
    found = opened(home)
    seconds = 0.0 if overlap in ("0", "0s") else parse_duration(overlap).total_seconds()
    made = keys.rotate(found, name, now=time.time(), overlap=seconds)
    _tell(found, name, made, as_json)


def revoke(name: str, home: Path, *, as_json: bool) -> None:
    count = keys.revoke(opened(home), name, now=time.time())
    emit(
        {"name": name, "revoked": count},
        as_json,
        lambda console: console.print(f"{name}: revoked; servers stop taking it at once", markup=False),
    )


def listed(home: Path, *, as_json: bool) -> None:
    found = opened(home)
    now = time.time()
    kept = keys.read(keys.path_of(found)).keys
    counted = Used(found.keys / "usage") if (found.keys / "usage").exists() else None
    value = [_shown(each, now, counted) for each in kept]

    def people(console: Console) -> None:
        if not value:
            console.print("no keys yet; `everloop keys add NAME` makes one", markup=False)
            return
        rows = [
            (
                each["name"],
                each["state"],
                f"{each['expires']:%Y-%m-%d}" if each["expires"] else None,
                ", ".join(filter(None, (each["rate"], each["quota"]))) or None,
                each["used_today"],
                each["priority"],
                f"{' and '.join(each['scopes'])}: {', '.join(each['loops']) or 'all'}",
            )
            for each in value
        ]
        heads = ("name", "state", "ends", "limits", "used today", "class", "may")
        table(console, heads, rows)

    emit(value, as_json, people)


def opened(home: Path) -> Home:
    """The home that was named, or the one in a project that was. Raises NotFound."""
    for here in (home, home / DEFAULT_FOLDER):
        if any((here / sign).exists() for sign in SIGNS):
            return Home(here)
    raise NotFound(
        f"{home} is no home: nothing has been served from it. Name one with --home, or make it with `everloop up FILE`."
    )


def _shown(key: StoredKey, now: float, counted: Used | None) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(key)
    del shown["hash"]
    shown["state"] = key.state(now)
    for name in ("created", "expires", "revoked"):
        shown[name] = None if shown[name] is None else datetime.fromtimestamp(shown[name], UTC)
    shown["used_today"] = counted.used_today(name_of(key.name)) if counted is not None and key.quota else None
    return shown


def _tell(home: Home, name: str, made: str, as_json: bool) -> None:
    def people(console: Console) -> None:
        console.print(made, markup=False)
        console.print(
            f"This is the key of {name}; it is shown once and kept nowhere. Send it as `authorization: Bearer KEY`.",
            style="dim",
            markup=False,
        )
        if not _asks(home):
            console.print(
                "The server does not ask for keys yet: write keys = true in [ENV.serve] of everloop.toml.",
                style="dim",
                markup=False,
            )

    emit({"name": name, "key": made}, as_json, people)


def _asks(home: Home) -> bool:
    try:
        return read(home.settings).keys
    except EverloopError:
        return False
