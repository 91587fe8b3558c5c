"""Where answers go: one file, a folder with a file for each source, or a Delta table. Knows nothing of models.

A folder and a table keep a journal beside them, so that a run goes on where it was stopped.
"""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import polars as pl
import pyarrow.parquet as pq

from everloop.errors import DataError, EverloopError, StoreError, StoreFull
from everloop.serve import offline_sources as sources
from everloop.serve.offline_columns import Bad
from everloop.serve.offline_journal import Committed, Done, Head, Journal
from everloop.serve.offline_sources import Found, Part
from everloop.serve.offline_targets import Aside, Target, clean, form_of, place_it
from everloop.store import delta

FORMS = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}
DELTA = "delta"


class Sink(Protocol):
    """``partitions``: values that folders name become columns, for nothing else tells them any more."""

    partitions: bool

    def types(self, part: Part) -> bool:
        """Whether what was text in the source gets the types of the signature."""
        ...

    def is_done(self, part: Part) -> bool: ...

    def begin(self, part: Part) -> None: ...

    def write(self, rows: pl.DataFrame, where: str) -> None: ...

    def put_aside(self, part: Part, bad: Sequence[tuple[Bad, Any]]) -> None: ...

    def end(self, part: Part) -> None: ...

    def finish(self) -> int | None:
        """Every part has ended. Returns the version of a table."""
        ...

    def abandon(self) -> None:
        """Something failed: remove what is not whole."""
        ...

    def close(self) -> None: ...

    def aside(self) -> Path | None:
        """Where bad rows are, if there are any."""
        ...


def sink_of(source: str, target: Path, form: str | None, *, package: str, keep: str) -> tuple[Sink, tuple[Part, ...]]:
    """The sink for a target and the parts of the source. Raises DataError, StoreFull."""
    if form not in (None, DELTA, *FORMS):
        raise DataError(f"--format is {form!r}; write {', '.join(FORMS)} or {DELTA}.")
    found = sources.find(source)
    is_table = delta.is_table(target)
    if is_table and form not in (None, DELTA):
        raise DataError(f"{target} is a Delta table and --format says {form}; leave it out, or name another target.")
    if target.suffix and not target.is_dir() and form != DELTA:
        if form is not None and form_of(target) != form:
            raise DataError(f"{target} and --format {form} disagree; leave one of them out.")
        return FileSink(target), found.parts
    _apart(Path(source), target)
    head = Head(
        package=package,
        source=source,
        source_version=found.version,
        form=DELTA if is_table or form == DELTA else form or "as the source",
        keep=keep,
    )
    if head.form != DELTA:
        _distinct(found, form)
    sink: FolderSink = TableSink(target, head) if head.form == DELTA else FolderSink(target, head, form)
    try:
        begun = sink.journal.head.source_version
        if begun != found.version:
            newest, found = found.version, sources.find(source, version=begun)
            if all(sink.is_done(part) for part in found.parts):
                raise DataError(
                    f"{target} holds answers for version {begun} of {source}, which is at version {newest} now; name "
                    "another target."
                )
    except BaseException:
        sink.close()
        raise
    return sink, found.parts


def _apart(source: Path, target: Path) -> None:
    if source.is_dir() and source.resolve() in (target.resolve(), *target.resolve().parents):
        raise DataError(f"{target} lies in {source}, so that the next run would score answers; name another target.")


def _name(part: Part, form: str | None) -> PurePosixPath:
    plain = part.relative.with_name(part.relative.name.removesuffix(".gz"))
    return plain if form is None else plain.with_suffix(FORMS[form])


def _distinct(found: Found, form: str | None) -> None:
    seen: dict[PurePosixPath, Part] = {}
    for part in found.parts:
        other = seen.setdefault(_name(part, form), part)
        if other is not part:
            raise DataError(f"{other.path} and {part.path} would both become {_name(part, form)}; rename one of them.")


class FileSink:
    """All parts in one file, which appears when it is whole."""

    partitions = True

    def __init__(self, place: Path) -> None:
        self._kind = form_of(place)
        clean(place.parent, place.name)
        self._target = Target(place, self._kind)
        self._aside = Aside(place.with_name(f"{place.stem}.bad.jsonl"))

    def types(self, part: Part) -> bool:
        return self._kind != "csv" or part.kind != "csv"

    def is_done(self, part: Part) -> bool:
        return False

    def begin(self, part: Part) -> None:
        pass

    def write(self, rows: pl.DataFrame, where: str) -> None:
        self._target.write(rows, where)

    def put_aside(self, part: Part, bad: Sequence[tuple[Bad, Any]]) -> None:
        self._aside.write(part, bad)

    def end(self, part: Part) -> None:
        pass

    def finish(self) -> int | None:
        self._target.finish()
        self._aside.finish()
        place_it(self._target.beside, self._target.place)
        return None

    def abandon(self) -> None:
        self._target.abandon()
        self._aside.abandon()

    def close(self) -> None:
        pass

    def aside(self) -> Path | None:
        return self._aside.place if self._aside.rows else None


class FolderSink:
    """A file for each part at the same relative path."""

    partitions = False
    _again = False
    """A journal about something else may be begun again, once all in it is part of the target for good."""

    def __init__(self, folder: Path, head: Head, form: str | None) -> None:
        self.folder = folder
        self.journal = Journal(folder.with_name(folder.name + ".journal"), folder, head, again=self._again)
        self._form = form
        self._refused = folder.with_name(folder.name + ".bad")
        self._open: tuple[Target, Aside] | None = None
        clean(folder)

    def name_of(self, part: Part) -> PurePosixPath:
        return _name(part, self._form)

    def types(self, part: Part) -> bool:
        return form_of(Path(self.name_of(part))) != "csv" or part.kind != "csv"

    def is_done(self, part: Part) -> bool:
        done = self.journal.done.get(str(part.relative))
        return done is not None and (done.size, done.modified) == (part.size, part.modified)

    def begin(self, part: Part) -> None:
        place = self.folder / self.name_of(part)
        aside = self._refused / part.relative.with_name(part.relative.name + ".jsonl")
        self._open = Target(place, form_of(place), self._schema()), Aside(aside)

    def write(self, rows: pl.DataFrame, where: str) -> None:
        assert self._open is not None
        self._open[0].write(rows, where)

    def put_aside(self, part: Part, bad: Sequence[tuple[Bad, Any]]) -> None:
        assert self._open is not None
        self._open[1].write(part, bad)

    def end(self, part: Part) -> None:
        assert self._open is not None
        target, aside = self._open
        target.finish()
        aside.finish()
        self.journal.add(
            Done(
                file=str(part.relative),
                size=part.size,
                modified=part.modified,
                rows=target.rows,
                bad=aside.rows,
                target=target.place.relative_to(self.folder).as_posix(),
                beside=target.beside.relative_to(self.folder).as_posix(),
                bytes=target.beside.stat().st_size,
            )
        )
        place_it(target.beside, target.place)
        self._open = None

    def finish(self) -> int | None:
        return None

    def abandon(self) -> None:
        if self._open is not None:
            for each in self._open:
                each.abandon()

    def close(self) -> None:
        self.journal.close()

    def aside(self) -> Path | None:
        return self._refused if any(done.bad for done in self.journal.done.values()) else None

    def _schema(self) -> pl.Schema | None:
        """What every file must have; None: each its own."""
        return None


class TableSink(FolderSink):
    """A Delta table: files are written where nobody sees them and become part of it together, in one commit."""

    partitions = True
    _again = True

    def __init__(self, folder: Path, head: Head) -> None:
        super().__init__(folder, head, "parquet")
        self._names: dict[PurePosixPath, PurePosixPath] = {}
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def name_of(self, part: Part) -> PurePosixPath:
        name = self._names.get(part.relative)
        if name is None:
            name = self._names[part.relative] = PurePosixPath(f"part-{len(self._names):05d}-{uuid.uuid4()}.parquet")
        return name

    def finish(self) -> int | None:
        fresh = self.journal.fresh
        if fresh:
            self._commit(fresh)
        return self.journal.committed

    def _schema(self) -> pl.Schema | None:
        if delta.is_table(self.folder):
            table = _opened(self.folder)
            if table.metadata().partition_columns:
                raise DataError(
                    f"The Delta table {self.folder} is partitioned, which a batch run does not append to; name a table "
                    "without partitions."
                )
            return pl.Schema(pl.scan_delta(table).collect_schema())
        staged = next(iter(self.journal.fresh), None)
        return pl.Schema(pl.read_parquet_schema(self.folder / staged.target)) if staged else None

    def _settle(self) -> None:
        """A run that was killed after its commit and before its line: the table itself tells."""
        if self.journal.fresh and delta.is_table(self.folder):
            table = _opened(self.folder)
            if table.transaction_version(self._application) == self.journal.lines:
                self.journal.add(Committed(version=int(table.version())))

    @property
    def _application(self) -> str:
        return f"everloop-batch-{self.journal.head.run}"

    def _commit(self, fresh: Sequence[Done]) -> None:
        from deltalake import CommitProperties, Schema, Transaction
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import AddAction, create_table_with_add_actions

        now = time.time_ns() // 1_000_000
        actions = [
            AddAction(done.target, done.bytes, {}, now, True, json.dumps({"numRecords": done.rows})) for done in fresh
        ]
        schema = Schema.from_arrow(pq.read_schema(self.folder / fresh[0].target))
        properties = CommitProperties(
            app_transactions=[Transaction(self._application, self.journal.lines)],
            custom_metadata={"package": self.journal.head.package, "source": self.journal.head.source},
        )
        try:
            if delta.is_table(self.folder):
                _opened(self.folder).create_write_transaction(
                    actions, mode="append", schema=schema, commit_properties=properties
                )
            else:
                create_table_with_add_actions(
                    str(self.folder.absolute()), schema, actions, mode="error", commit_properties=properties
                )
        except (DeltaError, OSError, ValueError) as error:
            raise _table_error(error, self.folder) from error
        self.journal.add(Committed(version=int(_opened(self.folder).version())))


def _opened(folder: Path) -> Any:
    from deltalake import DeltaTable  # only for those who have such a table
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(folder)
    except DeltaError as error:
        raise _table_error(error, folder) from error


def _table_error(error: BaseException, folder: Path) -> EverloopError:
    because = (str(error).splitlines() or [type(error).__name__])[0]
    if any(sign in because for sign in ("No space left", "os error 28", "os error 122", "os error 27", "too large")):
        return StoreFull(f"No space is left for the Delta table {folder}: {because}. Nothing was appended.")
    return StoreError(f"The Delta table {folder} could not be changed: {because}. Nothing was appended; run it again.")
