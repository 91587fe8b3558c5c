"""Reads the rows of requests into tuples and packs tuples into the graph's inputs. Knows nothing of HTTP or models.

A `Reader` is built for what is live now: the columns of one or two signatures together, with the key, the event time
and the unit. One msgspec struct type, made from them, does parsing and validation in one pass; only when it refuses is
the body looked at again, slowly, to say which column, which value and what was expected.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.errors import RequestError, ServeError
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, InputColumn, Signature, TensorColumn
from everloop.serve import aside, instants, tensors

Row = tuple[Any, ...]
Packed = dict[str, NDArray[Any]]

Integer = Annotated[int, msgspec.Meta(ge=MISSING_INTEGER + 1, le=2**63 - 1)]
Anything = str | int | float | bool
NAN = float("nan")
NUL = b"\\u0000"
"""The only way to write that character in JSON."""
TYPES: dict[ColumnType | None, tuple[Any, Any, str]] = {
    # annotation, what stands for an absent value, words
    "number": (float | None, NAN, "a number or null"),
    "integer": (Integer | None, MISSING_INTEGER, "a 64-bit integer or null"),
    "boolean": (bool | None, MISSING_INTEGER, "true, false or null"),
    "instant": (Integer | str | None, MISSING_INTEGER, "an instant as ISO 8601 text or integer microseconds, or null"),
    "text": (str | None, None, "a text or null (the text of one NUL character stands for null here and is refused)"),
    None: (Anything | None, None, "a text, a number, true, false or null"),
}
KINDS: dict[str, tuple[ColumnType, ...]] = {
    "numbers": ("number",),
    "integers": ("integer", "boolean", "instant"),
    "texts": ("text",),
}
MOST_PROBLEMS = 8
REQUEST_ROWS = 20_000
CROWDED = 2 * REQUEST_ROWS
"""A shorter body cannot hold more rows."""


class Column(msgspec.Struct, frozen=True):
    """``type`` is None where any scalar is taken, and for a ``tensor``."""

    name: str
    type: ColumnType | None
    time_zone: str | None = None
    tensor: TensorColumn | None = None

    @property
    def annotation(self) -> Any:
        return TYPES[self.type][0] if self.tensor is None else tensors.annotation(self.tensor)

    @property
    def absent(self) -> Any:
        return TYPES[self.type][1] if self.tensor is None else b""

    @property
    def words(self) -> str:
        return TYPES[self.type][2] if self.tensor is None else tensors.words(self.tensor)


def layout(signatures: Sequence[Signature], unit: str | None) -> tuple[Column, ...]:
    """The columns of a row, by kind: the first signature's own order comes first, so that it packs by slices.

    Raises ServeError when two signatures give one column two types.
    """
    known: dict[str, InputColumn] = {}
    for column in chain.from_iterable((*s.inputs, *s.carried) for s in signatures):
        other = known.setdefault(column.name, column)
        if (other.type, other.time_zone) != (column.type, column.time_zone):
            raise ServeError(
                f"Column {column.name!r} is {other.type} for the champion and {column.type} for the challenger; "
                "two such versions cannot be live together. Release the newer one directly."
            )
    ordered: list[InputColumn] = []
    for types in KINDS.values():
        for signature in signatures:
            ordered += sorted((c for c in signature.inputs if c.type in types), key=lambda column: column.index)
    shapes = _shapes(signatures, known)
    columns = {c.name: Column(c.name, c.type, c.time_zone) for c in ordered}
    columns |= {name: Column(name, None, None, tensor) for name, tensor in shapes.items()}
    for column in chain.from_iterable(s.carried for s in signatures):
        columns.setdefault(column.name, Column(column.name, column.type, column.time_zone))
    for signature in signatures:
        for name in (*signature.key, signature.event_time, unit):
            if name is not None:
                columns.setdefault(name, Column(name, None))
    return tuple(columns.values())


def _shapes(signatures: Sequence[Signature], known: dict[str, InputColumn]) -> dict[str, TensorColumn]:
    shapes: dict[str, TensorColumn] = {}
    for signature in signatures:
        for tensor in signature.tensors:
            other: Any = known.get(tensor.name) or shapes.setdefault(tensor.name, tensor)
            if other != tensor or tensor.name in KINDS or tensor.name in (*signature.key, signature.event_time):
                raise ServeError(
                    f"Column {tensor.name!r} is a tensor ({tensor.datatype} {list(tensor.shape)}) and something else as "
                    "well: of another type or shape in the other live version, part of the key, or a packed input of "
                    "the graph. Give it a name of its own, or release the newer version directly."
                )
    return shapes


class Reader:
    """Reads bodies for one state of what is live. ``columns`` is the order of the values in a row."""

    def __init__(self, signatures: Sequence[Signature], unit: str | None = None) -> None:
        self.columns = layout(signatures, unit)
        self.names = tuple(column.name for column in self.columns)
        places = {name: place for place, name in enumerate(self.names)}
        fields = [(f"c{n}", c.annotation, c.absent) for n, c in enumerate(self.columns)]
        rename = {f"c{n}": name for n, name in enumerate(self.names)}
        row: Any = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)
        timed: Any = msgspec.defstruct(
            "Timed", [("rows", list[row]), ("at", list[Integer])], forbid_unknown_fields=True
        )
        self.absent = {column.name: column.absent for column in self.columns}
        """What stands in a row for a column that a request does not bring, in the order of a row."""
        self._texts = [c for c in self.columns if c.type in ("text", None) and c.tensor is None]
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(row | list[row]).decode
        self._decode_timed: Callable[[bytes], Any] = msgspec.json.Decoder(timed).decode
        self._instants = [(n, instants.reader(c.time_zone)) for n, c in enumerate(self.columns) if c.type == "instant"]
        self._tensors = [(n, c.tensor) for n, c in enumerate(self.columns) if c.tensor is not None]
        self._images = [(n, c.image) for n, c in self._tensors if c.image is not None]
        key = signatures[0].key if signatures else ()
        self._key = [(places[name], self.columns[places[name]].type) for name in key]
        self.nameless = not key
        """There is no key: rows have no name of their own."""
        self._unit = places[unit] if unit is not None else None
        self._plain = all(c.type in ("number", "integer", "boolean") for c in self.columns)
        """A row is what was decoded: there is nothing to finish."""

    def read(self, body: bytes) -> tuple[list[Row], bool]:
        """The rows of a body and whether it was an array. Raises RequestError naming column, value and type."""
        if len(body) > CROWDED and body.count(b"{") > REQUEST_ROWS:
            _few_enough(body)
        try:
            found = self._decode(body)
        except (ValueError, RecursionError) as error:
            raise self._explained(_parsed(body), error) from None
        several = type(found) is list
        rows = list(map(_values, found)) if several else [_values(found)]
        return rows if self._plain else self._finished(rows, body), several

    def read_timed(self, body: bytes) -> tuple[list[Row], list[int]]:
        """The replay form ``{"rows": […], "at": [µs, …]}``: rows and the event time of each."""
        try:
            found = self._decode_timed(body)
        except (ValueError, RecursionError) as error:
            inside = _parsed(body)
            if not isinstance(inside, dict) or not isinstance(inside.get("rows"), list):
                raise RequestError('A replay sends {"rows": [row, …], "at": [microseconds, …]}.') from None
            raise self._explained(inside["rows"], error) from None
        if len(found.rows) != len(found.at):
            raise RequestError(f"There are {len(found.rows)} rows and {len(found.at)} event times; send one for each.")
        return self._finished(list(map(_values, found.rows)), body), found.at

    def from_columns(self, columns: Mapping[str, Sequence[Any]], count: int) -> list[Row]:
        """Rows from named columns of ``count`` values each, of the right types already. Raises RequestError."""
        for place, read in self._instants:
            name = self.names[place]
            values = columns.get(name, ())
            if any(type(value) is str for value in values):
                columns = {**columns, name: [_moment(name, value, read, n, count) for n, value in enumerate(values)]}
        for _, tensor in self._tensors:
            if tensor.name not in columns and count:
                raise RequestError(f"Column {tensor.name!r} is missing; expected {tensors.words(tensor)}.")
        for column in self._texts:
            values = columns.get(column.name, ())
            if MISSING_TEXT in values:
                raise RequestError(_wrong(column.name, MISSING_TEXT, column.words, values.index(MISSING_TEXT), count))
        if not self.columns:
            return [()] * count
        return list(
            zip(*(columns.get(name) or repeat(value, count) for name, value in self.absent.items()), strict=True)
        )

    def _finished(self, rows: list[Row], body: bytes) -> list[Row]:
        """Instants as microseconds, tensors as bytes; the text that stands for a missing one is refused."""
        if self._tensors:
            self._finish_tensors(rows)
        if NUL in body:
            for number, row in enumerate(rows):
                if MISSING_TEXT in row:
                    name = self.names[row.index(MISSING_TEXT)]
                    raise RequestError(_wrong(name, MISSING_TEXT, TYPES["text"][2], number, len(rows)))
        if self._instants:
            for number, row in enumerate(rows):
                values: list[Any] | None = None
                for place, read in self._instants:
                    value = row[place]
                    if type(value) is str:
                        values = values or list(row)
                        values[place] = _moment(self.names[place], value, read, number, len(rows))
                if values is not None:
                    rows[number] = tuple(values)
        return rows

    def _finish_tensors(self, rows: list[Row]) -> None:
        files = [(row[place], form) for row in rows for place, form in self._images]
        decoded = iter(aside.pictures(files) or ()) if files else None
        for number, row in enumerate(rows):
            values = list(row)
            for place, column in self._tensors:
                try:
                    values[place] = tensors.value(row[place], column, decoded)
                except ValueError as error:
                    where = f" in row {number}" if len(rows) > 1 else ""
                    raise RequestError(
                        f"Column {column.name!r} is {error}{where}; expected {tensors.words(column)}."
                    ) from None
            rows[number] = tuple(values)

    def identity(self, row: Row) -> str | None:
        """The key columns joined by '|'; None when the row does not bring all of them (or there is no key)."""
        if not self._key:
            return None
        parts = []
        for place, kind in self._key:
            part = key_text(row[place], kind)
            if part is None:
                return None
            parts.append(part)
        return "|".join(parts)

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    @property
    def knows_key(self) -> bool:
        """False when a key column has no type here: an id that the client gives is then better than ours."""
        return all(kind is not None for _, kind in self._key)

    def unit(self, row: Row) -> str | None:
        """The declared unit of the row as text; None when it is missing."""
        return None if self._unit is None else key_text(row[self._unit], self.columns[self._unit].type)

    @property
    def has_unit(self) -> bool:
        return self._unit is not None

    def _explained(self, found: Any, error: Exception) -> RequestError:
        rows = found if isinstance(found, list) else [found]
        problems: list[str] = []
        for number, row in enumerate(rows):
            problems += self._problems(row, number, len(rows))
            if len(problems) >= MOST_PROBLEMS:
                break
        return RequestError(" ".join(problems[:MOST_PROBLEMS]) or f"The rows cannot be read: {error}.")

    def _problems(self, row: Any, number: int, rows: int) -> Iterable[str]:
        if not isinstance(row, dict):
            shown = _shown(row)
            yield f"Row {number} is {shown}; send an object with named columns, or an array of such objects."
            return
        unknown = sorted(set(row) - set(self.names))
        if unknown:
            where = f" in row {number}" if rows > 1 else ""
            several = ("Columns", "are") if len(unknown) > 1 else ("Column", "is")
            yield (
                f"{several[0]} {', '.join(map(repr, unknown[:MOST_PROBLEMS]))}{where} {several[1]} not known here; "
                f"known are {', '.join(map(repr, self.names))}."
            )
        for column in self.columns:
            if column.name in row:
                try:
                    msgspec.convert(row[column.name], column.annotation)
                except (ValueError, RecursionError):
                    yield _wrong(column.name, row[column.name], column.words, number, rows)


def _shown(value: Any) -> str:
    try:
        text = msgspec.json.encode(value).decode(errors="replace")
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "…"


def _wrong(name: str, value: Any, expected: str, number: int, rows: int) -> str:
    where = f" in row {number}" if rows > 1 else ""
    return f"Column {name!r} is {_shown(value)}{where}; expected {expected}."


def _moment(name: str, value: Any, read: Callable[[str], int], number: int, rows: int) -> Any:
    """An instant as microseconds, if it came as text. Raises RequestError."""
    if type(value) is not str:
        return value
    try:
        return read(value)
    except ValueError as error:
        raise RequestError(_wrong(name, value, str(error), number, rows)) from None


class _Nothing(msgspec.Struct, gc=False):
    """Of an object, that it is one."""


_counted: Callable[[bytes], list[_Nothing]] = msgspec.json.Decoder(list[_Nothing]).decode


def _few_enough(body: bytes) -> None:
    """Refuse more rows than a request may have before each is an object of its own: 12 MB of "{}," would take 900."""
    try:
        count = len(_counted(body))
    except (ValueError, RecursionError):
        return  # not rows at all, or a text full of brackets: whoever reads it says so
    if count > REQUEST_ROWS:
        raise too_many(count)


def too_many(rows: int) -> RequestError:
    return RequestError(f"{rows} rows in one request; send at most {REQUEST_ROWS}.", status=413)


def _parsed(body: bytes) -> Any:
    if len(body) > CROWDED and body.count(b"{") + body.count(b"[") > 2 * REQUEST_ROWS:
        raise RequestError("The body is not JSON of rows: an object with named columns, or an array of such objects.")
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        wrong = f"not JSON: {error}" if body.strip() else "empty; send a row as an object with named columns"
        raise RequestError(f"The body is {wrong}.") from None


_values: Callable[[Any], Row] = msgspec.structs.astuple


def key_text(value: Any, kind: ColumnType | None) -> str | None:
    """A value as it stands in a key; None when it is missing."""
    if type(value) is str:
        return None if value == MISSING_TEXT else value
    if value is None or value == MISSING_INTEGER or value != value:
        return None
    if kind == "instant":
        return instants.text(value)
    if type(value) is bool:
        return "true" if value else "false"
    return str(value)


class Packer:
    """Packs rows of one layout into the graph inputs of one signature (records.Signature)."""

    def __init__(self, columns: Sequence[Column], signature: Signature) -> None:
        places = {column.name: place for place, column in enumerate(columns)}
        self._parts: list[tuple[str, int, Callable[[Row], Any] | None]] = []
        for kind, types in KINDS.items():
            inputs = sorted((c for c in signature.inputs if c.type in types), key=lambda column: column.index)
            if inputs:
                wanted = [places[column.name] for column in inputs]
                self._parts.append((kind, len(wanted), _picker(wanted, len(columns))))
        self._tensors = [(places[column.name], column) for column in signature.tensors]

    def pack(self, rows: Sequence[Row]) -> Packed:
        """``numbers`` float64, ``integers`` int64, ``texts`` str objects, each [rows, n] and only if it has columns.

        Tensors under their own names, [rows, *shape].
        """
        packed: Packed = {}
        for kind, width, pick in self._parts:
            values = chain.from_iterable(rows if pick is None else map(pick, rows))
            if kind == "texts":
                flat = [MISSING_TEXT if value is None else value for value in values]
                array = np.empty(len(flat), dtype=object)
                array[:] = flat
            else:
                array = _array(kind, values, rows, pick, len(rows) * width)
            packed[kind] = array.reshape(len(rows), width)
        for place, column in self._tensors:
            packed[column.name] = tensors.joined([row[place] for row in rows], column)
        return packed


def _array(
    kind: str, values: Iterable[Any], rows: Sequence[Row], pick: Callable[[Row], Any] | None, count: int
) -> NDArray[Any]:
    dtype: Any = np.float64 if kind == "numbers" else np.int64
    try:
        return np.fromiter(values, dtype, count)
    except TypeError:  # a null among the values: rarer, and dearer by a comparison each
        missing = NAN if kind == "numbers" else MISSING_INTEGER
        again = chain.from_iterable(rows if pick is None else map(pick, rows))
        return np.fromiter((missing if value is None else value for value in again), dtype, count)


def _picker(places: list[int], width: int) -> Callable[[Row], Any] | None:
    """From a row to the values at ``places``; None when that is the whole row."""
    first, last = places[0], places[-1] + 1
    if places == list(range(first, last)):
        return None if (first, last) == (0, width) else itemgetter(slice(first, last))
    return itemgetter(*places)
