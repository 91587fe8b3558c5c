"""Two tables beside each other: which columns differ, by how much, and in which rows. Needs no loop and decides nothing.

Columns are read a few at a time, so that memory is that of a few columns, however many there are; statistics are exact. A
pair of tables has no history: limits are those of independent rows with a floor of what is worth a word, and one report
in a hundred of equal tables names a column by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from everloop.errors import DataError
from everloop.measure import drift, profile, space
from everloop.measure.carried import Carried, carried
from everloop.measure.coded import Coded, Values
from everloop.measure.comparison import ColumnComparison, counts_in
from everloop.measure.comparison import compare as compared
from everloop.measure.profile import ColumnProfile
from everloop.records import MISSING_INTEGER, ColumnType
from everloop.watch.observed import values_of

CHANCE = 0.01
AT_ONCE = 8_000_000
"""Values of one side that are in memory together: 64 MB of numbers."""
READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, try_parse_dates=True, infer_schema_length=10_000),
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One column of both tables. ``moved``: why it is called moved; empty where it is not."""

    column: str
    kind: Literal["number", "category"]
    psi: float
    ks: float | None
    jensen_shannon: float
    wasserstein: float | None
    chi_square: float
    degrees_of_freedom: int
    missing: float
    missing_before: float
    new: float
    outliers: float
    novel: float | None
    moved: tuple[str, ...] = ()
    carried: tuple[Carried, ...] = ()
    shares: tuple[tuple[str, float, float], ...] = ()
    """Bins or values that differ most first, with their shares then and now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    rows_before: int
    rows: int
    columns: tuple[Compared, ...]
    """Those that moved first, then by PSI."""
    only_before: tuple[str, ...] = ()
    only_now: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Columns that cannot be compared, with the reason."""

    @property
    def moved(self) -> tuple[Compared, ...]:
        return tuple(each for each in self.columns if each.moved)


class Table:
    """A file or folder of Parquet, read by columns; or a CSV or JSON lines file, read at once."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"There is no file or folder {path}; correct its name.")
        self._path = path
        self._whole: pl.DataFrame | None = None
        try:
            if path.suffix.lower() in READERS:
                self._whole = READERS[path.suffix.lower()](path)
                self.schema, self.rows = self._whole.schema, len(self._whole)
            elif path.suffix.lower() == ".parquet" or path.is_dir():
                if path.is_dir() and next(path.glob("**/*.parquet"), None) is None:
                    raise DataError(f"{path} holds no .parquet file; name a folder that does, or a single file.")
                scanned = self._scan()
                self.schema, self.rows = scanned.collect_schema(), int(scanned.select(pl.len()).collect().item())
            else:
                raise DataError(
                    f"{path} is no .parquet, .csv or .jsonl file; write one of these, or a folder of .parquet."
                )
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(
            self._path / "**/*.parquet" if self._path.is_dir() else self._path, glob=self._path.is_dir()
        )

    def read(self, names: Sequence[str]) -> pl.DataFrame:
        if self._whole is not None:
            return self._whole.select(names)
        try:
            return self._scan().select(names).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{self._path} cannot be read: {str(error).splitlines()[0]}.") from None


def compare(
    before: Path, now: Path, *, columns: Sequence[str] = (), told: Callable[[int, int], None] = lambda done, of: None
) -> Comparison:
    """Compare two tables by the columns that both have, or ``columns``. ``told``: columns done, of so many.

    Raises DataError for what cannot be read, a column that is not in both, and tables without rows.
    """
    then, new = Table(before), Table(now)
    for path, each in ((before, then), (now, new)):
        absent = [name for name in columns if name not in each.schema]
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}; it has {', '.join(list(each.schema)[:20])}.")
        if each.rows == 0:
            raise DataError(f"{path} has no rows; there is nothing to compare.")
    both = list(columns) or [name for name in then.schema if name in new.schema]
    left_out: dict[str, str] = {}
    chosen: list[str] = []
    for name in both:
        one, other = _kind(then.schema[name]), _kind(new.schema[name])
        if one is None or other is None:
            kind = then.schema[name] if one is None else new.schema[name]
            left_out[name] = "instants: time always moves" if kind.is_temporal() else f"{kind} is not compared"
        elif one != other:
            left_out[name] = f"{then.schema[name]} before, {new.schema[name]} now"
        else:
            chosen.append(name)
    if not chosen:
        because = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:5]) or "they share no column"
        raise DataError(f"{before} and {now} have nothing to compare ({because}); name two tables of the same columns.")
    found: list[tuple[ColumnComparison, ColumnProfile, ColumnProfile]] = []
    size = max(1, AT_ONCE // max(then.rows, new.rows))
    for start in range(0, len(chosen), size):
        names = chosen[start : start + size]
        found += _compared(then.read(names), new.read(names))
        told(min(start + size, len(chosen)), len(chosen))
    everything = [each for comparison, _, _ in found for each in drift.signals([comparison])]
    chance = CHANCE / max(len(everything), 1)
    alarms = [alarm for each in everything if (alarm := drift.over(each, chance, None)) is not None]
    made = [
        _of(
            comparison, one, other, tuple(_plainly(each.because) for each in alarms if each.column == comparison.column)
        )
        for comparison, one, other in found
    ]
    return Comparison(
        rows_before=then.rows,
        rows=new.rows,
        columns=tuple(sorted(made, key=lambda each: (not each.moved, -each.psi))),
        only_before=() if columns else tuple(name for name in then.schema if name not in new.schema),
        only_now=() if columns else tuple(name for name in new.schema if name not in then.schema),
        left_out=left_out,
    )


def _plainly(because: str) -> str:
    """There is no calibration that could be missing."""
    return because.replace(", uncalibrated", "").replace("in training", "before")


def _kind(dtype: pl.DataType) -> str | None:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_numeric():
        return "number"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else None


def _arrays(frame: pl.DataFrame) -> Iterator[tuple[str, Values]]:
    for series in frame:
        if series.dtype.is_integer():
            series = series.cast(pl.Int64, strict=False)
        elif series.dtype.is_numeric():
            series = series.cast(pl.Float64)
        elif series.dtype == pl.Boolean:
            series = series.replace_strict({True: "true", False: "false"}, default=None, return_dtype=pl.String)
        else:
            series = series.cast(pl.String)
        yield series.name, values_of(series)


def _compared(before: pl.DataFrame, now: pl.DataFrame) -> list[tuple[ColumnComparison, ColumnProfile, ColumnProfile]]:
    columns, current = dict(_arrays(before)), dict(_arrays(now))
    texts: dict[str, ColumnType] = {}
    for name, then in columns.items():
        new = current[name]
        if isinstance(then, Coded) or isinstance(new, Coded):
            texts[name] = "text"
        elif then.dtype != new.dtype:  # a column of whole numbers may have fractions by now
            columns[name], current[name] = _floats(then), _floats(new)
    spaces, later = space.learned(columns, texts, {})
    plain = {name: values for name, values in columns.items() if name not in spaces}
    reference = profile.with_spaces(profile.build(plain), spaces, later)
    seen = profile.build(space.replaced(current, spaces), like=reference)
    return [(each, reference.columns[each.column], seen.columns[each.column]) for each in compared(reference, seen)]


def _floats(values: Any) -> Any:
    numbers, missing = profile.present_numbers(values)
    if not missing:
        return numbers
    made = values.astype("float64")
    if values.dtype.kind == "i":
        made[values == MISSING_INTEGER] = float("nan")
    return made


def _of(seen: ColumnComparison, before: ColumnProfile, now: ColumnProfile, moved: tuple[str, ...]) -> Compared:
    return Compared(
        column=seen.column,
        kind=seen.kind,
        psi=seen.psi,
        ks=seen.ks,
        jensen_shannon=seen.jensen_shannon,
        wasserstein=seen.wasserstein,
        chi_square=seen.chi_square,
        degrees_of_freedom=seen.freedom,
        missing=seen.missing,
        missing_before=seen.reference_missing,
        new=seen.new,
        outliers=seen.outliers,
        novel=seen.novel,
        moved=moved,
        carried=carried(before, now) if moved else (),
        shares=_shares(before, now) if moved else (),
    )


def _shares(before: ColumnProfile, now: ColumnProfile) -> tuple[tuple[str, float, float], ...]:
    """Of a number its bins in their order, of a category its values, the most frequent first."""
    if before.kind == "number":
        edges = [f"{each:.4g}" for each in before.edges]
        names = [f"≤ {edges[0]}", *(f"≤ {each}" for each in edges[1:]), f"> {edges[-1]}"] if edges else ["all"]
        then, here = before.counts, counts_in(now, before.edges).tolist()
    else:
        names, then, here = list(before.values[:9]), before.value_counts[:9], list(now.value_counts[:9])
        names.append("others")
        then = (*then, before.present - sum(then))
        here.append(now.present - sum(here))
    total, whole = max(sum(then), 1), max(sum(here), 1)
    return tuple((name, a / total, b / whole) for name, a, b in zip(names, then, here, strict=True))
