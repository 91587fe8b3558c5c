"""What a batch run has done, file by file, so that the next run goes on from there. Knows nothing of rows.

One JSON object a line: first what the answers come from, then each finished file *before* it gets its name. A run that
is killed in between finds the hidden file when it goes on and only renames it: no file is ever done twice.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from everloop.errors import DataError
from everloop.serve.offline_targets import place_it
from everloop.store.files import storing, sync_folder, write_all

FORMAT = 1


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="batch"):
    """All of it but ``run``, a name for this journal alone, must be the same for a run to go on."""

    package: str
    source: str
    source_version: int | None
    form: str
    keep: str
    format: int = FORMAT
    run: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """``size`` and ``modified`` of the source file; ``target`` and ``beside`` are paths in the target's folder."""

    file: str
    size: int
    modified: int
    rows: int
    bad: int
    target: str
    beside: str
    bytes: int
    """Size of the target."""


class Committed(msgspec.Struct, frozen=True, kw_only=True, tag="committed"):
    """Everything before it is part of the Delta table since ``version``."""

    version: int


Line = Head | Done | Committed
_decode = msgspec.json.Decoder(Line).decode


class Journal:
    """Held by one run at a time. ``done``: by source file; ``lines``: how many files were ever done."""

    def __init__(self, path: Path, folder: Path, head: Head, *, again: bool = False) -> None:
        """Go on with the journal that is there. ``again``: begin a new one where the old is about something else and
        wholly committed. Raises DataError when another run holds it or its answers would be mixed, StoreFull.
        """
        self.path = path
        self.head = head
        self.done: dict[str, Done] = {}
        self.fresh: list[Done] = []
        """Not yet part of a table."""
        self.committed: int | None = None
        self.lines = 0
        self._again = again
        self._folder = folder
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._open(head)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self, head: Head) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"Another run writes to {self._folder} now ({self.path} is held); wait for it.") from None
        lines, whole = _read(self.path)
        if self._again and lines and not _equal(lines[0], head) and isinstance(lines[-1], Committed):
            lines = []
        if not lines:
            os.ftruncate(self._descriptor, 0)
            self.head = msgspec.structs.replace(head, run=os.urandom(8).hex())
            self._append(self.head)
            sync_folder(self.path.parent)
            return
        os.ftruncate(self._descriptor, whole)  # the last line may have been cut off
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._same(lines[0], head)
        self.head = lines[0]
        for line in lines[1:]:
            if isinstance(line, Done):
                self.lines += 1
                self._take(line)
            elif isinstance(line, Committed):
                self.committed, self.fresh = line.version, []

    def _same(self, before: Line, head: Head) -> None:
        # A table that is scored may have gone on since: what was begun ends at the version of then.
        if isinstance(before, Head) and _equal(before, head, but=("run", "source_version")):
            return
        remedy = f"Name another target, or remove {self._folder} and {self.path} to begin again."
        if not isinstance(before, Head) or before.format != FORMAT:
            raise DataError(f"{self.path} is not the journal of a batch run of this version. {remedy}")
        if before.package != head.package:
            raise DataError(
                f"{self._folder} holds answers of package {before.package[:12]}, and this run has {head.package[:12]}: "
                f"they would be mixed. {remedy}"
            )
        names = [
            name for name in Head.__struct_fields__ if name != "run" and getattr(before, name) != getattr(head, name)
        ]
        raise DataError(
            f"{self._folder} was begun with {names[0].replace('_', ' ')} {getattr(before, names[0])!r}, and this run has "
            f"{getattr(head, names[0])!r}. {remedy}"
        )

    def _take(self, line: Done) -> None:
        place, beside = self._folder / line.target, self._folder / line.beside
        if not place.exists() and beside.exists() and beside.stat().st_size == line.bytes:
            place_it(beside, place)  # killed between the line and the name
        if place.exists() and place.stat().st_size == line.bytes:
            self.done[line.file] = line
            self.fresh.append(line)

    def add(self, line: Done | Committed) -> None:
        """On disk when it returns. Raises StoreFull."""
        self._append(line)
        if isinstance(line, Done):
            self.lines += 1
            self.done[line.file] = line
            self.fresh.append(line)
        else:
            self.committed, self.fresh = line.version, []

    def _append(self, line: Line) -> None:
        with storing(self.path):
            write_all(self._descriptor, msgspec.json.encode(line) + b"\n")
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _equal(before: Line, head: Head, but: Sequence[str] = ("run",)) -> bool:
    same = {name: getattr(head, name) for name in but}
    return isinstance(before, Head) and msgspec.structs.replace(before, **same) == head


def _read(path: Path) -> tuple[list[Any], int]:
    """The whole lines and how many bytes they are."""
    lines: list[Any] = []
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(_decode(line))
        except (msgspec.MsgspecError, ValueError):
            raise DataError(f"{path} is not the journal of a batch run; remove it to begin again.") from None
        whole += len(line)
    return lines, whole
