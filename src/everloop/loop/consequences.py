"""What comes of answers in a replay: labels, and outcomes as the history holds it, or as a user's function says. Sends nothing.

A history knows what came of the answers of then, not of those that a replay gives: an outcome that is read from it is
the same whichever version answers. A function ``f(row, answer)`` may let it depend on the answer, so that a guard on an
outcome can be tried before it is trusted.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from everloop.clock import microseconds
from everloop.errors import DataError, SpecError
from everloop.loop.traffic import Answer
from everloop.spec.guard import Outcome
from everloop.spec.label import Outcomes
from everloop.spec.load import module_of
from everloop.spec.loop import Loop
from everloop.spec.rollout import Canary

World = Callable[[dict[str, Any], dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """An outcome and when it may be told, in microseconds since 1970 in UTC."""

    at: int
    id: str
    name: str
    value: Any


def labels_due(loop: Loop, reported: pl.DataFrame, start: datetime, end: datetime) -> tuple[pl.DataFrame, Any]:
    """Every label that no delivered file carries, in the order in which it comes true, and when: int64 microseconds."""
    due = pl.col("_event_time") + loop.label.delay
    late = pl.lit(value=True) if isinstance(loop.label.source, Outcomes) else due > start
    ordered = reported.filter(late & (pl.col("_event_time") < end)).with_columns(due.alias("_due"))
    ordered = ordered.sort("_due", "_key", maintain_order=True)
    return ordered, ordered["_due"].dt.epoch("us").to_numpy()


class Consequences:
    """Outcomes that are still to come. ``world`` maps a row (all columns of the history) and its answer, as a client
    sees it, to outcomes by name; without one the guarded outcomes are read from the history.

    Raises DataError where there is neither a column nor a function for an outcome that is guarded.
    """

    def __init__(self, loop: Loop, columns: Sequence[str], world: World | None) -> None:
        self._loop, self._world = loop, world
        guards = loop.rollout.guards if isinstance(loop.rollout, Canary) else ()
        self._delays: dict[str, timedelta] = {
            each.name: each.delay for each in guards if isinstance(each, Outcome) and each.name != loop.label.column
        }
        missing = [name for name in self._delays if name not in columns]
        if missing and world is None:
            raise DataError(
                f"guard.Outcome({missing[0]!r}) is about an outcome that the history has no column for; name a function "
                "with --outcome that says what comes of an answer, or add the column to the source."
            )
        self._waiting: list[Due] = []

    def answered(self, rows: pl.DataFrame, answers: Sequence[Answer]) -> None:
        """What will come of these rows. A row that got no answer has no outcome of a function."""
        if self._world is None:
            for name, delay in self._delays.items():
                told = rows.filter(pl.col(name).is_not_null())
                due = (told["_event_time"] + delay).dt.epoch("us").to_list()
                self._waiting += map(Due, due, told["_key"], [name] * len(told), told[name].to_list())
            return
        original = [name for name in rows.columns if not name.startswith("_")]
        shown = rows.select(original).iter_rows(named=True)
        times, keys = rows["_event_time"].to_list(), rows["_key"].to_list()
        for row, at, key, answer in zip(shown, times, keys, answers, strict=True):
            if answer.error is not None:
                continue
            for name, value in self._asked(row, answer).items():
                delay = self._delays.get(name, self._loop.label.delay)
                self._waiting.append(Due(at=microseconds(at + delay), id=key, name=name, value=value))

    def due(self, until: int) -> list[Due]:
        """Those that may be told by then, oldest first; each once."""
        come = sorted((each for each in self._waiting if each.at <= until), key=lambda each: each.at)
        self._waiting = [each for each in self._waiting if each.at > until]
        return come

    def _asked(self, row: dict[str, Any], answer: Answer) -> dict[str, Any]:
        assert self._world is not None
        name = getattr(self._world, "__name__", "the function of --outcome")
        try:
            found = self._world(row, msgspec.to_builtins(answer))
            if isinstance(found, Mapping):
                found = dict(found)
        except (Exception, SystemExit) as error:
            line = _line(error, self._world)
            raise DataError(
                f"{name} failed for the row {answer.id!r}: {type(error).__name__}: {error}. Correct it{line}; where nothing "
                "comes of an answer it returns {}."
            ) from error
        if not isinstance(found, Mapping) or not all(isinstance(each, str) and each for each in found):
            raise DataError(
                f'{name} gave {found!r} for the row {answer.id!r}; return outcomes by name, as {{"sold": 1}}.'
            )
        for each, value in found.items():
            if value is not None and not _tellable(value):
                raise DataError(
                    f"{name} gave {each} = {value!r} for the row {answer.id!r}; an outcome is a text, a number, true or false."
                )
        return {each: value for each, value in found.items() if value is not None}


def _line(error: BaseException, function: Any) -> str:
    """Where in the file of the function it went wrong."""
    path = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == path]
    return f" at {Path(path).name}:{lines[-1]}" if path and lines else ""


def _tellable(value: Any) -> bool:
    """Whether a server takes it for what came true."""
    if isinstance(value, str):
        return not any("\ud800" <= each <= "\udfff" for each in value)
    return isinstance(value, bool | int | float) and abs(value) < 2.0**63


def world_of(declaration: Path, name: str) -> World:
    """The function of that name in a declaration's file. Raises SpecError."""
    found = getattr(module_of(declaration), name, None)
    if not callable(found):
        what = "no" if found is None else f"a {type(found).__name__} named"
        raise SpecError(
            f"{declaration.name} has {what} {name!r}; write a function {name}(row, answer) there that returns outcomes by name."
        )
    world: World = found
    return world
