"""One loop opened in its home: declaration, ledger, lake and keys at hand. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from everloop.clock import Clock, SystemClock
from everloop.data import sources
from everloop.durable import runs
from everloop.errors import DataError, NotFound, SpecError
from everloop.loop.environment import Environment
from everloop.records import ColumnType, encode
from everloop.spec import codec
from everloop.spec.load import Declaration, load
from everloop.spec.loop import Loop
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.store import packages
from everloop.store.files import write_atomically, write_folder_atomically
from everloop.store.home import Home
from everloop.store.ledger import Ledger, loops
from everloop.watch.recent import Recent

FACT_FILES, FACT_ROWS = 50, 20_000
"""So much of a source is looked at to know its label."""
FOUND = "found.json"
"""Beside the code: the columns and labels that the source had."""


@dataclass(frozen=True)
class Installation:
    home: Home
    ledger: Ledger
    lake: Recent
    loop: Loop
    resolved: Resolved
    schema: Mapping[str, ColumnType]
    facts: LabelFacts | None
    folder: Path
    """What the source's path is relative to."""
    source: bytes
    """The declaration's text: user functions are imported from it, by digest."""
    code: str
    """Digest of the declaration's meaning: what a candidate and a waiting run are tied to."""
    environment: Environment
    clock: Clock

    @property
    def name(self) -> str:
        return self.loop.name

    def close(self) -> None:
        self.ledger.close()


def chosen(declaration: Declaration, name: str | None) -> Loop:
    """The loop of that name, or the only one in the file."""
    names = [each.name for each in declaration.loops]
    if name is None and len(names) == 1:
        return declaration.loops[0]
    for each in declaration.loops:
        if each.name == name:
            return each
    asked = "holds several loops" if name is None else f"holds no loop named {name!r}"
    raise SpecError(f"{declaration.path.name} {asked}; choose one with --loop: {', '.join(names)}.")


def install(
    path: Path,
    *,
    name: str | None = None,
    environment: str | None = None,
    clock: Clock | None = None,
    home: Path | None = None,
) -> Installation:
    """Open the loop that ``path`` declares, making its home at the first time.

    Raises SpecError for a declaration that is not sound and DataError for a source that cannot be read.
    """
    declaration = load(path)
    loop = chosen(declaration, name)
    settings = Environment.read(declaration.path.parent, environment)
    place = Home(home or settings.home)
    schema, facts = _found(loop, declaration.path.parent, place)
    return open_installation(
        loop,
        schema=schema,
        facts=facts,
        folder=declaration.path.parent,
        source=declaration.source,
        home=place,
        environment=settings,
        clock=clock or SystemClock(),
    )


def install_all(path: Path, *, name: str | None = None, environment: str | None = None) -> list[Installation]:
    """Open every loop that ``path`` declares, or the one of that name: all in one home. Raises as `install` does."""
    declaration = load(path)
    names = [each.name for each in declaration.loops] if name is None else [chosen(declaration, name).name]
    opened: list[Installation] = []
    try:
        for each in names:
            opened.append(install(path, name=each, environment=environment))
    except BaseException:
        for installation in opened:
            installation.close()
        raise
    return opened


def _found(loop: Loop, folder: Path, home: Home) -> tuple[Mapping[str, ColumnType], LabelFacts | None]:
    """Columns and labels as the source has them now, or as it had them when this declaration was last opened.

    One damaged file must not keep a loop from going on that went before; ingest says what is wrong with it.
    """
    before = home.root / "code" / codec.digest(loop) / FOUND
    try:
        schema = sources.schema_of(loop.source, folder)
        return schema, label_facts(loop, folder, schema)
    except DataError:
        if not before.exists():
            raise
        return read_found(before)


def read_found(path: Path) -> tuple[Mapping[str, ColumnType], LabelFacts | None]:
    """Columns and labels as they were written beside a declaration."""
    found = msgspec.json.decode(path.read_bytes())
    return found["schema"], msgspec.convert(found["facts"], LabelFacts) if found["facts"] else None


def check_warm(loop: Loop) -> None:
    """Raise SpecError where ``warm=True`` asks for what a declared model cannot do."""
    if loop.warm:
        from everloop.train import warm

        warm.check(loop.trains, "The loop has")


def open_installation(
    loop: Loop,
    *,
    schema: Mapping[str, ColumnType],
    facts: LabelFacts | None,
    folder: Path,
    source: bytes,
    home: Home,
    environment: Environment,
    clock: Clock,
) -> Installation:
    """Hold the declaration against the columns and labels that there are, and open its home."""
    check_warm(loop)
    resolved = resolve(loop, schema, facts)
    ledger = Ledger.open(environment.ledger or home.ledger)
    packages.generate_key(home.keys)
    meaning = codec.to_bytes(loop)
    digest = codec.digest(loop)
    found = encode({"schema": dict(schema), "facts": facts})
    kept = {"declaration.py": source, "loop.json": meaning, FOUND: found}
    if not write_folder_atomically(home.code / digest, kept):
        # The columns and labels of today, so that commands which only have the home need not read the source again.
        write_atomically(home.code / digest / FOUND, found, sync=False)
    with ledger.write() as connection:
        loops.put(connection, loop.name, meaning, digest, str(folder), at=clock.now())
    return Installation(
        home=home,
        ledger=ledger,
        lake=Recent(home.lake(loop.name)),
        loop=loop,
        resolved=resolved,
        schema=schema,
        facts=facts,
        folder=folder,
        source=source,
        code=digest,
        environment=environment,
        clock=clock,
    )


def reopen(
    home: Path, *, name: str | None = None, of_run: str | None = None, clock: Clock | None = None
) -> Installation:
    """Open a loop from its home alone, as it was last declared: by its name, or as the one that has a run.

    Raises NotFound when there is none.
    Never imports the user's module.
    """
    place = Home(home)
    if not (home / "ledger.sqlite").exists() and not Environment.read(home.absolute().parent, None).ledger:
        raise NotFound(f"There is no everloop home at {home}; name one with --home, or run `everloop run FILE` first.")
    settings = Environment.read(home.absolute().parent, None)
    ledger = Ledger.open(settings.ledger or place.ledger)
    with ledger.read() as connection:
        names = loops.names(connection)
        if of_run is not None:
            name = runs.get(connection, of_run).loop
        if name is None and len(names) != 1:
            raise NotFound(f"This home holds {len(names)} loops; choose one with --loop: {', '.join(names) or 'none'}.")
        known = loops.get(connection, names[0] if name is None else name)
    loop = codec.from_bytes(known.spec)
    folder = place.code / known.digest
    schema, facts = read_found(folder / FOUND)
    return Installation(
        home=place,
        ledger=ledger,
        lake=Recent(place.lake(loop.name)),
        loop=loop,
        resolved=resolve(loop, schema, facts),
        schema=schema,
        facts=facts,
        folder=Path(known.folder),
        source=(folder / "declaration.py").read_bytes(),
        code=known.digest,
        environment=settings,
        clock=clock or SystemClock(),
    )


def label_facts(loop: Loop, folder: Path, schema: Mapping[str, ColumnType]) -> LabelFacts | None:
    """What the label looks like in the source's oldest and newest files; None when labels come from elsewhere."""
    if loop.label.column not in schema:
        return None
    files = sources.files(loop.source, folder)
    # A rare class may be in none of the first rows: both ends are read, and from the oldest on until there are enough.
    chosen = list(dict.fromkeys([files[0], files[-1], *files[1 : FACT_FILES - 1]])) if files else []
    facts: LabelFacts | None = None
    for number, path in enumerate(chosen):
        if facts is not None and number > 1 and facts.rows >= FACT_ROWS and len(facts.distinct) > 1:
            break
        rows = sources.read(loop.source, path, schema)
        if loop.label.column not in rows.columns:
            continue
        found = rows[loop.label.column]
        distinct = found.drop_nulls().unique(maintain_order=True).head(1_000).to_list()
        distinct = [each for each in distinct if not isinstance(each, float) or math.isfinite(each)]
        before = facts or LabelFacts(distinct=(), rows=0, missing=0)
        facts = LabelFacts(
            distinct=tuple(dict.fromkeys([*before.distinct, *distinct])),
            rows=before.rows + len(found),
            missing=before.missing + int(found.null_count()),
        )
    return facts
