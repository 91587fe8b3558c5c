"""``everloop batch``: scores files with a package, a version or whatever a loop has live."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from everloop.cli.show import Usage, emit
from everloop.errors import NotFound
from everloop.loop.environment import Environment
from everloop.loop.installation import chosen
from everloop.serve import offline, releases
from everloop.serve.offline import Progress, Scored
from everloop.spec.load import load
from everloop.store import packages
from everloop.store.home import Home
from everloop.store.ledger import Ledger
from everloop.store.ledger import loops as loop_ledger
from everloop.store.ledger import releases as release_ledger
from everloop.store.ledger import versions as version_ledger

DEFAULT_FOLDER, LEDGER, PACKAGES = ".everloop", "ledger.sqlite", "packages"
DIGEST_BEGINNING = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """``number`` is None for a package that no loop here has a version of."""

    home: Home
    folder: Path
    number: int | None


def batch(
    subject: str,
    source: str,
    target: Path,
    *,
    home: Path,
    version: str | None,
    form: str | None,
    keep: str,
    skip_bad: bool,
    cores: int | None,
    as_json: bool,
) -> None:
    picked = _chosen(subject, home, version)
    with _shown(as_json) as progress:
        scored = offline.score(
            picked.folder,
            source,
            target,
            trusted=packages.trusted_keys(picked.home.keys),
            version=picked.number,
            form=form,
            keep=keep,
            skip_bad=skip_bad,
            cores=cores,
            progress=progress,
        )
    value = {
        "rows": scored.rows,
        "bad": scored.bad,
        "files": scored.files,
        "before": scored.before,
        "seconds": scored.seconds,
        "version": picked.number,
        "package": picked.folder.name,
        "out": str(target),
        "aside": None if scored.aside is None else str(scored.aside),
        "table_version": scored.table_version,
    }
    emit(value, as_json, lambda console: _tell(console, scored, picked))


def _tell(console: Console, scored: Scored, picked: Chosen) -> None:
    by = f"package {picked.folder.name[:12]}" if picked.number is None else f"version {picked.number}"
    if scored.files:
        rate = scored.rows / max(scored.seconds, 1e-9)
        table = "" if scored.table_version is None else f", version {scored.table_version} of the table"
        console.print(
            f"{scored.rows:,} rows scored by {by} in {scored.seconds:.1f} s ({rate:,.0f} a second) → {scored.target}{table}",
            markup=False,
        )
    if scored.before:
        files = "file was" if scored.before == 1 else "files were"
        more = "" if scored.files else "; nothing is left to do"
        console.print(f"{scored.before:,} {files} done before{more} → {scored.target}", markup=False)
    if scored.bad:
        rows = "row" if scored.bad == 1 else "rows"
        console.print(f"{scored.bad:,} {rows} put aside, with the reason → {scored.aside}", markup=False)


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on a terminal, silence elsewhere."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0)

        def show(progress: Progress) -> None:
            name = Path(progress.file).name
            bar.update(task, completed=progress.rows, total=progress.total, description=name[-40:])
            bar.update(task, rate=bar.tasks[0].speed or 0.0)

        yield show


# Which package


def _chosen(subject: str, home: Path, version: str | None) -> Chosen:
    """A package's folder, a declaration file, the name of a loop, or the beginning of a digest."""
    path = Path(subject)
    if (path / packages.MANIFEST).is_file():
        own = path.absolute().parent.parent if path.absolute().parent.name == PACKAGES else None
        return _by_digest(Home(own or _inside(home)), path, version)
    if path.suffix == ".py":
        declaration = load(path)
        place = declaration.path.parent
        where = Environment.read(place, None).home if home == Path(DEFAULT_FOLDER) else _inside(home)
        return _of_loop(Home(where), chosen(declaration, None).name, version)
    place = _inside(home)
    known = _loops(place)
    if subject in known:
        return _of_loop(Home(place), subject, version)
    if DIGEST_BEGINNING.fullmatch(subject):
        found = [each for each in (place / PACKAGES).glob(f"{subject}*") if each.is_dir()]
        if len(found) == 1:
            return _by_digest(Home(place), found[0], version)
    raise NotFound(
        f"There is no package folder, no loop and no package digest {subject!r} at {place}; its loops: "
        f"{', '.join(known) or 'none'}. Name another home with --home."
    )


def _inside(home: Path) -> Path:
    """The home, where a project or a replay was named instead of the home in it."""
    inside = home / DEFAULT_FOLDER
    return inside if inside.is_dir() and not (home / LEDGER).exists() and not (home / PACKAGES).exists() else home


def _loops(home: Path) -> list[str]:
    names = {path.stem for path in (home / "releases").glob("*.json")}
    if (ledger := _ledger(home)) is not None:
        with closing(ledger), ledger.read() as connection:
            names |= set(loop_ledger.names(connection))
    return sorted(names)


def _ledger(home: Path) -> Ledger | None:
    """None on a machine that only serves: it has packages and release files."""
    elsewhere = Environment.read(home.absolute().parent, None).ledger
    return Ledger.open(elsewhere or home / LEDGER) if elsewhere or (home / LEDGER).exists() else None


def _by_digest(home: Home, folder: Path, version: str | None) -> Chosen:
    if version is not None:
        raise Usage(f"--version {version} chooses among the versions of a loop; {folder.name[:12]} is one package.")
    number: int | None = None
    if (ledger := _ledger(home.root)) is not None:
        with closing(ledger), ledger.read() as connection:
            for name in loop_ledger.names(connection):
                number = next(
                    (v.number for v in version_ledger.of(connection, name) if v.package == folder.name), number
                )
    return Chosen(home, folder, number)


def _of_loop(home: Home, name: str, version: str | None) -> Chosen:
    wanted = version or "champion"
    number = int(wanted.removeprefix("v")) if wanted.removeprefix("v").isdigit() else None
    if number is None and wanted not in ("champion", "challenger"):
        raise Usage(f"--version is {version!r}; write a number such as 3, champion or challenger.")
    ledger = _ledger(home.root)
    if ledger is None:
        return _released(home, name, wanted, number)
    with closing(ledger), ledger.read() as connection:
        if number is None:
            release = release_ledger.get(connection, name)
            number = release.champion if wanted == "champion" else release.challenger
        if number is None:
            raise NotFound(f"{name} has no {wanted} yet; `everloop run FILE` makes the first version.")
        digest = version_ledger.get(connection, name, number).package
    return Chosen(home, packages.folder_of(home.packages, digest), number)


def _released(home: Home, name: str, wanted: str, number: int | None) -> Chosen:
    release = releases.read(home.release_file(name))
    served = {"champion": release.champion, "challenger": release.challenger}
    for role, each in served.items():
        if each is not None and (role == wanted or each.version == number):
            return Chosen(home, packages.folder_of(home.packages, each.package), each.version)
    raise NotFound(f"{wanted} of {name} is not released here, and this home has no ledger with older versions.")
