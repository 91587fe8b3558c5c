"""All fits of a backtest: each is made once, whoever asks, and kept on disk for the next run. Knows no policies."""

from __future__ import annotations

import shutil
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.errors import StoreError, TrainError
from everloop.loop.backtest.asks import Ask, AskAnswers, AskCells, AskFit, AskProfile, SeasonAsked
from everloop.loop.backtest.mapped import read_array
from everloop.loop.backtest.post import Post
from everloop.loop.backtest.result import Cell, FitName
from everloop.loop.backtest.worker import RECORD, cells_of, fit_folder
from everloop.measure import profile as profiles
from everloop.measure.profile import Profile
from everloop.records import encode

Array = npt.NDArray[Any]
KEPT_BYTES = 256 << 20
"""Answers that are held in memory; the others are read again from disk."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a fit that was made."""

    name: FitName
    rows: int
    seconds: float
    cpu: float
    problem: str | None = None


class Fits:
    """Asks workers for what is not known yet. One thread alone may use it."""

    def __init__(self, cache: Path, post: Post) -> None:
        self._cache = cache
        self._post = post
        self._records: dict[str, Record] = {}
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        self._arrays: OrderedDict[tuple[str, int, int], Array] = OrderedDict()
        self._bytes = 0
        self._cells: dict[tuple[str, int], Cell] = {}
        self._profiles: dict[tuple[str, str], Profile] = {}
        self._problems: dict[Ask, str] = {}
        self._under_way: set[Ask] = set()
        self._letters: dict[str, list[Ask]] = {}
        self._held: dict[str, list[Ask]] = {}
        """Asks about a fit that is being made."""
        self.made = 0
        """Fits that were made in this run; the others were known."""
        self.seconds = 0.0
        """Of the fits that were made in this run, on their own clocks."""
        self.cpu = 0.0

    # What is known.

    def have(self, ask: Ask) -> bool:
        if ask in self._problems:
            return True
        match ask:
            case AskFit():
                return self._record(ask.fit) is not None
            case AskAnswers():
                return not self.gaps(ask.fit, ask.since, ask.until)
            case AskCells():
                return all((ask.fit, index) in self._cells for index, _, _ in ask.windows)
            case AskProfile():
                known = (ask.fit, ask.season) in self._profiles
                return known or (fit_folder(self._cache, ask.fit) / f"profile-{ask.season}.json").exists()

    def record(self, fit: str) -> Record:
        found = self._record(fit)
        if found is None:
            problem = next((why for ask, why in self._problems.items() if ask.fit == fit), "it was not made")
            raise TrainError(problem)
        return found

    def _record(self, fit: str) -> Record | None:
        if fit not in self._records:
            path = fit_folder(self._cache, fit) / RECORD
            if fit in self._held or not path.exists():
                return None
            try:
                self._records[fit] = msgspec.json.decode(path.read_bytes(), type=Record)
            except msgspec.MsgspecError:
                shutil.rmtree(path.parent)  # damaged: it is made again
                return None
        return self._records[fit]

    def gaps(self, fit: str, since: int, until: int) -> list[tuple[int, int]]:
        """The parts of [since, until) about which the fit has not been asked yet."""
        found: list[tuple[int, int]] = []
        place = since
        for low, high in self._known_ranges(fit):
            if high <= place:
                continue
            if low >= until:
                break
            if low > place:
                found.append((place, low))
            place = max(place, high)
        if place < until:
            found.append((place, until))
        return found

    def answers(self, fit: str, since: int, until: int) -> Array:
        """What a fit said of the rows [since, until). Raises TrainError where it could not be asked."""
        parts: list[Array] = []
        place = since
        for low, high in self._known_ranges(fit):
            if high > place and low <= place < until:
                end = min(high, until)
                parts.append(self._array(fit, low, high)[place - low : end - low])
                place = end
        if place < until:
            problem = next((why for ask, why in self._problems.items() if ask.fit == fit), "nobody asked it")
            raise TrainError(problem)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def profile(self, fit: str, season: SeasonAsked) -> Profile:
        """What the fit's training rows looked like."""
        if (fit, season) not in self._profiles:
            path = fit_folder(self._cache, fit) / f"profile-{season}.json"
            if not path.exists():
                raise TrainError(self._problems.get(AskProfile(fit=fit, season=season), "it has no profile"))
            self._profiles[fit, season] = profiles.from_json(path.read_bytes())
        return self._profiles[fit, season]

    def known_cells(self) -> dict[str, dict[int, Cell]]:
        found: dict[str, dict[int, Cell]] = {}
        for (fit, index), cell in self._cells.items():
            found.setdefault(fit, {})[index] = cell
        return found

    def cell(self, fit: str, window: int) -> Cell | None:
        return self._cells.get((fit, window))

    def note(self, fit: str, window: int, cell: Cell) -> None:
        self._cells[fit, window] = cell

    def records(self) -> dict[str, Record]:
        return self._records

    def _known_ranges(self, fit: str) -> list[tuple[int, int]]:
        if fit not in self._ranges:
            found: list[tuple[int, int]] = []
            folder = fit_folder(self._cache, fit)
            if folder.is_dir():
                for path in folder.glob("[0-9]*.npy"):
                    low, _, high = path.stem.partition("-")
                    found.append((int(low), int(high)))
            self._ranges[fit] = sorted(found)
        return self._ranges[fit]

    def _array(self, fit: str, low: int, high: int) -> Array:
        key = (fit, low, high)
        if key not in self._arrays:
            path = fit_folder(self._cache, fit) / f"{low}-{high}.npy"
            try:
                made = read_array(path)
            except (ValueError, EOFError, OSError):
                raise StoreError(
                    f"The answers of a fit in {path} are damaged; delete {path.parent}, and only this fit is made again."
                ) from None
            self._arrays[key] = made
            self._bytes += made.nbytes
            while self._bytes > KEPT_BYTES and len(self._arrays) > 1:
                _, old = self._arrays.popitem(last=False)
                self._bytes -= old.nbytes
        self._arrays.move_to_end(key)
        return self._arrays[key]

    # Asking.

    def ask(self, asks: Iterable[Ask]) -> None:
        """Send for whatever is neither known nor under way."""
        groups: dict[str, list[Ask]] = {}
        for ask in asks:
            if ask not in self._under_way and not self.have(ask):
                self._under_way.add(ask)
                groups.setdefault(ask.fit, []).append(ask)
        for fit, group in groups.items():
            group.sort(key=lambda each: not isinstance(each, AskFit))
            if isinstance(group[0], AskFit):
                self._held.setdefault(fit, [])
                self._send(group)
            elif fit in self._held:
                self._held[fit] += group
            else:
                self._send(group)

    @property
    def under_way(self) -> int:
        """Letters that workers have."""
        return len(self._letters)

    def collect(self) -> set[str]:
        """Take in what workers have answered: the fits that something is newly known of."""
        told: set[str] = set()
        for letter, answers in self._post.collect():
            asks = self._letters.pop(letter)
            if len(answers) < len(asks):  # the whole letter failed
                answers = answers[:1] * len(asks)
            for ask, answer in zip(asks, answers, strict=True):
                self._take_in(ask, answer)
                told.add(ask.fit)
        return told

    def _send(self, asks: list[Ask]) -> None:
        letter = self._post.send([_task(each) for each in asks])
        self._letters[letter] = asks

    def _take_in(self, ask: Ask, answer: dict[str, Any]) -> None:
        self._under_way.discard(ask)
        if "problem" in answer:
            self._problems[ask] = answer["problem"]
        match ask:
            case AskFit():
                if "answer" in answer:
                    made = msgspec.convert(answer["answer"], Record)
                    self._records[ask.fit] = made
                    self.made += 1
                    self.seconds += made.seconds
                    self.cpu += made.cpu
                self._ranges.pop(ask.fit, None)
                held = self._held.pop(ask.fit, [])
                if held:
                    self._send(held)
            case AskAnswers() if "answer" in answer:
                insort(self._known_ranges(ask.fit), (ask.since, ask.until))
                self._ranges[ask.fit] = sorted(set(self._ranges[ask.fit]))
            case AskCells() if "answer" in answer:
                for index, cell in cells_of(answer["answer"]).items():
                    self._cells[ask.fit, index] = cell
            case _:
                pass


def _task(ask: Ask) -> dict[str, Any]:
    match ask:
        case AskFit():
            return {"kind": "fit", "name": msgspec.json.decode(encode(ask.name))}
        case AskAnswers():
            return {"kind": "answers", "fit": ask.fit, "since": ask.since, "until": ask.until}
        case AskCells():
            return {"kind": "cells", "fit": ask.fit, "windows": [list(each) for each in ask.windows]}
        case AskProfile():
            return {"kind": "profile", "fit": ask.fit, "season": ask.season}
