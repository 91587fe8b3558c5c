"""Takes files into the lake: each content once, each row with its meaning, each failing row aside with its reason.

Writes the quarantine and the outcomes first and the raw rows last: the raw commit carries the batch's digest and
record, and a batch is in exactly when that commit is. A batch that was interrupted before is simply taken in again.
Knows nothing of the ledger; who calls may record the batch there at any time later.
"""

import fcntl
import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from everloop.clock import microseconds
from everloop.data import quality, sources
from everloop.data.columns import DTYPES
from everloop.data.known import Known, Prints
from everloop.data.meaning import differences, outcome_rows, sort_out
from everloop.data.sources import BATCH, EVENT_TIME, KEY, RESERVED
from everloop.durable.crash import reached
from everloop.errors import DataError
from everloop.records import Batch, ColumnType, decode, encode
from everloop.spec.loop import Loop
from everloop.spec.resolve import Resolved
from everloop.spec.source import Csv, Fixed
from everloop.spec.wholes import images_of
from everloop.store.lake import OUTCOMES, QUARANTINE, RAW, Lake


class Ingest:
    """Ingests one loop's batches. Keeps fingerprints of the known rows between calls; not for several threads."""

    def __init__(self, loop: Resolved | Loop, lake: Lake) -> None:
        self.loop = loop.loop if isinstance(loop, Resolved) else loop
        self.lake = lake
        self._schema: dict[str, ColumnType] = dict(loop.schema) if isinstance(loop, Resolved) else {}
        self._needed = _needed(self.loop, loop.inputs if isinstance(loop, Resolved) else ())
        self._images = images_of(self.loop.features) if self.loop.features is not None else {}
        self._late = tuple(dict.fromkeys((self.loop.label.column, *self.loop.source.after)))
        self._known: Known | None = None
        self._seen = {RAW: -1, OUTCOMES: -1}
        self._digests: dict[tuple[str, int, int, int], str] = {}

    def file(self, path: Path, *, known: Collection[str] = (), now: datetime) -> Batch | None:
        """Take in one file; None when its content is among the ``known`` digests.

        A content that is in the lake already adds nothing and returns the record of then. A batch of which too large a
        share fails is returned with ``refused`` set, and nothing of it is kept. Raises DataError for a file that cannot
        be read whole or lacks a needed column, SchemaChanged for a column of another type, StoreFull.
        """
        digest = self._digest(path)
        if digest in known:
            return None
        return self._once(
            digest, str(path), now, lambda types: sources.read(self.loop.source, path, types, digest=digest)
        )

    def frame(
        self, frame: pl.DataFrame, *, name: str = "rows in memory", known: Collection[str] = (), now: datetime
    ) -> Batch | None:
        """Take in rows in memory as `file` does; their content is their identity."""
        raw = frame.drop(each for each in frame.columns if each in RESERVED)
        stream = io.BytesIO()
        raw.write_ipc(stream, compression="uncompressed")
        digest = hashlib.sha256(stream.getbuffer()).hexdigest()
        if digest in known:
            return None
        written = isinstance(self.loop.source, Csv)
        return self._once(
            digest,
            name,
            now,
            lambda types: sources.normalised(self.loop.source, raw, types, where=name, digest=digest, written=written),
        )

    def types(self) -> dict[str, ColumnType]:
        """The type of each raw column: as the lake has it, else as declared."""
        return {**self._schema, **sources.types_of(self.lake.schema(RAW))}

    def _once(self, digest: str, name: str, now: datetime, read: Any) -> Batch:
        with _alone(self.lake.root):
            recorded = self.lake.batch(digest)
            if recorded is not None:
                batch = decode(recorded["note"]["record"], Batch)
                return _with_version(batch, recorded["version"])
            types = self.types()
            rows: pl.DataFrame = read(types)
            try:
                return self._take(rows, types, digest, name, now)
            except BaseException:
                self._known = None  # what was learnt of a batch that is not in is forgotten
                raise

    def _take(self, rows: pl.DataFrame, types: dict[str, ColumnType], digest: str, name: str, now: datetime) -> Batch:
        absent = tuple(column for column in types if column not in rows.columns)
        self._refuse_absent(absent, name)
        new = tuple(each for each in rows.columns if each not in types and each not in RESERVED) if types else ()
        rows = rows.with_columns(pl.lit(None, dtype=DTYPES[types[each]]).alias(each) for each in absent)
        types = {**types, **sources.types_of(rows.schema)}
        batch = Batch(
            loop=self.loop.name,
            digest=digest,
            path=name,
            at=now,
            rows=len(rows),
            new_columns=new,
            absent_columns=absent,
        )
        reasons = self._reasons(rows, types)
        known = self._refreshed(types)
        meaning = sort_out(known, Prints.of(rows, self._late), reasons.is_not_null().to_numpy(), now=microseconds(now))
        aside = rows[meaning.failing.tolist()].with_columns(reasons[meaning.failing.tolist()])
        if len(meaning.conflicts):
            conflicting = rows[meaning.conflicts.tolist()]
            first = pl.concat([self._stored(conflicting), rows[meaning.new.tolist()]], how="diagonal")
            because = pl.Series("_reason", differences(conflicting, first, self._late), dtype=pl.String)
            aside = pl.concat([aside, conflicting.with_columns(because)])
        batch = _counted(
            batch,
            added=len(meaning.new),
            copies=len(meaning.copies),
            outcomes=meaning.outcomes,
            quarantined=len(aside),
            reasons=_counts(aside["_reason"]),
        )
        refused = self._refusal(batch, rows, now)
        if refused is not None:
            self._known = None
            return _counted(batch, added=0, outcomes=0, refused=refused)
        return self._commit(batch, rows[meaning.new.tolist()], outcome_rows(meaning, rows, types, digest), aside, now)

    def _commit(
        self, batch: Batch, new: pl.DataFrame, outcomes: pl.DataFrame, aside: pl.DataFrame, now: datetime
    ) -> Batch:
        note = {"batch": batch.digest, "by": "ingest"}
        if len(aside) and not self.lake.contains_batch(batch.digest, QUARANTINE):
            self.lake.append(
                QUARANTINE, aside.with_columns(pl.lit(now).dt.cast_time_unit("us").alias("_at")), note=note
            )
            reached("ingest.quarantine")
        if len(outcomes) and not self.lake.contains_batch(batch.digest, OUTCOMES):
            self._append(OUTCOMES, outcomes, note)
            reached("ingest.outcomes")
        version = self._append(RAW, new, {**note, "record": encode(batch).decode()})
        reached("ingest.raw")
        return _with_version(batch, version)

    def _append(self, table: str, rows: pl.DataFrame, note: Mapping[str, str]) -> int:
        before = self._seen[table]
        version = self.lake.append(table, rows, note=note)
        if version == before + 1:  # otherwise somebody else wrote too: the next look sees both
            self._seen[table] = version
        return version

    def _reasons(self, rows: pl.DataFrame, types: Mapping[str, ColumnType]) -> pl.Series:
        zones = {name: self.loop.source.time_zone for name, kind in types.items() if kind == "instant"}
        failed = quality.reasons(self.loop.checks, rows, types, zones)
        if self._images:
            both = pl.DataFrame([failed.alias("declared"), quality.broken(self._images, rows).alias("image")])
            joined = pl.concat_str("declared", "image", separator="; ", ignore_nulls=True)
            failed = both.select(pl.when(joined != "").then(joined).alias("_reason")).to_series()
        if rows[KEY].null_count() or rows[EVENT_TIME].null_count():
            no_key, no_time = pl.col(KEY).is_null(), pl.col(EVENT_TIME).is_null()
            missing = pl.when(no_key).then(pl.lit("key is missing")).when(no_time).then(pl.lit("event time is missing"))
            failed = rows.select(pl.coalesce(missing, failed).alias("_reason")).to_series()
        return failed

    def _refuse_absent(self, absent: tuple[str, ...], name: str) -> None:
        for column in absent:
            if column in self._needed:
                raise DataError(
                    f"{name} has no column {column}, which {self._needed[column]}. "
                    f"Deliver it with this column; nothing was taken from it."
                )

    def _refusal(self, batch: Batch, rows: pl.DataFrame, now: datetime) -> str | None:
        old = quality.stale(self.loop.checks, rows, now)
        if old is not None:
            return f"{batch.path} is refused: {old}."
        limit = self.loop.quarantine_up_to
        if not batch.quarantined or batch.quarantined <= limit * batch.rows:
            return None
        most = sorted(batch.reasons.items(), key=lambda each: (-each[1], each[0]))[:3]
        return (
            f"{batch.path} is refused: {batch.quarantined} of {batch.rows} rows "
            f"({batch.quarantined / batch.rows:.1%}) fail, more than quarantine_up_to={limit:g} allows: "
            f"{'; '.join(f'{reason} ({count})' for reason, count in most)}. Nothing of it was kept."
        )

    def _refreshed(self, types: Mapping[str, ColumnType]) -> Known:
        """The known rows as the lake has them now, others' writes included."""
        versions = {table: self.lake.version(table) for table in (RAW, OUTCOMES)}
        if self._known is None:
            self._known = Known(self._late)
            self._seen = {RAW: -1, OUTCOMES: -1}
        if versions[RAW] > self._seen[RAW]:
            rows = self._since(RAW, versions[RAW])
            if len(rows):
                self._known.add(Prints.of(rows, self._late))
        if versions[OUTCOMES] > self._seen[OUTCOMES]:
            outcomes = self._since(OUTCOMES, versions[OUTCOMES])
            half = [digest for digest in _batches_of(outcomes) if not self.lake.contains_batch(digest)]
            if half:  # their raw rows never came: this batch is to be understood as if it were new
                outcomes = outcomes.filter(~pl.col(BATCH).fill_null("").is_in(half))
            if len(outcomes):
                self._known.learn_outcomes(outcomes, types, self.loop.label.column)
        self._seen = versions
        return self._known

    def _since(self, table: str, version: int) -> pl.DataFrame:
        if self._seen[table] < 0:
            return self.lake.read(table, version=version)
        return self.lake.diff(table, self._seen[table], version)

    def _stored(self, rows: pl.DataFrame) -> pl.DataFrame:
        return self.lake.read(RAW, where=pl.col(KEY).is_in(rows[KEY].unique().implode()))

    def _digest(self, path: Path) -> str:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}. Put the file there, or correct the path.") from error
        place = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        if place not in self._digests:
            self._digests[place] = sources.digest_of_file(path)
        return self._digests[place]


def ingest(
    loop: Resolved | Loop, path: Path, lake: Lake, known: Collection[str] = (), *, now: datetime
) -> Batch | None:
    """Take in one file (see `Ingest.file`). For many batches keep one `Ingest`: it need not read the lake each time."""
    return Ingest(loop, lake).file(path, known=known, now=now)


def ingest_frame(
    loop: Resolved | Loop, frame: pl.DataFrame, lake: Lake, known: Collection[str] = (), *, now: datetime
) -> Batch | None:
    """Take in rows in memory (see `Ingest.frame`)."""
    return Ingest(loop, lake).frame(frame, known=known, now=now)


def _needed(loop: Loop, inputs: Collection[str]) -> dict[str, str]:
    """Columns that no batch may lack → what needs them. The label and `after` columns may come later."""
    source = loop.source
    needed = dict.fromkeys(inputs, "features read")
    for check in loop.checks:
        needed |= {name: f"{type(check).__name__} checks" for name in quality.columns_of(check)}
    for name in (loop.label.column, *source.after):
        needed.pop(name, None)
    time = source.event_time.column if isinstance(source.event_time, Fixed) else source.event_time
    return needed | dict.fromkeys(source.key, "is part of the key") | {time: "gives the event time"}


def _counts(reasons: pl.Series) -> dict[str, int]:
    counts: dict[str, int] = {}
    for joined in reasons.to_list():
        for reason in joined.split("; "):
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))


def _counted(batch: Batch, **changes: Any) -> Batch:
    return replace(batch, **changes)


def _with_version(batch: Batch, version: int) -> Batch:
    return _counted(batch, raw_version=version)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One ingest at a time per lake, across processes; the lock dies with its holder."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ingest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _batches_of(outcomes: pl.DataFrame) -> set[str]:
    """Only outcomes that came with a batch name it; those that servers took have none."""
    column = outcomes[BATCH]
    return set() if column.null_count() == len(column) else set(column.drop_nulls().to_list())


__all__ = ["Ingest", "ingest", "ingest_frame"]
